"""The training loop beside what else people write, on one machine in one run (it should be idle): notebooks/benchmark.ipynb.

All contestants train the same network (run 7's) with the same optimizer, step and batch size; what differs is where
the batches come from, the precision, the memory format, and on a CPU the way to convolve. Each has a process of its
own, as a user's program has, and they train in turn, repeat by repeat, so that a ratio compares neighbours in time.
"""

import datetime
import functools
import hashlib
import importlib.metadata
import itertools
import json
import logging
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset
from torchvision import transforms

from cifarlib import InputError, preprocess, project_root, records, user_path, winograd
from cifarlib.data import CLASSES, Cifar10, load_cifar10
from cifarlib.loop import keep_freed_memory, make_optimizer, pick_device, pick_precision, train_epoch, train_step
from cifarlib.model import Conv, build_model
from cifarlib.params import TRAIN_IMAGES, RunParams, load_params
from cifarlib.whitening import patch_covariance, whitening_filters

log = logging.getLogger(__name__)

# forward and backward pass of one image through a whitened network, the frozen filters' gradient left out;
# torch's own counter says so in this module's test. By the definition of a convolution: Winograd's do with less
FLOP_PER_IMAGE = 0.708e9

CONTESTANTS = {  # name: source of its batches, precision (None: ours), channels_last, what it is
    "course": ("course", "float32", False, "each image parsed, padded, cropped, flipped and normalised in NumPy"),
    "loader, float32": ("loader", "float32", False, "torchvision's transforms in a DataLoader"),
    "loader, float32, channels_last": ("loader", "float32", True, "the same, channels_last"),
    "loader, bfloat16": ("loader", "bfloat16", False, "the same with autocast"),
    "loader, bfloat16, channels_last": ("loader", "bfloat16", True, "the same with autocast, channels_last"),
    "ready, float32": ("ready", "float32", False, "a DataLoader of images cropped and flipped once, before"),
    "ready, our precision": ("ready", None, True, "the same in our precision, channels_last"),
    "ours": ("ours", None, True, "this project's loop"),
    "ours, PyTorch's convolutions": ("ours", None, True, "the same with PyTorch's own convolutions"),
    "ours, once": ("ours", None, True, "the same with augmentation: once"),
    "ours, captured": ("captured", None, True, "this project's loop, each step captured in a CUDA graph"),
    "ours, captured, once": ("captured", None, True, "the same with augmentation: once"),
}


def takes_part(name: str, device: torch.device, precision: str) -> bool:
    """Whether a contestant can run on this device and is not another one's double there."""
    if "PyTorch" in name:
        return device.type == "cpu" and (precision == "float32" or winograd.in_bfloat16())
    return "captured" not in name or device.type == "cuda"


DEFAULTS = {"batch_size": 128, "repeats": 5}  # and all images; a CPU takes a minute or two for 40,000
CPU_IMAGES = 1920


# -- the record: outputs/benchmark/<device>/record.json, made by ``measure`` --


def folder_name(record: dict) -> str:
    """The device's name, and what was not the default: a short run can neither overwrite nor pass for a full one."""
    full = DEFAULTS | {"train_images": CPU_IMAGES if record["device"] == "cpu" else TRAIN_IMAGES}
    name = re.sub(r"[^a-z0-9]+", "-", f"{record['device']} {record['device_name']}".lower()).strip("-")
    return name + "".join(f"-{k.replace('_', '')}{record[k]}" for k in full if record[k] != full[k])


