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
    """ "auto": CUDA, else MPS, else the CPU, with a warning where a GPU is there that cannot be
    used. Raises InputError for a device that is not there or cannot be used."""
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
        raise InputError(
            f"device = {name!r} is not there{reasons}: choose one of auto, {', '.join(devices)}"
        )
    return torch.device(name)


def cuda_devices() -> tuple[list[str], list[str]]:
    """The GPUs that this PyTorch can compute on, "cuda:0" and so on, and why it cannot on the
    others that are there."""
    other_build = f"this PyTorch is built for CUDA {torch.version.cuda}: install one for an older CUDA (see README)"
    if not torch.cuda.is_available():
        there = torch.version.cuda and any(Path("/dev").glob("nvidia[0-9]*"))
        return [], [f"the GPU's driver is too old, or not loaded; {other_build}"] if there else []
    usable, problems = [], []
    # "sm_75" of the oldest GPUs that the build has code for; a list without such names, as ROCm's,
    # says nothing
    oldest = min(
        (
            int(name[3:])
            for name in torch.cuda.get_arch_list()
            if name[:3] == "sm_" and name[3:].isdigit()
        ),
        default=0,
    )
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        if 10 * major + minor >= oldest:
            usable.append(f"cuda:{index}")
        else:
            name = torch.cuda.get_device_name(index)
            problems.append(f"{name} has compute capability {major}.{minor}, {other_build}")
    return usable, problems


def pick_precision(device: torch.device) -> str:
    """ "bfloat16" (autocast; weights stay float32) where the device has units for it, else
    "float16" on CUDA, "float32" elsewhere.

    Asked, not measured: another precision is another result, so what else runs on the machine must
    not decide it, and a CPU without such units takes seconds for a product in bfloat16, a hundred
    times as long as in float32."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # of several GPUs, the one chosen
            return (
                "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
            )
    return "bfloat16" if device.type == "cpu" and cpu_multiplies_bfloat16() else "float32"


def cpu_multiplies_bfloat16() -> bool:
    """Whether this CPU has bfloat16 units, and PyTorch is allowed to use them
    (ATEN_CPU_CAPABILITY=avx2 forbids it)."""
    units = torch.cpu.get_capabilities()
    return (
        bool(units.get("avx512_bf16") or units.get("amx_bf16"))
        and "AVX512" in torch.backends.cpu.get_cpu_capability()
    )


@functools.cache
def keep_freed_memory() -> None:
    """Has glibc keep freed memory for the next step. By default it returns every large tensor to
    the system, which then zeroes the pages of the next one: at batch 1024 that was half of a CPU
    step's time. Elsewhere: no effect."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: no private mapping for tensors below 1 GiB
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap's top is not given back


@contextlib.contextmanager
def repeatable(deterministic: bool) -> Iterator[None]:
    """Bit-equal repetition on CUDA while it holds, at some cost; a CPU needs nothing."""
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    searched, filled = (
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
    )
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # only warns: CUDA's max-pooling counts as nondeterministic, but windows that do not overlap
    # never add twice
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # takes time, and every buffer is written before it is read
    )
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory = (
            searched,
            filled,
        )
