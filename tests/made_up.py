"""Records that no training made, for tests of what is done with records."""

from pathlib import Path

import numpy as np
import torch

from cifarlib import records
from cifarlib.data import Cifar10
from cifarlib.params import load_params
from cifarlib.report.claims import arms_of, published
from cifarlib.whitening import whitening_filters

IMAGES = 1000
MADE_ON = {"device": "cpu", "device_name": "a made-up device"}
MADE_ON |= {"precision": "float32", "convolutions": "PyTorch"}


def few(data: Cifar10, train: int, validation: int, test: int) -> Cifar10:
    """The first images of each split."""
    splits = data.train.head(train), data.validation.head(validation), data.test.head(test)
    return Cifar10(*splits, sha256=f"{data.sha256}, first {train}/{validation}/{test}")


def make_record(
    output_folder: Path, run: str, seed: int = 0, accuracy: float = 0.9, **overrides
) -> Path:
    """Make a complete record of a run whose validation accuracy is ``accuracy`` to within an image,
    its test accuracy half a point less."""
    p = load_params(run, seed=seed, **overrides)
    folder = output_folder / p.folder
    staged = folder / "unfinished"
    staged.mkdir(parents=True)
    rng = np.random.default_rng([seed, *run.encode()])
    predictions = {}
    shares = {}
    for part, share in (("validation", accuracy), ("test", accuracy - 0.005)):
        labels = rng.integers(0, 10, IMAGES)
        right = np.arange(IMAGES) < round(share * IMAGES)
        logits = rng.normal(0, 0.5, (IMAGES, 10))
        answers = np.where(right, labels, (labels + rng.integers(1, 10, IMAGES)) % 10)
        logits[np.arange(IMAGES), answers] += 4 + rng.random(IMAGES)
        predictions[part] = logits.astype(np.float16)
        predictions[f"{part}_labels"] = labels.astype(np.uint8)
        shares |= {f"{part}_accuracy": float(right.mean()), f"{part}_loss": 0.5}
    row = {"learning_rate": 0.08, "train_accuracy": 0.8, "last_batch_loss": 1.0}
    row |= {"validation_loss": 1.0, "train_seconds": 13.0, "validation_seconds": 0.5}
    history = []
    for epoch in range(1, p.last_epoch + 1):
        loss = 0.9 + 1.2 * 0.7**epoch + 0.01 * rng.random()
        reached = shares["validation_accuracy"] * (1 - 0.5**epoch)
        row = row | {"epoch": epoch, "train_loss": loss, "validation_accuracy": reached}
        history.append(row)
    history[-1]["validation_accuracy"] = shares["validation_accuracy"]
    np.savez_compressed(staged / "predictions.npz", **predictions)
    square = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    np.save(staged / "first_layer.npy", whitening_filters(square @ square.T, 5e-4).numpy())
    records.write_history(staged, history)
    names = ("run", "question", "seed", "epochs", "stop_epoch", "train_images", "loss_reduction")
    record = {name: getattr(p, name) for name in names} | shares | MADE_ON
    record |= {"parameters": p.settings(), "epochs_trained": p.last_epoch}
    record |= {"validation_images": IMAGES, "test_images": IMAGES}
    record |= {"train_loss": history[-1]["train_loss"], "epoch_seconds": [13.5] * p.last_epoch}
    record |= {"sessions": [{"first_epoch": 1, **MADE_ON}], "packages": {"torch": "0"}}
    record |= {"commit": "1" * 40, "dirty": False, "data_sha256": "0" * 64}
    records.complete(folder, record | {"finished": "2026-11-28T12:00:00Z"})
    return folder


def make_grid(
    output_folder: Path, stop_epoch: int | None = 95, spread: float = 0.001, gain: float = 0.0
) -> None:
    """Make Table 1's runs near the paper's accuracies, one seed each, stopped as ours are."""
    rng = np.random.default_rng(0)
    for run, mean in published()["validation_accuracy"].items():
        accuracy = mean / 100 + gain + rng.normal(0, spread)
        make_record(output_folder, run, accuracy=accuracy, stop_epoch=stop_epoch)


def make_fast(output_folder: Path, seeds: int = 3, **accuracies: float) -> None:
    """Make the fast recipe at 93.4 % and its arms a point lower, unless given in per cent."""
    for run in arms_of("fast"):
        mean = accuracies.get(run.replace("-", "_"), 93.4 if run == "fast" else 92.4)
        for seed in range(seeds):
            make_record(output_folder, run, seed, mean / 100 + 0.001 * (seed - 1))
