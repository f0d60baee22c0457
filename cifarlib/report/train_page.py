"""What only the train notebook shows of its run: before, while and after it trains."""

import inspect
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from IPython.display import clear_output, display

from cifarlib import outputs_folder, plural, records, status
from cifarlib.params import TRAIN_IMAGES, RunParams
from cifarlib.report import figures
from cifarlib.report.display import NumberedFigure, Text, duration

CAPTION = (
    "Loss per image and accuracy. Those of training are collected during the epoch, on cropped "
    "images, while the network still changes, so validation can be better. Dotted: the lowest "
    "loss that smoothed labels allow."
)


def finished_before(params: RunParams, output_folder: str | Path | None = None) -> dict | None:
    """Read the record of a finished run where JupyterLab runs the notebook: there, running
    all cells again seldom means training again; papermill always trains."""
    folder = outputs_folder(output_folder) / params.folder
    in_lab = "JPY_SESSION_NAME" in os.environ  # which Jupyter's server sets for its kernels
    is_done = in_lab and status.read(folder) == ("done", "")  # and none is begun afresh
    return records.read_record(folder) | {"folder": folder} if is_done else None


def source(thing: Callable) -> None:
    """Show the code of a class or function in a notebook; a terminal gets none of it."""
    display({"text/markdown": f"```python\n{inspect.getsource(thing)}```"}, raw=True)


class Progress:
    """The curves so far, and below them one line that is printed, for a terminal, and rewritten; a
    log file gets a line a minute. ``with`` closes it, also of a stopped run: the notebook keeps the
    curves and one sentence."""

    def __init__(self, params: RunParams):
        self.params = params
        self.history: list[dict] = []
        self.epochs = 0.0
        self.start = time.perf_counter()
        self.drawn = self.printed = -math.inf
        self.is_log = "CIFARLIB_LOG" in os.environ  # train_notebook: what is printed goes to a file
        self.figure = NumberedFigure(CAPTION)

    def __enter__(self) -> "Progress":
        hint = Text("The curves appear after the first epoch.")
        self.figure.handle = display(hint, display_id=True)  # above the line
        return self

    def __call__(self, epochs: float, history: list[dict]) -> None:
        now = time.perf_counter()
        is_new = len(history) > len(self.history)
        self.epochs = epochs
        self.history = list(history)
        if is_new and now - self.drawn > 20:
            self.draw()
        is_last = is_new and len(history) == self.params.last_epoch
        every = 60 if self.is_log else 10  # seconds
        if is_last or now - self.printed > every:
            text = self.line()
            print(f"{text}\n" if self.is_log else f"\r{text}\033[K", end="", flush=True)
            self.printed = now

    def __exit__(self, *error) -> None:
        if not self.is_log:
            print(flush=True)
        done = len(self.history)
        text = "Complete"
        if done < self.params.last_epoch:
            text = f"Stopped in epoch {done + 1} of {self.params.last_epoch}"
        elif error[0]:
            text = "Stopped before the record was written"
        seconds = duration(time.perf_counter() - self.start)
        clear_output(wait=True)
        self.figure.handle = None  # its output is cleared
        if done:
            self.draw()
        display(Text(f"{text}: {plural(done, 'epoch')} trained, {seconds} in this session."))

    def draw(self) -> None:
        p = self.params
        self.figure.draw(figures.training_curves(self.history, p.last_epoch, p.label_smoothing))
        self.drawn = time.perf_counter()

    def line(self) -> str:
        """Say in one line how far it is and, once there was an epoch, how long it takes."""
        text = f"epoch {self.epochs:.1f} of {self.params.last_epoch}"
        if not self.history:
            return text
        row = self.history[-1]
        text += f", loss {row['train_loss']:.4f}"
        if self.params.train_images <= TRAIN_IMAGES:  # otherwise no image validates
            text += f", validation {100 * row['validation_accuracy']:.2f} %"
        seconds = row["train_seconds"] + row["validation_seconds"]
        text += f", {seconds:.1f} s an epoch"
        if len(self.history) == self.params.last_epoch:
            return f"{text}, evaluating on the held-out images"
        left = seconds * (self.params.last_epoch - self.epochs + 1)  # + 1: six views, at the end
        return f"{text}, {duration(left)} left"
