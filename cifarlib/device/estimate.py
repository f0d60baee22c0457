"""How long an epoch will take on this machine."""

import time

import torch

from cifarlib.device import convolutions
from cifarlib.device.choice import keep_freed_memory, pick_precision
from cifarlib.loop import Training, make_optimizer, train_step
from cifarlib.model import build_model
from cifarlib.params import RunParams
from cifarlib.preprocess import Normalizer


def estimate_epoch_seconds(
    params: RunParams, device: torch.device, validation_images: int = 10_000
) -> float:
    """Seconds an epoch will take, validation included, from a few steps of a scratch network."""
    if device.type == "cpu":
        keep_freed_memory()
    precision = pick_precision(device)
    model = build_model(0, torch.zeros(24, 3, 2, 2) if params.whitening else None).to(device)
    convolutions.use_fast(model, precision)
    batch = min(params.batch_size, 128 if device.type == "cpu" else 1024)
    x = torch.zeros(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    y = torch.zeros(batch, dtype=torch.int64, device=device)
    unused = Normalizer(torch.zeros(1), torch.ones(1))
    training = Training(
        params, model, make_optimizer(params, model), x, y, unused, getattr(torch, precision)
    )
    steps = 2 if device.type == "cpu" else 10
    for _ in range(2):  # warm-up
        train_step(training, x, y)[0].item()
    start = time.perf_counter()
    for _ in range(steps):
        loss, _ = train_step(training, x, y)
    loss.item()  # waits for the device
    per_image = (time.perf_counter() - start) / (batch * steps)
    # a validation image costs the forward pass, a third of a training image's arithmetic
    return per_image * (params.steps_per_epoch * params.batch_size + validation_images / 3)
