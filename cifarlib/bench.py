"""How near the training loop comes to this machine's matrix rate: ``make bench`` (the machine should be idle)."""

import statistics
import sys
import time

import torch

from cifarlib.augment import crop_and_flip, draw
from cifarlib.model import build_model
from cifarlib.params import load_params
from cifarlib.train import keep_freed_memory, make_optimizer, pick_device, pick_precision, train_step

# forward and backward pass of run 7's network, the frozen first layer's gradients left out; counted by forward hooks
# times three (a backward pass costs two forward ones); the test of this module counts again
FLOP_PER_IMAGE = 0.708e9


def matrix_rate(dtype: torch.dtype, device: torch.device, n: int = 4096) -> float:
    """FLOP/s of the best of 5 n x n x n products."""
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    trials = []
    for _ in range(5):
        start = time.perf_counter()
        (a @ b).flatten()[0].item()
        trials.append(time.perf_counter() - start)
    return 2 * n**3 / min(trials)


def images_per_second(batch: int, precision: str, device: torch.device, steps: int) -> float:
    """The loop's rate over ``steps`` steps of run7-mean: augmentation, forward, loss, backward, optimizer."""
    params, dtype = load_params("run7-mean"), getattr(torch, precision)  # a sum over 1,024 images would diverge
    model = build_model(0, torch.randn(24, 3, 2, 2)).to(device)
    optimizer = make_optimizer(params, model, device)
    images = torch.randn(4096, 3, 32, 32, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (4096,), device=device)
    index, draws = torch.arange(batch, device=device), draw(0, 1, batch).to(device)

    def step() -> torch.Tensor:
        x = crop_and_flip(images, index, draws, params.padding)
        return train_step(model, optimizer, x, labels[index], params, dtype)[0]

    step(), step().item()
    start = time.perf_counter()
    for _ in range(steps):
        loss = step()
    loss.item()
    return steps * batch / (time.perf_counter() - start)


def main(batches: tuple[int, ...] = (128, 1024), repeats: int = 5) -> None:
    """Prints matrix rates and, for each batch size, the loop's rate, measured in turn, and their ratio."""
    device = pick_device()
    if device.type == "cpu":
        keep_freed_memory()
    precision = pick_precision(device)
    matrix: dict[str, list[float]] = {"float32": [], "bfloat16": []}
    loop: dict[int, list[float]] = {batch: [] for batch in batches}
    for _ in range(repeats):
        for name, rates in matrix.items():
            rates.append(matrix_rate(getattr(torch, name), device))
        for batch, rates in loop.items():
            rates.append(images_per_second(batch, precision, device, steps=max(2, 2048 // batch)))
    for name, rates in matrix.items():
        print(f"matrix product, {name}: {_spread([r / 1e9 for r in rates])} GFLOP/s")
    for batch, rates in loop.items():
        print(f"training, batch {batch}, {precision}: {_spread(rates)} images/s")
        for name, others in matrix.items():  # a share compares neighbours in time: machines are noisy
            shares = [100 * FLOP_PER_IMAGE * r / m for r, m in zip(rates, others, strict=True)]
            print(f"  {_spread(shares)} % of the {name} matrix rate")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    sys.exit(main())
