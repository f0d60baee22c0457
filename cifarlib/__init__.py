"""CIFAR-10 with a small convolutional network: the parts that the notebooks of this report call.

Data flows one way: params -> data, preprocess, whitening, model -> loop -> train -> records ->
report."""

import os
import re
from pathlib import Path

__version__ = "0.1.0"
# Read when torch loads. Where another process takes a core, OpenMP's threads spin for each other:
# this much costs nothing
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


class PlainMessage:
    """An exception that a notebook shows as its message alone: the traceback would only bury it."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class InputError(PlainMessage, ValueError):
    """Something the user gave cannot be used; the message names the value and the fix."""


def project_root() -> Path:
    """The folder that holds params/ and notebooks/: the checkout this package lies in, else one
    above the working directory (where the package was installed without ``-e``). JupyterLab and
    papermill start kernels in different folders, so the working directory alone would not do."""
    working = Path.cwd()
    for folder in (Path(__file__).resolve().parents[1], working, *working.parents):
        if (folder / "params" / "run1.yaml").is_file():
            return folder
    raise InputError(
        f"no project found in {working} or above it: run from a clone, installed with `pip install -e .`"
    )


def user_path(name: str, value: str | Path | None) -> Path | None:
    """A path that the user gave, ~ expanded, or None; papermill makes a number of ``-p
    output_folder 2026``."""
    elsewhere = r"\w+://|[A-Za-z]:[\\/]"  # which would be made here under that name
    if os.name == "posix" and re.match(elsewhere, str(value)):
        raise InputError(
            f"{name} = {str(value)!r}: give a folder of this machine (C:\\x is /mnt/c/x under WSL)"
        )
    if value is None or isinstance(value, (str, Path)):
        return Path(os.path.expanduser(value)) if value else None
    raise InputError(f"{name} = {value!r}: give a path, in quotes, or ./{value}")


def outputs_folder(output_folder: str | Path | None = None) -> Path:
    """Where the records lie: the folder that the user gave, else outputs/ of the project."""
    return user_path("output_folder", output_folder) or project_root() / "outputs"
