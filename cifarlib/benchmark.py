"""How fast the training loop is beside what people write: images per second on one machine.

Each contestant has a process of its own, as a user's program has, and they train in turn, round by
round, so that a ratio compares neighbours in time and the machine's drift cancels. All train run
7's network, its loss averaged, with the same optimizer, step and batch size.
"""

import datetime
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from subprocess import PIPE

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler
from torchvision import datasets, transforms

from cifarlib import InputError, outputs_folder, project_root, provenance, user_path
from cifarlib.data import Split, load_cifar10
from cifarlib.device.choice import keep_freed_memory, pick_device, pick_precision
from cifarlib.device.cuda_graph import CapturedEpoch
from cifarlib.loop import Training, make_optimizer, train_epoch, train_step
from cifarlib.model import build_model
from cifarlib.params import TRAIN_IMAGES, RunParams, load_params
from cifarlib.preprocess import channel_statistics
from cifarlib.records import write_text
from cifarlib.train import build

NAMES = SINGLE, PLAIN, BEST, BASE, ONCE = (
    "NumPy, one by one",  # a loop over single images: cropped, flipped, normalised; float32
    "DataLoader",  # with torchvision's transforms, as it comes: float32, no workers
    "DataLoader, best",  # with the best number of workers, our precision and channels_last
    "ours",  # as train prepares it
    "ours, once",  # the same with images cropped and flipped once, before training
)
RUN = "run7-mean"  # a summed loss soon has gradients with denormal numbers, which slow a CPU
ROUNDS = 5
CPU_IMAGES = 1920  # of a round, unless given: all 40,000 take a CPU minutes
WORKERS = (0, 1, 2, 4, 8, 16)  # tried for the best DataLoader, as far as there are CPUs


def measure(
    device: str = "auto",
    images: int | None = None,
    rounds: int = ROUNDS,
    *,
    data_folder: str | Path | None = None,
    output_folder: str | Path | None = None,
) -> dict:
    """Measure all contestants, write outputs/benchmark/<device>.json and return its content.

    images: of a round; None: the training split, on a CPU a part of it. Raises InputError.
    """
    if type(rounds) is not int or rounds < 1:
        raise InputError(f"rounds = {rounds!r}: give a whole number from 1")
    chosen_device = pick_device(device)
    full = CPU_IMAGES if chosen_device.type == "cpu" else TRAIN_IMAGES
    params = load_params(RUN, train_images=full if images is None else images)
    data_folder = user_path("data_folder", data_folder) or project_root() / "data"
    record = {
        "device": chosen_device.type,
        "device_name": provenance.device_name(chosen_device),
        "precision": pick_precision(chosen_device),
        "threads": torch.get_num_threads(),
        "batch_size": params.batch_size,
        "images": params.train_images,
        "data_sha256": load_cifar10(data_folder).sha256,  # fetched once, before the processes
        **provenance.code_version(),
        "packages": provenance.package_versions(),
        **take_turns(rounds, str(params.train_images), str(chosen_device), str(data_folder)),
        "finished": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
    }
    record["ours_is_faster"] = ratios(record).agg(["median", "min", "max"]).to_dict()
    name = re.sub(r"\W+", "-", f"{record['device']} {record['device_name']}".lower())
    if (params.train_images, rounds) != (full, ROUNDS):
        name += "-short"  # it takes no full one's place
    folder = outputs_folder(output_folder) / "benchmark"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.json", json.dumps(record, indent=1) + "\n")
    return record


def take_turns(rounds: int, *arguments: str) -> dict[str, dict]:
    """Return each contestant's ``workers`` and ``images_per_second``, one a round."""
    processes = {}
    workers = {}
    rates = {name: [] for name in NAMES}
    with ExitStack() as stack:
        for name in NAMES:
            command = [sys.executable, "-m", "cifarlib.benchmark", name, *arguments]
            process = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True)
            processes[name] = stack.enter_context(process)
            workers[name] = answer(process)
        for epoch in range(2, rounds + 2):
            for name, process in processes.items():
                print(epoch, file=process.stdin, flush=True)
                rates[name].append(answer(process))
    return {"workers": workers, "images_per_second": rates}


def answer(process: subprocess.Popen) -> float | None:
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a contestant failed: its process has printed why to the terminal")
    return json.loads(line)


def compete(name: str, images: str, device: str, data_folder: str) -> None:
    """Print how many workers the contestant's DataLoader has (null: it has none), and for each
    epoch read its images per second. It ends with the process that asks, even a killed one."""
    params = load_params(RUN, train_images=int(images))
    split = load_cifar10(data_folder).train
    training = make_training(name, params, split, torch.device(device))
    trains = {None: partial(train_epoch, training)}
    if name in (BASE, ONCE) and training.images.is_cuda:
        trains = {None: CapturedEpoch(training)}
    if name not in (BASE, ONCE):
        numbers = [n for n in WORKERS if n <= (os.cpu_count() or 1)] if name == BEST else [0]
        loaders = {n: make_loader(name, split, training, n) for n in numbers}
        trains = {n: partial(train_on, loader, training) for n, loader in loaders.items()}
    for train in trains.values():
        train(1)  # not counted
    workers = min(trains, key=lambda number: seconds(trains[number], 1))
    print(json.dumps(workers), flush=True)
    for epoch in sys.stdin:
        time_taken = seconds(trains[workers], int(epoch))
        print(params.steps_per_epoch * params.batch_size / time_taken, flush=True)


