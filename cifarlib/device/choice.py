"""Which device, which precision, and the settings of memory and determinism that go with them."""

import ctypes
import functools
import logging
import os
from collections.abc import Iterator

import torch

from cifarlib import InputError

log = logging.getLogger(__name__)


def pick_device(name: str = "auto") -> torch.device:
    """Choose CUDA, else MPS, else the CPU ("auto"), or the device of this name ("cuda": the first
    that computes). Raises InputError where there is none."""
    others = ["mps", "cpu"] if torch.backends.mps.is_available() else ["cpu"]
    device = name if name in others else next(usable_gpus(name), others[0])
    if name not in ("auto", device, device.partition(":")[0]):
        choices = ", ".join(["auto", *usable_gpus(), *others])
        raise InputError(f"device = {name!r} is not there: choose one of {choices}")
    return torch.device(device)


def usable_gpus(name: str = "auto") -> Iterator[str]:
    """Find the GPUs that PyTorch can compute on, "cuda:0" and so on or only that of this name, and
    warn of the others. One at a time, as looking at a GPU takes memory on it."""
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    for device in [name] if name in gpus else gpus:
        try:
            torch.ones(1, device=device).add_(1).item()
            yield device
        except RuntimeError as error:  # no code for so old a GPU, an old driver, a busy GPU
            reason = str(error).partition("\n")[0]
            build = f"this PyTorch is built for CUDA {torch.version.cuda}"
            log.warning("%s cannot be used: %s (%s)", device, reason, build)


def pick_precision(device: torch.device) -> str:
    """Choose "bfloat16" (autocast; weights stay float32) where the device has units for it, else
    "float16" on CUDA, "float32" elsewhere.

    Not measured, as another precision gives another result, and that must not depend on what else
    the machine is doing. A CPU without such units is a hundred times slower in bfloat16."""
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        return "bfloat16" if major >= 8 else "float16"
    return "bfloat16" if device.type == "cpu" and cpu_multiplies_bfloat16() else "float32"


def cpu_multiplies_bfloat16() -> bool:
    """Tell whether this CPU has bfloat16 units that ATEN_CPU_CAPABILITY lets PyTorch use."""
    units = torch.cpu.get_capabilities()
    has_units = bool(units.get("avx512_bf16") or units.get("amx_bf16"))
    return has_units and "AVX512" in torch.backends.cpu.get_cpu_capability()


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next step, elsewhere nothing. By default the system
    gets it back and zeroes its pages anew: at batch 1024 half of a CPU step's time."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: no private mapping for tensors below 1 GiB
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap's top is not given back


def set_determinism(deterministic: bool) -> None:
    """Have CUDA repeat training bit for bit, as a CPU does anyway, or use whatever is fastest."""
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # only warns: max-pooling counts as nondeterministic, but its windows do not overlap here
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic
    # takes time, and every buffer is written before it is read
    torch.utils.deterministic.fill_uninitialized_memory = False
