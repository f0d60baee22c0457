"""What only the train notebook shows of its run: before, while and after it trains."""

import contextlib
import inspect
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from IPython.display import clear_output, display

from cifarlib import outputs_folder, plural, records, status
from cifarlib.device.choice import pick_device
from cifarlib.params import PAPER_EPOCHS, TRAIN_IMAGES, RunParams
from cifarlib.provenance import computed_on
from cifarlib.report import figures
from cifarlib.report.display import NumberedFigure, Text, duration

CAPTION = "Loss per image and accuracy; those of training are met during the epoch, on crops."
NEAR_CHANCE = 0.25  # chance is 0.1
HELD_OUT = 10_000  # images that validate, and that test


def finished_before(params: RunParams, output_folder: str | Path | None = None) -> dict | None:
    """Read the record of a finished run where JupyterLab runs the notebook: there all cells are run
    again for many reasons. papermill trains whenever it is called."""
    if "JPY_SESSION_NAME" not in os.environ:  # which Jupyter's server sets for its kernels
        return None
    folder = outputs_folder(output_folder) / params.folder
    under_way = any((folder / "unfinished").glob("checkpoint.*"))
    is_done = status.read(folder).state == "done" and not under_way
    return records.read_record(folder) if is_done else None


def announce(params: RunParams, finished: dict | None = None) -> Text:
    """Say what is about to be trained; of a ``finished`` run, how to train it again."""
    if finished:
        text = f"**This run is finished** ({finished['finished'][:10]}, {computed_on(finished)}). "
        text += "Below is its record. To train it again, set `resume = False` in the cell above."
        return Text(text)
    text = f"**{plural(params.last_epoch, 'epoch')} will be trained.** The line below the curves "
    text += "says how long that takes here. It can be stopped at any time: run all cells again, "
    return Text(f"{text}and it goes on.")


def source(thing: Callable) -> None:
    """Show the code of a class or function in a notebook; a terminal gets none of it."""
    display({"text/markdown": f"```python\n{inspect.getsource(thing)}```"}, raw=True)


@contextlib.contextmanager
def stop_waits() -> Iterator[None]:
    """Raise a stop within at the end. Drawing frees much, and a KeyboardInterrupt in what is called
    for a freed object is lost, as Python ignores exceptions there."""
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
    """The curves so far, and below them one line that is printed, for a terminal, and rewritten.
    ``with`` closes it, also of a stopped run: the notebook keeps the curves and one sentence."""

    def __init__(self, params: RunParams):
        self.params = params
        self.history: list[dict] = []
        self.epochs = self.first = 0.0
        self.start = time.perf_counter()
        self.drawn = self.printed = -math.inf
        self.every = 10 if pick_device().type == "cpu" else 2
        self.figure = NumberedFigure(CAPTION)

    def __enter__(self) -> "Progress":
        hint = Text("The curves appear after the first epoch.")
        self.figure.handle = display(hint, display_id=True)  # above the line
        return self

    def __call__(self, epochs: float, history: list[dict]) -> None:
        now = time.perf_counter()
        if self.printed == -math.inf:  # the first call
            self.start = now
            self.first = epochs
        is_new = len(history) > len(self.history)
        self.epochs = epochs
        self.history = list(history)
        if is_new and now - self.drawn > 5:
            self.draw()
        if is_new or now - self.printed > self.every:
            print(f"\r{self.line(now - self.start)}\033[K", end="", flush=True)
            self.printed = now

    def __exit__(self, *error) -> None:
        print(flush=True)
        done = len(self.history)
        text = "Complete"
        if done < self.params.last_epoch:
            text = f"Stopped in epoch {int(self.epochs) + 1} of {self.params.last_epoch}"
        seconds = duration(time.perf_counter() - self.start)
        clear_output(wait=True)
        self.figure.handle = None  # its output is cleared
        if done:
            self.draw()
        display(Text(f"{text}: {plural(done, 'epoch')} trained, {seconds} in this session."))

    def draw(self) -> None:
        """Show the curves up to here."""
        p = self.params
        with stop_waits():
            curves = figures.training_curves(self.history, p.last_epoch, p.label_smoothing)
            self.figure.draw(curves)
        self.drawn = time.perf_counter()

    def line(self, seconds: float) -> str:
        """Say in one line how far it is after so many seconds of this session."""
        text = f"epoch {self.epochs:.1f} of {self.params.last_epoch}"
        if self.history:
            row = self.history[-1]
            text += f", loss {row['train_loss']:.4f}"
            if not math.isnan(row["validation_accuracy"]):
                text += f", validation {100 * row['validation_accuracy']:.2f} %"
            text += f", {row['train_seconds'] + row['validation_seconds']:.1f} s an epoch"
        if len(self.history) == self.params.last_epoch:
            return f"{text}, evaluating on the held-out images"
        if self.epochs > self.first:
            text += f", {duration(seconds * self.work_left())} left"
        return text

    def work_left(self) -> float:
        """How many times the work of this session is still to be done, the evaluation included."""
        images = self.params.steps_per_epoch * self.params.batch_size
        validation = test = HELD_OUT / 3  # a forward pass costs a third of a training step
        if self.params.train_images > TRAIN_IMAGES:
            validation = 0
        # on whole splits six views of all held-out images, too
        views = 6 * (validation + test) if self.params.train_images >= TRAIN_IMAGES else 0
        epochs = self.epochs - self.first
        done = epochs * images + (len(self.history) - int(self.first)) * validation
        left = self.params.last_epoch - self.epochs
        return (left * images + math.ceil(left) * validation + test + views) / done


def result(record: dict, published: dict) -> Text:
    """Say what this run reached, and how that may be set beside the paper."""
    text = ""
    for part in ("validation", "test"):
        if record[f"{part}_images"]:
            text += f"**{100 * record[f'{part}_accuracy']:.2f} %** of the {part} images are right. "
    run = record["run"]
    paper = published["validation_accuracy"]
    name = run if run in paper else "best run"
    text += f"The paper's {name} reaches {paper.get(run, max(paper.values())):.2f} % of its "
    text += f"validation images after {PAPER_EPOCHS} epochs on {TRAIN_IMAGES:,}"
    if (record["epochs_trained"], record["train_images"]) != (PAPER_EPOCHS, TRAIN_IMAGES):
        text += f"; this run had {plural(record['epochs_trained'], 'epoch')} on "
        text += f"{record['train_images']:,}, so that the two cannot be compared"
    text += "."
    if record["test_accuracy"] < NEAR_CHANCE:
        text += " **That is near chance, 10 %**: the note below says why."
    return Text(text)
