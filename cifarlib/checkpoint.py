"""A run under way: its folder, and ``unfinished/checkpoint.pt`` there, from which it goes on."""

import contextlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from filelock import Timeout

from cifarlib import InputError, PlainMessage, outputs_folder, records
from cifarlib.loop import Training
from cifarlib.params import RunParams

FREE_BYTES = 100_000_000  # what a run may need: checkpoint and record, each twice for a moment


class Interrupted(PlainMessage, KeyboardInterrupt):
    """Ctrl-C or the notebook's stop button; the message says what is saved and how to go on."""


@contextlib.contextmanager
def under_way(
    params: RunParams, identity: dict, output_folder: str | Path | None, resume: bool
) -> Iterator[tuple[Path, dict | None]]:
    """Hold the run's folder while it trains; gives the folder and the checkpoint to go on from, if
    there is one and ``resume``.

    Raises InputError where the folder cannot be used or another process trains there, Interrupted
    for a KeyboardInterrupt within.
    """
    folder = open_folder(params, output_folder)
    try:
        with records.locked(folder, timeout=0.5):  # status holds it for a moment
            (folder / "unfinished").mkdir(exist_ok=True)
            yield folder, load(folder, params, identity) if resume else None
    except Timeout:
        busy = f"another process is training in {folder}"
        raise InputError(f"{busy}: wait for it, or choose another seed") from None
    except KeyboardInterrupt:
        saved = len(records.unfinished_history(folder))
        text = (
            "Stopped before the first epoch was complete: nothing was saved; run it again to start."
        )
        if saved:
            again = "run the same again" if resume else "run it again with resume = True"
            text = f"Stopped. Epochs 1 to {saved} of {params.last_epoch} are saved in {folder}: "
            text += f"{again} to go on from there."
        raise Interrupted(text) from None


def open_folder(params: RunParams, output_folder: str | Path | None = None) -> Path:
    """Make the run's folder below outputs/, or find it, and make sure that it can be written.

    Raises InputError before anything expensive.
    """
    output_folder = outputs_folder(output_folder)
    folder = output_folder / params.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"can this be written?")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        problem = f"output_folder = {str(output_folder)!r} cannot be written: {error}"
        raise InputError(problem) from None
    if free < FREE_BYTES:
        needed = f"{FREE_BYTES / 1e6:.0f} MB"
        raise InputError(f"{folder} has {free / 1e6:.0f} MB free, a run needs {needed}")
    return folder


def save(folder: Path, training: Training, about: dict) -> None:
    """Write the state of a run, and beside it history and log so far.

    about: its ``identity`` (settings, device, precision ...: a run that goes on must have the
    same), ``sessions`` and ``history``. Raises OSError that says what is kept.
    """
    history = about["history"]
    state = {
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "lookahead": training.lookahead.averages if training.lookahead else None,
        **about,
    }
    unfinished = folder / "unfinished"
    try:
        records.write_atomically(unfinished / "checkpoint.pt", lambda file: torch.save(state, file))
        records.write_text(unfinished / "history.csv", records.history_csv(history))
        records.write_text(unfinished / "log.txt", records.log_text(history))
    except (OSError, RuntimeError) as error:  # torch raises the latter for a full disk
        raise OSError(
            f"epoch {len(history)} could not be saved in {folder}: {error}. The checkpoint before "
            "it is intact: make room, and the same command goes on from there."
        ) from None


def load(folder: Path, params: RunParams, identity: dict) -> dict | None:
    """Read the folder's checkpoint, as ``save`` wrote it, on the CPU; None where there is none.

    Raises InputError where it is damaged, or of a run of another identity; a precision of "auto"
    takes any.
    """
    path = folder / "unfinished" / "checkpoint.pt"
    if not path.exists():
        return None
    way_out = "Give resume = False to start afresh, or move it away."
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            if archive.testzip():
                raise ValueError("its content does not match its checksum")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        theirs = saved["identity"]
    except Exception as error:  # whatever a damaged file makes torch raise
        raise InputError(f"{path} is damaged: {error}. {way_out}") from None
    settings = params.settings()
    others = {k: v for k, v in identity.items() if k not in settings and v != "auto"}
    different = params.changes_since({k: v for k, v in theirs.items() if k in settings})
    for name, value in others.items():
        if theirs.get(name) != value:
            different.append(f"{name} {theirs.get(name)!r}, now {value!r}")
    if different:
        reason = f"{path} belongs to a run of other parameters ({'; '.join(different)})"
        raise InputError(f"{reason}. {way_out}")
    return saved


def restore(saved: dict, training: Training) -> None:
    """Put a checkpoint's state into model, optimizer and running averages."""
    training.model.load_state_dict(saved["model"])
    training.optimizer.load_state_dict(saved["optimizer"])
    if training.lookahead:
        for name, average in training.lookahead.averages.items():
            average.copy_(saved["lookahead"][name])
