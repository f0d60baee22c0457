"""What a result was made with: commit, packages, device, memory."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

from cifarlib import project_root

try:
    import resource
except ImportError:  # Windows
    resource = None

PACKAGES = ("torch", "torchvision", "numpy", "papermill", "matplotlib", "scipy", "safetensors")


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=project_root(), capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def code_version() -> dict:
    """commit: of the checkout, else of the variable CIFARLIB_COMMIT, else None. dirty: whether
    cifarlib/ or params/ differ from that commit; None where git cannot tell."""
    top, root = _git("rev-parse", "--show-toplevel"), project_root().resolve()
    if top and Path(top).resolve() == root and Path(__file__).resolve().is_relative_to(root):
        status = _git("status", "--porcelain", "--", "cifarlib", "params")
        return {
            "commit": _git("rev-parse", "HEAD"),
            "dirty": None if status is None else bool(status),
        }
    # a copy, or installed elsewhere
    return {"commit": os.environ.get("CIFARLIB_COMMIT"), "dirty": None}


def package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def device_name(device: torch.device) -> str:
    """The GPU's name, else the processor's and how many threads compute."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if device.type == "cpu" and info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


def peak_memory_bytes(device: torch.device) -> int | None:
    """Of CUDA's allocator, else of this process; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
