"""What a run leaves in its folder, written atomically and read back with checks.

``outputs/run7/seed0/``: record.json, history.csv, log.txt, predictions.npz, first_layer.npy,
model.safetensors. While a run is under way all of it lies in ``unfinished/`` below, with
checkpoint.safetensors. record.json is written last and holds the SHA-256 of the others: where it
is, and they match, the run is done."""

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cifarlib import InputError, outputs_folder

# what the rounding of a run's results depends on
MADE_ON = ("device", "device_name", "precision", "convolutions")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """``write(file)`` into a temporary file beside ``path``, which then takes its place: all of it,
    or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


HISTORY = {  # column: unit
    "epoch": "1, 2, ...",
    "learning_rate": "of the epoch's last step",
    "train_loss": "mean per image over the epoch, while training",
    "train_accuracy": "share, while training, on augmented images",
    "last_batch_loss": "in the run's own reduction, as the paper's log prints it",
    "validation_loss": "mean per image",
    "validation_accuracy": "share",
    "train_seconds": "training part of the epoch",
    "validation_seconds": "validation part",
}


def history_csv(history: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()


def read_history(folder: Path) -> list[dict]:
    """history.csv of a finished run's folder (or of its ``unfinished/``) as a list of one dict an
    epoch."""
    with open(Path(folder) / "history.csv", newline="") as file:
        return [
            {k: int(v) if k == "epoch" else float(v) for k, v in row.items()}
            for row in csv.DictReader(file)
        ]


def unfinished_history(folder: Path) -> list[dict]:
    """The epochs that a run under way has saved."""
    try:
        return read_history(Path(folder) / "unfinished")
    except FileNotFoundError:
        return []


def log_epochs(history: list[dict]) -> str:
    """The epochs in the format of the paper's log (Appendix A.3)."""
    line = "Epoch {epoch} Loss {last_batch_loss:.6f} Duration {train_seconds:.3f} seconds.\n"
    return "".join(line.format(**row) for row in history)


def log_result(name: str, accuracy: float, loss: float) -> str:
    return f"### {name} ###\n{name[:5]} accuracy: {accuracy:.4f} Loss {loss:.6f}\n"


def read_predictions(folder: str | Path) -> dict[str, np.ndarray]:
    """ "validation" and "test": logits (N, 10), float32, as saved in float16 by the run;
    "validation_labels" and "test_labels": int64 (N,), so that every accuracy can be had again from
    the record alone."""
    with np.load(Path(folder) / "predictions.npz", allow_pickle=False) as file:
        return {
            name: file[name].astype(np.int64 if name.endswith("labels") else np.float32)
            for name in file.files
        }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def finish(folder: Path, record: dict) -> dict:
    """Moves all of unfinished/ but the checkpoint into place, then writes record.json with the
    files' SHA-256.

    An older record goes first, so that none ever stands beside another run's files; killed in
    between, the checkpoint is still there and the same command completes the record."""
    staged = [
        p
        for p in sorted((folder / "unfinished").iterdir())
        if p.name[0] != "." and "checkpoint" not in p.name
    ]
    record = {**record, "files": {p.name: _sha256(p) for p in staged}}
    (folder / "record.json").unlink(missing_ok=True)
    for path in staged:
        os.replace(path, folder / path.name)
    write_text(folder / "record.json", json.dumps(record, indent=1) + "\n")
    shutil.rmtree(folder / "unfinished")
    return record


def read_record(folder: str | Path, verify: bool = True) -> dict:
    """The record of a finished run; ``verify`` compares the files beside it with their SHA-256 (a
    file that was not committed, such as most models, may be missing). Raises InputError where there
    is none or it does not match."""
    folder = Path(folder)
    try:
        record = json.loads((folder / "record.json").read_text())
        files = record["files"]
    except FileNotFoundError:
        state = (
            "is unfinished: run it again to complete it"
            if (folder / "unfinished").is_dir()
            else "has no record"
        )
        raise InputError(f"{folder} {state}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'record.json'} is damaged: {error!r}") from None
    for name, sha256 in files.items() if verify else ():
        if (folder / name).is_file() and _sha256(folder / name) != sha256:
            raise InputError(
                f"{folder / name} does not belong to its record.json: its SHA-256 differs"
            )
    return record


def finished(output_folder: str | Path | None = None) -> list[dict]:
    """The records of all finished runs below outputs/ (default: the project's), in the order of
    their folders, each with its ``folder``."""
    folders = [
        path.parent for path in sorted(outputs_folder(output_folder).glob("*/seed*/record.json"))
    ]
    return [read_record(folder) | {"folder": folder} for folder in folders]
