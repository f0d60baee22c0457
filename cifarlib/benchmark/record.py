"""A measurement's record, outputs/benchmark/<device>/record.json, written, read back and summed up.
Needs no torch.

contestants: {name: {about, workers, first_call_seconds, images_per_second (one a repeat),
peak_memory_bytes, convolutions, profile: {kind of operator: seconds of a step} of some}};
by_batch_size, by_images, by_epochs: rows of the contestant ``base``, its ``images_per_second`` or
``seconds``, and beside each batch size the rate of a matrix product (FLOP/s) in the precisions that
the device has units for; airbench: None, or {version, images_per_second: {airbench94, base}}."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from cifarlib import InputError, outputs_folder
from cifarlib.benchmark.contestants import CONTESTANTS, twin
from cifarlib.params import PAPER_EPOCHS, TRAIN_IMAGES
from cifarlib.records import write_text

# forward and backward pass of one image through a whitened network, the frozen filters' gradient
# left out; torch's own counter says so in a test. By the definition of a convolution: Winograd's
# algorithm does with less
FLOP_PER_IMAGE = 0.708e9
DEFAULTS = {"batch_size": 128, "repeats": 5}
IMAGES = {"cpu": 1920}  # of a repeat, where not all: a CPU takes a minute or two for 40,000


def folder_name(record: dict) -> str:
    """The device's name, and what was not the default: a short run can neither overwrite nor pass
    for a full one."""
    full = DEFAULTS | {"train_images": IMAGES.get(record["device"], TRAIN_IMAGES)}
    name = re.sub(r"[^a-z0-9]+", "-", f"{record['device']} {record['device_name']}".lower()).strip(
        "-"
    )
    return name + "".join(f"-{k.replace('_', '')}{record[k]}" for k in full if record[k] != full[k])


def digest(record: dict) -> str:
    content = {k: v for k, v in record.items() if k not in ("sha256", "folder")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write(record: dict, output_folder: str | Path | None = None) -> dict:
    """Writes the record into its folder and returns it with the folder's name. Raises InputError
    where it cannot."""
    record, output_folder = record | {"folder": folder_name(record)}, outputs_folder(output_folder)
    path = output_folder / "benchmark" / record["folder"] / "record.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(record | {"sha256": digest(record)}, indent=1) + "\n")
    except OSError as error:
        raise InputError(
            f"output_folder = {str(output_folder)!r} cannot be written: {error}"
        ) from None
    return record


def recorded(output_folder: str | Path | None = None) -> list[dict]:
    """One record for each device below outputs/benchmark/, newest device first: its newest full
    measurement, where there is none the newest shortened one (more in the name of its ``folder``).
    Raises InputError for a damaged one."""
    records = []
    for path in sorted((outputs_folder(output_folder) / "benchmark").glob("*/record.json")):
        try:
            record = json.loads(path.read_text())
            if record["sha256"] != digest(record) or path.parent.name != folder_name(record):
                raise ValueError("its content does not match its SHA-256 and folder")
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged, or no benchmark: {error!r}") from None
        records.append(record | {"folder": path.parent.name})
    # a full one has the shortest name
    records.sort(key=lambda record: (-len(record["folder"]), record["finished"]))
    last_of_device = {record["device_name"]: record for record in records}
    return sorted(last_of_device.values(), key=lambda record: record["finished"], reverse=True)


def ratios(record: dict, name: str, base: str) -> list[float]:
    """How many times as fast ``base`` trained as ``name``, repeat by repeat."""
    base_rates, rates = (record["contestants"][k]["images_per_second"] for k in (base, name))
    return [a / b for a, b in zip(base_rates, rates, strict=True)]


def epoch_seconds(record: dict, name: str) -> list[float]:
    """What an epoch of 40,000 images (its last, incomplete batch dropped) takes at each repeat's
    rate."""
    images = TRAIN_IMAGES // record["batch_size"] * record["batch_size"]
    return [images / rate for rate in record["contestants"][name]["images_per_second"]]


def fastest(record: dict, batches: str) -> str:
    """The contestant with the highest median rate of those with such batches."""
    names = [name for name in record["contestants"] if CONTESTANTS[name].batches == batches]
    return max(names, key=lambda name: median(record["contestants"][name]["images_per_second"]))


def as_seconds(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 2}f} s"


def spread(values: list[float], digits: int = 2) -> str:
    """Median, smallest and largest."""
    middle, low, high = (
        f"{value:,.{digits}f}" for value in (median(values), min(values), max(values))
    )
    return f"{middle} ({low} to {high})".replace("-", "−")


def summary_table(record: dict) -> list[dict]:
    """A row for each contestant, medians with smallest and largest repeat."""
    return [
        {
            "contestant": name,
            "workers": "" if row["workers"] is None else row["workers"],
            "images/s": spread(row["images_per_second"], 0),
            f"epoch of {TRAIN_IMAGES:,}": as_seconds(median(epoch_seconds(record, name))),
            f"{record['base']} is faster by": spread(ratios(record, name, record["base"])),
            "first call (s)": f"{row['first_call_seconds']:.1f}",
            "peak memory (GB)": f"{row['peak_memory_bytes'] / 1e9:.2f}"
            if row["peak_memory_bytes"]
            else "unknown",
        }
        for name, row in record["contestants"].items()
    ]


def summary_text(record: dict) -> str:
    """The record in a paragraph of Markdown."""
    base, loader, ready = record["base"], fastest(record, "loader"), fastest(record, "ready")
    rivals = {
        "course": "the loop over single images",
        "loader, float32": "transforms in a DataLoader in float32",
    }
    rivals.setdefault(loader, f"such transforms in their best form ({loader})")
    rivals[ready] = f"the best form without transforms ({ready})"
    plain = twin(base, fast_convolutions=False)
    if plain in record["contestants"]:
        rivals[plain] = "itself with PyTorch's convolutions"
    compared = "; ".join(
        f"{spread(ratios(record, k, base))} times as fast as {what}" for k, what in rivals.items()
    )
    fresh = [100 * (ratio - 1) for ratio in ratios(record, base, twin(base, augmentation="once"))]
    return (
        f"On {record['device_name']} an epoch of {TRAIN_IMAGES:,} images takes our loop **{as_seconds(median(epoch_seconds(record, base)))}** "
        f"in {record['precision']}: {compared}. New crops and flips in every epoch cost it {spread(fresh, 1)} % over "
        f"drawing them once. (Medians of {record['repeats']} repeats, smallest and largest.)"
    )


def bars(record: dict) -> tuple[dict[str, list[float]], str, dict[str, float], list[str]]:
    """What the figure ``benchmark_bars`` draws."""
    names = record["contestants"]
    faster = {name: median(ratios(record, name, record["base"])) for name in names}
    ours = [name for name in names if CONTESTANTS[name].batches == "ours"]
    return {name: epoch_seconds(record, name) for name in names}, record["base"], faster, ours


def roofline(record: dict) -> list[dict]:
    """The loop's arithmetic at each batch size as a share of the matrix rates measured beside
    it."""
    rows = []
    for row in record["by_batch_size"]:
        loop = [FLOP_PER_IMAGE * rate / 1e9 for rate in row["images_per_second"]]
        shown = {
            "batch size": row["batch_size"],
            f"loop, {record['precision']} (GFLOP/s)": spread(loop, 0),
        }
        for precision in ("float32", "bfloat16", "float16"):
            if precision in row:
                product = [rate / 1e9 for rate in row[precision]]
                shares = [100 * a / b for a, b in zip(loop, product, strict=True)]
                shown[f"matrix product, {precision} (GFLOP/s)"] = spread(product, 0)
                shown[f"share of {precision} (%)"] = spread(shares, 0)
        rows.append(shown)
    return rows


def time_text(record: dict, accuracies: Sequence[float], epochs: int, paper_seconds: float) -> str:
    """What the fast recipe's epochs take at the measured rate, beside what its records reached (one
    share a seed), and what the paper's 200 epochs took; in Markdown."""
    minutes = epochs * median(epoch_seconds(record, record["base"])) / 60
    text = f"{epochs} epochs of the fast recipe take **{minutes:.1f} minutes** at the rate measured here, validation apart; "
    text += f"the paper's {PAPER_EPOCHS} took {PAPER_EPOCHS * paper_seconds / 60:.0f} minutes on its GPU. "
    if not len(accuracies):
        return text + "What they reach has no record yet: `make train RUN=fast` makes one."
    mean, n = 100 * sum(accuracies) / len(accuracies), len(accuracies)
    return (
        text
        + f"They reach {mean:.2f} % of the validation images in the mean of {n} seed{'s' * (n > 1)}."
    )


def cuda_text(record: dict, kept: list[dict]) -> str:
    """airbench beside ours, or why not, and then what kept records of CUDA devices say, in
    Markdown."""
    rival = record["airbench"]
    if rival:
        theirs, ours = (rival["images_per_second"][name] for name in ("airbench94", record["base"]))
        return (
            f"airbench94 (airbench {rival['version']}) trains {spread(theirs, 0)} images/s, ours {spread(ours, 0)}: "
            f"**{spread([a / b for a, b in zip(ours, theirs, strict=True)])} times** as many."
        )
    if record["device"] == "cuda":
        return "PyPI's `airbench` was not measured: `pip install airbench` and run this again, or see the log for why."
    text = "No CUDA here: captured steps and airbench were not measured."
    others = [other for other in kept if other["device"] == "cuda"]
    for other in others:
        text += f"\n\nRecorded on {other['device_name']}, {other['finished'][:10]}: {summary_text(other)} "
        text += cuda_text(other, []) if other["airbench"] else ""
    return text if others else text + " No record of a CUDA device has been kept either."
