"""The measurement; the machine should be idle.

Each contestant has a process of its own, as a user's program has, and they train in turn, repeat by
repeat, so that a ratio compares neighbours in time."""

import datetime
import logging
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch

from cifarlib import InputError, outputs_folder, provenance, user_path
from cifarlib.benchmark import trainer
from cifarlib.benchmark.batches import end_with_parent
from cifarlib.benchmark.contestants import CONTESTANTS, Contestant
from cifarlib.benchmark.record import DEFAULTS, IMAGES, write
from cifarlib.data import load_cifar10
from cifarlib.device.choice import pick_device, pick_precision
from cifarlib.device.convolutions import PYTORCH, in_use, use_fast
from cifarlib.model import build_model
from cifarlib.params import TRAIN_IMAGES, RunParams, load_params

log = logging.getLogger(__name__)


def left_out(contestant: Contestant, device: torch.device) -> str:
    """Why a contestant does not take part on this device, in words; empty where it does."""
    precision = pick_precision(device)
    if contestant.precision not in (None, "float32", precision):
        return f"no known units for {contestant.precision} on this device: emulated, it takes up to a hundred times as long"
    if contestant.captured and device.type != "cuda":
        return "needs CUDA"
    if contestant.batches == "ours" and not contestant.fast_convolutions:
        has_fast = device.type == "cpu" and is_fast(precision)
        return "" if has_fast else "the same as ours on this device"
    return ""


def measure(
    device: str = "auto",
    batch_size: int = DEFAULTS["batch_size"],
    train_images: int | None = None,
    repeats: int = DEFAULTS["repeats"],
    workers: int | None = None,
    data_folder: str | Path | None = None,
    output_folder: str | Path | None = None,
) -> dict:
    """Measures all contestants on ``train_images`` images a repeat (None: all, on a CPU a part) and
    writes the record, see record.py. Raises InputError."""
    chosen_device, folder = pick_device(device), outputs_folder(output_folder)
    for name, value, least in (("repeats", repeats, 1), ("workers", workers or 0, 0)):
        if type(value) is not int or value < least:
            raise InputError(f"{name} = {value!r}: give a whole number from {least}")
    size = IMAGES.get(chosen_device.type, TRAIN_IMAGES) if train_images is None else train_images
    # run7-mean: with the loss summed, at batch 1024, gradients soon hold denormal numbers, which
    # slow a CPU to a third
    params = load_params("run7-mean", batch_size=batch_size, train_images=size)
    # fetched once, before the processes
    data_sha256 = load_cifar10(user_path("data_folder", data_folder)).sha256
    precision, base = (
        pick_precision(chosen_device),
        "ours, captured" if chosen_device.type == "cuda" else "ours",
    )
    machine, results, processes = trainer.Machine(chosen_device, precision, data_folder), {}, {}
    # torch's profiler would fill the notebook with its own news
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with ExitStack() as stack:
        for name, contestant in CONTESTANTS.items():
            if not left_out(contestant, chosen_device):
                processes[name] = own_process(stack)
                results[name] = processes[name](trainer.start, contestant, params, machine, workers)
        for epoch in range(2, 2 + repeats):
            begin = time.perf_counter()
            for name, row in results.items():
                row["images_per_second"].append(
                    processes[name](trainer.call, "images_per_second", epoch)
                )
            log.info("repeat %d of %d took %.0f s", epoch - 1, repeats, time.perf_counter() - begin)
        for name, row in results.items():
            row["peak_memory_bytes"] = processes[name](provenance.peak_memory_bytes, chosen_device)
        for name in ("course", "loader, float32", "ours"):
            results[name]["profile"] = processes[name](
                trainer.call, "profile", min(10, params.steps_per_epoch)
            )
        growth = measure_growth(
            processes[base], CONTESTANTS[base], params, machine, min(3, repeats)
        )
        rival = None
        try:
            if chosen_device.type == "cuda":
                rival = processes[base](
                    trainer.against_airbench, CONTESTANTS[base], params, machine, repeats
                )
        except Exception as error:  # of another's code: all else is measured already
            log.warning("airbench failed: %r", error)
    record = {
        "device": chosen_device.type,
        "device_name": provenance.device_name(chosen_device),
        "precision": precision,
        "convolutions": results[base]["convolutions"],
        "base": base,
        "batch_size": batch_size,
        "train_images": size,
        "repeats": repeats,
        "contestants": results,
        **growth,
        "airbench": rival,
        "finished": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
        **provenance.code_version(),
        "packages": provenance.package_versions(),
        "data_sha256": data_sha256,
    }
    return write(record, folder)


def own_process(stack: ExitStack) -> Callable:
    """``call(function, *arguments)`` in a new process, which lasts as long as ``stack``, and no
    longer than this one."""
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        # imported once, and no thread runs there yet
        context.set_forkserver_preload([trainer.__name__])
    pool = stack.enter_context(ProcessPoolExecutor(1, context, initializer=end_with_parent))
    return lambda function, *arguments: pool.submit(function, *arguments).result()


def measure_growth(
    call: Callable,
    contestant: Contestant,
    params: RunParams,
    machine: trainer.Machine,
    repeats: int,
) -> dict:
    """by_batch_size (with matrix rates beside), by_images and by_epochs, see record.py."""
    timed, size, batch_size = range(2, 2 + repeats), params.train_images, params.batch_size
    by_batch_size, by_images, by_epochs = [], [], []
    for batch in sorted({max(1, batch_size // 4), batch_size, 4 * batch_size, 8 * batch_size}):
        if 2 * batch <= TRAIN_IMAGES:
            changed = replace(params, batch_size=batch, train_images=max(size, 2 * batch))
            call(trainer.start, contestant, changed, machine, None)
            row = {
                "batch_size": batch,
                "images_per_second": [],
                "float32": [],
                machine.precision: [],
            }
            for epoch in timed:
                row["images_per_second"].append(call(trainer.call, "images_per_second", epoch))
                for precision in dict.fromkeys(("float32", machine.precision)):
                    row[precision].append(call(trainer.matrix_rate, precision, machine.device))
            by_batch_size.append(row)
    for images in sorted({max(batch_size, size // part) for part in (1, 2, 4)}, reverse=True):
        call(trainer.start, contestant, replace(params, train_images=images), machine, None)
        by_images.append(
            {"images": images, "seconds": [call(trainer.call, "seconds", epoch) for epoch in timed]}
        )
    for epochs in (1, 2, 4):
        seconds = [call(trainer.call, "seconds", 2, epochs) for _ in timed]
        by_epochs.append({"epochs": epochs, "images": images, "seconds": seconds})
    return {"by_batch_size": by_batch_size, "by_images": by_images, "by_epochs": by_epochs}


def is_fast(precision: str) -> bool:
    """Tell whether this CPU has faster convolutions than PyTorch's."""
    model = build_model(0)
    use_fast(model, precision)
    return in_use(model) != PYTORCH
