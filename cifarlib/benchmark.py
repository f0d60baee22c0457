"""How fast the training loop is beside what people write: images per second on one machine.

Each contestant has a process of its own, as a user's program has, and they train in turn, round by
round, so that a ratio compares neighbours in time and the machine's drift cancels. All train run
7's network, its loss averaged, with the same optimizer, step and batch size."""

import json
import multiprocessing
import os
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from timeit import repeat, timeit

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from cifarlib import InputError, outputs_folder, provenance
from cifarlib.data import Split, load_cifar10
from cifarlib.device.choice import keep_freed_memory, pick_device, pick_precision, set_determinism
from cifarlib.device.cuda_graph import CapturedStep
from cifarlib.loop import Training, make_optimizer, train_epoch, train_step
from cifarlib.model import build_model
from cifarlib.params import TRAIN_IMAGES, RunParams, load_params
from cifarlib.preprocess import channel_statistics
from cifarlib.records import write_text
from cifarlib.train import build

NAMES = PLAIN, BEST, OURS, ONCE = (
    "DataLoader",  # of single images that torchvision transforms, as it comes: float32, no workers
    "DataLoader, best",  # with the best number of workers, our precision and channels_last
    "ours",  # as train prepares it
    "ours, once",  # the same with images cropped and flipped once, before training
)
RUN = "run7-mean"  # a summed loss soon has gradients with denormal numbers, which slow a CPU
ROUNDS = 5
CPU_IMAGES = 1920  # of a round, unless given: all 40,000 take a CPU minutes
WORKERS = [n for n in (0, 1, 2, 4, 8, 16) if n <= (os.cpu_count() or 1)]  # of the best DataLoader


def measure(
    device: str = "auto",
    images: int | None = None,
    rounds: int = ROUNDS,
    *,
    data_folder: str | Path | None = None,
    output_folder: str | Path | None = None,
) -> dict:
    """Measure all contestants and return the record, which goes to outputs/benchmark/ where images
    (of a round; None: the training split, on a CPU a part of it) and rounds are the defaults.
    Raises InputError."""
    if type(rounds) is not int or rounds < 1:
        raise InputError(f"rounds = {rounds!r}: give a whole number from 1")
    chosen_device = pick_device(device)
    full = CPU_IMAGES if chosen_device.type == "cpu" else TRAIN_IMAGES
    params = load_params(RUN, train_images=full if images is None else images)
    if params.train_images > TRAIN_IMAGES:
        raise InputError(f"images = {images}: give at most {TRAIN_IMAGES}")
    record = {
        "device": chosen_device.type,
        "device_name": provenance.device_name(chosen_device),
        "precision": pick_precision(chosen_device),
        "batch_size": params.batch_size,
        "images": params.train_images,
        "data_sha256": load_cifar10(data_folder).sha256,  # fetched once, before the processes
        **provenance.code_version(),
        "packages": provenance.package_versions(),
        **take_turns(rounds, params, chosen_device, data_folder),
        "finished": provenance.now(),
    }
    if (params.train_images, rounds) == (full, ROUNDS):
        name = re.sub(r"\W+", "-", f"{record['device']} {record['device_name']}".lower())
        folder = outputs_folder(output_folder) / "benchmark"
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{name}.json", json.dumps(record, indent=1) + "\n")
    return record


def take_turns(rounds: int, *arguments: object) -> dict[str, dict]:
    """Return each contestant's ``workers`` and ``images_per_second``, one a round. Raises EOFError
    where a contestant failed: its process has printed why to the terminal."""
    spawn = multiprocessing.get_context("spawn")
    connections = {}
    workers = {}
    rates = {name: [] for name in NAMES}
    with ExitStack() as stack:  # a process ends when its connection is closed
        for name in NAMES:
            ours, theirs = spawn.Pipe()
            connections[name] = stack.enter_context(ours)
            with theirs:
                spawn.Process(target=compete, args=(theirs, name, *arguments)).start()
            workers[name] = ours.recv()
        for epoch in range(2, rounds + 2):
            for name, connection in connections.items():
                connection.send(epoch)
                rates[name].append(connection.recv())
    return {"workers": workers, "images_per_second": rates}