def seconds(train: Callable[[int], object], epoch: int) -> float:
    start = time.perf_counter()
    train(epoch)
    return time.perf_counter() - start


def make_training(name: str, params: RunParams, split: Split, device: torch.device) -> Training:
    """Prepare ours as train does, for the others the same network as PyTorch has it."""
    torch.backends.cudnn.benchmark = True
    if name == ONCE:
        params = replace(params, augmentation="once")
    statistics = channel_statistics(split.images)
    training = build(params, split, statistics, device, pick_precision(device))
    if name in (BASE, ONCE):
        if device.type == "cpu":
            keep_freed_memory()
        return training
    filters = training.model.first_layer.weight.detach()
    model = build_model(params.seed, filters, params.dirac).to(device)
    training = replace(training, model=model, optimizer=make_optimizer(params, model))
    if name == BEST:
        model.to(memory_format=torch.channels_last)
        return training
    return replace(training, dtype=torch.float32)


class Pictures(datasets.CIFAR10):
    """torchvision's data set, of images that are in memory already."""

    def __init__(self, split: Split, transform: Callable):
        self.data = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets = split.labels.tolist()
        self.transform = transform
        self.target_transform = None


def make_loader(name: str, split: Split, training: Training, workers: int) -> DataLoader:
    params = training.params
    normalizer = training.normalizer.to("cpu")
    mean, std = (values.flatten() / 255 for values in (normalizer.mean, normalizer.std))
    crop = transforms.RandomCrop(32, padding=params.crop, padding_mode="reflect")
    normalize = transforms.Normalize(mean, std)
    steps = [crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize]
    transform = transforms.Compose(steps)
    if name == SINGLE:
        transform = partial(numpy_transform, crop=params.crop, mean=mean.numpy(), std=std.numpy())
    pictures = Pictures(split, transform)
    return DataLoader(
        pictures,
        params.batch_size,
        sampler=RandomSampler(pictures, num_samples=params.train_images),
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=name == BEST and training.images.is_cuda,
    )


def numpy_transform(image: Image.Image, crop: int, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Crop, flip and normalise an image to float32 (3, 32, 32)."""
    pixels = np.pad(image, ((crop, crop), (crop, crop), (0, 0)), mode="reflect")
    y, x = random.choices(range(2 * crop + 1), k=2)
    pixels = pixels[y : y + 32, x : x + 32]
    if random.choice((True, False)):
        pixels = pixels[:, ::-1]
    return ((pixels / np.float32(255) - mean) / std).transpose(2, 0, 1)


def train_on(loader: DataLoader, training: Training, epoch: int) -> None:
    """Train on an epoch of the loader with our loop's step, and wait for the device."""
    device = training.images.device
    training.model.train()
    for x, y in loader:
        x, y = (tensor.to(device, non_blocking=True) for tensor in (x, y))
        loss, _ = train_step(training, x, y)
    loss.item()


def recorded(output_folder: str | Path | None = None) -> list[dict]:
    """Read the full measurements, one a kind of machine, newest first. Raises InputError."""
    records = []
    for path in (outputs_folder(output_folder) / "benchmark").glob("*.json"):
        if not path.stem.endswith("-short"):
            try:
                records.append(json.loads(path.read_text(encoding="utf-8")))
                table(records[-1])
            except (ValueError, TypeError, KeyError) as error:
                raise InputError(f"{path} is damaged, or no benchmark: {error!r}") from None
    return sorted(records, key=lambda record: record["finished"], reverse=True)


def epoch_seconds(record: dict) -> pd.DataFrame:
    """Return what an epoch of 40,000 images takes, a column a contestant, a row a round."""
    return TRAIN_IMAGES / pd.DataFrame(record["images_per_second"])


def ratios(record: dict) -> pd.DataFrame:
    """Return how many times as fast ours is, a column a contestant, a row a round."""
    times = epoch_seconds(record)
    return times.div(times[BASE], axis=0)


def spread(values: pd.Series, digits: int = 2) -> str:
    """Write median, smallest and largest: "1.62 (1.50 to 1.70)"."""
    middle, low, high = (f"{v:,.{digits}f}" for v in np.percentile(values, [50, 0, 100]))
    return f"{middle} ({low} to {high})"


def table(record: dict) -> pd.DataFrame:
    """Return a row for each contestant, medians with the smallest and the largest round."""
    columns = {
        "images/s": pd.DataFrame(record["images_per_second"]).apply(spread, digits=0),
        "seconds an epoch": epoch_seconds(record).apply(spread, digits=1),
        "ours is faster by": ratios(record).apply(spread),
    }
    return pd.DataFrame(columns).rename_axis("contestant")


if __name__ == "__main__":
    compete(*sys.argv[1:])
