"""One run from its parameters to its record, resumable at any time: prepare, fit, leave_record."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from filelock import Timeout
from torch import Tensor

from cifarlib import (
    InputError,
    PlainMessage,
    checkpoint,
    evaluate,
    loop,
    provenance,
    records,
    whitening,
)
from cifarlib.data import Cifar10, Split
from cifarlib.device import choice, convolutions
from cifarlib.device.cuda_graph import CapturedStep
from cifarlib.model import build_model
from cifarlib.params import TRAIN_IMAGES, RunParams, check_switches
from cifarlib.preprocess import channel_statistics, make_normalizer, normalize

log = logging.getLogger(__name__)

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
CHECKPOINT_SECONDS = 10  # between two checkpoints, at least; a CPU saves every epoch
# in record.json, where a reader looks first; `parameters` below has all
NAMED_FIRST = ["run", "question", "seed", "epochs", "stop_epoch", "train_images", "loss_reduction"]

Statistics = tuple[Tensor, Tensor]  # of the training split: see preprocess.channel_statistics
OnProgress = Callable[[float, list[dict]], object]  # called with (epochs done, history)


class Interrupted(PlainMessage, KeyboardInterrupt):
    """Ctrl-C or the notebook's stop button; the message says what is saved and how to go on."""


@dataclass
class Run:
    """All that is decided before the first step, and what training adds to it."""

    folder: Path
    data: Cifar10
    training: loop.Training
    predictor: evaluate.Predictor
    statistics: Statistics
    identity: dict  # what a checkpoint must share with a run that resumes it
    sessions: list[dict]  # one for each start; the last is this one
    history: list[dict]  # one line an epoch


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
    progress: OnProgress = lambda epochs, history: None,
) -> Path:
    """Train one run and return the folder of its record, ``output_folder/params.folder``.

    Goes on from the folder's checkpoint where there is one of the same parameters
    (``resume=False``: starts afresh). A finished record is replaced only once the new one is
    complete. ``capture``: CUDA runs a step as one graph. ``progress`` is called after every step
    and epoch. The same seed, machine and number of threads repeat a history bit for bit on a CPU,
    stopped and resumed or not; on CUDA under ``deterministic``.

    Raises InputError before any training where something given cannot be used, Diverged when the
    loss is no longer finite, Interrupted (a KeyboardInterrupt) when stopped."""
    check_switches(resume=resume, deterministic=deterministic, capture=capture)
    if precision not in PRECISIONS:
        raise InputError(f"precision = {precision!r}: choose one of {', '.join(PRECISIONS)}")
    chosen = choice.pick_device(device)
    conditions = {"device": chosen.type, "precision": precision, "deterministic": deterministic}
    conditions["data_sha256"] = data.sha256
    choice.set_determinism(deterministic)
    folder = records.open_folder(params.folder, output_folder)
    try:
        with records.locked(folder, timeout=0.5):  # make status may hold it for a moment
            saved = checkpoint.read_or_new(folder, params, conditions, resume)
            run = prepare(params, data, folder, saved, chosen)
            fit(run, progress, capture)
            try:
                leave_record(run)
            except OSError as error:
                kept = "All epochs are saved: make room, and the same command completes it."
                raise OSError(f"no record could be left in {folder}: {error}. {kept}") from None
    except Timeout:
        busy = f"another process is training in {folder}"
        raise InputError(f"{busy}: wait for it, or choose another seed") from None
    except KeyboardInterrupt:
        epochs = len(records.read_history(folder / "unfinished"))
        saved = f"Stopped: {epochs} of {params.last_epoch} epochs are saved in {folder}"
        raise Interrupted(f"{saved}. Run it again, with resume = True, to go on.") from None
    return folder


def build(
    params: RunParams, split: Split, statistics: Statistics, device: torch.device, precision: str
) -> loop.Training:
    """Put network, optimizer and images of ``split`` on the device, ready for the first step."""
    # statistics and whitening are those of the training split, before any crop or flip
    images = split.images.to(device)
    normalizer = make_normalizer(images, params.normalization, statistics)
    filters = None
    if params.whitening:
        parts = (normalize(part, params.normalization, statistics) for part in images.split(1000))
        covariance = whitening.patch_covariance(parts)  # all at once would take gigabytes
        filters = whitening.whitening_filters(covariance, params.whitening_eps)
    model = build_model(params.seed, filters, params.dirac).to(device)
    kind = convolutions.use_fast(model, precision)
    if device.type == "cuda":  # a CPU's convolutions reorder their weights anyway
        model = model.to(memory_format=torch.channels_last)
    return loop.Training(
        params=params,
        model=model,
        optimizer=loop.make_optimizer(params, model),
        images=images.contiguous(memory_format=torch.channels_last),
        labels=split.labels.to(device),
        normalizer=normalizer,
        dtype=getattr(torch, precision),
        lookahead=loop.Lookahead(params, model) if params.lookahead else None,
        convolutions=kind,
    )


