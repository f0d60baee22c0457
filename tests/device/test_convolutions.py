import pytest
import torch
import torch.nn.functional as F

from cifarlib.device import convolutions
from cifarlib.device.convolutions import (
    PYTORCH,
    WINOGRAD,
    fast_conv3x3,
    fastest_method,
    use_fast,
)
from cifarlib.model import build_model


@pytest.mark.parametrize(
    ("c", "k", "height", "size", "n"),
    [
        (64, 256, 15, 14, 32),
        (256, 256, 7, 7, 150),
        (256, 256, 7, 6, 33),
        (256, 256, 3, 3, 32),
        (24, 8, 31, 5, 2),
    ],
)
def test_is_the_convolution_and_its_gradients(c, k, height, size, n):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, c, height, height, generator=generator).contiguous(
        memory_format=torch.channels_last
    )
    weight = torch.randn(k, c, 3, 3, generator=generator)
    dy = torch.randn(n, k, size, size, generator=generator)  # in the other memory format, too
    found, exact = [], []
    for results, dtype in ((found, torch.float32), (exact, torch.float64)):
        inputs = [t.detach().to(dtype).requires_grad_() for t in (x, weight)]
        if dtype == torch.float32:
            y = convolutions.winograd(*inputs, size)
            assert y.is_contiguous(memory_format=torch.channels_last)
        else:
            y = F.conv2d(*inputs, padding=1)[:, :, :size, :size]
        y.backward(dy.to(dtype))
        results += [y.detach(), *(t.grad for t in inputs)]
    for ours, theirs in zip(found, exact, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 3e-5 * theirs.abs().max()


@pytest.mark.parametrize(
    ("c", "height", "size", "n"),
    [
        (64, 15, 14, 32),
        (256, 7, 6, 150),
        (256, 7, 7, 32),
        (256, 3, 3, 32),
        (256, 2, 2, 32),
        (256, 1, 1, 32),
    ],
)
def test_in_bfloat16_the_error_stays_below_two_roundings(c, height, size, n):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, c, height, height, generator=generator).contiguous(
        memory_format=torch.channels_last
    )
    weight = torch.randn(256, c, 3, 3, generator=generator)
    x, weight = x.bfloat16().double(), weight.double()
    dy = torch.randn(n, 256, size, size, generator=generator).bfloat16()

    def run(convolution, x, weight) -> list[torch.Tensor]:
        inputs = [t.detach().requires_grad_() for t in (x, weight)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=weight.dtype == torch.float32):
            y = convolution(*inputs)
        y.backward(dy.to(y.dtype))
        assert [t.grad.dtype for t in inputs] == [x.dtype, weight.dtype]
        return [y.detach(), *(t.grad for t in inputs)]

    def direct(x, weight):
        return F.conv2d(x, weight, padding=1)[:, :, :size, :size]

    exact = run(direct, x, weight)
    for inputs in (x.bfloat16(), x.float()):  # autocast takes either
        ours = run(lambda x, w: fast_conv3x3(x, w, size), inputs, weight.float())
        assert ours[0].dtype == torch.bfloat16
        for a, e in zip(ours, exact, strict=True):
            assert (a - e).norm() < 2 * 2**-8 * e.norm()


def test_the_network_says_and_learns_the_same_by_either_convolution(monkeypatch):
    x = torch.randn(convolutions.IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    sizes, fast = [], convolutions.fast_conv3x3
    monkeypatch.setattr(convolutions, "faster_in_bfloat16", lambda: True)
    monkeypatch.setattr(
        convolutions, "fast_conv3x3", lambda x, w, size: sizes.append(size) or fast(x, w, size)
    )

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
    plain, fast = build_model(3), build_model(3)
    use_fast(fast, "float32")
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in fast.named_parameters()] == [
        name for name, _ in plain.named_parameters()
    ]
    for ours, theirs in zip(fast.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)


def used(precision: str, device: str = "cpu") -> str:
    model = build_model(0).to(device)
    return use_fast(model, precision)


def test_no_network_gets_them_where_they_would_not_pay(monkeypatch):
    """In bfloat16 not where the direct sum has matrix units, and on no other device."""
    for faster in (True, False):
        monkeypatch.setattr(convolutions, "faster_in_bfloat16", lambda faster=faster: faster)
        assert used("bfloat16") == (WINOGRAD if faster else PYTORCH)
        assert used("float32") == WINOGRAD
        assert used("float32", "meta") == PYTORCH


@pytest.mark.parametrize(
    ("n", "k", "c", "height", "size", "dtype", "method"),
    [
        (32, 256, 256, 7, 7, torch.float32, "Winograd"),
        (31, 256, 256, 7, 7, torch.float32, "PyTorch"),
        (32, 64, 24, 31, 30, torch.float32, "PyTorch"),
        (32, 256, 256, 7, 7, torch.float64, "PyTorch"),
        (32, 256, 256, 7, 7, torch.float16, "PyTorch"),
        (32, 256, 256, 7, 6, torch.float32, "Winograd"),
        (32, 256, 256, 3, 3, torch.float32, "Winograd"),
        (32, 256, 256, 7, 6, torch.bfloat16, "Winograd"),
        (32, 256, 256, 3, 3, torch.bfloat16, "nine products"),
        (32, 256, 256, 7, 7, torch.bfloat16, "PyTorch"),  # in tiles of 2x2 it would compute 8 for 7
    ],
)
def test_the_method_is_the_one_that_was_measured_fastest(n, k, c, height, size, dtype, method):
    assert fastest_method(n, k, c, height, size, dtype) == method


@pytest.mark.parametrize(
    ("units", "faster"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": True, "amx_bf16": True}, False),
        ({"avx512_bf16": False}, False),
        ({"bf16": True}, False),
        ({}, False),
    ],
)
def test_bfloat16_needs_units_that_are_no_matrix_units(monkeypatch, units, faster):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert convolutions.faster_in_bfloat16() == faster
