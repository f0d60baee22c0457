"""One run from its parameters to its record, resumable at any time: prepare, fit, leave_record."""

import datetime
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifarlib import InputError, PlainMessage, checkpoint, provenance, records
from cifarlib.checkpoint import Interrupted as Interrupted
from cifarlib.data import CLASSES, Cifar10, Split
from cifarlib.device import convolutions
from cifarlib.device.choice import keep_freed_memory, make_repeatable, pick_device, pick_precision
from cifarlib.device.cuda_graph import CapturedEpoch
from cifarlib.loop import (
    Lookahead,
    Training,
    accuracy,
    make_optimizer,
    mean_loss,
    predict_logits,
    train_epoch,
)
from cifarlib.model import build_model
from cifarlib.params import TRAIN_IMAGES, RunParams
from cifarlib.preprocess import channel_statistics, make_normalizer
from cifarlib.whitening import filters_from_images

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# A checkpoint is at most so old; a CPU's epochs are long: every one is saved.
CHECKPOINT_SECONDS = {"cpu": 0, "cuda": 10, "mps": 10}
# beside all parameters together, where a reader of record.json looks first
NAMED_IN_RECORD = (
    *("run", "question", "seed", "epochs", "stop_epoch", "train_images", "loss_reduction"),
)
LARGEST_FLOAT16 = torch.finfo(torch.float16).max

Statistics = tuple[Tensor, Tensor]  # of the training split: see preprocess.channel_statistics
Progress = Callable[[float, list[dict]], object]  # called with (epochs done, history)


class Diverged(PlainMessage, ArithmeticError):
    """The loss is not a number any more."""


@dataclass
class Run:
    """All that is decided before the first step, and what training adds to it."""

    folder: Path
    data: Cifar10
    training: Training
    channel_statistics: Statistics
    identity: dict  # what a checkpoint must share with a run that resumes it
    sessions: list[dict]  # one for each start; the last is this one
    history: list[dict]  # one line an epoch
    validation_logits: Tensor | None = None  # after the last epoch

    @property
    def device(self) -> torch.device:
        return self.training.images.device

    def predict(self, images: Tensor, views: bool = False) -> Tensor:
        """Compute logits (N, 10) as predictions.npz holds them, in float16, so that every number
        can be computed again from there. Soon after the start they can lie beyond its range: there
        they are cut off."""
        images = images.to(self.device)
        mode = self.training.params.normalization
        normalizer = make_normalizer(images, mode, self.channel_statistics)
        model, dtype = self.training.model, self.training.dtype
        logits = predict_logits(model, images, normalizer, dtype, views=views)
        return logits.clamp(-LARGEST_FLOAT16, LARGEST_FLOAT16).half().float()


def train(
    params: RunParams,
    data: Cifar10,
    output_folder: str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    resume: bool = True,
    deterministic: bool = False,
    capture: bool = True,
    progress: Progress = lambda epochs, history: None,
) -> Path:
    """Train one run and return the folder of its record, ``output_folder/params.folder``.

    Goes on from the folder's checkpoint where there is one of the same parameters
    (``resume=False``: starts afresh). A finished record is replaced only once the new one is
    complete. ``capture``: CUDA runs a step as one graph. ``progress`` is called after every step
    and epoch. The same seed, machine and number of threads repeat a history bit for bit on a CPU,
    stopped and resumed or not; on CUDA under ``deterministic``.

    Raises InputError before any training where something given cannot be used, Diverged when the
    loss is no longer finite, Interrupted (a KeyboardInterrupt) when stopped.
    """
    switches = {"resume": resume, "deterministic": deterministic, "capture": capture}
    for name, value in switches.items():
        if not isinstance(value, bool):  # papermill reads -p resume false as the text 'false'
            raise InputError(f"{name} = {value!r}: give True or False")
    if precision not in PRECISIONS:
        raise InputError(f"precision = {precision!r}: choose one of {', '.join(PRECISIONS)}")
    chosen_device = pick_device(device)
    identity = params.settings() | {
        "device": chosen_device.type,
        "deterministic": deterministic,
        "data_sha256": data.sha256,
        "precision": precision,
    }
    make_repeatable(deterministic)
    with checkpoint.under_way(params, identity, output_folder, resume) as (folder, saved):
        run = prepare(params, data, folder, identity=identity, device=chosen_device, saved=saved)
        fit(run, progress, capture)
        leave_record(run)
    return folder


