"""What a run leaves in its folder, written atomically and read back with checks.

``outputs/run7/seed0/``: record.json, history.csv, log.txt, predictions.npz, first_layer.npy, model.safetensors. While
a run is under way all of it lies in ``unfinished/`` below, with checkpoint.safetensors. record.json is written last
and holds the SHA-256 of the others: where it is, and they match, the run is done.

torch is imported only where tensors are: the grid asks for states many times, and torch takes two seconds.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import safetensors

from cifarlib import InputError, project_root, user_path
from cifarlib.params import TRAIN_IMAGES, load_published

try:
    import resource
except ImportError:  # Windows
    resource = None

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PACKAGES = ("torch", "torchvision", "numpy", "papermill", "matplotlib", "scipy", "safetensors")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """``write(file)`` into a temporary file beside ``path``, which then takes its place: all of it, or nothing."""
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


def _digest(tensors: dict[str, Tensor], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def save_tensors(path: Path, tensors: dict[str, Tensor], about: dict) -> None:
    """A safetensors file: tensors, with ``about`` as JSON and a digest of the tensors in its header."""
    import safetensors.torch

    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    header = {"about": json.dumps(about)}
    header["sha256"] = _digest(tensors, header["about"])
    write_atomically(path, lambda file: file.write(safetensors.torch.save(tensors, metadata=header)))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors (on the CPU) and ``about`` of save_tensors. Nothing in the file is executed. Raises InputError where
    it is damaged or not such a file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        about, digest = json.loads(header["about"]), _digest(tensors, header["about"])
    except FileNotFoundError:
        raise InputError(f"no file {path}") from None
    except Exception as error:  # the library raises its own and several built-in kinds for a damaged file
        raise InputError(f"{path} is damaged, or no file of this project: {error!r}") from None
    if header.get("sha256") != digest:
        raise InputError(f"{path} is damaged: its content does not match its SHA-256")
    return tensors, about


def load_model_file(folder: Path) -> tuple[dict[str, Tensor], dict]:
    """Weights and what is needed to predict (normalisation, class names) from a run's model.safetensors."""
    return load_tensors(Path(folder) / "model.safetensors")


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
    """history.csv as a list of one dict an epoch; read from unfinished/ where the run is not done."""
    path = Path(folder) / "history.csv"
    if not path.is_file():
        path = Path(folder) / "unfinished" / "history.csv"
    with open(path, newline="") as file:
        return [{k: int(v) if k == "epoch" else float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def log_epochs(history: list[dict]) -> str:
    """The epochs in the format of the paper's log (Appendix A.3)."""
    line = "Epoch {epoch} Loss {last_batch_loss:.6f} Duration {train_seconds:.3f} seconds.\n"
    return "".join(line.format(**row) for row in history)


def log_result(name: str, accuracy: float, loss: float) -> str:
    return f"### {name} ###\n{name[:5]} accuracy: {accuracy:.4f} Loss {loss:.6f}\n"


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=project_root(), capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


TRAINING_MODULES = ("loop", "model", "params", "preprocess", "train", "whitening")
OF_DEVICE = {"cuda": ("capture",), "cpu": ("winograd",)}
KERNELS = ("winograd.py",)  # the same formula computed faster: named by a record, as PyTorch's version is, and no more


@functools.cache
def _source(path: Path) -> str:
    return path.read_text(encoding="utf-8")


for _name in (*TRAINING_MODULES, *(name for names in OF_DEVICE.values() for name in names)):
    _source(Path(__file__).parent / f"{_name}.py")  # as they are imported; edited while a run trains, they are others


def code_digests(device_type: str = "cpu") -> dict[str, str]:
    """A digest of each module that training on such a device runs through, blind to comments, docstrings and layout:
    where one differs from a record's, the record is of other code, stale unless it is one of ``KERNELS``."""
    digests = {}
    for name in (*TRAINING_MODULES, *OF_DEVICE.get(device_type, ())):
        text, fresh = "", True  # fresh: a statement begins
        source = _source(Path(__file__).parent / f"{name}.py")
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type in (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING):
                continue
            if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
                fresh = True
            elif not (fresh and token.type == tokenize.STRING):
                text, fresh = text + token.string + " ", False
        digests[f"{name}.py"] = hashlib.sha256("".join(text.split()).encode()).hexdigest()[:16]
    return digests


def code_version() -> dict:
    """commit: of the checkout, else of the variable CIFARLIB_COMMIT, else None. dirty: whether cifarlib/ or params/
    differ from that commit; None where git cannot tell. code: the digests of all modules that any training runs
    through."""
    top, root = _git("rev-parse", "--show-toplevel"), project_root().resolve()
    commit, dirty = os.environ.get("CIFARLIB_COMMIT"), None  # of a copy, or installed elsewhere
    if top and Path(top).resolve() == root and Path(__file__).resolve().is_relative_to(root):
        commit, dirty = _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain", "--", "cifarlib", "params"))
    return {"commit": commit, "dirty": dirty, "code": code_digests("cpu") | code_digests("cuda")}


def peak_memory_bytes(device: torch.device) -> int | None:
    """Of CUDA's allocator, else of this process; None where the system does not tell."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_name(device: torch.device) -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if device.type == "cpu" and info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


def package_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def finish(folder: Path, record: dict) -> dict:
    """Moves all of unfinished/ but the checkpoint into place, then writes record.json with the files' SHA-256.

    An older record goes first, so that none ever stands beside another run's files; killed in between, the
    checkpoint is still there and the same command completes the record.
    """
    staged = [p for p in sorted((folder / "unfinished").iterdir()) if p.name[0] != "." and "checkpoint" not in p.name]
    record = {**record, "files": {p.name: _sha256(p) for p in staged}}
    (folder / "record.json").unlink(missing_ok=True)
    for path in staged:
        os.replace(path, folder / path.name)
    write_text(folder / "record.json", json.dumps(record, indent=1) + "\n")
    shutil.rmtree(folder / "unfinished")
    return record


def read_record(folder: str | Path, verify: bool = True) -> dict:
    """The record of a finished run; ``verify`` compares the files beside it with their SHA-256 (a file that was not
    committed, such as most models, may be missing). Raises InputError where there is none or it does not match."""
    folder = Path(folder)
    try:
        record = json.loads((folder / "record.json").read_text())
    except FileNotFoundError:
        state = "is unfinished: run it again to complete it" if (folder / "unfinished").is_dir() else "has no record"
        raise InputError(f"{folder} {state}") from None
    except ValueError as error:
        raise InputError(f"{folder / 'record.json'} is damaged: {error}") from None
    for name, sha256 in record["files"].items() if verify else ():
        if (folder / name).is_file() and _sha256(folder / name) != sha256:
            raise InputError(f"{folder / name} does not belong to its record.json: its SHA-256 differs")
    return record


def read_predictions(folder: str | Path) -> dict[str, np.ndarray]:
    """ "validation" and "test": logits (N, 10), float32, as saved in float16 by the run; "validation_labels" and
    "test_labels": int64 (N,), so that every accuracy can be had again from the record alone."""
    with np.load(Path(folder) / "predictions.npz", allow_pickle=False) as file:
        return {name: file[name].astype(np.int64 if name.endswith("labels") else np.float32) for name in file.files}


def finished(output_folder: str | Path | None = None) -> list[dict]:
    """The records of all finished runs below outputs/ (default: the project's), in the order of their folders, each with
    its ``folder``."""
    output_folder = user_path("output_folder", output_folder) or project_root() / "outputs"
    return [
        read_record(path.parent) | {"folder": path.parent} for path in sorted(output_folder.glob("*/seed*/record.json"))
    ]


def results_markdown(found: list[dict]) -> str:
    """The README's table of results, a line a record; accuracies in per cent."""
    lines = [
        "| run | epochs | seed | validation | test | paper, 200 epochs (validation) |",
        "|---|---|---|---|---|---|",
    ]
    for r in found:
        schedule = f"{r['epochs_trained']} of {r['epochs']}" if r["stop_epoch"] else str(r["epochs"])
        part = "" if r["train_images"] == TRAIN_IMAGES else f", {r['train_images']:,} images"
        paper = load_published()["validation_accuracy"].get(r["run"])
        accuracies = f"{100 * r['validation_accuracy']:.2f} | {100 * r['test_accuracy']:.2f}"
        lines.append(
            f"| {r['run']} | {schedule}{part} | {r['seed']} | {accuracies} | {f'{paper:.2f}' if paper else ''} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    print(results_markdown(finished()))
