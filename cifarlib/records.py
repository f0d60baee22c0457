"""What a run leaves in its folder, written atomically and read back with checks.

``outputs/run7/seed0/``: record.json, history.csv, log.txt, predictions.npz, first_layer.npy,
model.safetensors. While a run is under way, history, log and checkpoint.pt lie in ``unfinished/``
below. record.json is written last and holds the SHA-256 of the others: where it is, and they match,
the run is done."""

import contextlib
import csv
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout

from cifarlib import InputError, outputs_folder, plural
from cifarlib.params import unknown_settings

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(folder: Path, timeout: float = -1) -> Iterator[None]:
    """Hold the folder's lock, which the system frees when the process ends.

    Raises filelock.Timeout after ``timeout`` seconds (-1: never), InputError where the file system
    has no locks."""
    try:
        held = FileLock(folder / ".lock", timeout=timeout).acquire()
    except Timeout:  # an OSError, too
        raise
    except (OSError, NotImplementedError) as error:
        raise InputError(
            f"{folder} cannot be locked ({error}): it is another user's, or its file system has no "
            "locks; give another folder"
        ) from None
    with held:
        yield


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have ``write(file)`` fill a temporary file beside ``path``, which then takes its place: all
    of it, or nothing."""
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
    write_atomically(path, lambda file: file.write(text.encode(errors="replace")))


def write_history(folder: Path, history: list[dict], record: dict | None = None) -> None:
    """Write history.csv and log.txt; a finished run's log has the results of its record, too.

    Losses are means per image (last_batch_loss: in the run's own reduction), accuracies shares;
    those of training are collected during the epoch, on augmented images."""
    table = pd.DataFrame(history).to_csv(index=False, na_rep="nan", lineterminator="\n")
    write_text(folder / "history.csv", table)
    write_text(folder / "log.txt", log_text(history, record))


def read_history(folder: Path) -> list[dict]:
    """Read history.csv of a run's folder, or of its ``unfinished/``: a dict an epoch that is saved
    there. Raises InputError where it is damaged."""
    path = Path(folder) / "history.csv"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        return [row | {"epoch": int(row["epoch"])} for row in rows]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged, delete it: {error!r}") from None


def open_folder(name: str, output_folder: str | Path | None = None) -> Path:
    """Make the folder of a run (``RunParams.folder``) below outputs/. Raises InputError, before
    anything expensive, where it cannot be written."""
    folder = outputs_folder(output_folder) / name
    try:
        (folder / "unfinished").mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder / "unfinished").close()
    except OSError as error:
        raise InputError(f"output_folder: {folder} cannot be written: {error}") from None
    return folder


def log_text(history: list[dict], record: dict | None = None) -> str:
    """Write epochs and, of a finished run, results in the format of the paper's log (Appendix
    A.3): losses in the run's own reduction."""
    line = "Epoch {epoch} Loss {last_batch_loss:.6f} Duration {train_seconds:.3f} seconds.\n"
    text = "".join(line.format(**row) for row in history)
    if record is None:
        return text
    text += "Checkpoint has been created.\n"
    for part in ("validation", "test"):
        accuracy = record[f"{part}_accuracy"]
        loss = record[f"{part}_loss"]
        if accuracy is None:  # all images trained
            continue
        if record["loss_reduction"] == "sum":
            loss *= record[f"{part}_images"]
        name = part.capitalize()
        text += f"### {name} ###\n{name[:5]} accuracy: {accuracy:.4f} Loss {loss:.6f}\n"
    return text


def read_predictions(folder: str | Path) -> dict[str, np.ndarray]:
    """Read what a run answered, so that every accuracy can be computed from the record alone.

    "validation" and "test": logits (N, 10), float32, saved in float16; "validation_labels" and
    "test_labels": int64 (N,)."""
    with np.load(Path(folder) / "predictions.npz", allow_pickle=False) as file:
        return {k: file[k].astype("int64" if "labels" in k else "float32") for k in file.files}


def write_model(path: Path, tensors: "dict[str, Tensor]", description: dict) -> None:
    """Write a safetensors file with ``description`` as JSON in its header."""
    import safetensors.torch

    tensors = {k: v.cpu().contiguous() for k, v in tensors.items()}
    safetensors.torch.save_file(tensors, path, {"about": json.dumps(description)})