def build(
    params: RunParams, split: Split, statistics: Statistics, device: torch.device, precision: str
) -> Training:
    """Put network, optimizer and the training images of ``split`` on the device, ready for the
    first step."""
    # statistics and whitening are those of the training split, before any crop or flip
    images = split.images.to(device)
    normalizer = make_normalizer(images, params.normalization, statistics)
    filters = None
    if params.whitening:
        filters = filters_from_images(images, normalizer, params.whitening_eps)
    model = build_model(params.seed, filters, params.dirac).to(device)
    convolutions.use_fast(model, precision)
    if device.type == "cuda":  # a CPU's convolutions reorder their weights anyway
        model = model.to(memory_format=torch.channels_last)
    return Training(
        params=params,
        model=model,
        optimizer=make_optimizer(params, model),
        images=images.contiguous(memory_format=torch.channels_last),
        labels=split.labels.to(device),
        normalizer=normalizer,
        dtype=getattr(torch, precision),
        lookahead=Lookahead(params, model) if params.lookahead else None,
    )


def prepare(
    params: RunParams,
    data: Cifar10,
    folder: Path,
    *,
    identity: dict,
    device: torch.device,
    saved: dict | None,
) -> Run:
    """Make the run as it stands before its next step, after the epochs of a checkpoint (``saved``)
    or at its start. precision "auto" takes the checkpoint's, else what is fast on the device."""
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.init()  # a fresh process that resumes has not used it yet
        torch.cuda.reset_peak_memory_stats(device)
    history, sessions = [], []
    precision = identity["precision"]
    if saved:
        history, sessions = saved["history"], saved["sessions"]
        precision = saved["identity"]["precision"]
    elif precision == "auto":
        precision = pick_precision(device)
    identity = identity | {"precision": precision}
    if params.train_images > TRAIN_IMAGES:
        data = data.all_for_training()
    split = data.train.head(params.train_images)
    statistics = channel_statistics(split.images)
    training = build(params, split, statistics, device, precision)
    if saved:
        checkpoint.restore(saved, training)
        log.info("going on in %s after epoch %d", folder, len(history))
    session = {
        **provenance.code_version(),
        "first_epoch": len(history) + 1,
        "started": _now(),
        "device": device.type,
        "device_name": provenance.device_name(device),
        "precision": precision,
        "convolutions": convolutions.in_use(training.model),
    }
    return Run(folder, data, training, statistics, identity, [*sessions, session], history)


def fit(run: Run, progress: Progress, capture: bool) -> None:
    """Train the epochs that are left, validate after each and save checkpoints."""
    params, history = run.training.params, run.history
    images = run.data.validation.images.to(run.device)
    labels = run.data.validation.labels.to(run.device)
    train_one = partial(train_epoch, run.training)
    if capture and run.device.type == "cuda":
        train_one = CapturedEpoch(run.training)
    last_save = time.perf_counter()
    progress(len(history), history)
    for epoch in range(len(history) + 1, params.last_epoch + 1):
        start = time.perf_counter()
        row = train_one(
            epoch,
            lambda step, done=epoch - 1: progress(done + step / params.steps_per_epoch, history),
        )
        trained = time.perf_counter()
        run.validation_logits = run.predict(images)
        row["validation_loss"] = mean_loss(run.validation_logits, labels, params.label_smoothing)
        row["validation_accuracy"] = accuracy(run.validation_logits, labels)
        row["train_seconds"] = round(trained - start, 4)
        row["validation_seconds"] = round(time.perf_counter() - trained, 4)
        raise_if_diverged(run, row)
        history.append(row)
        is_due = time.perf_counter() - last_save >= CHECKPOINT_SECONDS[run.device.type]
        if is_due or epoch == params.last_epoch:
            about = {"identity": run.identity, "sessions": run.sessions, "history": history}
            checkpoint.save(run.folder, run.training, about)
            last_save = time.perf_counter()
        progress(epoch, history)


