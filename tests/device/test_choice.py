import contextlib
import os
import subprocess
import sys

import pytest
import torch

from cifarlib import InputError
from cifarlib.device import choice
from cifarlib.device.choice import pick_device, pick_precision, repeatable

CPU = torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda:9", "tpu", "gpu", ""])
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
        ({"avx2": True}, "AVX2", "float32"),
        ({}, "DEFAULT", "float32"),
    ],
)
def test_a_cpu_takes_bfloat16_only_where_it_has_units_for_it(
    units, compiled_for, precision, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: compiled_for)
    assert pick_precision(CPU) == precision


def test_a_cpu_without_avx512_knows_its_precision_at_once():
    code = (
        "import time, torch; from cifarlib.device.choice import pick_precision; "
        "start = time.perf_counter(); "
        "print(pick_precision(torch.device('cpu')), time.perf_counter() - start)"
    )
    emulated = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=emulated, capture_output=True, text=True
    )
    precision, seconds = done.stdout.split()
    assert precision == "float32"
    assert float(seconds) < 0.2


def test_repeatable_holds_for_its_block_alone():
    def settings():
        return (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.benchmark,
            torch.utils.deterministic.fill_uninitialized_memory,
        )

    try:
        torch.use_deterministic_algorithms(True, warn_only=True)  # as the user may have it
        before = settings()
        with repeatable(True):
            assert settings() == (True, True, False, False)
        assert settings() == before
        with pytest.raises(KeyError), repeatable(False):
            raise KeyError
        assert settings() == before
    finally:
        torch.use_deterministic_algorithms(False)


def gpus(monkeypatch, *usable):
    """GPU 0, 1, ..., of which some cannot compute."""

    def ones(count, device):
        if not usable[int(device[-1])]:
            raise RuntimeError("CUDA error: no kernel image is available for execution")
        return torch.zeros(count)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(usable))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"GPU {index}")
    monkeypatch.setattr(torch, "ones", ones)


def test_a_gpu_that_this_pytorch_has_no_code_for_is_passed_over(monkeypatch, caplog):
    gpus(monkeypatch, False, True, True)
    assert pick_device() == torch.device("cuda:1")
    assert pick_device("cuda") == torch.device("cuda:1")
    assert pick_device("cuda:2") == torch.device("cuda:2")
    assert caplog.text == ""
    with pytest.raises(InputError, match=r"'cuda:0' is not there \(GPU 0: .*no kernel image"):
        pick_device("cuda:0")


@pytest.mark.parametrize(("has_units", "precision"), [(True, "bfloat16"), (False, "float16")])
def test_a_gpu_without_bfloat16_takes_float16(has_units, precision, monkeypatch):
    asked = []
    monkeypatch.setattr(
        torch.cuda, "device", lambda device: asked.append(device) or contextlib.nullcontext()
    )
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation: has_units or including_emulation,
    )
    assert pick_precision(torch.device("cuda:1")) == precision
    assert asked == [torch.device("cuda:1")]


def test_auto_says_why_it_takes_the_cpu_though_a_gpu_is_there(monkeypatch, caplog):
    gpus(monkeypatch, False)
    assert pick_device().type == "cpu"
    assert "training on cpu: GPU 0: CUDA error: no kernel image" in caplog.text


def test_a_driver_that_is_too_old_is_named(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(choice.Path, "glob", lambda path, pattern: [path / "nvidia0"])
    assert pick_device().type == "cpu"
    assert "driver is too old" in caplog.text
    with pytest.raises(InputError, match=r"'cuda' is not there \(the GPU's driver is too old"):
        pick_device("cuda")
    monkeypatch.setattr(choice.Path, "glob", lambda path, pattern: [])
    assert choice.cuda_devices() == ([], [])
