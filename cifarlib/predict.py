"""A finished run at work: which model, its logits, its answers written."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from cifarlib import InputError, outputs_folder, records, user_path
from cifarlib.data import CLASSES
from cifarlib.device.choice import pick_device
from cifarlib.device.convolutions import use_fast
from cifarlib.loop import predict_logits
from cifarlib.model import Network
from cifarlib.own_images import OwnImages, existing_path
from cifarlib.preprocess import Normalizer, make_normalizer

SUBMISSION = "submission.csv"  # as Kaggle names it
MAKE_ONE = "`make train RUN=7 EPOCHS=10` makes one"


def find_model(model: str | Path | None = None, output_folder: str | Path | None = None) -> Path:
    """The folder of a finished run with its weights: ``model``, below the working directory or else
    the project, or the ``longest`` run 7 below ``output_folder`` (None: the project's outputs/)."""
    if model:
        folder = existing_path("model", model)
        if not (folder / "model.safetensors").is_file():
            raise InputError(
                f"model = {str(model)!r}: no model.safetensors in {folder}; of the committed runs only run 7 has its network: train this one again"
            )
        return folder
    outputs = outputs_folder(output_folder)
    folders = [path.parent for path in sorted(outputs.glob("run7/seed*/model.safetensors"))]
    folders = [folder for folder in folders if (folder / "record.json").is_file()]
    if not folders:
        raise InputError(f"no run 7 with its weights below {outputs}: {MAKE_ONE}")
    return longest(
        [records.read_record(folder, verify=False) | {"folder": folder} for folder in folders]
    )


def longest(finished: list[dict]) -> Path:
    """Of records, each with its ``folder``, that of the one of the most images, then of the most
    epochs, of its seeds the first. Not the best one: its accuracy would be flattered by the
    choice."""
    return min(finished, key=lambda r: (-r["train_images"], -r["epochs_trained"], r["seed"]))[
        "folder"
    ]


def load_model(
    folder: str | Path, device: str = "auto", precision: str = "float32"
) -> tuple[Network, dict]:
    """The trained network of a run's folder, in evaluation mode, ready for this precision, and what
    its file says of it (parameters, channel_mean and channel_std, classes, accuracies). Nothing in
    the file is executed."""
    tensors, description = records.load_model(Path(folder) / "model.safetensors")
    model = Network()
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{folder}/model.safetensors is of another network: {error}") from None
    model = model.to(pick_device(device)).eval()
    use_fast(model, precision)
    return model, description


def _normalizer(images: Tensor, description: dict) -> Normalizer:
    statistics = torch.tensor(description["channel_mean"]), torch.tensor(description["channel_std"])
    return make_normalizer(images, description["parameters"]["normalization"], statistics)


def logits_of(
    model: nn.Module, description: dict, images: Tensor, precision: str = "float32"
) -> Tensor:
    """Logits (N, 10), on the CPU, of uint8 images (N, 3, 32, 32); model and description: see
    ``load_model``."""
    images = images.to(next(model.parameters()).device)
    return predict_logits(
        model, images, _normalizer(images, description), getattr(torch, precision)
    ).cpu()


@torch.no_grad()
def block_outputs(model: Network, description: dict, image: Tensor) -> dict[str, Tensor]:
    """What the first layer and each block make of an image, uint8 (3, 32, 32): outputs (C, H, W),
    on the CPU."""
    images = image[None].to(next(model.parameters()).device)
    x = model.net[0](_normalizer(images, description).apply(images))
    outputs = {}
    for name, layer in zip(
        ("whitening", "block 1", "block 2", "block 3"), model.net[1:5], strict=True
    ):
        x = layer(x)
        outputs[name] = x[0].cpu()
    return outputs


def output_path(
    predictions: str | Path, images: str | Path | None, submission: bool = False
) -> Path:
    """Where ``write_predictions`` will write, if images were given; raises InputError before any
    work where it cannot, or would overwrite the images, or a table without predictions beside it,
    which is another's, or one by the other."""
    path = user_path("predictions", predictions)
    if path is None or path.suffix != ".npy":
        raise InputError(f"predictions = {predictions!r}: give a file name that ends in .npy")
    if not isinstance(submission, bool):
        raise InputError(f"submission = {submission!r}: choose True or False")
    path = path.resolve()
    if not images:
        return path
    if not os.access(path.parent, os.W_OK):
        raise InputError(
            f"predictions = {str(predictions)!r}: {path.parent} is missing or cannot be written"
        )
    tables = [path.with_suffix(".csv"), *[path.with_name(SUBMISSION)] * submission]
    lost = [path] if path == existing_path("images", images).resolve() else []
    lost += [
        table
        for table in tables
        if (table.exists() and not path.exists()) or tables.count(table) > 1
    ]
    if lost:
        raise InputError(
            f"predictions = {str(predictions)!r} would overwrite {lost[0]}: give another name"
        )
    return path


def accuracy_note(logits: Tensor, labels: Tensor | None) -> str:
    """How many of the images with a label, int64 (N,), -1 for none, are answered right by logits
    (N, 10)."""
    if labels is None:
        return "No labels came with the images, so there is no accuracy."
    labelled, right = int((labels >= 0).sum()), int((logits.argmax(1) == labels).sum())
    return f"Of {labelled:,} images with a label, {right:,} are answered right: accuracy **{100 * right / labelled:.2f} %**."


def answer_rows(probabilities: Tensor, names: list[str]) -> list[dict]:
    """The most probable class of each image and its probability, from (N, 10)."""
    shares, labels = (x.tolist() for x in probabilities.max(1))
    return [
        {"image": name, "label": label, "class": CLASSES[label], "probability": f"{share:.4f}"}
        for name, label, share in zip(names, labels, shares, strict=True)
    ]


def write_predictions(
    path: Path, probabilities: Tensor, own: OwnImages, submission: bool = False
) -> list[Path]:
    """Class probabilities (N, 10), float32, to ``path`` (.npy), and beside it the table of
    ``answer_rows`` with the images' names (.csv) and, on request, Kaggle's submission.csv
    (id,label). Returns the files written."""
    records.write_atomically(path, lambda file: np.save(file, probabilities.numpy()))
    rows = answer_rows(probabilities, own.names)
    tables = {path.with_suffix(".csv"): pd.DataFrame(rows)}
    if submission:
        tables[path.with_name(SUBMISSION)] = pd.DataFrame(
            {"id": own.ids, "label": [row["class"] for row in rows]}
        )
    for file, table in tables.items():
        records.write_text(file, table.to_csv(index=False))
    return [path, *tables]
