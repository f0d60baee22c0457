"""How near the training loop comes to this machine's matrix rate: ``make bench`` (the machine should be idle)."""

import dataclasses
import hashlib
import json
import re
import statistics
import sys
import time
from pathlib import Path

import torch

from cifarlib import InputError, project_root, records, user_path
from cifarlib.loop import keep_freed_memory, make_epoch, make_optimizer, pick_device, pick_precision
from cifarlib.model import build_model
from cifarlib.params import TRAIN_IMAGES, load_params

# forward and backward pass of one image through a whitened network, the frozen filters' gradient left out;
# torch's own counter says so in this module's test
FLOP_PER_IMAGE = 0.708e9

# -- the record: outputs/benchmark/<device>/record.json --
#
# device, device_name, precision, batch_size, train_images (of one repeat), repeats; finished, commit, dirty, packages,
#   data_sha256, sha256 (of all else)
# contestants: {name: {about, images_per_second: [one a repeat], first_call_seconds, peak_memory_bytes, workers,
#   profile: {kind: seconds of one step} or null}}
# matrix_flop_per_second: {dtype: [one a repeat]} and by_batch_size, by_images, by_epochs: {number: [...]}, see measure
# airbench: {name: [images per second, one a repeat]} or null

DEFAULTS = {  # of a full measurement; a CPU takes a minute or two for an epoch of 40,000 images
    "cpu": {"batch_size": 128, "train_images": 1920, "repeats": 5},
    "cuda": {"batch_size": 128, "train_images": TRAIN_IMAGES, "repeats": 5},
    "mps": {"batch_size": 128, "train_images": TRAIN_IMAGES // 4, "repeats": 5},
}


def folder_name(record: dict) -> str:
    """The device's name, and what was not the default: a short run can neither overwrite nor pass for a full one."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{record['device']} {record['device_name']}".lower()).strip("-")
    short = {"batch_size": "batch", "train_images": "images", "repeats": "repeats"}
    defaults = DEFAULTS[record["device"]]
    return name + "".join(f"-{word}{record[k]}" for k, word in short.items() if record[k] != defaults[k])


def _digest(record: dict) -> str:
    content = {k: v for k, v in record.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _folder(output_folder: str | Path | None) -> Path:
    return (user_path("output_folder", output_folder) or project_root() / "outputs") / "benchmark"


def save(record: dict, output_folder: str | Path | None = None) -> Path:
    """Writes benchmark/<device>/record.json below outputs/ and returns its path."""
    path = _folder(output_folder) / folder_name(record) / "record.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write_text(path, json.dumps({**record, "sha256": _digest(record)}, indent=1) + "\n")
    except OSError as error:
        raise InputError(f"output_folder = {str(output_folder)!r} cannot be written: {error}") from None
    return path


def recorded(output_folder: str | Path | None = None) -> list[dict]:
    """One record for each device below outputs/benchmark/, newest device first: the newest full measurement, where
    there is none the newest shortened one. Raises InputError for a damaged record."""
    best: dict[str, tuple] = {}
    for path in sorted(_folder(output_folder).glob("*/record.json")):
        try:
            record = json.loads(path.read_text())
            intact = record["sha256"] == _digest(record)
            rank = all(record[k] == v for k, v in DEFAULTS[record["device"]].items()), record["finished"]
            device = record["device_name"]
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged, or no benchmark: {error!r}") from None
        if not intact:
            raise InputError(f"{path} is damaged: its content does not match its SHA-256")
        if device not in best or rank > best[device][0]:
            best[device] = rank, record
    return [record for _, record in sorted(best.values(), key=lambda pair: pair[0][1], reverse=True)]


def ratios(record: dict, name: str, base: str = "ours") -> list[float]:
    """How many times as fast ``base`` trained as ``name``, repeat by repeat: neighbours in time are compared."""
    rates = [record["contestants"][k]["images_per_second"] for k in (base, name)]
    return [a / b for a, b in zip(*rates, strict=True)]


def matrix_rate(dtype: torch.dtype, device: torch.device, n: int = 4096) -> float:
    """FLOP/s of the best of 5 n x n x n products."""
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    trials = []
    for _ in range(5):
        start = time.perf_counter()
        (a @ b).flatten()[0].item()
        trials.append(time.perf_counter() - start)
    return 2 * n**3 / min(trials)


def images_per_second(batch: int, precision: str, device: torch.device, images: int = 2048) -> float:
    """The rate of the training loop, augmentation and all, over so many images that look like CIFAR-10's."""
    # run7-mean, not run 7: with the loss summed, batch 1024 ran at about a third of this rate, not yet explained
    short = dataclasses.replace(load_params("run7-mean"), batch_size=batch, train_images=max(images, 2 * batch))
    dtype = getattr(torch, precision)
    model = build_model(0, torch.randn(24, 3, 2, 2)).to(device)
    optimizer = make_optimizer(short, model, device)
    pixels = torch.randint(0, 256, (short.train_images, 3, 32, 32), dtype=torch.uint8, device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (short.train_images,), device=device)
    scale = tuple(torch.full((1, 3, 1, 1), grey, device=device) for grey in (120.0, 64.0))
    warm_up = dataclasses.replace(short, train_images=2 * batch)
    make_epoch(model, optimizer, pixels[: 2 * batch], labels[: 2 * batch], scale, warm_up, dtype)(1)
    run_epoch = make_epoch(model, optimizer, pixels, labels, scale, short, dtype)
    start = time.perf_counter()
    run_epoch(2)
    return short.steps_per_epoch * batch / (time.perf_counter() - start)


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
            rates.append(images_per_second(batch, precision, device))
    for name, rates in matrix.items():
        print(f"matrix product, {name}: {_spread([r / 1e9 for r in rates])} GFLOP/s")
    for batch, rates in loop.items():
        print(f"training, batch {batch}, {precision}: {_spread(rates)} images/s")
        for name, others in matrix.items():  # a share compares neighbours in time: machines are noisy
            shares = [100 * FLOP_PER_IMAGE * r / m for r, m in zip(rates, others, strict=True)]
            print(f"  {_spread(shares)} % of the {name} matrix rate")
    print(f"peak memory: {records.peak_memory_bytes(device) / 1e9:.2f} GB (without CIFAR-10)")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    sys.exit(main())
