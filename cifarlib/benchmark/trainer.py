"""What runs in a contestant's process: its training, timed, airbench's, and matrix products."""

import functools
import importlib.metadata
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cifarlib import preprocess
from cifarlib.benchmark.batches import make_batches
from cifarlib.benchmark.contestants import Contestant
from cifarlib.data import CLASSES, Cifar10, load_cifar10
from cifarlib.device.choice import keep_freed_memory
from cifarlib.device.convolutions import in_use, use_fast
from cifarlib.device.cuda_graph import CapturedEpoch
from cifarlib.loop import Training, make_optimizer, train_epoch, train_step
from cifarlib.model import build_model
from cifarlib.params import TRAIN_IMAGES, RunParams
from cifarlib.whitening import filters_from_images

KINDS = {  # kind: parts of the names of torch's operators, the first that fits
    "convolution": ("convolution",),
    # Winograd's, a small layer's, and the last layer's
    "matrix products": ("aten::bmm", "aten::mm"),
    "normalisation": ("batch_norm",),
    "pooling and GELU": ("max_pool", "gelu"),
    "optimizer": ("_fused_sgd",),
}
load_data = functools.cache(load_cifar10)
_trainer: "Trainer"  # of this process


@dataclass(frozen=True)
class Machine:
    """What all contestants share."""

    device: torch.device
    precision: str  # that our training takes on the device
    data_folder: str | Path | None = None


