"""The training loop on one device: optimizer, step, epoch, validation, and which precision and memory setting is fast."""

import ctypes
import functools
import os
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlib import InputError
from cifarlib.model import Conv, build_model
from cifarlib.params import RunParams
from cifarlib.preprocess import crop_and_flip, draw, draw_order, normalize


def pick_device(name: str = "auto") -> torch.device:
    """ "auto": CUDA, else MPS, else the CPU. Raises InputError for a device that is not there."""
    there = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    there += ["mps"] if torch.backends.mps.is_available() else []
    there += ["cpu"]
    if name == "auto":
        return torch.device(there[0])
    if name == "cuda" and "cuda:0" in there:
        return torch.device("cuda:0")
    if name not in there:
        raise InputError(f"device = {name!r} is not there: choose one of auto, {', '.join(there)}")
    return torch.device(name)


@functools.cache
def pick_precision(device: torch.device) -> str:
    """ "bfloat16" (autocast; weights stay float32) where the device gains from it, else "float32".

    CUDA with bf16 units gains. A CPU is measured, on the layer where most of a step's time goes: some have matrix
    units for bf16, some convert it. The two take turns and only the time that this thread computes counts, so that
    what else runs on the machine decides nothing: another precision is another result.
    """
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type != "cpu":
        return "float32"
    with torch.random.fork_rng(devices=[]):
        layer = Conv(256, 256, padding="same")
    x = torch.ones(128, 256, 7, 7).contiguous(memory_format=torch.channels_last)
    seconds: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
    with torch.no_grad():
        for _ in range(6):
            for dtype, trials in seconds.items():
                start = time.thread_time()
                with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                    layer(x)
                trials.append(time.thread_time() - start)
    return "bfloat16" if min(seconds[torch.float32]) > 1.3 * min(seconds[torch.bfloat16]) else "float32"


@functools.cache
def keep_freed_memory() -> None:
    """Has glibc keep freed memory for the next step. By default it returns every large tensor to the system, which
    then zeroes the pages of the next one: at batch 1024 that was half of a CPU step's time. Elsewhere: no effect."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: no private mapping for tensors below 1 GiB
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap's top is not given back


def make_optimizer(params: RunParams, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """SGD, SGD with Nesterov momentum (coupled weight decay) or AdamW (decoupled), over what is trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    common = {"lr": params.learning_rate, "weight_decay": params.weight_decay, "fused": device.type in ("cpu", "cuda")}
    if params.optimizer == "adamw":
        return torch.optim.AdamW(trained, **common)
    nesterov = params.optimizer == "sgd-nesterov"
    return torch.optim.SGD(trained, momentum=params.momentum, nesterov=nesterov, **common)


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, params: RunParams, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """One update from images (B, 3, 32, 32) and labels (B,): the loss in the run's reduction and the number right,
    both still on the device."""
    with torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=False):
        logits = model(x)
    logits = logits.float()
    loss = F.cross_entropy(logits, y, label_smoothing=params.label_smoothing, reduction=params.loss_reduction)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach(), (logits.detach().argmax(1) == y).sum()


def epoch_plan(params: RunParams, epoch: int, n: int) -> tuple[Tensor, Tensor | None]:
    """What epoch 1, 2, ... does with n images, on the CPU: their order (n,) and in that order their crops and flips
    (n, 3), None without augmentation."""
    order = draw_order(params.seed, epoch, n)
    if params.augmentation == "per_epoch":
        return order, draw(params.seed, epoch, n)
    # "once": each image's one crop and flip, in this epoch's order
    return order, draw(params.seed, 0, n)[order] if params.augmentation == "once" else None


