"""One run from its parameters to its record, resumable at any moment: prepare, fit, leave a
record."""

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
from filelock import FileLock, Timeout
from torch import Tensor

from cifarlib import InputError, PlainMessage, checkpoint, provenance, records, tensor_files
from cifarlib.data import CLASSES, Cifar10
from cifarlib.device import convolutions
from cifarlib.device.choice import keep_freed_memory, pick_device, pick_precision, repeatable
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
# at most so old; a CPU's epochs are long: every one is saved
CHECKPOINT_SECONDS = {"cpu": 0, "cuda": 10, "mps": 10}


class Interrupted(PlainMessage, KeyboardInterrupt):
    """Ctrl-C or the notebook's stop button; the message says what is saved and how to go on."""


class Diverged(PlainMessage, ArithmeticError):
    """The loss is not a number any more."""


@dataclass
class Run:
    """All that is decided before the first step, and what training adds to it."""

    folder: Path
    data: Cifar10
    training: Training
    channel_statistics: tuple[Tensor, Tensor]  # of the training split
    identity: dict  # what a checkpoint must share with a run that resumes it
    sessions: list[dict]  # one for each start; the last is this one
    history: list[dict]  # one line an epoch
    validation_logits: Tensor | None = None  # after the last epoch

    @property
    def device(self) -> torch.device:
        return self.training.images.device

    def predict(self, images: Tensor, views: bool = False) -> Tensor:
        """Logits (N, 10) as predictions.npz holds them, so that every number can be had again from
        there. Half a dozen steps after the start they can lie beyond float16's range: there they
        are cut off."""
        images = images.to(self.device)
        normalizer = make_normalizer(
            images, self.training.params.normalization, self.channel_statistics
        )
        logits = predict_logits(
            self.training.model, images, normalizer, self.training.dtype, views=views
        )
        limit = torch.finfo(torch.float16).max
        return logits.clamp(-limit, limit).half().float()


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
    progress: Callable[[float, list[dict]], object] = lambda epochs, history: None,
) -> Path:
    """Trains one run and returns the folder of its record, ``output_folder/params.folder``.

    Goes on from the folder's checkpoint where there is one of the same parameters
    (``resume=False``: starts afresh). A finished record is replaced only once the new one is
    complete. ``capture``: CUDA runs a step as one graph. ``progress(epochs done, history)`` is
    called after every step and epoch. The same seed, machine and number of threads repeat a history
    bit for bit on a CPU, stopped and resumed or not; on CUDA under ``deterministic``.

    Raises InputError before any training where something given cannot be used, Diverged when the
    loss is no longer finite, Interrupted (a KeyboardInterrupt) when stopped."""
    for name, value in (("resume", resume), ("deterministic", deterministic), ("capture", capture)):
        if not isinstance(value, bool):  # papermill reads -p resume false as the text 'false'
            raise InputError(f"{name} = {value!r}: give True or False")
    if precision not in PRECISIONS:
        raise InputError(f"precision = {precision!r}: choose one of {', '.join(PRECISIONS)}")
    chosen_device = pick_device(device)
    folder = checkpoint.open_folder(params, output_folder)
    try:
        # status holds it briefly
        with FileLock(folder / ".lock", timeout=0.5), repeatable(deterministic):
            run = prepare(params, data, folder, chosen_device, precision, resume, deterministic)
            fit(run, progress, capture)
            leave_record(run)
    except Timeout:
        raise InputError(
            f"another process is training in {folder}: wait for it, or choose another seed"
        ) from None
    except KeyboardInterrupt:
        saved = len(records.unfinished_history(folder))
        kept = (
            f"Epochs 1 to {saved} of {params.last_epoch} are saved in {folder}"
            if saved
            else "No epoch was complete"
        )
        again = "run the same again" if resume else "run it again with resume = True"
        raise Interrupted(f"Stopped. {kept}: {again} to go on from there.") from None
    return folder


