import pytest
import torch

from cifarlib import InputError
from cifarlib.device.choice import pick_device, pick_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda:9", "tpu", ""])
def test_a_device_that_is_not_there_is_named(device):
    with pytest.raises(InputError, match=r"device = .*cpu"):
        pick_device(device)


@pytest.mark.parametrize(
    ("units", "compiled_for", "precision"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "AVX512", "bfloat16"),
        ({"avx512_bf16": True, "amx_bf16": True}, "AVX512", "bfloat16"),
        ({"avx512_bf16": False, "avx512_f": True}, "AVX512", "float32"),
        ({"avx512_bf16": True}, "AVX2", "float32"),
        ({}, "DEFAULT", "float32"),
    ],
)
def test_a_cpu_takes_bfloat16_only_where_it_has_units_for_it(
    units, compiled_for, precision, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: compiled_for)
    assert pick_precision(CPU) == precision


def gpus(monkeypatch, *usable):
    """GPU 0, 1, ..., of which some cannot compute."""

    def ones(count, device):
        if not usable[int(device[-1])]:
            raise RuntimeError("CUDA error: no kernel image is available for execution")
        return torch.zeros(count)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(usable))
    monkeypatch.setattr(torch, "ones", ones)


def test_a_gpu_that_this_pytorch_has_no_code_for_is_passed_over(monkeypatch, caplog):
    gpus(monkeypatch, False, True, True)
    assert pick_device() == torch.device("cuda:1")
    assert pick_device("cuda") == torch.device("cuda:1")
    assert pick_device("cuda:2") == torch.device("cuda:2")
    with pytest.raises(InputError, match=r"'cuda:0' is not there: .* auto, cuda:1, cuda:2, cpu"):
        pick_device("cuda:0")
    assert "cuda:0 cannot be used: CUDA error: no kernel image" in caplog.text


def test_without_a_usable_gpu_the_cpu_is_taken_and_it_is_said_why(monkeypatch, caplog):
    gpus(monkeypatch, False)
    assert pick_device().type == "cpu"
    assert "cuda:0 cannot be used: CUDA error: no kernel image" in caplog.text
    with pytest.raises(InputError, match="'cuda' is not there"):
        pick_device("cuda")


@pytest.mark.parametrize(("capability", "precision"), [((8, 0), "bfloat16"), ((7, 5), "float16")])
def test_a_gpu_without_bfloat16_takes_float16(capability, precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert pick_precision(torch.device("cuda:1")) == precision
