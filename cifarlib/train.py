"""One run from its parameters to its record, resumable at any moment."""

import datetime
import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from cifarlib import InputError, project_root, records, user_path
from cifarlib.data import CLASSES, Cifar10
from cifarlib.loop import (
    accuracy,
    keep_freed_memory,
    make_epoch,
    make_optimizer,
    mean_loss,
    pick_device,
    pick_precision,
    predict_logits,
)
from cifarlib.model import build_model
from cifarlib.params import RunParams
from cifarlib.preprocess import channel_statistics, normalization, normalize
from cifarlib.whitening import patch_covariance, whitening_filters

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = {"cpu": 0, "cuda": 10, "mps": 10}  # at most so old; a CPU's epochs are long: every one is saved
FREE_BYTES = 100_000_000  # what a run may need: checkpoint and record, each twice for a moment


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or the notebook's stop button; the message says what is saved and how to go on."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Diverged(ArithmeticError):
    """The loss is not a number any more."""

    def _render_traceback_(self) -> list[str]:
        return [f"Diverged: {self}"]


def train(
    params: RunParams,
    data: Cifar10,
    output_folder: str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    resume: bool = True,
    deterministic: bool = False,
    progress: Callable[[float, list[dict]], object] = lambda epochs, history: None,
) -> Path:
    """Trains one run and returns the folder of its record, ``output_folder/params.folder``.

    Goes on from the folder's checkpoint where there is one of the same parameters (``resume=False``: starts afresh).
    A finished record is replaced only once the new one is complete. ``progress(epochs done, history)`` is called
    after every step and epoch. The same seed, machine and number of threads repeat a history bit for bit on a CPU,
    stopped and resumed or not; on CUDA under ``deterministic``.

    Raises InputError before any training where something given cannot be used, Diverged when the loss is no longer
    finite, Interrupted (a KeyboardInterrupt) when stopped.
    """
    for name, value in (("resume", resume), ("deterministic", deterministic)):
        if not isinstance(value, bool):  # papermill reads -p resume false as the text 'false'
            raise InputError(f"{name} = {value!r}: give True or False")
    place = pick_device(device)
    if place.type == "cpu":
        keep_freed_memory()
    folder = open_folder(params, output_folder)
    try:
        with FileLock(folder / ".lock", timeout=0), _reproducible(deterministic):
            _train(params, data, folder, place, precision, resume, deterministic, progress)
    except Timeout:
        raise InputError(f"another process is training in {folder}: wait for it, or choose another seed") from None
    return folder


def open_folder(params: RunParams, output_folder: str | Path | None = None) -> Path:
    """The run's folder, made and known to be writable with room for a run; below outputs/ unless given.

    Raises InputError before anything expensive.
    """
    output_folder = user_path("output_folder", output_folder) or project_root() / "outputs"
    folder = output_folder / params.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"can this be written?")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"output_folder = {str(output_folder)!r} cannot be written: {error}") from None
    if free < FREE_BYTES:
        raise InputError(f"{folder} has {free / 1e6:.0f} MB free, a run needs {FREE_BYTES / 1e6:.0f} MB")
    return folder


class _reproducible:
    """Bit-equal repetition on CUDA while it holds, at some cost; a CPU needs nothing."""

    def __init__(self, on: bool):
        self.on = on

    def __enter__(self) -> None:
        self.before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        if self.on:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        # only warns: CUDA's max-pooling counts as nondeterministic, but windows that do not overlap never add twice
        torch.use_deterministic_algorithms(self.on, warn_only=True)
        torch.backends.cudnn.benchmark = not self.on

    def __exit__(self, *_) -> None:
        torch.use_deterministic_algorithms(self.before[0])
        torch.backends.cudnn.benchmark = self.before[1]


def _save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, about: dict) -> None:
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    history = about["history"]
    try:
        records.save_tensors(folder / "unfinished" / "checkpoint.safetensors", tensors, about)
        records.write_text(folder / "unfinished" / "history.csv", records.history_csv(history))
        records.write_text(folder / "unfinished" / "log.txt", records.log_epochs(history))
    except OSError as error:
        raise OSError(
            f"epoch {len(history)} could not be saved in {folder}: {error}. The checkpoint before it is intact: make "
            "room, and the same command goes on from there."
        ) from None