def prepare(
    params: RunParams, data: Cifar10, folder: Path, saved: dict, device: torch.device
) -> Run:
    """Make the run as it stands before its next step, after the epochs of a checkpoint (``saved``)
    or before its first step. A new run's "auto" becomes the precision that is fast there."""
    if device.type == "cpu":
        choice.keep_freed_memory()
    precision = saved["identity"]["precision"]
    if precision == "auto":
        precision = choice.pick_precision(device)
    if precision == "bfloat16" and device.type == "cpu" and not choice.cpu_multiplies_bfloat16():
        log.warning("precision = bfloat16 is very slow on this CPU, which has no units for it")
    if params.train_images > TRAIN_IMAGES:
        data = data.all_for_training()
    split = data.train.head(params.train_images)
    statistics = channel_statistics(split.images)
    training = build(params, split, statistics, device, precision)
    as_trained = partial(normalize, mode=params.normalization, statistics=statistics)
    if saved["history"]:
        training.load_state_dict(saved)
        log.info("going on in %s after epoch %d", folder, len(saved["history"]))
    session = {
        **provenance.code_version(),
        "first_epoch": len(saved["history"]) + 1,
        "started": provenance.now(),
        "device": device.type,
        "device_name": provenance.device_name(device),
        "precision": precision,
        "convolutions": training.convolutions,
    }
    return Run(
        folder=folder,
        data=data,
        training=training,
        predictor=evaluate.Predictor(training.model, as_trained, training.dtype),
        statistics=statistics,
        identity=saved["identity"] | {"precision": precision},
        sessions=[*saved["sessions"], session],
        history=saved["history"],
    )


def fit(run: Run, progress: OnProgress, capture: bool) -> None:
    """Train the epochs that are left, validate after each and save checkpoints."""
    params = run.training.params
    history = run.history
    device = run.training.images.device
    images = run.data.validation.images.to(device)
    labels = run.data.validation.labels.to(device)
    update = CapturedStep(run.training) if capture and device.type == "cuda" else None
    last_save = time.perf_counter()
    progress(len(history), history)
    for epoch in range(len(history) + 1, params.last_epoch + 1):
        start = time.perf_counter()
        row = loop.train_epoch(run.training, epoch, lambda done: progress(done, history), update)
        trained = time.perf_counter()
        logits = evaluate.rounded(run.predictor.logits(images))
        row["validation_loss"] = evaluate.mean_loss(logits, labels, params.label_smoothing)
        row["validation_accuracy"] = evaluate.accuracy(logits, labels)
        row["train_seconds"] = round(trained - start, 4)
        row["validation_seconds"] = round(time.perf_counter() - trained, 4)
        loop.raise_if_diverged(params, row)
        history.append(row)
        is_due = device.type == "cpu" or time.perf_counter() - last_save >= CHECKPOINT_SECONDS
        if is_due or epoch == params.last_epoch:
            about = {"identity": run.identity, "sessions": run.sessions, "history": history}
            checkpoint.save(run.folder, run.training.state_dict() | about)
            last_save = time.perf_counter()
        progress(epoch, history)


def leave_record(run: Run) -> None:
    """Read the test set, for the first and only time, and leave the record.

    A result is None where there is none: all of a split without images, and the accuracy with views
    where only a part of the data trained, as the views would take longer than the training."""
    params = run.training.params
    splits = {"validation": run.data.validation, "test": run.data.test}
    results = {}
    predictions = {}
    for part, split in splits.items():
        logits = evaluate.rounded(run.predictor.logits(split.images))
        predictions[part] = logits.half().cpu().numpy()
        predictions[f"{part}_labels"] = split.labels.numpy().astype(np.uint8)
        share = loss = with_views = None
        if len(split):  # where all images train, none validate
            share = evaluate.accuracy(logits, split.labels)
            loss = evaluate.mean_loss(logits.cpu(), split.labels, params.label_smoothing)
            if params.train_images >= TRAIN_IMAGES:
                by_views = evaluate.rounded(run.predictor.logits(split.images, views=True))
                with_views = evaluate.accuracy(by_views, split.labels)
        results[f"{part}_accuracy"] = share
        results[f"{part}_loss"] = loss
        results[f"{part}_accuracy_views"] = with_views
    record = make_record(run, results)
    mean, std = (values.tolist() for values in run.statistics)
    about = {"parameters": record["parameters"], "channel_mean": mean, "channel_std": std}
    tensors = run.training.model.state_dict()
    records.write_run(run.folder, record, run.history, predictions, (tensors, about))


def make_record(run: Run, results: dict) -> dict:
    """Gather record.json: what ran, what came out, and what it was made with."""
    params = run.training.params
    history = run.history
    session = run.sessions[-1]
    dirty = [s["dirty"] for s in run.sessions]
    return {
        **{name: getattr(params, name) for name in NAMED_FIRST},
        "epochs_trained": len(history),
        "validation_images": len(run.data.validation),
        "test_images": len(run.data.test),
        **results,
        "train_loss": history[-1]["train_loss"],
        **{name: session[name] for name in provenance.MADE_ON},
        "deterministic": run.identity["deterministic"],
        "data_sha256": run.data.sha256,
        "commit": session["commit"],
        "dirty": None if None in dirty else any(dirty),
        "finished": provenance.now(),
        "sessions": run.sessions,
        "parameters": params.settings(),
        "parameter_count": sum(p.numel() for p in run.training.model.parameters()),
        "packages": provenance.package_versions(),
        "epoch_seconds": [round(r["train_seconds"] + r["validation_seconds"], 4) for r in history],
    }