def prepare(
    params: RunParams,
    data: Cifar10,
    folder: Path,
    device: torch.device,
    precision: str,
    resume: bool,
    deterministic: bool,
) -> Run:
    """The run as it stands before its next step: network, optimizer and data on the device, and
    what a checkpoint in the folder adds (``resume``). precision "auto" takes the checkpoint's, else
    what is fast on the device."""
    if device.type == "cpu":
        keep_freed_memory()
    if device.type == "cuda":
        torch.cuda.init()  # a fresh process that resumes has not used it yet
        torch.cuda.reset_peak_memory_stats(device)
    (folder / "unfinished").mkdir(exist_ok=True)
    identity = params.settings() | {
        "device": device.type,
        "deterministic": deterministic,
        "data_sha256": data.sha256,
        "precision": precision,
    }
    saved = checkpoint.read(folder, params, identity) if resume else None
    if precision == "auto":
        identity["precision"] = saved.identity["precision"] if saved else pick_precision(device)

    data = data.all_for_training() if params.train_images > TRAIN_IMAGES else data
    # statistics and whitening are those of the training split, before any crop or flip
    images = data.train_images[: params.train_images].to(device)
    statistics = channel_statistics(images)
    normalizer = make_normalizer(images, params.normalization, statistics)
    filters = (
        filters_from_images(images, normalizer, params.whitening_eps) if params.whitening else None
    )
    model = build_model(params.seed, filters, params.dirac).to(device)
    which_convolutions = convolutions.use_fast(model, identity["precision"])
    if device.type == "cuda":  # a CPU's convolutions reorder their weights anyway
        model = model.to(memory_format=torch.channels_last)
    training = Training(
        params,
        model,
        make_optimizer(params, model),
        images.contiguous(memory_format=torch.channels_last),
        data.train_labels[: params.train_images].to(device),
        normalizer,
        getattr(torch, identity["precision"]),
        Lookahead(params, model) if params.lookahead else None,
    )
    if saved:
        saved.restore(training)
        log.info("going on in %s after epoch %d", folder, len(saved.history))
    history, sessions = (saved.history, saved.sessions) if saved else ([], [])
    session = {
        **provenance.code_version(),
        "first_epoch": len(history) + 1,
        "started": _now(),
        "device": device.type,
        "device_name": provenance.device_name(device),
        "precision": identity["precision"],
        "convolutions": which_convolutions,
    }
    return Run(folder, data, training, statistics, identity, [*sessions, session], history)


def fit(run: Run, progress: Callable[[float, list[dict]], object], capture: bool) -> None:
    """Trains the epochs that are left, validates after each and saves checkpoints."""
    params, history = run.training.params, run.history
    images, labels = (
        t.to(run.device) for t in (run.data.validation_images, run.data.validation_labels)
    )
    captured = capture and run.device.type == "cuda"
    run_epoch = CapturedEpoch(run.training) if captured else partial(train_epoch, run.training)
    last_save = time.perf_counter()
    progress(len(history), history)
    for epoch in range(len(history) + 1, params.last_epoch + 1):
        start = time.perf_counter()
        row = run_epoch(
            epoch,
            lambda step, done=epoch - 1: progress(done + step / params.steps_per_epoch, history),
        )
        trained = time.perf_counter()
        run.validation_logits = run.predict(images)
        row["validation_loss"] = mean_loss(run.validation_logits, labels, params.label_smoothing)
        row["validation_accuracy"] = accuracy(run.validation_logits, labels)
        row["train_seconds"] = round(trained - start, 4)
        row["validation_seconds"] = round(time.perf_counter() - trained, 4)
        if not all(
            map(math.isfinite, (row["train_loss"], row["validation_loss"] if len(labels) else 0))
        ):
            causes = (
                "learning_rate",
                "weight_decay",
                "loss_reduction",
                "optimizer",
                "batch_size",
                "precision",
            )
            raise Diverged(
                f"the loss of {params.run} is {row['train_loss']} in epoch {epoch}, validation {row['validation_loss']}: try a "
                f"smaller learning_rate ({', '.join(f'{name} {run.identity[name]}' for name in causes)})"
            )
        history.append(row)
        if (
            time.perf_counter() - last_save >= CHECKPOINT_SECONDS[run.device.type]
            or epoch == params.last_epoch
        ):
            checkpoint.save(run.folder, run.training, run.identity, run.sessions, history)
            last_save = time.perf_counter()
        progress(epoch, history)


