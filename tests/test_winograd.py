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


@pytest.mark.parametrize(
    ("c", "height", "size", "n"),
    [(64, 15, 14, 32), (256, 7, 6, 150), (256, 7, 7, 32), (256, 3, 3, 32), (256, 2, 2, 32), (256, 1, 1, 32)],
)
def test_in_bfloat16_the_error_stays_below_two_roundings(c, height, size, n):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, c, height, height, generator=generator).contiguous(memory_format=torch.channels_last)
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
    for given in (x.bfloat16(), x.float()):  # autocast takes either
        ours = run(lambda x, w: winograd.conv3x3(x, w, size), given, weight.float())
        assert ours[0].dtype == torch.bfloat16
        for a, e in zip(ours, exact, strict=True):
            assert (a - e).norm() < 2 * 2**-8 * e.norm()


def test_the_network_says_and_learns_the_same_by_either_convolution(monkeypatch):
    x = torch.randn(winograd.IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    used, conv3x3 = [], winograd.conv3x3
    monkeypatch.setattr(winograd, "in_bfloat16", lambda: True)
    monkeypatch.setattr(winograd, "conv3x3", lambda x, w, size: used.append(size) or conv3x3(x, w, size))

    def step(direct: bool, dtype: torch.dtype) -> list[torch.Tensor]:
        model = build_model(0)
        for layer in model.modules():
            layer.direct = direct
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            logits = model(x).float()
        logits.square().sum().backward()
        return [logits.detach(), *(p.grad for p in model.parameters() if p.requires_grad)]

    exact = step(True, torch.float32)
    assert used == []
    ours = step(False, torch.float32)
    assert used == [14, 7, 6, 3]  # the pooled layers without the row that pooling drops
    for a, b in zip(ours, exact, strict=True):  # in norm: of two almost equal inputs the pooling may take the other
        assert (a - b).norm() <= 1e-2 * b.norm()
    used.clear()
    ours, theirs = step(False, torch.bfloat16), step(True, torch.bfloat16)
    assert used == [14, 7, 6, 3]
    for a, b, e in zip(ours, theirs, exact, strict=True):
        assert (a - e).norm() <= 1.3 * (b - e).norm() + 1e-3 * e.norm()  # bfloat16 alone is up to 20 % off


def test_is_left_out_where_it_would_not_pay(monkeypatch):
    x, weight = torch.zeros(winograd.IMAGES, 256, 7, 7), torch.zeros(256, 256, 3, 3)
    assert winograd.pays(x, weight)
    assert not winograd.pays(x[1:], weight)
    assert not winograd.pays(x.double(), weight)
    assert not winograd.pays(x[:, :24], weight[:64, :24])
    assert not winograd.pays(x.to("meta"), weight)
    assert not winograd.pays(x.bfloat16(), weight.bfloat16())
    for faster in (True, False):  # not where the direct sum has matrix units
        monkeypatch.setattr(winograd, "in_bfloat16", lambda faster=faster: faster)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert winograd.pays(x, weight) == faster
        with torch.autocast("cpu", dtype=torch.float16):
            assert not winograd.pays(x, weight)
    taken = []
    monkeypatch.setattr(winograd._Winograd, "apply", lambda x, weight, size: taken.append(size) or x)
    monkeypatch.setattr(winograd._Small, "apply", lambda x, weight: taken.append("small") or x)
    for dtype in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            for height, size in ((7, 7), (7, 6), (3, 3)):
                winograd.conv3x3(x[:, :, :height, :height], weight, size)
    assert taken == [7, 6, 3, 6, "small"]  # in tiles of 2x2 it would compute 8 for 7


@pytest.mark.parametrize(
    ("has", "pays"),
    [({"avx512_bf16": True, "amx_bf16": False}, True), ({"avx512_bf16": True, "amx_bf16": True}, False),
     ({"avx512_bf16": False}, False), ({"bf16": True}, False)],
)  # fmt: skip
def test_bfloat16_needs_units_that_are_no_matrix_units(monkeypatch, has, pays):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert winograd.in_bfloat16() == pays
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not winograd.in_bfloat16()
