"""Finished runs at work: which networks, what they say of images, what is written of it."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cifarlib import InputError, outputs_folder, records, user_path
from cifarlib.data import CLASSES
from cifarlib.device.choice import pick_device, pick_precision
from cifarlib.device.convolutions import use_fast
from cifarlib.images import NamedImages, existing_path, read_images
from cifarlib.loop import accuracy, predict_logits, right_answers
from cifarlib.model import Network
from cifarlib.params import load_params
from cifarlib.preprocess import Normalizer, make_normalizer

MODEL = "model.safetensors"


class TrainedNetwork(NamedTuple):
    """A finished run's network, as ``load_model`` returns it."""

    network: Network  # in evaluation mode, on its device
    description: dict  # of its file: parameters, channel_mean, channel_std, accuracies
    dtype: torch.dtype

    def _normalizer(self, images: Tensor) -> Normalizer:
        statistics = [torch.tensor(self.description[f"channel_{name}"]) for name in ("mean", "std")]
        return make_normalizer(images, self.description["parameters"]["normalization"], statistics)

    def logits(self, images: Tensor, views: bool = False) -> Tensor:
        """Compute logits (N, 10), on the CPU, of uint8 images (N, 3, 32, 32)."""
        images = images.to(self.network.first_layer.weight.device)
        normalizer = self._normalizer(images)
        return predict_logits(self.network, images, normalizer, self.dtype, views=views).cpu()

    @torch.no_grad()
    def block_outputs(self, image: Tensor) -> dict[str, Tensor]:
        """Compute each layer's output (C, H, W), on the CPU, for an image, uint8 (3, 32, 32)."""
        images = image[None].to(self.network.first_layer.weight.device)
        x = self.network.net[0](self._normalizer(images).apply(images))
        outputs = {}
        names = ("whitening", "block 1", "block 2", "block 3")
        for name, layer in zip(names, self.network.net[1:5], strict=True):
            x = layer(x)
            outputs[name] = x[0].cpu()
        return outputs


def find_models(
    run: int | str = 7,
    seeds: int | Sequence[int] | None = None,
    model: str | Path | Sequence[str | Path] | None = None,
    output_folder: str | Path | None = None,
) -> list[Path]:
    """Find the folders of finished runs that have their network.

    model: a run's folder, the network's file in it, or a list of such; without it those of ``run``
    with these seeds or, for None, the longest one. Of a seed's several records the longest is
    taken, of equal ones the lowest seed: not the best, whose accuracy the choice would flatter."""
    if model:
        models = [model] if isinstance(model, (str, Path)) else model
        paths = [existing_path("model", item) for item in models]
        folders = [path.parent if path.name == MODEL else path for path in paths]
        for folder in folders:
            if not (folder / MODEL).is_file():
                raise InputError(f"model: no {MODEL} in {folder}: train this run again")
        return folders
    seeds = [seeds] if isinstance(seeds, int) else seeds
    if seeds is not None and not (len(seeds) and all(type(seed) is int for seed in seeds)):
        raise InputError(f"seeds = {seeds!r}: give a list of numbers, as [0, 1, 2]")
    run = load_params(run).run
    found = [r for r in records.finished(output_folder) if r["run"] == run]
    found.sort(key=lambda r: (-r["train_images"], -r["epochs_trained"], r["seed"]))
    usable = [r for r in found if (r["folder"] / MODEL).is_file()]
    if seeds is None:
        seeds = [r["seed"] for r in usable[:1]] or [0]
    longest = {r["seed"]: r["folder"] for r in reversed(usable)}
    missing = [seed for seed in dict.fromkeys(seeds) if seed not in longest]
    if missing:
        commands = [f"make train RUN={run.removeprefix('run')} SEED={seed}" for seed in missing]
        took = f"; one took {sum(found[0]['epoch_seconds']) / 60:.0f} min" if found else ""
        raise InputError(
            f"no finished {run} with its network of seed {', '.join(map(str, missing))} in "
            f"{outputs_folder(output_folder)}: `{' && '.join(commands)}` makes it{took}"
        )
    return [longest[seed] for seed in dict.fromkeys(seeds)]


def load_model(folder: Path, device: str = "auto") -> TrainedNetwork:
    """Load a finished run's network, in its own precision where that is fast on the device."""
    precision = records.read_record(folder)["precision"]
    tensors, description = records.load_model(folder / MODEL)
    network = Network()
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{folder / MODEL} is of another network: {error}") from None
    network = network.to(pick_device(device)).eval()
    if precision != pick_precision(pick_device(device)):
        precision = "float32"
    use_fast(network, precision)
    return TrainedNetwork(network, description, getattr(torch, precision))


