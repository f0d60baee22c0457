"""What a result was made with: commit, packages, device, memory."""

import datetime
import functools
import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cifarlib import plural, project_root

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "numpy", "papermill", "matplotlib", "scipy", "safetensors")
# what the rounding of a run's results depends on
MADE_ON = ("device", "device_name", "precision", "convolutions")


@functools.cache
def _warn(reason: str) -> None:
    log.warning("git does not tell which commit this is: %s", reason)


def _git(*arguments: str) -> str | None:
    command = ["git", *arguments]
    try:
        done = subprocess.run(
            command, cwd=project_root(), capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if "safe.directory" in done.stderr:  # the checkout is another user's
        _warn(" ".join(done.stderr.split()))
    return done.stdout.strip() if done.returncode == 0 else None


def code_version() -> dict:
    """Tell which code this is: ``commit`` and whether it is ``dirty``.

    commit: of the checkout, else of the variable CIFARLIB_COMMIT, else None. dirty: whether
    cifarlib/ or params/ differ from that commit; None where git cannot tell.
    """
    top = _git("rev-parse", "--show-toplevel")
    root = project_root().resolve()
    if not top or Path(top).resolve() != root or not Path(__file__).resolve().is_relative_to(root):
        return {"commit": os.environ.get("CIFARLIB_COMMIT"), "dirty": None}  # a copy, no checkout
    status = _git("status", "--porcelain", "--", "cifarlib", "params")
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if status is None else bool(status),
    }


def package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def now() -> str:
    """Write the time in UTC: "2026-11-29T01:00:00Z"."""
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def device_name(device: "torch.device") -> str:
    """Return the GPU's name, else the processor's and how many threads compute."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if device.type == "cpu" and info.exists():
        lines = info.read_text("utf-8").splitlines()
        models = [line for line in lines if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name}, {plural(torch.get_num_threads(), 'thread')}"


def peak_memory_bytes(device: "torch.device") -> int | None:
    """Return the peak of CUDA's allocator, else of this process; None where nothing tells it."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def made_on(record: dict) -> list[dict]:
    """Return MADE_ON of each session in which a record's run was started or resumed; an old record
    has them of its last session alone."""
    last = {name: record.get(name, "unknown") for name in MADE_ON}
    sessions = record.get("sessions") or [record]
    return [{name: session.get(name, last[name]) for name in MADE_ON} for session in sessions]


def computed_on(record: dict) -> str:
    """Say what the rounding of a run's results depends on, session by session."""
    text = "{device} ({device_name}), {precision}, convolutions: {convolutions}"
    return "; then ".join(dict.fromkeys(text.format(**session) for session in made_on(record)))