def epoch_row(params: RunParams, epoch: int, loss_sum: Tensor, right: Tensor, last_loss: Tensor) -> dict:
    """An epoch's line of the history from the sums of its steps' losses and right answers; waits for the device."""
    steps = params.steps_per_epoch
    images = steps * params.batch_size
    return {
        "epoch": epoch,
        "learning_rate": params.learning_rate_at(epoch * steps - 1),
        "train_loss": loss_sum.item() / (images if params.loss_reduction == "sum" else steps),
        "train_accuracy": right.item() / images,
        "last_batch_loss": last_loss.item(),
    }


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    scale: tuple[Tensor, Tensor],
    params: RunParams,
    dtype: torch.dtype,
    epoch: int,
    on_step: Callable[[int], object] = lambda step: None,
) -> dict:
    """Epoch 1, 2, ... over uint8 images (N, 3, 32, 32, channels_last) on their device, which is read once, at the end.

    scale: mean and standard deviation from ``preprocess.normalization``. Returns the epoch's line of the history.
    """
    steps, size = params.steps_per_epoch, params.batch_size
    order, draws = (None if t is None else t.to(images.device) for t in epoch_plan(params, epoch, len(images)))
    loss_sum = torch.zeros((), device=images.device)
    right = torch.zeros((), dtype=torch.int64, device=images.device)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = params.learning_rate_at((epoch - 1) * steps + step)
        part = slice(step * size, (step + 1) * size)
        x = crop_and_flip(images, *scale, order[part], None if draws is None else draws[part], params.padding)
        loss, correct = train_step(model, optimizer, x, labels[order[part]], params, dtype)
        loss_sum += loss
        right += correct
        on_step(step + 1)
    return epoch_row(params, epoch, loss_sum, right, loss)


def make_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    scale: tuple[Tensor, Tensor],
    params: RunParams,
    dtype: torch.dtype,
) -> Callable[..., dict]:
    """``epoch(number, on_step)``: train_epoch with all but its last two arguments given, captured where there is CUDA."""
    given = (model, optimizer, images, labels, scale, params, dtype)
    if images.device.type != "cuda":
        return functools.partial(train_epoch, *given)
    from cifarlib.capture import CapturedEpoch

    return CapturedEpoch(*given)


def estimate_epoch_seconds(params: RunParams, device: torch.device, validation_images: int = 10_000) -> float:
    """Seconds an epoch will take here, validation included, from a few steps of a scratch network."""
    if device.type == "cpu":
        keep_freed_memory()
    dtype = getattr(torch, pick_precision(device))
    model = build_model(0, torch.zeros(24, 3, 2, 2) if params.whitening else None).to(device)
    optimizer = make_optimizer(params, model, device)
    batch = min(params.batch_size, 128 if device.type == "cpu" else 1024)
    x = torch.zeros(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.zeros(batch, dtype=torch.int64, device=device)
    steps = 2 if device.type == "cpu" else 10
    for _ in range(2):  # warm-up
        train_step(model, optimizer, x, y, params, dtype)[0].item()
    start = time.perf_counter()
    for _ in range(steps):
        loss, _ = train_step(model, optimizer, x, y, params, dtype)
    loss.item()  # waits for the device
    per_image = (time.perf_counter() - start) / (batch * steps)
    # a validation image costs the forward pass, a third of a training image's arithmetic
    return per_image * (params.steps_per_epoch * params.batch_size + validation_images / 3)


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    images: Tensor,
    mean: Tensor,
    std: Tensor,
    dtype: torch.dtype = torch.float32,
    batch: int | None = None,
) -> Tensor:
    """Logits (N, 10), float32 on the images' device, of uint8 images (N, 3, 32, 32), in evaluation mode; mean and std
    from ``preprocess.normalization`` of these images."""
    was_training = model.training
    batch = batch or (250 if images.device.type == "cpu" else 2000)
    model.eval()
    logits = []
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        x = normalize(images[part], *(s[part] if len(s) > 1 else s for s in (mean, std)))
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=False):
            logits.append(model(x))
    model.train(was_training)
    return torch.cat(logits).float()


def accuracy(logits: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> float:
    """Share of images whose largest logit, of equal ones the first, is their label's."""
    logits, labels = (x.cpu().numpy() if isinstance(x, Tensor) else x for x in (logits, labels))
    return int((logits.argmax(1) == labels).sum()) / len(labels)


def mean_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> float:
    """Cross-entropy per image, with the smoothing that the run trained with."""
    return float(F.cross_entropy(logits, labels, label_smoothing=label_smoothing))
