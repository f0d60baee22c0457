"""The train notebook as a terminal runs it: papermill executes it beside the record that it leaves.

What its cells print goes to the terminal; what they display stands in the executed copy alone.
"""

import os
import sys
from pathlib import Path

import click
from papermill import execute_notebook
from papermill.exceptions import PapermillExecutionError

from cifarlib import InputError, project_root, records, status
from cifarlib.params import RunParams


def train(params: RunParams, folder: Path, parameters: dict, unless_done: bool = False) -> None:
    """Execute the train notebook with ``parameters`` and say what came of it.

    folder: the run's own. unless_done: wait for a process that trains this run, and leave a
    finished one alone. Raises InputError or OSError, one line, for whatever ends it early.
    """
    before = status.read(folder, wait=unless_done)
    if unless_done and before.state == "done":
        return
    if before.state == "running":
        raise InputError(f"another process is training in {folder}: wait, or take another seed")
    (folder / "unfinished").mkdir(parents=True, exist_ok=True)
    with records.locked(folder / "unfinished", timeout=0):  # refuses a second start at once
        click.echo(f"{params.run} seed {params.seed}: {params.question}")
        click.echo(f"record and executed notebook: {folder} (Ctrl-C stops it, the same goes on)")
        _execute(folder / "train.ipynb", parameters)
    record = records.read_record(folder, verify=False)
    reached = f"test {100 * record['test_accuracy']:.2f} %"
    if record["validation_accuracy"] is not None:
        reached = f"validation {100 * record['validation_accuracy']:.2f} %, {reached}"
    click.echo(f"{reached}; more in {folder}/train.ipynb (make lab)")


def _execute(output: Path, parameters: dict) -> None:
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # of all kernels python3, this environment's
    os.environ.pop("JUPYTER_PATH", None)
    try:
        execute_notebook(
            project_root() / "notebooks" / "train.ipynb",
            str(output).replace("{", "{{").replace("}", "}}"),  # papermill fills in {names}
            parameters,
            kernel_name="python3",  # whatever JupyterLab noted in the notebook
            extra_arguments=["--log-level=CRITICAL"],
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        reason = (error.evalue or "no reason given").partition("\n")[0]
        if error.ename not in ("InputError", "Interrupted", "Diverged"):
            reason = f"{error.ename}: {reason} (the traceback is in {output})"
        raise InputError(reason) from None
    except RuntimeError as error:  # killed, as by a machine without memory left
        raise InputError(f"no kernel to train in: {error}") from None