def compete(
    pipe: Connection, name: str, params: RunParams, device: torch.device, data_folder: Path | None
) -> None:
    """Send how many workers the contestant's DataLoader has (None: it has none), then the images
    per second of each epoch that is asked. Ends with the process that asks, even a killed one."""
    split = load_cifar10(data_folder).train
    training = make_training(name, params, split, device)
    if name in (PLAIN, BEST):
        numbers = WORKERS if name == BEST else [0]
        trains = {n: partial(train_on, make_loader(split, training, n), training) for n in numbers}
    else:
        update = CapturedStep(training) if device.type == "cuda" else None
        trains = {None: partial(train_epoch, training, update=update)}
    # the first epoch is not counted
    second = {n: repeat(partial(train, 1), number=1, repeat=2)[1] for n, train in trains.items()}
    workers = min(second, key=second.get)
    pipe.send(workers)
    with suppress(EOFError):
        while True:
            seconds = timeit(partial(trains[workers], pipe.recv()), number=1)
            pipe.send(params.steps_per_epoch * params.batch_size / seconds)


def make_training(name: str, params: RunParams, split: Split, device: torch.device) -> Training:
    """Prepare ours as train does, for the others the same network as PyTorch has it."""
    set_determinism(False)
    if name == ONCE:
        params = replace(params, augmentation="once")
    precision = "float32" if name == PLAIN else pick_precision(device)
    training = build(params, split, channel_statistics(split.images), device, precision)
    if name in (OURS, ONCE):
        keep_freed_memory()
        return training
    filters = training.model.first_layer.weight.detach()
    model = build_model(params.seed, filters, params.dirac).to(device)
    if name == BEST:
        model.to(memory_format=torch.channels_last)
    return replace(training, model=model, optimizer=make_optimizer(params, model))


class Pictures(datasets.CIFAR10):
    """torchvision's data set, of images that are in memory already."""

    def __init__(self, split: Split, transform: Callable):
        datasets.VisionDataset.__init__(self, transform=transform)
        self.data = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = split.labels.tolist()


def make_loader(split: Split, training: Training, workers: int) -> DataLoader:
    params = training.params
    crop = transforms.RandomCrop(32, padding=params.crop, padding_mode="reflect")
    flip = transforms.RandomHorizontalFlip()
    normalize = transforms.Normalize(*channel_statistics(split.images))
    steps = [crop, flip, transforms.ToTensor(), normalize]
    pictures = Pictures(split.head(params.train_images), transforms.Compose(steps))
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    options |= {"shuffle": True, "drop_last": True, "pin_memory": training.images.is_cuda}
    return DataLoader(pictures, params.batch_size, **options)


def train_on(loader: DataLoader, training: Training, epoch: int) -> None:
    """Train on an epoch of the loader with our loop's step, and wait for the device."""
    device = training.images.device
    training.model.train()
    for x, y in loader:
        x, y = (tensor.to(device, non_blocking=True) for tensor in (x, y))
        loss, _ = train_step(training, x, y)
    loss.item()


def recorded(output_folder: str | Path | None = None) -> list[dict]:
    """Read the records, one a kind of machine, newest first."""
    records = []
    for path in (outputs_folder(output_folder) / "benchmark").glob("*.json"):
        try:
            records.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise InputError(f"{path} is damaged: {error}") from None
    return sorted(records, key=lambda record: record["finished"], reverse=True)


def epoch_seconds(record: dict) -> pd.DataFrame:
    """Return what an epoch of 40,000 images takes, a column a contestant, a row a round."""
    return TRAIN_IMAGES / pd.DataFrame(record["images_per_second"])


def ratios(record: dict) -> pd.DataFrame:
    """Return how many times as fast ours is, a column a contestant, a row a round."""
    times = epoch_seconds(record)
    return times.div(times[OURS], axis=0)


def spread(values: pd.Series, digits: int = 2) -> str:
    """Write median, smallest and largest: "1.62 (1.50 to 1.70)"."""
    middle, low, high = (f"{v:,.{digits}f}" for v in np.percentile(values, [50, 0, 100]))
    return f"{middle} ({low} to {high})"