def saved_logits(folders: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Read the test images' logits (N, 10) and labels (N,) from records: of several the logarithm
    of their mean probabilities."""
    saved = [records.read_predictions(folder) for folder in folders]
    logits = torch.stack([torch.from_numpy(each["test"]).log_softmax(1) for each in saved])
    return (logits.logsumexp(0) - math.log(len(saved))).numpy(), saved[0]["test_labels"]


def accuracies(folders: Sequence[Path]) -> pd.DataFrame:
    """List each network's accuracy on CIFAR-10's test images, then that of their mean."""
    columns = ("network", "epochs", "training images", "test accuracy", "with views")
    rows = []
    for folder in folders:
        r = records.read_record(folder)
        shares = _percent(r["test_accuracy"]), _percent(r.get("test_accuracy_views"))
        rows.append((_name(folder), r["epochs_trained"], f"{r['train_images']:,}", *shares))
    if len(folders) > 1:
        average = _percent(accuracy(*saved_logits(folders)))
        rows.append((f"mean of these {len(folders)}", "", "", average, "–"))
    return pd.DataFrame(rows, columns=columns)


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f} %"


class Answers(NamedTuple):
    """What networks say of images."""

    given: NamedImages
    probabilities: Tensor  # (N, 10)
    text: str  # lines: how the images were read, whose probabilities these are, the accuracy
    written: Sequence[Path] = ()

    def table(self) -> pd.DataFrame:
        """List the most probable class of each image."""
        shares, labels = (column.tolist() for column in self.probabilities.max(1))
        columns = {"image": self.given.names, "label": labels}
        columns["class"] = [CLASSES[label] for label in labels]
        columns["probability"] = [f"{share:.4f}" for share in shares]
        return pd.DataFrame(columns)


def predict(
    given: NamedImages, folders: Sequence[Path], views: bool = False, device: str = "auto"
) -> Answers:
    """Predict class probabilities: the mean over the runs' networks, each by the mean logits over
    an image's six views where ``views``."""
    networks = [load_model(folder, device) for folder in folders]
    shares = [network.logits(given.images, views).softmax(1) for network in networks]
    answers = torch.stack(shares).mean(0)
    names = ", ".join(map(_name, folders))
    whose = f"of {names}" if len(folders) == 1 else f"averaged over {names}"
    how = "by six test-time views of each image" if views else "without test-time views"
    lines = [*given.notes, f"Class probabilities {whose}, {how}."]
    labelled = given.labels >= 0
    if labelled.any():
        right = right_answers(answers[labelled], given.labels[labelled])
        share = f"{right.sum():,} are answered right: {_percent(right.mean())}"
        lines.append(f"Of {len(right):,} images with a label, {share}.")
    return Answers(given, answers, "\n".join(lines))


def predict_file(
    images: str | Path,
    folders: Sequence[Path],
    predictions: str | Path = "predictions.npy",
    *,
    layout: str = "auto",
    views: bool = False,
    submission: bool = False,
    device: str = "auto",
) -> Answers:
    """Predict what ``read_images`` reads and write the probabilities to ``predictions`` (.npy),
    beside it the answers as a table (.csv) and the text (.txt) and, on request, Kaggle's
    submission.csv (id,label)."""
    for name, value in (("views", views), ("submission", submission)):
        if not isinstance(value, bool):
            raise InputError(f"{name} = {value!r}: choose True or False")
    path = user_path("predictions", predictions)
    if path is None or path.suffix != ".npy":
        raise InputError(f"predictions = {predictions!r}: give a file name that ends in .npy")
    if not os.access(path.absolute().parent, os.W_OK):
        raise InputError(f"predictions = {str(path)!r}: its folder is missing or cannot be written")
    files = [path.with_suffix(".csv"), path.with_suffix(".txt")]
    if submission:
        files.append(path.with_name("submission.csv"))
    lost = [file for file in files if file.exists() and not path.exists()]
    if lost or path.resolve() == existing_path("images", images).resolve():
        raise InputError(f"predictions = {str(path)!r} would overwrite {(lost or [path])[0]}")
    answers = predict(read_images(images, layout), folders, views, device)
    table = answers.table()
    contents = [table.to_csv(index=False), f"{answers.text}\n"]
    if submission:
        stems = table["image"].map(lambda name: Path(name).stem)
        ids = stems if stems.is_unique else table["image"]
        contents.append(pd.DataFrame({"id": ids, "label": table["class"]}).to_csv(index=False))
    records.write_atomically(path, lambda file: np.save(file, answers.probabilities.numpy()))
    for file, content in zip(files, contents, strict=True):
        records.write_text(file, content)
    return answers._replace(written=[path, *files])
