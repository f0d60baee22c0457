"""CIFAR-10 with a small convolutional network: the parts that the notebooks of this report call.

Data flows one way: params -> data, preprocess, whitening, model -> loop -> train -> outputs ->
results -> report.
"""

import os
import re
from pathlib import Path

__version__ = "0.1.0"
# OpenMP reads this when torch loads. Where another process takes a core, its threads wait for each
# other in a busy loop; a loop of this length costs nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


class PlainMessage:
    """An exception that a notebook shows as its message alone: the traceback would only bury it."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class InputError(PlainMessage, ValueError):
    """Something that the user gave cannot be used; the message names the value and the fix."""


def plural(count: int, noun: str) -> str:
    """Write a count with its noun: "1 record", "3 records", "1,024 images"."""
    ending = "" if count == 1 else "s"
    return f"{count:,} {noun}{ending}"


def _is_checkout(folder: Path) -> bool:
    return (folder / "params" / "run1.yaml").is_file()


def project_root() -> Path:
    """Find the folder that holds params/ and notebooks/.

    It is the checkout that this package lies in, else (installed without ``-e``) one above the
    working directory, as JupyterLab and papermill start kernels in different folders. Raises
    InputError where there is none, and where the working directory lies in another checkout: its
    notebooks would run this one's code.
    """
    package = Path(__file__).resolve().parents[1]
    working = Path.cwd()
    around = next((p for p in (working, *working.parents) if _is_checkout(p)), None)
    if not _is_checkout(package):
        if around is None:
            raise InputError(
                f"no project found in {working} or above it: "
                "run from a clone, installed with `pip install -e .`"
            )
        return around
    if around is not None and around.resolve() != package:
        raise InputError(
            f"this runs in {around}, but the code of cifarlib comes from {package}: "
            f"give {around} an environment of its own (make setup there)"
        )
    return package


def user_path(name: str, value: str | Path | None) -> Path | None:
    """Read a path that the user gave, with ~ expanded, or None.

    Raises InputError for a number, which papermill makes of ``-p output_folder 2026``, and for an
    address or a drive, which would become a folder of that name.
    """
    if value is None:
        return None
    if not isinstance(value, (str, Path)):
        raise InputError(f"{name} = {value!r}: give a path, in quotes, or ./{value}")
    if os.name == "posix" and re.match(r"\w+://|[A-Za-z]:[\\/]", str(value)):
        raise InputError(
            f"{name} = {str(value)!r}: give a folder of this machine (C:\\x is /mnt/c/x under WSL)"
        )
    return Path(os.path.expanduser(value)) if value else None


def outputs_folder(output_folder: str | Path | None = None) -> Path:
    """Return the folder of the records: the one that the user gave, else the project's outputs/."""
    return user_path("output_folder", output_folder) or project_root() / "outputs"
