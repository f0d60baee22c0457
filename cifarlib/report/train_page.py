"""What the train notebook shows of its run: before, while and after it trains."""

import contextlib
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from IPython.display import clear_output
from tqdm import tqdm

from cifarlib import outputs_folder, project_root, records, status
from cifarlib.device.choice import pick_device
from cifarlib.model import build_model
from cifarlib.params import PAPER_EPOCHS, TRAIN_IMAGES, RunParams
from cifarlib.report import figures
from cifarlib.report.claims import binomial_interval
from cifarlib.report.display import NumberedFigure, Table, Text, computed_on, duration
from cifarlib.train import estimate_epoch_seconds


def finished_before(params: RunParams, output_folder: str | Path | None = None) -> dict | None:
    """The record of this run where it is finished and JupyterLab runs the notebook: there all cells
    are run again for many reasons, and hours of training come unasked. papermill trains whenever it
    is called."""
    if "JPY_SESSION_NAME" not in os.environ:  # which Jupyter's server sets for its kernels
        return None
    cell = status.read(params, outputs_folder(output_folder))
    under_way = (cell.folder / "unfinished" / "checkpoint.pt").exists()
    return cell.record if cell.state == "done" and not under_way else None


def announce(params: RunParams, device: str, finished: dict | None = None) -> Text:
    """How long the run will take on this machine, measured on a few steps, and how to ask for less;
    of a ``finished`` one, how to train it again."""
    if finished:
        return Text(
            f"**This run is finished** ({finished['finished'][:10]}, {computed_on(finished)}): below is its record. To train "
            "it again, set `resume = False` in the cell above; the record is replaced once the new one is complete."
        )
    kind = pick_device(device).type
    epoch = estimate_epoch_seconds(params, pick_device(device))
    machine = {"cpu": "CPU", "mps": "Apple GPU"}.get(kind, "GPU")
    bound = "At most" if kind == "cuda" else "About"  # steps are measured before they are captured
    text = f"**{bound} {duration(epoch * params.last_epoch)} on this {machine}** for "
    text += f"{params.last_epoch} epoch{'s' * (params.last_epoch > 1)} of {duration(epoch)}."
    if params.last_epoch > 10:
        text += f" For less: `-p epochs 10` takes about {duration(10 * epoch)} (the schedule squeezed into 10 epochs)."
    if kind == "cpu" and (fewer := _faster_on_fewer_threads(params, epoch)):
        text += f" **Something else keeps this machine busy**: with {fewer}."
    return Text(
        text + " It can be stopped at any time: run again with `resume = True`, it goes on."
    )


def _faster_on_fewer_threads(params: RunParams, epoch: float) -> str:
    """What to set, where another process is busy and an epoch of so many seconds takes less on one
    thread fewer: a thread without a core of its own holds the others up. Not set here, for the
    number of threads decides the rounding."""
    threads = torch.get_num_threads()
    if threads < 2 or not hasattr(os, "getloadavg") or os.getloadavg()[0] < 0.5:
        return ""
    torch.set_num_threads(threads - 1)
    try:
        fewer = estimate_epoch_seconds(params, pick_device("cpu"))
    finally:
        torch.set_num_threads(threads)
    return (
        f"`OMP_NUM_THREADS={threads - 1}` an epoch takes {duration(fewer)}"
        if fewer < 0.9 * epoch
        else ""
    )


def layers(params: RunParams) -> Table:
    """The network, layer by layer, with a line of totals."""
    rows = figures.layer_table(
        build_model(params.seed, torch.zeros(24, 3, 2, 2) if params.whitening else None)
    )
    total = {name: sum(row[name] for row in rows) for name in ("parameters", "trained")}
    rows = [row | {"output": "x".join(map(str, row["output"]))} for row in rows]
    rows.append({"layer": "all", "kind": "", "output": ""} | total)
    return Table([row | {name: f"{row[name]:,}" for name in total} for row in rows])


