"""What a result was made with: commit, packages, device."""

import datetime
import importlib.metadata
import logging
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from cifarlib import plural, project_root

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

PACKAGES = ("torch", "torchvision", "numpy", "papermill", "matplotlib", "scipy", "safetensors")
# what the rounding of a run's results depends on
MADE_ON = ("device", "device_name", "precision", "convolutions")


def code_version() -> dict:
    """Tell which code this is: ``commit`` and whether it is ``dirty``.

    commit: of the checkout. dirty: whether cifarlib/ or params/ differ from that commit. None where
    git cannot tell."""
    unknown = {"commit": None, "dirty": None}
    root = project_root()
    if not ((root / ".git").exists() and shutil.which("git")):
        return unknown
    command = "git --no-optional-locks status --porcelain=2 --branch -- cifarlib params"
    done = subprocess.run(command.split(), cwd=root, capture_output=True, text=True)
    if done.returncode:  # such as: the checkout is another user's
        reason = " ".join(done.stderr.split())
        log.warning("git does not tell which commit this is: %s", reason)
        return unknown
    commit = re.search(r"^# branch.oid (\w+)", done.stdout)  # (initial) where there is none
    is_dirty = any(not line.startswith("#") for line in done.stdout.splitlines())
    return {"commit": commit and commit[1], "dirty": is_dirty}


def package_versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **versions}


def now() -> str:
    """Write the time in UTC: "2026-11-29T01:00:00Z"."""
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


def device_name(device: "torch.device") -> str:
    """Return the GPU's name, else the processor's and how many threads compute."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    text = info.read_text("utf-8") if info.exists() else ""
    found = re.search(r"^model name\s*: (.+)", text, re.MULTILINE)
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name}, {plural(torch.get_num_threads(), 'thread')}"
