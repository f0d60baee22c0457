"""Which device, which precision, and the settings of memory and determinism that go with them."""

import contextlib
import ctypes
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from cifarlib import InputError

log = logging.getLogger(__name__)


def pick_device(name: str = "auto") -> torch.device:
    """Choose CUDA, else MPS, else the CPU ("auto"), with a warning where a GPU is there that cannot
    be used, or the device of this name. Raises InputError where it cannot be used."""
    usable, problems = cuda_devices()
    devices = usable + ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name == "auto":
        if problems and not usable:
            log.warning("training on %s: %s", devices[0], "; ".join(problems))
        return torch.device(devices[0])
    if name == "cuda" and usable:
        return torch.device(usable[0])
    if name not in devices:
        reasons = f" ({'; '.join(problems)})" if problems and name.startswith("cuda") else ""
        choices = ", ".join(["auto", *devices])
        raise InputError(f"device = {name!r} is not there{reasons}: choose one of {choices}")
    return torch.device(name)


def cuda_devices() -> tuple[list[str], list[str]]:
    """Find the GPUs that this PyTorch can compute on, "cuda:0" and so on, and why it cannot on the
    others that are there."""
    other_build = f"this PyTorch is built for CUDA {torch.version.cuda}, an older one may do"
    if not torch.cuda.is_available():
        is_there = torch.version.cuda and any(Path("/dev").glob("nvidia[0-9]*"))
        problem = f"the GPU's driver is too old, or not loaded; {other_build}"
        return [], [problem] if is_there else []
    usable, problems = [], []
    for index in range(torch.cuda.device_count()):
        device = f"cuda:{index}"
        try:
            torch.ones(1, device=device).add_(1).item()
            usable.append(device)
        except RuntimeError as error:  # no code for so old a GPU, or another process holds it
            reason = str(error).partition("\n")[0]
            problems.append(f"{torch.cuda.get_device_name(index)}: {reason}; {other_build}")
    return usable, problems


def pick_precision(device: torch.device) -> str:
    """Choose "bfloat16" (autocast; weights stay float32) where the device has units for it, else
    "float16" on CUDA, "float32" elsewhere.

    Asked, not measured: another precision is another result, so what else runs on the machine must
    not decide it, and a CPU without such units takes seconds for a product in bfloat16, a hundred
    times as long as in float32.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):  # of several GPUs, the one chosen
            has_units = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if has_units else "float16"
    return "bfloat16" if device.type == "cpu" and cpu_multiplies_bfloat16() else "float32"


def cpu_multiplies_bfloat16() -> bool:
    """Tell whether this CPU has bfloat16 units, and PyTorch is allowed to use them
    (ATEN_CPU_CAPABILITY=avx2 forbids it)."""
    units = torch.cpu.get_capabilities()
    has_units = bool(units.get("avx512_bf16") or units.get("amx_bf16"))
    return has_units and "AVX512" in torch.backends.cpu.get_cpu_capability()


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step; elsewhere without effect.

    By default it returns every large tensor to the system, which then zeroes the pages of the next
    one: at batch 1024 that was half of a CPU step's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: no private mapping for tensors below 1 GiB
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap's top is not given back


@contextlib.contextmanager
def repeatable(deterministic: bool) -> Iterator[None]:
    """Repeat bit for bit on CUDA while this holds, at some cost; a CPU needs nothing."""
    were_on = torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    searched = torch.backends.cudnn.benchmark
    filled = torch.utils.deterministic.fill_uninitialized_memory
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Only warns: CUDA's max-pooling counts as nondeterministic, but windows that do not overlap
    # never add twice.
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic
    # takes time, and every buffer is written before it is read
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(were_on, warn_only=only_warned)
        torch.backends.cudnn.benchmark = searched
        torch.utils.deterministic.fill_uninitialized_memory = filled