@contextlib.contextmanager
def stop_waits() -> Iterator[None]:
    """A stop within is raised at the end. Drawing frees much, and a KeyboardInterrupt in what is
    called for a freed object is lost, as Python ignores exceptions there."""
    if threading.current_thread() is not threading.main_thread():  # no other is interrupted
        yield
        return
    stops = []
    before = signal.signal(signal.SIGINT, lambda *_: stops.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if stops:
        raise KeyboardInterrupt


class Progress:
    """One line of progress, on stdout for ``papermill --log-output``, and below it the curves so
    far; at the end both are replaced by their final form."""

    def __init__(self, params: RunParams):
        self.params, self.bar, self.epochs_shown, self.last_drawn = params, None, 0, 0.0
        self.figure = NumberedFigure(
            "Loss per image and accuracy after each epoch; the training values are those met during the epoch, on "
            "augmented images."
        )

    def __call__(self, epochs: float, history: list[dict]) -> None:
        total = self.params.last_epoch
        if self.bar is None:
            self.bar = tqdm(
                desc=f"{self.params.run} seed {self.params.seed}",
                initial=epochs,
                total=total,
                file=sys.stdout,
                mininterval=10 if pick_device().type == "cpu" else 2,
                miniters=0,
                smoothing=0,
                bar_format="{desc}: epoch {n:.1f} of {total}{postfix}, {elapsed} passed, {remaining} left",
            )
        if len(history) > self.epochs_shown:
            row, self.epochs_shown = history[-1], len(history)
            text = f"loss {row['train_loss']:.4f}"
            if not math.isnan(row["validation_accuracy"]):
                text += f", validation {100 * row['validation_accuracy']:.2f} %"
            self.bar.set_postfix_str(
                f"{text}, {row['train_seconds'] + row['validation_seconds']:.1f} s an epoch",
                refresh=False,
            )
            if len(history) < total and time.perf_counter() - self.last_drawn > 5:
                self.show(history)
        self.bar.update(epochs - self.bar.n)
        if len(history) == total:
            line = str(self.bar)
            self.bar.close()
            clear_output(wait=True)
            print(line)
            self.figure.handle = None  # its output was cleared
            self.show(history)

    def show(self, history: list[dict]) -> None:
        """The curves up to here."""
        with stop_waits():
            self.figure.draw(
                figures.training_curves(
                    history, self.params.last_epoch, self.params.label_smoothing
                )
            )
        self.last_drawn = time.perf_counter()


def beside_the_paper(record: dict, published: dict) -> Text:
    """One sentence: what this run reached, and how that may be set beside the paper."""
    paper, part = published["validation_accuracy"].get(record["run"]), "validation"
    text = f"{record['run']}, seed {record['seed']}"
    if record["validation_accuracy"] is None:
        text, part = (
            f"{text}, trained on all {record['train_images']:,} images, so that none is left to validate on",
            "test",
        )
    text += f": **{100 * record[f'{part}_accuracy']:.2f} %** of the {part} images are right after "
    text += f"{record['epochs_trained']} epoch{'s' * (record['epochs_trained'] > 1)}"
    full = (
        record["epochs"] == record["epochs_trained"] == PAPER_EPOCHS
        and record["train_images"] == TRAIN_IMAGES
    )
    if paper is None:
        best = max(published["validation_accuracy"].values())
        return Text(
            f"{text}; the paper has no such run, its best has {best:.2f} % after {PAPER_EPOCHS} epochs."
        )
    if full:
        return Text(
            f"{text}; the paper reports {paper:.2f} %. It is one seed: another will differ."
        )
    return Text(
        f"{text}. The paper reports {paper:.2f} % after {PAPER_EPOCHS} epochs on all {TRAIN_IMAGES:,} training images: "
        "this run has another schedule or less data and is no comparison."
    )


def results_table(record: dict) -> Table:
    """Validation and test accuracy with their binomial 95 % intervals, loss, and accuracy with
    test-time augmentation."""
    rows = []
    for part in ("validation", "test"):
        n, share, views = (
            record.get(f"{part}_{name}") for name in ("images", "accuracy", "accuracy_views")
        )
        if n:
            low, high = binomial_interval(share, n)
            row = {"part": part, "images": f"{n:,}", "accuracy": f"{100 * share:.2f} %"}
            row["95 % interval (images only)"] = f"{100 * low:.2f} to {100 * high:.2f} %"
            row["loss per image"] = f"{record[f'{part}_loss']:.4f}"
            rows.append(row | {"accuracy over six views": f"{100 * views:.2f} %" if views else "–"})
    return Table(rows)


def left_behind(folder: Path) -> Text:
    """What the run left, what it was computed on, and how to read it."""
    record = records.read_record(folder)
    names = [*record["files"], "record.json"]
    text = "".join(
        f"\n- `{name}` ({(folder / name).stat().st_size / 1000:,.0f} kB)" for name in names
    )
    shown = folder.relative_to(project_root()) if folder.is_relative_to(project_root()) else folder
    return Text(
        f"The record lies in `{shown}`:\n{text}\n\nComputed on {computed_on(record)}. Read it with "
        "`records.read_record(folder)`, the logits with `records.read_predictions(folder)`, the model with "
        "`predict.load_model(folder)`."
    )
