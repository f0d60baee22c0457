import pytest
import torch
import torch.nn.functional as F

from cifarlib import winograd
from cifarlib.model import build_model


@pytest.mark.parametrize(
    ("c", "k", "height", "size", "n"),
    [(64, 256, 15, 14, 32), (256, 256, 7, 7, 150), (256, 256, 7, 6, 33), (256, 256, 3, 3, 32), (24, 8, 31, 5, 2)],
)
def test_is_the_convolution_and_its_gradients(c, k, height, size, n):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, c, height, height, generator=generator).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(k, c, 3, 3, generator=generator)
    dy = torch.randn(n, k, size, size, generator=generator)  # in the other memory format, too
    found, exact = [], []
    for results, dtype in ((found, torch.float32), (exact, torch.float64)):
        inputs = [t.detach().to(dtype).requires_grad_() for t in (x, weight)]
        if dtype == torch.float32:
            y = winograd.conv3x3(*inputs, size)
            assert y.is_contiguous(memory_format=torch.channels_last)
        else:
            y = F.conv2d(*inputs, padding=1)[:, :, :size, :size]
        y.backward(dy.to(dtype))
        results += [y.detach(), *(t.grad for t in inputs)]
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 3e-5 * theirs.abs().max()


def test_the_network_says_and_learns_the_same_by_either_convolution(monkeypatch):
    x = torch.randn(winograd.IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    used, conv3x3 = [], winograd.conv3x3
    monkeypatch.setattr(winograd, "conv3x3", lambda x, w, size: used.append(size) or conv3x3(x, w, size))

    def step(direct: bool) -> list[torch.Tensor]:
        model = build_model(0)
        for layer in model.modules():
            layer.direct = direct
        logits = model(x)
        logits.square().sum().backward()
        return [logits.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]

    ours = step(direct=False)
    assert used == [14, 7, 6, 3]  # the pooled layers without the row that pooling drops
    theirs = step(direct=True)
    assert len(used) == 4
    for a, b in zip(ours, theirs, strict=True):  # in norm: of two almost equal inputs the pooling may take the other
        assert (a - b).norm() <= 1e-2 * b.norm()


def test_is_left_out_where_it_would_not_pay():
    x, weight = torch.zeros(winograd.IMAGES, 256, 7, 7), torch.zeros(256, 256, 3, 3)
    assert winograd.pays(x, weight)
    assert not winograd.pays(x[1:], weight)
    assert not winograd.pays(x.double(), weight)
    assert not winograd.pays(x[:, :24], weight[:64, :24])
    assert not winograd.pays(x.to("meta"), weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not winograd.pays(x, weight)
