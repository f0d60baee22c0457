import pytest
import torch
from torch import nn

from cifarlib.device import convolutions
from cifarlib.device.convolutions import (
    PYTORCH,
    WINOGRAD,
    FastConvolution,
    fastest_method,
    use_fast,
)
from cifarlib.model import build_model


def run_layer(convolution, x, dy, dtype=torch.float32) -> list[torch.Tensor]:
    """The layer's outputs, of the size of ``dy``, and its gradients by images and weights."""
    x = x.detach().requires_grad_()
    convolution.weight.grad = None
    with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.bfloat16):
        y = convolution(x)[:, :, : dy.shape[2], : dy.shape[3]]
    y.backward(dy.to(y.dtype))
    assert x.grad.dtype == x.dtype
    assert convolution.weight.grad.dtype == convolution.weight.dtype
    return [y.detach(), x.grad, convolution.weight.grad]


@pytest.mark.parametrize(
    ("dtype", "c", "height", "size", "n"),
    [
        (torch.float32, 64, 15, 14, 32),
        (torch.float32, 256, 7, 7, 150),
        (torch.float32, 256, 7, 6, 33),
        (torch.float32, 256, 3, 3, 32),
        (torch.bfloat16, 64, 15, 14, 32),
        (torch.bfloat16, 256, 7, 6, 150),
        (torch.bfloat16, 256, 7, 7, 32),
        (torch.bfloat16, 256, 3, 3, 32),
        (torch.bfloat16, 256, 1, 1, 32),
    ],
)
def test_is_the_convolution_and_its_gradients(dtype, c, height, size, n):
    """In float32 nearly exactly; in bfloat16 the error stays below two roundings."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, c, height, height, generator=generator).to(dtype).float()
    x = x.contiguous(memory_format=torch.channels_last)
    dy = torch.randn(n, 256, size, size, generator=generator).to(dtype)  # in the other format, too
    plain = nn.Conv2d(c, 256, kernel_size=3, padding=1, bias=False)
    fast = FastConvolution(plain, pooled=size < height)
    ours = run_layer(fast, x, dy, dtype)
    assert ours[0].dtype == dtype
    assert fast(x).is_contiguous(memory_format=torch.channels_last)
    exact = run_layer(plain.double(), x.double(), dy.double())
    for a, e in zip(ours, exact, strict=True):
        if dtype == torch.float32:
            assert (a - e).abs().max() < 3e-5 * e.abs().max()
        else:
            assert (a - e).norm() < 2 * 2**-8 * e.norm()


def test_the_network_says_and_learns_the_same_by_either_convolution(monkeypatch):
    x = torch.randn(convolutions.IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(convolutions, "faster_in_bfloat16", lambda: True)
    sizes = []

    def method(n, k, c, height, size, dtype):
        sizes.append(size)
        return fastest_method(n, k, c, height, size, dtype)

    monkeypatch.setattr(convolutions, "fastest_method", method)

    def step(plain: bool, dtype: torch.dtype) -> list[torch.Tensor]:
        model = build_model(0)
        if not plain:
            use_fast(model, str(dtype).removeprefix("torch."))
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            logits = model(x).float()
        logits.square().sum().backward()
        return [logits.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]

    exact = step(True, torch.float32)
    assert sizes == []
    ours = step(False, torch.float32)
    assert sizes == [30, 15, 14, 7, 6, 3]  # the pooled layers without the row that pooling drops
    # in norm: of two almost equal inputs the pooling may take the other
    for a, b in zip(ours, exact, strict=True):
        assert (a - b).norm() <= 1e-2 * b.norm()
    ours, theirs = step(False, torch.bfloat16), step(True, torch.bfloat16)
    for a, b, e in zip(ours, theirs, exact, strict=True):
        # bfloat16 alone is up to 20 % off
        assert (a - e).norm() <= 1.3 * (b - e).norm() + 1e-3 * e.norm()


def test_a_network_keeps_its_weights_and_their_names():
    model = build_model(3)
    before = dict(model.named_parameters())
    use_fast(model, "float32")
    assert list(model.state_dict()) == list(build_model(3).state_dict())
    assert all(parameter is before[name] for name, parameter in model.named_parameters())


@pytest.mark.parametrize(
    ("units", "precision", "device", "expected"),
    [
        ({"avx512_bf16": True}, "bfloat16", "cpu", WINOGRAD),
        ({"avx512_bf16": True, "amx_bf16": True}, "bfloat16", "cpu", PYTORCH),  # matrix units
        ({}, "bfloat16", "cpu", PYTORCH),
        ({}, "float32", "cpu", WINOGRAD),
        ({}, "float32", "meta", PYTORCH),
    ],
)
def test_a_network_gets_them_only_where_they_pay(monkeypatch, units, precision, device, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    model = build_model(0).to(device)
    assert use_fast(model, precision) == expected


@pytest.mark.parametrize(
    ("n", "k", "c", "height", "size", "dtype", "method"),
    [
        (32, 256, 256, 7, 7, torch.float32, "Winograd"),
        (31, 256, 256, 7, 7, torch.float32, "PyTorch"),
        (32, 64, 24, 31, 30, torch.float32, "PyTorch"),
        (32, 256, 256, 7, 7, torch.float16, "PyTorch"),
        (32, 256, 256, 7, 6, torch.bfloat16, "Winograd"),
        (32, 256, 256, 3, 3, torch.bfloat16, "nine products"),
        (32, 256, 256, 7, 7, torch.bfloat16, "PyTorch"),  # in tiles of 2x2 it would compute 8 for 7
    ],
)
def test_the_method_is_the_one_that_was_measured_fastest(n, k, c, height, size, dtype, method):
    assert fastest_method(n, k, c, height, size, dtype) == method