def read_model(path: str | Path) -> "tuple[dict[str, Tensor], dict]":
    """Read the tensors (on the CPU) and the description of ``write_model``; nothing is executed.

    Raises InputError where the file is missing, damaged or of another kind."""
    import safetensors.torch

    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            description = json.loads(file.metadata()["about"])
        return safetensors.torch.load_file(path), description
    except Exception as error:  # for a damaged file the library raises several kinds
        raise InputError(f"{path} is missing, damaged, or of another kind: {error!r}") from None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_run(
    folder: Path,
    record: dict,
    history: list[dict],
    predictions: dict[str, np.ndarray],
    network: "tuple[dict[str, Tensor], dict]",
) -> None:
    """Write a finished run's files: its record, history, log, predictions, and its network's
    tensors and description, the first layer also apart."""
    staged = folder / "unfinished"
    tensors, description = network
    np.save(staged / "first_layer.npy", tensors["net.0.weight"].cpu().contiguous())
    np.savez_compressed(staged / "predictions.npz", **predictions)
    write_history(staged, history, record)
    write_model(staged / "model.safetensors", tensors, description)
    complete(folder, record)


def complete(folder: Path, record: dict) -> None:
    """Move all of unfinished/ but the checkpoint into place, then write record.json with the
    files' SHA-256.

    An older record goes first, so that none ever stands beside another run's files; killed in
    between, the checkpoint is still there and the same command completes the record."""
    files = sorted((folder / "unfinished").iterdir())
    staged = [p for p in files if p.name[0] != "." and p.stem != "checkpoint"]
    staged.sort(key=lambda path: path.name == "history.csv")  # last, as it says what is saved
    record = {**record, "files": {p.name: _sha256(p) for p in staged}}
    (folder / "record.json").unlink(missing_ok=True)
    for path in staged:
        os.replace(path, folder / path.name)
    write_text(folder / "record.json", json.dumps(record, indent=1) + "\n")
    shutil.rmtree(folder / "unfinished")


def read_record(folder: str | Path) -> dict:
    """Read the record of a finished run and compare the files beside it with their SHA-256 (the
    network may be missing, as most are not committed). Raises InputError where there is
    none or it does not match."""
    folder = Path(folder)
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        files = dict(record["files"])
        _ = record["run"], record["seed"], dict(record["parameters"])  # each, or it is damaged
    except FileNotFoundError:
        is_begun = (folder / "unfinished" / "history.csv").exists()
        state = "is unfinished: run it again to complete it" if is_begun else "has no record"
        raise InputError(f"{folder} {state}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'record.json'} is damaged: {error!r}") from None
    for name, sha256 in files.items():
        path = folder / name
        is_optional = name == "model.safetensors" and not path.exists()
        if not is_optional and (not path.is_file() or _sha256(path) != sha256):
            raise InputError(f"{path} is missing, or its SHA-256 is not the one in record.json")
    return record


def read_all(output_folder: str | Path | None = None) -> list[dict]:
    """Read the records of all finished runs below outputs/ (default: the project's), in the order
    of their folders, each with its ``folder``.

    Damaged records, copies, and records with parameters that this code does not know, are left out
    and named in a warning."""
    found = []
    left_out = []
    for path in sorted(outputs_folder(output_folder).glob("*/seed*/record.json")):
        folder = path.parent
        try:
            record = read_record(folder) | {"folder": folder}
        except InputError as error:
            left_out.append(f"{error}; restore it by git, or train the run again")
            continue
        made_as = f"{record['run']}/seed{record['seed']}"
        lies_as = f"{folder.parent.name}/{folder.name.partition('-')[0]}"
        unknown = unknown_settings(record["parameters"])
        if unknown:
            left_out.append(f"{folder} ({', '.join(unknown)})")
        elif lies_as != made_as or any(r["parameters"] == record["parameters"] for r in found):
            left_out.append(f"{folder} (a copy of {made_as})")
        else:
            found.append(record)
    if left_out:
        log.warning("%s left out: %s", plural(len(left_out), "record"), "; ".join(left_out))
    return found
