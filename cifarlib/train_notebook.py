"""The train notebook as a terminal runs it: papermill executes it beside the record that it leaves.

What its cells print goes to the terminal; what they display stands in the executed copy alone.
"""

import logging
import os
import sys
import time
from pathlib import Path

import click
from filelock import Timeout
from jupyter_client.kernelspec import NoSuchKernel
from nbclient.exceptions import DeadKernelError
from papermill import execute_notebook, inspect_notebook
from papermill.exceptions import PapermillExecutionError

from cifarlib import InputError, plural, project_root, records, status
from cifarlib.params import RunParams

LOG_SECONDS = 60  # a line that is rewritten comes so often where it cannot be
PLAIN = ("InputError", "Interrupted", "Diverged")  # errors whose message says all


class Terminal:
    """The file into which the cells print, with their line of progress that begins with "\\r".

    A terminal shows it in place; a log, or a make that trains several runs, now and then.
    """

    def __init__(self, name: str):
        several = "jobserver" in os.environ.get("MAKEFLAGS", "")
        self.rewrites = sys.stdout.isatty() and not several
        self.name = name
        self.printed = -LOG_SECONDS

    def write(self, text: str) -> None:
        if self.rewrites:
            click.echo(text.replace("\r", "\r\033[K"), nl=False)  # clears what was longer
            return
        line = text.rpartition("\r")[2].strip()
        if "\r" in text:
            if time.monotonic() - self.printed < LOG_SECONDS:
                return
            self.printed = time.monotonic()
        if line:
            click.echo(f"{self.name}: {line}")

    def flush(self) -> None:
        """Do nothing: click flushes every line."""


def train(params: RunParams, outputs: Path, parameters: dict, unless_done: bool = False) -> None:
    """Execute the train notebook with ``parameters`` and say what came of it.

    outputs: the records' folder, absolute. unless_done: wait for a process that trains this run,
    and leave a finished one alone. Raises InputError, one line, for whatever ends it early.
    """
    before = status.read(params, outputs, wait=unless_done)
    if unless_done and before.state == "done":
        return
    folder = before.folder
    unfinished = folder / "unfinished"
    shown = folder
    if folder.is_relative_to(Path.cwd()):
        shown = folder.relative_to(Path.cwd())
    try:
        unfinished.mkdir(parents=True, exist_ok=True)
        if before.state == "running":
            raise Timeout(str(folder))
        with records.locked(unfinished, timeout=0):  # a second start must not touch these files
            _announce(before, shown)
            _execute(folder, f"{params.run} seed {params.seed}", parameters)
    except Timeout:
        busy = f"another process is training in {shown}"
        raise InputError(f"{busy}: wait for it, or take another seed") from None
    except BrokenPipeError:  # `make train | head` ends as other programs do
        raise
    except OSError as error:
        raise InputError(f"{shown} cannot be written: {error}") from None
    except KeyboardInterrupt:
        click.echo()  # below the line of progress
        saved = len(records.unfinished_history(folder))
        kept = "the same command goes on"
        if not saved:
            kept = "no epoch was complete, so nothing is saved"
        raise InputError(f"stopped after epoch {saved} of {params.last_epoch}: {kept}") from None
    record = records.read_record(folder, verify=False)
    shares = {part: record[f"{part}_accuracy"] for part in ("validation", "test")}
    reached = [f"{part} {100 * share:.2f} %" for part, share in shares.items() if share is not None]
    click.echo(f"{', '.join(reached)}; more in {shown}/train.ipynb (make lab)")


def _announce(before: status.Status, shown: Path) -> None:
    params = before.params
    click.echo(f"{params.run} seed {params.seed}: {params.question}")
    length = f"{plural(params.last_epoch, 'epoch')} of {plural(params.train_images, 'image')}"
    click.echo(f"{length}; record and executed notebook: {shown}")
    if before.state == "done":
        click.echo("It is finished: its record is replaced once the new one is complete.")
    elif before.state != "missing":
        click.echo(f"It is {before.state}: {before.reason}")
    click.echo("Ctrl-C stops it, and the same command goes on.")


def _execute(folder: Path, name: str, parameters: dict) -> None:
    notebook = project_root() / "notebooks" / "train.ipynb"
    output = folder / "train.ipynb"
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # of all kernels python3, this environment's
    os.environ.pop("JUPYTER_PATH", None)
    # after Ctrl-C it would print how papermill was left
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    options = {
        "kernel_name": "python3",  # whatever JupyterLab noted in the notebook
        "extra_arguments": ["--log-level=CRITICAL"],
        "progress_bar": False,
        "stdout_file": Terminal(name),
        "stderr_file": sys.stderr,
    }
    cell = inspect_notebook(notebook)  # what is as there needs no cell of injected parameters
    given = {
        name: value
        for name, value in parameters.items()
        if cell.get(name, {}).get("default", "").replace('"', "'") != repr(value)
    }
    target = str(output).replace("{", "{{").replace("}", "}}")  # papermill fills in {names}
    try:
        execute_notebook(notebook, target, given, **options)
    except PapermillExecutionError as error:
        reason = (error.evalue or "no reason given").partition("\n")[0]
        if error.ename not in PLAIN:
            reason = f"{error.ename}: {reason} (the traceback is in {output})"
        raise InputError(reason) from None
    except (DeadKernelError, NoSuchKernel, RuntimeError) as error:
        raise InputError(f"no kernel to train in: {error}") from None
