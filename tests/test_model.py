import re

import torch

from cifarlib.model import BatchNorm, Block, Network, build_model


def test_printing_shows_the_papers_structure():
    text = str(Network())
    for line in (  # Appendix A.1
        r"\(0\): Conv2d\(3, 24, kernel_size=\(2, 2\), stride=\(1, 1\)\)",
        r"\(1\): GELU\(approximate='none'\)",
        r"\(2\): Block\(\s+\(conv1\): Conv2d\(24, 64, kernel_size=\(3, 3\), stride=\(1, 1\), "
        r"padding=same, bias=False\)",
        r"\(pool\): MaxPool2d\(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False\)",
        r"\(norm1\): BatchNorm\(64, eps=1e-12, momentum=0.4, affine=True",
        r"\(3\): Block\(\s+\(conv1\): Conv2d\(64, 256,",
        r"\(4\): Block\(\s+\(conv1\): Conv2d\(256, 256,",
        r"\(5\): MaxPool2d\(kernel_size=3, stride=3,",
        r"\(7\): Linear\(in_features=256, out_features=10, bias=False\)",
        r"\(8\): Scale\(\)",
    ):
        assert re.search(line, text), line


def test_feature_maps_shrink_as_in_the_paper():
    shapes = []

    def note(module, inputs, output):
        shapes.append(tuple(output.shape[1:]))

    model = Network()
    net = model.net
    for layer in (net[0], *(block.pool for block in net[2:5]), net[5], net[8]):
        layer.register_forward_hook(note)
    model(torch.zeros(2, 3, 32, 32))
    assert shapes == [(24, 31, 31), (64, 15, 15), (256, 7, 7), (256, 3, 3), (256, 1, 1), (10,)]


def test_dirac_initialisation_passes_the_first_channels_through():
    block = Block(24, 64)
    x = torch.randn(2, 24, 6, 6)
    torch.testing.assert_close(block.conv1(x)[:, :24], x)
    y = torch.randn(2, 64, 6, 6)
    torch.testing.assert_close(block.conv2(y), y)
    assert block.conv1.weight[24:].std() > 0.01


def test_the_first_layer_is_frozen_only_where_it_whitens():
    filters = torch.randn(24, 3, 2, 2)
    whitened, plain = build_model(0, filters).first_layer, build_model(0).first_layer
    assert torch.equal(whitened.weight, filters)
    assert not whitened.weight.requires_grad
    assert whitened.bias.requires_grad
    assert plain.weight.requires_grad


def test_batchnorm_scales_are_frozen_at_one_and_biases_train():
    norms = [m for m in Network().modules() if isinstance(m, BatchNorm)]
    assert len(norms) == 6
    for norm in norms:
        assert (norm.weight == 1).all()
        assert not norm.weight.requires_grad
        assert norm.bias.requires_grad


def test_logits_are_a_ninth_of_the_linear_layer():
    model = Network().eval()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(x) * 9, model.net[:8](x))


def test_the_seed_decides_the_weights_and_leaves_the_global_generator():
    state = torch.get_rng_state()
    one, same, other = build_model(1), build_model(1), build_model(2)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one.net[7].weight, same.net[7].weight)
    assert not torch.equal(one.net[7].weight, other.net[7].weight)


def test_without_dirac_the_convolutions_begin_as_pytorchs_own():
    with_dirac, without = build_model(0), build_model(0, dirac=False)
    for ours, plain in zip(with_dirac.net[2:5], without.net[2:5], strict=True):
        c = ours.conv1.weight.shape[1]
        assert torch.equal(ours.conv1.weight[c:], plain.conv1.weight[c:])
        assert not torch.equal(ours.conv1.weight[:c], plain.conv1.weight[:c])
        assert max(plain.conv1.weight[:c].abs().max(), plain.conv2.weight.abs().max()) < 1
