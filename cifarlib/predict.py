"""Predict with finished runs: find their networks, average what they say, write it."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cifarlib import InputError, outputs_folder, plural, records, user_path
from cifarlib.data import CLASSES
from cifarlib.device.choice import pick_device, pick_precision
from cifarlib.device.convolutions import use_fast
from cifarlib.evaluate import Predictor, accuracy
from cifarlib.images import existing_path
from cifarlib.model import Network
from cifarlib.params import load_params
from cifarlib.preprocess import normalize

MODEL = "model.safetensors"
COLUMNS = ("image", "label", "class", "probability")  # of the table of answers
SUBMISSION = ("id", "label")  # of the table for Kaggle


def find_models(
    run: int | str = "best",
    seeds: int | Sequence[int] | None = None,
    model: str | Path | Sequence[str | Path] | None = None,
    output_folder: str | Path | None = None,
) -> list[Path]:
    """Find the folders of finished runs that have their network.

    model: a run's folder, its network's file or a list of such; else those of ``run`` with these
    seeds or, for None, of the one that saw most images (ties: lowest seed). Of a seed's records
    the longest is taken, not the best, whose accuracy the choice would flatter."""
    if model:
        paths = [existing_path("model", item) for item in np.atleast_1d(model).tolist()]
        folders = [path.parent if path.name == MODEL else path for path in paths]
        return [existing_path("model", folder / MODEL).parent for folder in folders]
    run = load_params(run).run
    found = [r for r in records.read_all(output_folder) if r["run"] == run]
    found = [r for r in found if (r["folder"] / MODEL).is_file()]
    found.sort(key=lambda r: (r["epochs_trained"] * r["train_images"], -r["seed"]))
    longest = {r["seed"]: r["folder"] for r in found}
    if seeds is None or not np.size(seeds):
        seeds = found[-1]["seed"] if found else 0
    seeds = np.unique(seeds).tolist()
    if not all(type(seed) is int for seed in seeds):
        raise InputError(f"seeds = {seeds}: give whole numbers, to papermill -y 'seeds: [0, 1]'")
    missing = [str(seed) for seed in seeds if seed not in longest]
    if missing:
        text = f"{outputs_folder(output_folder)} has no finished {run} with its network of seed"
        command = f"`make train RUN={run} SEED={missing[0]}` makes one, and its record anew"
        raise InputError(f"{text} {', '.join(missing)}: {command}")
    return [longest[seed] for seed in seeds]


def load_model(folder: Path, device: str = "auto") -> Predictor:
    """Load a finished run's network, in its own precision where that is fast on the device."""
    chosen = pick_device(device)
    precision = records.read_record(folder)["precision"]
    if precision != pick_precision(chosen):
        precision = "float32"
    tensors, description = records.read_model(folder / MODEL)
    network = Network().to(chosen).eval()
    network.load_state_dict(tensors)
    use_fast(network, precision)
    mode = description["parameters"]["normalization"]
    statistics = [torch.tensor(description[f"channel_{name}"]) for name in ("mean", "std")]
    as_trained = partial(normalize, mode=mode, statistics=statistics)
    return Predictor(network, as_trained, getattr(torch, precision))


class Answers(NamedTuple):
    """What networks say of images."""

    names: list[str]  # of the images
    probabilities: Tensor  # (N, 10)
    text: str  # whose probabilities these are, how many are right where labels are known

    def table(self) -> pd.DataFrame:
        """List the most probable class of each image."""
        probabilities, labels = (column.numpy() for column in self.probabilities.max(1))
        columns = (self.names, labels, np.take(CLASSES, labels), probabilities.round(4))
        return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))

    def write(self, predictions: str | Path, submission: bool = False) -> Path:
        """Write the probabilities, .npy, beside them the table, .csv, and on request the same
        for Kaggle, -submission.csv; return the first."""
        path = output_path(predictions, self.names if submission else [])
        table = self.table()
        records.write_atomically(path, lambda file: np.save(file, self.probabilities.numpy()))
        records.write_text(path.with_suffix(".csv"), table.to_csv(index=False))
        if submission:
            ids = [Path(name).stem for name in self.names]
            kaggle = pd.DataFrame(dict(zip(SUBMISSION, (ids, table["class"]), strict=True)))
            file = path.with_name(f"{path.stem}-submission.csv")
            records.write_text(file, kaggle.to_csv(index=False))
        return path


def output_path(predictions: str | Path, submission_of: Sequence[str] = ()) -> Path:
    """Return where predictions go, a file .npy; to be asked before the work.

    submission_of: the images' names, where a table for Kaggle is wanted. Raises InputError where
    the file cannot be written, where it or a table would take the place of something else, such as
    the images, and where two images would have the same id."""
    path = user_path("predictions", predictions) or Path("predictions.npy")
    if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise InputError(f"predictions = {str(path)!r}: name a file, in a writable folder")
    if path.suffix not in (".npy", ".csv"):
        path = path.with_name(f"{path.name}.npy")  # run0.1 becomes run0.1.npy
    path = path.with_suffix(".npy")
    tables = {path.with_suffix(".csv"): COLUMNS}
    if submission_of:
        tables[path.with_name(f"{path.stem}-submission.csv")] = SUBMISSION
        if len({Path(name).stem for name in submission_of}) < len(submission_of):
            raise InputError("submission: two images share a name, as 1.png and cat/1.png")
    try:
        is_other = path.exists() and np.load(path).shape[1:] != (len(CLASSES),)
        for table, columns in tables.items():
            is_other |= table.exists() and tuple(pd.read_csv(table, nrows=0)) != columns
    except Exception:  # another kind of file fails in any way
        is_other = True
    if is_other:
        names = " or ".join(table.name for table in tables)
        found = f"predictions = {str(path)!r}: it or its table, {names}, holds something else"
        raise InputError(f"{found}: give another name")
    return path


def predict(
    images: Tensor, names: list[str], folders: list[Path], views: bool = False, device: str = "auto"
) -> Answers:
    """Predict class probabilities: the mean over the runs' networks, each by the mean logits over
    an image's six views where ``views``. A name such as "cat/1.png" holds the label."""
    chosen = str(pick_device(device))
    networks = [load_model(folder, chosen) for folder in folders]
    answers = [net.logits(images, views=views).softmax(1).cpu() for net in networks]
    mean = torch.stack(answers).mean(0)
    whose = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    text = f"Class probabilities by {', '.join(whose)}"
    if len(folders) > 1:
        text += ", averaged"
        answers.append(mean)
        whose.append("their average")
    text += "; each image was seen in six views." if views else "."
    labels = pd.Index(CLASSES).get_indexer([Path(name).parent.name.lower() for name in names])
    known = labels >= 0
    if known.any():
        shares = [accuracy(each[known], labels[known]) for each in answers]
        right = [f"{share:.2%} by {name}" for share, name in zip(shares, whose, strict=True)]
        text += f" Of {plural(known.sum(), 'labelled image')} right: {', '.join(right)}."
    return Answers(names, mean, text)