def raise_if_diverged(run: Run, row: dict) -> None:
    is_validated = len(run.data.validation) > 0
    loss = row["validation_loss"] if is_validated else 0
    if math.isfinite(row["train_loss"]) and math.isfinite(loss):
        return
    names = ("learning_rate", "weight_decay", "loss_reduction", "optimizer", "batch_size")
    causes = ", ".join(f"{name} {run.identity[name]}" for name in names)
    raise Diverged(
        f"the loss of {run.identity['run']} is {row['train_loss']} in epoch {row['epoch']}, "
        f"validation {loss}: try a smaller learning_rate ({causes})"
    )


def evaluate(run: Run, part: str, split: Split, logits: Tensor) -> dict:
    """Compute a split's accuracy, loss and accuracy with views, named after ``part``; None where
    it holds no images. On part of the data the views would take longer than training: None."""
    if not len(split):  # all images trained
        return {f"{part}_accuracy": None, f"{part}_loss": None, f"{part}_accuracy_views": None}
    params = run.training.params
    with_views = None
    if params.train_images >= TRAIN_IMAGES:
        with_views = accuracy(run.predict(split.images, views=True), split.labels)
    return {
        f"{part}_accuracy": accuracy(logits, split.labels),
        f"{part}_loss": mean_loss(logits, split.labels.to(run.device), params.label_smoothing),
        f"{part}_accuracy_views": with_views,
    }


def leave_record(run: Run) -> None:
    """Read the test set, for the first and only time, and leave the record."""
    data, model = run.data, run.training.model
    if run.validation_logits is None:  # killed between the last epoch and the record
        run.validation_logits = run.predict(data.validation.images)
    logits = {"validation": run.validation_logits, "test": run.predict(data.test.images)}
    splits = {"validation": data.validation, "test": data.test}
    results, predictions = {}, {}
    for part, split in splits.items():
        results |= evaluate(run, part, split, logits[part])
        predictions[part] = logits[part].half().cpu().numpy()
        predictions[f"{part}_labels"] = split.labels.numpy().astype(np.uint8)
    mean, std = run.channel_statistics
    description = {
        "parameters": run.training.params.settings(),
        "classes": CLASSES,
        **results,
        "channel_mean": mean.tolist(),
        "channel_std": std.tolist(),
    }
    records.leave(
        run.folder,
        make_record(run, results),
        history=run.history,
        predictions=predictions,
        tensors=model.state_dict(),
        description=description,
    )


def make_record(run: Run, results: dict) -> dict:
    """Gather record.json: what ran, what came out, and what it was made with."""
    params, session = run.training.params, run.sessions[-1]
    dirty = [s["dirty"] for s in run.sessions]
    return {
        **{name: getattr(params, name) for name in NAMED_IN_RECORD},
        "epochs_trained": len(run.history),
        "validation_images": len(run.data.validation),
        "test_images": len(run.data.test),
        **results,
        "train_loss": run.history[-1]["train_loss"],
        **{name: session[name] for name in provenance.MADE_ON},
        "deterministic": run.identity["deterministic"],
        "data_sha256": run.data.sha256,
        "commit": session["commit"],
        "dirty": None if None in dirty else any(dirty),
        "finished": _now(),
        "sessions": run.sessions,
        "parameters": params.settings(),
        "parameter_count": sum(p.numel() for p in run.training.model.parameters()),
        "packages": provenance.package_versions(),
        "peak_memory_bytes": provenance.peak_memory_bytes(run.device),
        "epoch_seconds": [
            round(row["train_seconds"] + row["validation_seconds"], 4) for row in run.history
        ],
    }


def _now() -> str:
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