def _digest(record: dict) -> str:
    content = {k: v for k, v in record.items() if k not in ("sha256", "folder")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def recorded(output_folder: str | Path | None = None) -> list[dict]:
    """One record for each device below outputs/benchmark/, newest device first: its newest full measurement, where
    there is none the newest shortened one (more in the name of its ``folder``). Raises InputError for a damaged one."""
    best: dict[str, dict] = {}
    root = user_path("output_folder", output_folder) or project_root() / "outputs"
    for path in sorted((root / "benchmark").glob("*/record.json")):
        try:
            record = json.loads(path.read_text())
            intact = record["sha256"] == _digest(record) and path.parent.name == folder_name(record)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged, or no benchmark: {error!r}") from None
        if not intact:
            raise InputError(f"{path} is damaged: its content does not match its SHA-256 and folder")
        record["folder"] = path.parent.name
        rank = lambda r: (-len(r["folder"]), r["finished"])  # noqa: E731, a full one has the shortest name
        best[record["device_name"]] = max(record, best.get(record["device_name"], record), key=rank)
    return sorted(best.values(), key=lambda r: r["finished"], reverse=True)


def ratios(record: dict, name: str, base: str) -> list[float]:
    """How many times as fast ``base`` trained as ``name``, repeat by repeat."""
    rates = [record["contestants"][k]["images_per_second"] for k in (base, name)]
    return [a / b for a, b in zip(*rates, strict=True)]


def epoch_seconds(record: dict, name: str) -> list[float]:
    """What an epoch of 40,000 images (its last, incomplete batch dropped) takes at each repeat's rate."""
    images = TRAIN_IMAGES // record["batch_size"] * record["batch_size"]
    return [images / rate for rate in record["contestants"][name]["images_per_second"]]


def fastest(record: dict, source: str) -> str:
    """The contestant with the highest median rate of those whose name begins so."""
    rates = {n: median(c["images_per_second"]) for n, c in record["contestants"].items() if n.startswith(source)}
    return max(rates, key=rates.get)


def as_seconds(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 2}f} s"


def spread(values: list[float], digits: int = 2) -> str:
    """Median, smallest and largest."""
    text = "{:,.{d}f} ({:,.{d}f} to {:,.{d}f})".format(median(values), min(values), max(values), d=digits)
    return text.replace("-", "−")


def summary(record: dict) -> list[dict]:
    """The table of a record: a row for each contestant, medians with smallest and largest repeat."""
    return [
        {
            "contestant": name,
            "workers": "" if row["workers"] is None else row["workers"],
            "images/s": spread(row["images_per_second"], 0),
            "epoch of 40,000": as_seconds(median(epoch_seconds(record, name))),
            f"{record['base']} is faster by": spread(ratios(record, name, record["base"])),
            "first call (s)": f"{row['first_call_seconds']:.1f}",
            "peak memory (GB)": f"{(row['peak_memory_bytes'] or float('nan')) / 1e9:.2f}",
        }
        for name, row in record["contestants"].items()
    ]


def verdict(record: dict) -> str:
    """The record in a paragraph of Markdown."""
    base, loader, ready = record["base"], fastest(record, "loader"), fastest(record, "ready")
    fresh = [100 * (ratio - 1) for ratio in ratios(record, base, f"{base}, once")]
    rivals = {"course": "the loop over single images", "loader, float32": "transforms in a DataLoader in float32"}
    rivals.setdefault(loader, f"such transforms in their best form here ({loader})")
    rivals[ready] = f"the best form without transforms ({ready})"
    rivals |= {k: "itself with PyTorch's convolutions" for k in record["contestants"] if "PyTorch" in k}
    compared = "; ".join(f"**{spread(ratios(record, k, base))}** times as fast as {what}" for k, what in rivals.items())
    text = f"An epoch of 40,000 images takes {base} **{as_seconds(median(epoch_seconds(record, base)))}** in "
    text += f"{record['precision']}: {compared}. New crops and flips in every epoch cost it {spread(fresh, 1)} % over "
    return text + f"drawing them once. (Medians of {record['repeats']} repeats, smallest and largest.)"


def bars(record: dict) -> tuple[dict[str, list[float]], str, dict[str, float]]:
    """What ``plots.benchmark_bars`` draws."""
    names = record["contestants"]
    faster = {name: median(ratios(record, name, record["base"])) for name in names}
    return {name: epoch_seconds(record, name) for name in names}, record["base"], faster


def roofline(record: dict) -> list[dict]:
    """The loop's arithmetic at each batch size as a share of the matrix rates measured beside it."""
    rows = []
    for row in record["by_batch_size"]:
        done = [FLOP_PER_IMAGE * rate for rate in row["images_per_second"]]
        shown = {
            "batch size": row["batch_size"],
            f"loop, {record['precision']} (GFLOP/s)": spread([d / 1e9 for d in done], 0),
        }
        for dtype in ("float32", "bfloat16"):
            shown[f"matrix product, {dtype} (GFLOP/s)"] = spread([m / 1e9 for m in row[dtype]], 0)
            shares = [100 * d / m for d, m in zip(done, row[dtype], strict=True)]
            shown[f"share of {dtype} (%)"] = spread(shares, 0)
        rows.append(shown)
    return rows