def leave_record(run: Run) -> None:
    """Reads the test set, for the first and only time, and leaves the record."""
    params, data, session, staged = (
        run.training.params,
        run.data,
        run.sessions[-1],
        run.folder / "unfinished",
    )
    if run.validation_logits is None:  # killed between the last epoch and the record
        run.validation_logits = run.predict(data.validation_images)
    results, predictions = {}, {}
    text = records.log_epochs(run.history) + "Checkpoint has been created.\n"
    for part, logits, images, labels in (
        ("validation", run.validation_logits, data.validation_images, data.validation_labels),
        ("test", run.predict(data.test_images), data.test_images, data.test_labels),
    ):
        predictions |= {
            part: logits.half().cpu().numpy(),
            f"{part}_labels": labels.numpy().astype(np.uint8),
        }
        if not len(labels):  # all images trained
            results |= {
                f"{part}_accuracy": None,
                f"{part}_loss": None,
                f"{part}_accuracy_views": None,
            }
            continue
        loss = mean_loss(logits, labels.to(run.device), params.label_smoothing)
        results |= {f"{part}_accuracy": accuracy(logits, labels), f"{part}_loss": loss}
        # on part of the data the six views would take longer than training
        whole = params.train_images >= TRAIN_IMAGES
        results[f"{part}_accuracy_views"] = (
            accuracy(run.predict(images, views=True), labels) if whole else None
        )
        printed = loss * len(labels) if params.loss_reduction == "sum" else loss
        text += records.log_result(part.capitalize(), results[f"{part}_accuracy"], printed)
    model, first_layer = (
        run.training.model,
        run.training.model.first_layer.weight.detach().cpu().contiguous().numpy(),
    )
    description = {"parameters": params.settings(), "classes": CLASSES, **results}
    description["channel_mean"], description["channel_std"] = (
        s.tolist() for s in run.channel_statistics
    )
    records.write_atomically(
        staged / "predictions.npz", lambda file: np.savez_compressed(file, **predictions)
    )
    records.write_atomically(staged / "first_layer.npy", lambda file: np.save(file, first_layer))
    records.write_text(staged / "history.csv", records.history_csv(run.history))
    records.write_text(staged / "log.txt", text)
    tensor_files.save_tensors(staged / "model.safetensors", model.state_dict(), description)
    records.finish(
        run.folder,
        {
            "run": params.run,
            "question": params.question,
            "seed": params.seed,
            "epochs": params.epochs,
            "stop_epoch": params.stop_epoch,
            "epochs_trained": len(run.history),
            "train_images": params.train_images,
            "validation_images": len(data.validation_labels),
            "test_images": len(data.test_labels),
            **results,
            "train_loss": run.history[-1]["train_loss"],
            "loss_reduction": params.loss_reduction,
            **{name: session[name] for name in records.MADE_ON},
            "deterministic": run.identity["deterministic"],
            "data_sha256": data.sha256,
            "commit": session["commit"],
            "finished": _now(),
            "sessions": run.sessions,
            "dirty": None if None in (dirty := [s["dirty"] for s in run.sessions]) else any(dirty),
            "parameters": params.settings(),
            "parameter_count": sum(p.numel() for p in model.parameters()),
            "packages": provenance.package_versions(),
            "peak_memory_bytes": provenance.peak_memory_bytes(run.device),
            "epoch_seconds": [
                round(row["train_seconds"] + row["validation_seconds"], 4) for row in run.history
            ],
        },
    )


def _now() -> str:
    return f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}"