class Trainer:
    def __init__(
        self,
        contestant: Contestant,
        params: RunParams,
        machine: Machine,
        data: Cifar10,
        workers: int = 0,
    ):
        self.params = params = replace(params, augmentation=contestant.augmentation)
        self.device = device = machine.device
        self.ours = contestant.batches == "ours"
        if self.ours and device.type == "cpu":
            keep_freed_memory()
        images, labels = data.train.images, data.train.labels
        first = images[:1000]  # enough, as all contestants share what follows from them
        normalizer = preprocess.make_normalizer(
            first, "channel", preprocess.channel_statistics(first)
        )
        model = build_model(params.seed, filters_from_images(first, normalizer)).to(device)
        if contestant.fast_convolutions:
            use_fast(model, machine.precision)
        self.convolutions = in_use(model)
        torch.backends.cudnn.benchmark = True
        layout = torch.channels_last if contestant.channels_last else torch.contiguous_format
        if self.ours:
            images, labels = images.to(device).contiguous(memory_format=layout), labels.to(device)
            normalizer = normalizer.to(device)
        else:
            self.batches = make_batches(
                contestant.batches, data, normalizer, params, workers, device.type == "cuda"
            )
        if not self.ours or device.type == "cuda":  # ours: as train.py decides
            model = model.to(memory_format=layout)
        self.layout, dtype = layout, getattr(torch, contestant.precision or machine.precision)
        self.training = Training(
            params, model, make_optimizer(params, model), images, labels, normalizer, dtype
        )
        self.captured_epoch = CapturedEpoch(self.training) if contestant.captured else None

    def train(self, epoch: int, steps: int) -> None:
        """So many steps of an epoch (captured: all of them); waits for the device."""
        if self.captured_epoch:
            self.captured_epoch(epoch)
        elif self.ours:
            part = replace(self.params, train_images=steps * self.params.batch_size)
            train_epoch(replace(self.training, params=part), epoch)
        else:
            loss_sum, right = torch.zeros(2, device=self.device).unbind()
            self.training.model.train()
            for x, y in self.batches(epoch, steps):
                x = x.to(self.device, non_blocking=True, memory_format=self.layout)
                y = y.to(self.device, non_blocking=True)
                loss, logits = train_step(self.training, x, y)
                loss_sum += loss
                right += (logits.argmax(1) == y).sum()
            loss_sum.item(), right.item()  # as ours does at the end

    def seconds(self, epoch: int, epochs: int = 1, steps: int | None = None) -> float:
        start = time.perf_counter()
        for number in range(epoch, epoch + epochs):
            self.train(number, steps or self.params.steps_per_epoch)
        return time.perf_counter() - start

    def images_per_second(self, epoch: int) -> float:
        return self.params.steps_per_epoch * self.params.batch_size / self.seconds(epoch)

    def profile(self, steps: int) -> dict[str, float]:
        """Seconds of one step by kind of operator; the rest is Python's, or on CUDA the device's
        waiting, measured over an epoch without the profiler, which slows what launches the kernels
        and not the kernels."""
        cuda, kinds = self.device.type == "cuda", dict.fromkeys([*KINDS, "other operators"], 0.0)
        undisturbed = self.seconds(1) / self.params.steps_per_epoch if cuda else None
        with torch.profiler.profile() as profiler:
            wall = self.seconds(1, steps=steps) / steps
        for event in profiler.key_averages():
            if (
                not event.key.startswith("aten::")
                or event.device_type != torch.autograd.DeviceType.CPU
            ):
                # a kernel, which its operator counts as well, or a range such as a whole optimizer
                # step
                continue
            kind = next(
                (k for k, words in KINDS.items() if any(w in event.key for w in words)),
                "other operators",
            )
            kinds[kind] += (
                (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6 / steps
            )
        rest = "device idle" if cuda else "Python, NumPy, PIL"
        return {**kinds, rest: max(0.0, (undisturbed or wall) - sum(kinds.values()))}


def start(contestant: Contestant, params: RunParams, machine: Machine, workers: int | None) -> dict:
    """Makes this process the contestant, its best number of workers tried where none is given, and
    warms it up."""
    global _trainer
    data, uses_workers = load_data(machine.data_folder), contestant.batches in ("loader", "ready")

    def make(number: int) -> Trainer:
        trainer = Trainer(contestant, params, machine, data, number)
        trainer.seconds(1, steps=1)
        return trainer

    if uses_workers and workers is None:
        affinity = getattr(os, "sched_getaffinity", None)  # a job's share of the machine
        cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
        numbers, steps = (
            sorted({0, cpus} | {1, 2, 4, 8, 16} & set(range(cpus))),
            max(2, params.steps_per_epoch // 4),
        )
        trials = {number: make(number).seconds(1, steps=steps) for number in numbers}
        workers = min(trials, key=trials.get)
    begin = time.perf_counter()
    _trainer = make(workers or 0)
    first_call_seconds = time.perf_counter() - begin
    _trainer.seconds(1, steps=1)
    # what the search for fast kernels took: the other contestants share the card
    if machine.device.type == "cuda":
        torch.cuda.empty_cache()
    return {
        "about": contestant.description,
        "workers": workers if uses_workers else None,
        "first_call_seconds": first_call_seconds,
        "convolutions": _trainer.convolutions,
        "images_per_second": [],
    }


def call(method: str, *arguments):
    return getattr(_trainer, method)(*arguments)


def matrix_rate(precision: str, device: torch.device) -> float:
    """FLOP/s of the best of 5 products of square matrices, which grow until a product takes 0.05 s;
    on CUDA of float32 as convolutions have it by default, in TF32."""
    before, torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32, True
    n, largest, trials = 128, 8192 if device.type == "cuda" else 2048, [0.0]
    while min(trials) < 0.05 and n < largest:
        n, trials = 2 * n, []
        a, b = torch.randn(2, n, n, device=device).to(getattr(torch, precision))
        for _ in range(5):
            begin = time.perf_counter()
            (a @ b).flatten()[0].item()
            trials.append(time.perf_counter() - begin)
    torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * n**3 / min(trials)


def against_airbench(
    contestant: Contestant, params: RunParams, machine: Machine, repeats: int
) -> dict | None:
    """Images per second of PyPI's airbench94 and of ours on its terms: its 50,000 images, batch and
    crop of 2 pixels. None where it is not installed."""
    try:
        import airbench
    except ImportError:
        return None
    data, working_folder = load_data(machine.data_folder), os.getcwd()
    images = torch.cat([data.train.images, data.validation.images])
    labels = torch.cat([data.train.labels, data.validation.labels])
    rates: dict[str, list[float]] = {"airbench94": [], contestant.name: []}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # its test set is read from ./cifar10
        try:
            os.mkdir("cifar10")
            for part, x, y in (
                ("train", images, labels),
                ("test", data.test.images, data.test.labels),
            ):
                content = {
                    "images": x.permute(0, 2, 3, 1).contiguous(),
                    "labels": y.clone(),
                    "classes": list(CLASSES),
                }
                torch.save(content, f"cifar10/{part}.pt")
            loader = airbench.CifarLoader(
                "cifar10", batch_size=1024, aug={"flip": True, "translate": 2}, altflip=True
            )
            params = replace(params, batch_size=1024, train_images=TRAIN_IMAGES, crop=2)
            ours = Trainer(
                contestant, params, machine, replace(data, train=type(data.train)(images, labels))
            )

            def seconds(epochs: int) -> float:
                start = time.perf_counter()
                # ends with a synchronisation
                airbench.train94(loader, epochs=epochs, verbose=False)
                return time.perf_counter() - start

            seconds(1), ours.seconds(1)  # warm-up
            # the difference is its loop, without network, whitening and padding
            for epoch in range(2, repeats + 2):
                rates["airbench94"].append(4 * len(loader) * 1024 / (seconds(5) - seconds(1)))
                rates[contestant.name].append(ours.images_per_second(epoch))
        finally:
            os.chdir(working_folder)
    return {"version": importlib.metadata.version("airbench"), "images_per_second": rates}