def cuda_text(record: dict, kept: list[dict]) -> str:
    """airbench beside ours, or why not, and then what records of CUDA devices say, in Markdown."""
    if record["device"] == "cuda" and record["airbench"] is None:
        return "PyPI's `airbench` was not measured: `pip install airbench` and run this again, or see the log for why."
    if record["device"] == "cuda":
        theirs, ours = record["airbench"]["images_per_second"].values()
        return (
            f"airbench94 (airbench {record['airbench']['version']}) trains {spread(theirs, 0)} images/s at batch 1024 on "
            f"its 50,000 images with its crop of 2 pixels; ours, on the same images, crop and batch, {spread(ours, 0)}: "
            f"**{spread([a / b for a, b in zip(ours, theirs, strict=True)])} times** as many. What differs: ours replays each "
            "step as one CUDA graph, airbench launches its kernels one by one; it keeps its weights in float16 (ours in "
            "float32 under autocast), from its fourth epoch on averages them every fifth step and trains no bias of the "
            "whitening layer, crops and flips all images before an epoch, follows another schedule of learning rates, and "
            "counts no right answers."
        )
    text = "No CUDA here: captured steps and airbench were not measured."
    for other in (r for r in kept if r["device"] == "cuda"):
        text += f"\n\nRecorded on {other['device_name']}, {other['finished'][:10]}: {verdict(other)} "
        text += cuda_text(other, []) if other["airbench"] else ""
    return text if "\n" in text else text + " No record of a CUDA device has been kept either."


# -- where batches come from --


