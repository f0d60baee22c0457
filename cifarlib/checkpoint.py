"""``unfinished/checkpoint.pt`` in a run's folder: the state from which it goes on."""

import zipfile
from pathlib import Path

import torch

from cifarlib import InputError, records
from cifarlib.params import RunParams

FILE = "checkpoint.pt"


def save(folder: Path, state: dict) -> None:
    """Write the state of a run, and beside it history and log so far.

    state: ``Training.state_dict()``, the run's ``identity`` (settings, device, precision ...: a run
    that goes on must have the same), ``sessions`` and ``history``. Raises OSError that says what
    is kept."""
    unfinished = folder / "unfinished"
    history = state["history"]
    try:
        unfinished.mkdir(exist_ok=True)  # another process may have completed its run meanwhile
        records.write_atomically(unfinished / FILE, lambda file: torch.save(state, file))
        records.write_history(unfinished, history)
    except (OSError, RuntimeError) as error:  # torch raises the latter for a full disk
        raise OSError(
            f"epoch {len(history)} could not be saved in {folder}: {error}. What was saved before "
            "is intact: make room, and the same command goes on from there."
        ) from None


def read_or_new(folder: Path, params: RunParams, conditions: dict, resume: bool) -> dict:
    """Read the state to go on from, on the CPU, as ``save`` wrote it; where there is none, or not
    ``resume``, return that of a run without an epoch and delete what an older one saved there.

    Its identity is ``params.settings()`` and conditions: device, determinism, data, precision. A
    precision of "auto" accepts the checkpoint's. Raises InputError where the file is damaged, or of
    a run of another identity."""
    path = folder / "unfinished" / FILE
    if not resume:  # else a run stopped before its first save would count the older epochs
        path.unlink(missing_ok=True)
        path.with_name("history.csv").unlink(missing_ok=True)
    if not path.exists():
        return {"identity": params.settings() | conditions, "sessions": [], "history": []}
    way_out = "To start afresh, delete it or, in the train notebook, give resume = False."
    try:
        with zipfile.ZipFile(path) as archive:  # torch does not look at the checksums
            if archive.testzip():
                raise ValueError("its content does not match its checksum")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        theirs = saved["identity"]
    except Exception as error:  # whatever a damaged file makes torch raise
        raise InputError(f"{path} is damaged: {error}. {way_out}") from None
    different = params.changes_since({k: v for k, v in theirs.items() if k not in conditions})
    for name, value in conditions.items():
        if value != theirs.get(name) and value != "auto":
            different.append(f"{name} {theirs.get(name)!r}, now {value!r}")
    if different:
        reason = f"{path} belongs to a run of other settings ({'; '.join(different)})"
        raise InputError(f"{reason}. {way_out}")
    return saved