def _read_checkpoint(path: Path, identity: dict, precision: str) -> tuple[dict[str, Tensor], dict]:
    """Tensors and ``about`` of a checkpoint of the same run; empty where there is none. precision "auto" takes the
    checkpoint's: measured again, it might come out otherwise."""
    if not path.exists():
        return {}, {}
    way_out = "Give resume = False to start afresh, or move it away."
    try:
        tensors, about = records.load_tensors(path)
    except InputError as error:
        raise InputError(f"{error}. {way_out}") from None
    if precision != "auto":
        identity = {**identity, "precision": precision}
    theirs = about.get("identity", {})
    different = [f"{k} {theirs.get(k)!r}, now {v!r}" for k, v in identity.items() if theirs.get(k) != v]
    if different:
        raise InputError(f"{path} belongs to a run of other parameters ({'; '.join(different)}). {way_out}")
    return tensors, about


def _restore(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts a checkpoint's state into model and optimizer."""
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state: dict[int, dict[str, Tensor]] = {}
    trained = optimizer.param_groups[0]["params"]
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            if tensor.dim():  # in the parameter's own memory format: fused kernels walk both side by side
                tensor = torch.empty_like(trained[int(index)]).copy_(tensor)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _train(params, data, folder, device, precision, resume, deterministic, progress) -> None:
    started = datetime.datetime.now(datetime.timezone.utc)
    (folder / "unfinished").mkdir(exist_ok=True)
    identity = params.settings() | {
        "device": device.type, "deterministic": deterministic, "data_sha256": data.sha256,
    }  # fmt: skip
    checkpoint = folder / "unfinished" / "checkpoint.safetensors"
    tensors, about = _read_checkpoint(checkpoint, identity, precision) if resume else ({}, {})
    if precision == "auto":
        precision = about["identity"]["precision"] if about else pick_precision(device)
    identity["precision"] = precision
    dtype = getattr(torch, precision)
    history = about.get("history", [])
    saved = len(history)
    session = {**records.code_version(), "first_epoch": saved + 1, "started": f"{started:%Y-%m-%dT%H:%M:%SZ}"}
    sessions = [*about.get("sessions", []), session]
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        # statistics and whitening are those of the training split, before any crop or flip
        images = data.train_images[: params.train_images]
        statistics = channel_statistics(images)
        scale = normalization(images, params.normalization, statistics)
        filters = None
        if params.whitening:
            per_image = len(scale[0]) > 1
            parts = (slice(i, i + 1000) for i in range(0, len(images), 1000))
            some = (normalize(images[p], *(s[p] if per_image else s for s in scale)) for p in parts)
            filters = whitening_filters(patch_covariance(some), params.whitening_eps)
        model = build_model(params.seed, filters).to(device)
        if device.type == "cuda":  # a CPU's convolutions reorder their weights anyway
            model = model.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(params, model, device)
        if tensors:
            _restore(tensors, model, optimizer)
            log.info("going on in %s after epoch %d", folder, saved)

        images = images.to(device).contiguous(memory_format=torch.channels_last)
        scale = tuple(s.to(device) for s in scale)
        labels = data.train_labels[: params.train_images].to(device)
        validation_images, validation_labels = data.validation_images.to(device), data.validation_labels.to(device)

        def predict(some: Tensor) -> Tensor:
            mean, std = normalization(some, params.normalization, statistics)
            return _as_saved(predict_logits(model, some, mean, std, dtype))

        run_epoch = make_epoch(model, optimizer, images, labels, scale, params, dtype)
        logits, last_save = None, time.perf_counter()
        progress(saved, history)
        for epoch in range(saved + 1, params.last_epoch + 1):
            start = time.perf_counter()
            on_step = lambda step, done=epoch - 1: progress(done + step / params.steps_per_epoch, history)  # noqa: E731
            row = run_epoch(epoch, on_step)
            middle = time.perf_counter()
            logits = predict(validation_images)
            row["validation_loss"] = mean_loss(logits, validation_labels, params.label_smoothing)
            row["validation_accuracy"] = accuracy(logits, validation_labels)
            row["train_seconds"] = round(middle - start, 4)
            row["validation_seconds"] = round(time.perf_counter() - middle, 4)
            if not (math.isfinite(row["train_loss"]) and math.isfinite(row["validation_loss"])):
                raise Diverged(
                    f"the loss of {params.run} is {row['train_loss']} in epoch {epoch}, validation "
                    f"{row['validation_loss']} (learning_rate {params.learning_rate}, weight_decay "
                    f"{params.weight_decay}, loss_reduction {params.loss_reduction}, optimizer {params.optimizer}, "
                    f"batch_size {params.batch_size}): try a smaller learning_rate"
                )
            history.append(row)
            overdue = time.perf_counter() - last_save >= CHECKPOINT_SECONDS[device.type]
            if overdue or epoch == params.last_epoch:
                about = {"identity": identity, "history": history, "sessions": sessions}
                _save_checkpoint(folder, model, optimizer, about)
                saved, last_save = epoch, time.perf_counter()
            progress(epoch, history)
        if logits is None:  # killed between the last epoch and the record
            logits = predict(validation_images)
        _write_record(params, data, folder, model, statistics, history, identity, sessions, logits, predict)
    except KeyboardInterrupt:
        kept = f"Epochs 1 to {saved} of {params.last_epoch} are saved in {folder}" if saved else "No epoch was complete"
        raise Interrupted(f"Stopped. {kept}: run the same again to go on from there.") from None


def _as_saved(logits: Tensor) -> Tensor:
    """Logits as predictions.npz holds them, so that every number can be had again from there, to the last image.

    Half a dozen steps after the start they can lie beyond float16's range: there they are cut off, not infinite.
    """
    limit = torch.finfo(torch.float16).max
    return logits.clamp(-limit, limit).half().float()


def _write_record(params, data, folder, model, statistics, history, identity, sessions, logits, predict) -> None:
    """Reads the test set, for the first and only time, and leaves the record."""
    device = logits.device
    test_logits = predict(data.test_images.to(device))
    results = {}
    text = records.log_epochs(history) + "Checkpoint has been created.\n"
    for name, some, labels in (
        ("Validation", logits, data.validation_labels.to(device)),
        ("Test", test_logits, data.test_labels.to(device)),
    ):
        results[f"{name.lower()}_accuracy"] = accuracy(some, labels)
        results[f"{name.lower()}_loss"] = loss = mean_loss(some, labels, params.label_smoothing)
        printed = loss * len(labels) if params.loss_reduction == "sum" else loss
        text += records.log_result(name, results[f"{name.lower()}_accuracy"], printed)

    staged = folder / "unfinished"
    predictions = {"validation": logits.half().cpu().numpy(), "test": test_logits.half().cpu().numpy()}
    for part, labels in (("validation", data.validation_labels), ("test", data.test_labels)):
        predictions[f"{part}_labels"] = labels.numpy().astype(np.uint8)
    first_layer = model.first_layer.weight.detach().cpu().contiguous().numpy()
    mean, std = (s.tolist() for s in statistics)
    records.write_atomically(staged / "predictions.npz", lambda file: np.savez_compressed(file, **predictions))
    records.write_atomically(staged / "first_layer.npy", lambda file: np.save(file, first_layer))
    records.write_text(staged / "history.csv", records.history_csv(history))
    records.write_text(staged / "log.txt", text)
    about = {
        "parameters": params.settings(),
        "channel_mean": mean,
        "channel_std": std,
        "classes": CLASSES,
        **results,
    }
    records.save_tensors(staged / "model.safetensors", model.state_dict(), about)
    records.finish(
        folder,
        {
            "run": params.run,
            "question": params.question,
            "seed": params.seed,
            "epochs": params.epochs,
            "stop_epoch": params.stop_epoch,
            "epochs_trained": len(history),
            "train_images": params.train_images,
            "validation_images": len(data.validation_labels),
            "test_images": len(data.test_labels),
            **results,
            "train_loss": history[-1]["train_loss"],
            "loss_reduction": params.loss_reduction,
            "device": device.type,
            "device_name": records.device_name(device),
            "precision": identity["precision"],
            "deterministic": identity["deterministic"],
            "data_sha256": data.sha256,
            "commit": sessions[-1]["commit"],
            "dirty": None if None in (known := [s["dirty"] for s in sessions]) else any(known),
            "finished": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
            "sessions": sessions,
            "parameter_count": sum(p.numel() for p in model.parameters()),
            "parameters": params.settings(),
            "code": records.code_digests(device.type),
            "packages": records.package_versions(),
            "peak_memory_bytes": records.peak_memory_bytes(device),
            "epoch_seconds": [round(row["train_seconds"] + row["validation_seconds"], 4) for row in history],
        },
    )