def course_image(pixels: np.ndarray, draw: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """An image's 3,072 bytes to float32 (3, 32, 32) as a loop over images does it: padded by reflection, cropped,
    flipped, normalised. draw: dy, dx, flip, see ``preprocess.draw``; mean, std: (3,), in grey levels."""
    dy, dx, flip = draw
    image = pixels.reshape(3, 32, 32).transpose(1, 2, 0)
    image = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")[4 + dy : 36 + dy, 4 + dx : 36 + dx]
    if flip:
        image = image[:, ::-1]
    return ((image - mean) / std).transpose(2, 0, 1)


class Photos(Dataset):
    """Pictures and labels as torchvision's CIFAR10 has them, so that a DataLoader's workers get them as usual."""

    def __init__(self, images: Tensor, labels: Tensor, transform: Callable):
        self.pixels, self.labels = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def baseline_batches(source: str, data: Cifar10, params: RunParams, workers: int, pin: bool) -> Callable[..., Iterator]:
    """``(epoch, steps)`` to so many batches of float32 images (B, 3, 32, 32) and labels (B,), on the CPU."""
    images, labels, size = data.train_images, data.train_labels, params.batch_size
    statistics = preprocess.channel_statistics(images)
    if source == "course":
        pixels, grey = images.flatten(1).numpy(), [255 * s.numpy() for s in statistics]

        def course(epoch: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
            order, draws = (f(0, epoch, len(images)).numpy() for f in (preprocess.draw_order, preprocess.draw))
            for part in np.split(order[: steps * size], steps):
                x = np.stack([course_image(pixels[i], draws[i], *grey) for i in part])
                yield torch.from_numpy(x), labels[part]

        return course
    if source == "loader":
        crop = transforms.RandomCrop(32, padding=4, padding_mode="reflect")
        rest = [transforms.RandomHorizontalFlip(), transforms.ToTensor(), transforms.Normalize(*statistics)]
        dataset = Photos(images, labels, transforms.Compose([crop, *rest]))
    else:
        pixels, draws = images.contiguous(memory_format=torch.channels_last), preprocess.draw(0, 0, len(images))
        scale, parts = preprocess.normalization(images, "channel", statistics), torch.arange(len(images)).split(1000)
        ready = [preprocess.crop_and_flip(pixels, *scale, i, draws[i], "reflect").contiguous() for i in parts]
        dataset = TensorDataset(torch.cat(ready), labels)
    loader = DataLoader(
        dataset, size, sampler=RandomSampler(dataset, num_samples=params.train_images), drop_last=True,
        num_workers=workers, persistent_workers=workers > 0, pin_memory=pin,
    )  # fmt: skip
    return lambda epoch, steps: itertools.islice(loader, steps)


# -- a contestant, in a process of its own --


class Contestant:
    """``train(epoch, steps)`` trains so many steps and waits for the device (captured: all of ``params``'s epoch)."""

    def __init__(self, name: str, params: RunParams, device: torch.device, precision: str, data: Cifar10, workers: int):
        source, own_precision, channels_last, _ = CONTESTANTS[name]
        self.params, self.device = params, device
        ours, dtype = source in ("ours", "captured"), getattr(torch, own_precision or precision)
        if ours and device.type == "cpu":
            keep_freed_memory()
        torch.backends.cudnn.benchmark = True
        images, labels = data.train_images, data.train_labels
        scale = preprocess.normalization(images, "channel", preprocess.channel_statistics(images))
        filters = whitening_filters(patch_covariance([preprocess.normalize(images[:1000], *scale)]))
        model = build_model(0, filters).to(device)
        for layer in (m for m in model.modules() if isinstance(m, Conv)):
            layer.direct = not ours or "PyTorch" in name
        if channels_last and not (ours and device.type == "cpu"):  # as train.py decides
            model = model.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(params, model, device)
        if not ours:
            make = baseline_batches(source, data, params, workers, pin=device.type == "cuda")
            layout = torch.channels_last if channels_last else torch.contiguous_format

            def train(epoch: int, steps: int) -> None:
                loss_sum, right = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
                model.train()
                for x, y in make(epoch, steps):
                    x, y = x.to(device, non_blocking=True, memory_format=layout), y.to(device, non_blocking=True)
                    loss, correct = train_step(model, optimizer, x, y, params, dtype)
                    loss_sum += loss
                    right += correct
                loss_sum.item(), right.item()  # as ours does at the end; waits for the device

            self.train = train
            return
        params = replace(params, augmentation="once" if "once" in name else "per_epoch")
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        given = model, optimizer, images, labels.to(device), tuple(s.to(device) for s in scale)
        if source == "captured":
            from cifarlib.capture import CapturedEpoch

            epoch_of = CapturedEpoch(*given, params, dtype)
            # a graph reads its tensors by address: `kept` is what keeps them alive
            self.train = lambda epoch, steps, kept=(given, epoch_of): epoch_of(epoch)
        else:
            part = lambda steps: replace(params, train_images=steps * params.batch_size)  # noqa: E731
            self.train = lambda epoch, steps: train_epoch(*given, part(steps), dtype, epoch)

    def seconds(self, epoch: int, epochs: int = 1, steps: int | None = None) -> float:
        start = time.perf_counter()
        for number in range(epoch, epoch + epochs):
            self.train(number, steps or self.params.steps_per_epoch)
        return time.perf_counter() - start

    def images_per_second(self, epoch: int) -> float:
        return self.params.steps_per_epoch * self.params.batch_size / self.seconds(epoch)

    def profile(self, steps: int) -> dict[str, float]:
        """Seconds of one step by kind of operator; the rest is Python's, or on CUDA the device's waiting, measured over
        an epoch without the profiler, which slows what launches the kernels and not the kernels."""
        cuda, kinds = self.device.type == "cuda", dict.fromkeys([*KINDS, "other operators"], 0.0)
        undisturbed = self.seconds(1) / self.params.steps_per_epoch if cuda else None
        with torch.profiler.profile() as profiler:
            wall = self.seconds(1, steps=steps) / steps
        for event in profiler.key_averages():
            if not event.key.startswith("aten::") or event.device_type != torch.autograd.DeviceType.CPU:
                continue  # a kernel, which its operator counts as well, or a range such as a whole optimizer step
            kind = next((k for k, words in KINDS.items() if any(w in event.key for w in words)), "other operators")
            kinds[kind] += (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
        rest = "device idle" if cuda else "Python, NumPy, PIL"
        kinds = {kind: seconds / steps for kind, seconds in kinds.items()}
        return {**kinds, rest: max(0.0, (undisturbed or wall) - sum(kinds.values()))}


KINDS = {  # kind: parts of the names of torch's operators, the first that fits
    "convolution": ("convolution",),
    "matrix products": ("aten::bmm", "aten::mm"),  # Winograd's, a small layer's, and the last layer's
    "normalisation": ("batch_norm",),
    "pooling and GELU": ("max_pool", "gelu"),
    "optimizer": ("_fused_sgd",),
}

_contestant: Contestant
_data = functools.cache(load_cifar10)


def matrix_rate(dtype: torch.dtype, device: torch.device, n: int | None = None) -> float:
    """FLOP/s of the best of 5 n x n x n products; on CUDA of float32 as convolutions have it by default, in TF32."""
    n = n or (8192 if device.type == "cuda" else 2048)
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    trials = []
    for _ in range(5):
        start = time.perf_counter()
        (a @ b).flatten()[0].item()
        trials.append(time.perf_counter() - start)
    torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * n**3 / min(trials)


def _start(name: str, params: RunParams, device: str, precision: str, data_folder, workers: int | None) -> dict:
    """Makes this process the contestant, its best number of workers tried where none is given; two steps of warm-up."""
    global _contestant
    data = _data(data_folder)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # a job's share
    uses_workers, trials = CONTESTANTS[name][0] in ("loader", "ready"), {}

    def make(number: int | None, steps: int) -> tuple[Contestant, float, float]:
        start = time.perf_counter()
        contestant = Contestant(name, params, torch.device(device), precision, data, number or 0)
        contestant.seconds(1, steps=1)
        return contestant, time.perf_counter() - start, contestant.seconds(1, steps=steps)

    if uses_workers and workers is None:
        for number in sorted({0, cpus} | {1, 2, 4, 8, 16} & set(range(cpus))):
            trials[number] = make(number, max(2, params.steps_per_epoch // 4))[-1]
        workers = min(trials, key=trials.get)
    _contestant, first, _ = make(workers, 1)
    if device.startswith("cuda"):  # what the search for fast kernels took: the other contestants share the card
        torch.cuda.empty_cache()
    return {"about": CONTESTANTS[name][-1], "workers": workers if uses_workers else None, "first_call_seconds": first}


def _call(method: str, *arguments):
    return getattr(_contestant, method)(*arguments)


def _airbench(name: str, params: RunParams, device: str, precision: str, data_folder, repeats: int) -> dict | None:
    """Images per second of PyPI's airbench94 and of ours on its terms: its 50,000 images, batch and crop of 2 pixels.
    None where it is not installed."""
    try:
        import airbench
    except ImportError:
        return None
    data, before = _data(data_folder), os.getcwd()
    images, labels = (
        torch.cat([getattr(data, f"{p}_{k}") for p in ("train", "validation")]) for k in ("images", "labels")
    )
    rates: dict[str, list[float]] = {"airbench94": [], name: []}
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(preprocess, "PADDING", 2):
        os.chdir(folder)  # its test set is read from ./cifar10
        try:
            os.mkdir("cifar10")
            for part, x, y in (("train", images, labels), ("test", data.test_images, data.test_labels)):
                x = x.permute(0, 2, 3, 1).contiguous()
                torch.save({"images": x, "labels": y.clone(), "classes": list(CLASSES)}, f"cifar10/{part}.pt")
            loader = airbench.CifarLoader("cifar10", batch_size=1024, aug={"flip": True, "translate": 2}, altflip=True)
            ours = replace(data, train_images=images, train_labels=labels)
            params = replace(params, batch_size=1024, train_images=TRAIN_IMAGES)
            contestant = Contestant(name, params, torch.device(device), precision, ours, 0)

            def seconds(epochs: int) -> float:
                start = time.perf_counter()
                airbench.train94(loader, epochs=epochs, verbose=False)  # ends with a synchronisation
                return time.perf_counter() - start

            seconds(1), contestant.seconds(1)  # warm-up
            for epoch in range(2, repeats + 2):  # the difference is its loop, without network, whitening and padding
                rates["airbench94"].append(4 * len(loader) * 1024 / (seconds(5) - seconds(1)))
                rates[name].append(contestant.images_per_second(epoch))
        finally:
            os.chdir(before)
    return {"version": importlib.metadata.version("airbench"), "images_per_second": rates}


# -- the measurement --


def measure(
    device: str = "auto",
    batch_size: int = DEFAULTS["batch_size"],
    train_images: int | None = None,
    repeats: int = DEFAULTS["repeats"],
    workers: int | None = None,
    data_folder: str | Path | None = None,
    output_folder: str | Path | None = None,
) -> dict:
    """Measures all contestants on ``train_images`` images a repeat (None: all, on a CPU 1,920) and writes the record.

    contestants: {name: {about, workers, first_call_seconds, images_per_second (one a repeat), peak_memory_bytes,
    profile: {kind: seconds of a step} or absent}}; by_batch_size, by_images, by_epochs: rows of the contestant
    ``base``, with the matrix rates (FLOP/s) measured beside; airbench: see _airbench. Raises InputError.
    """
    place = pick_device(device)
    for name, value, least in (("repeats", repeats, 1), ("workers", workers or 0, 0)):
        if type(value) is not int or value < least:
            raise InputError(f"{name} = {value!r}: give a whole number from {least}")
    size = train_images if train_images is not None else CPU_IMAGES if place.type == "cpu" else TRAIN_IMAGES
    # run7-mean: with the loss summed, at batch 1024, gradients soon hold denormal numbers, which slow a CPU to a third
    params = load_params("run7-mean", batch_size=batch_size, train_images=size)
    folder = user_path("output_folder", output_folder) or project_root() / "outputs"
    data_sha256 = load_cifar10(user_path("data_folder", data_folder)).sha256  # fetched once, before the processes
    precision, base = pick_precision(place), "ours, captured" if place.type == "cuda" else "ours"
    where, few = (str(place), precision, data_folder), range(2, 2 + min(3, repeats))
    found, run = {}, {}
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch's profiler would fill the notebook with its own news
    if os.name == "posix":
        context.set_forkserver_preload([__name__])  # the packages are imported once, and no thread runs there yet
    with ExitStack() as stack:
        for name in CONTESTANTS:
            if not takes_part(name, place, precision):
                continue
            pool = stack.enter_context(ProcessPoolExecutor(1, context))
            run[name] = lambda *what, pool=pool: pool.submit(*what).result()
            found[name] = run[name](_start, name, params, *where, workers) | {"images_per_second": []}
        for epoch in range(2, 2 + repeats):
            start = time.perf_counter()
            for name, row in found.items():
                row["images_per_second"].append(run[name](_call, "images_per_second", epoch))
            log.info("repeat %d of %d took %.0f s", epoch - 1, repeats, time.perf_counter() - start)
        for name, row in found.items():
            row["peak_memory_bytes"] = run[name](records.peak_memory_bytes, place)
        for name in ("course", "loader, float32", "ours"):
            found[name]["profile"] = run[name](_call, "profile", min(10, params.steps_per_epoch))
        by_batch_size, by_images, by_epochs = [], [], []
        call = run[base]
        for batch in sorted({max(1, batch_size // 4), batch_size, 4 * batch_size, 8 * batch_size}):
            if 2 * batch <= TRAIN_IMAGES:
                some = replace(params, batch_size=batch, train_images=max(size, 2 * batch))
                call(_start, base, some, *where, None)
                row = {"batch_size": batch, "images_per_second": [], "float32": [], "bfloat16": []}
                for epoch in few:
                    row["images_per_second"].append(call(_call, "images_per_second", epoch))
                    for dtype in ("float32", "bfloat16"):
                        row[dtype].append(call(matrix_rate, getattr(torch, dtype), place))
                by_batch_size.append(row)
        for n in sorted({max(batch_size, size // part) for part in (1, 2, 4)}, reverse=True):
            call(_start, base, replace(params, train_images=n), *where, None)
            by_images.append({"images": n, "seconds": [call(_call, "seconds", epoch) for epoch in few]})
        for epochs in (1, 2, 4):
            by_epochs.append(
                {"epochs": epochs, "images": n, "seconds": [call(_call, "seconds", 2, epochs) for _ in few]}
            )
        rival = None
        try:
            rival = call(_airbench, base, params, *where, repeats) if place.type == "cuda" else None
        except Exception as error:  # of another's code: all else is measured already
            log.warning("airbench failed: %r", error)
    record = {
        "device": place.type, "device_name": records.device_name(place), "precision": precision, "base": base,
        "batch_size": batch_size, "train_images": size, "repeats": repeats, "contestants": found,
        "by_batch_size": by_batch_size, "by_images": by_images, "by_epochs": by_epochs, "airbench": rival,
        "finished": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%dT%H:%M:%SZ}", **records.code_version(),
        "packages": records.package_versions(), "data_sha256": data_sha256,
    }  # fmt: skip
    record["folder"] = folder_name(record)
    path = folder / "benchmark" / record["folder"]
    try:
        path.mkdir(parents=True, exist_ok=True)
        records.write_text(path / "record.json", json.dumps(record | {"sha256": _digest(record)}, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"output_folder = {str(folder)!r} cannot be written: {error}") from None
    return record
