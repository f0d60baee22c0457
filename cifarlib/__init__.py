"""CIFAR-10 with a small convolutional network: the parts that the notebooks of this report call.

Data flows one way: params -> data, preprocess, whitening, model -> loop -> train -> outputs ->
results -> report."""

import os
import re
from pathlib import Path

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


def project_root() -> Path:
    """Return the checkout that this package lies in: the folder of params/ and notebooks/.

    Raises InputError where it lies in none, and where the working directory is in another checkout,
    as a kernel may start anywhere: that one's notebooks would run this one's code."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "params").is_dir():
        raise InputError("run from a clone of the project, installed with `pip install -e .`")
    working = Path.cwd()
    checkouts = (f for f in (working, *working.parents) if (f / "params" / "run1.yaml").is_file())
    around = next(checkouts, root)
    if around.resolve() != root:
        raise InputError(
            f"this runs in {around}, but the code of cifarlib comes from {root}: "
            f"give {around} an environment of its own (make setup there)"
        )
    return root


def user_path(name: str, value: str | Path | None) -> Path | None:
    """Read a path that the user gave, with ~ expanded, or None.

    Raises InputError for a number, which papermill makes of ``-p output_folder 2026``, and for an
    address or a drive, which would become a folder of that name."""
    if value in (None, ""):
        return None
    if not isinstance(value, (str, Path)):
        raise InputError(f"{name} = {value!r}: give a path, in quotes, or ./{value}")
    if os.name == "posix" and re.match(r"\w+://|[A-Za-z]:[\\/]", str(value)):
        raise InputError(
            f"{name} = {str(value)!r}: give a folder of this machine (C:\\x is /mnt/c/x under WSL)"
        )
    return Path(os.path.expanduser(value))  # ~unknown stays as it is


def outputs_folder(output_folder: str | Path | None = None) -> Path:
    """Return the folder of the records: the one that the user gave, else the project's outputs/."""
    return user_path("output_folder", output_folder) or project_root() / "outputs"
