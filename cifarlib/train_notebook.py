"""The train notebook as a terminal runs it: papermill executes it beside the record that it leaves.
What it prints goes to the terminal, too; what it displays does not."""

import os
import sys
from pathlib import Path

import click
from papermill import execute_notebook
from papermill.exceptions import PapermillExecutionError

from cifarlib import InputError, outputs_folder, plural, project_root, records, status
from cifarlib.params import load_params

# whatever else the notebook's own cell sets, which someone may have edited in JupyterLab
SWITCHES = {"resume": True, "deterministic": False, "precision": "auto", "capture": True}


def train(unless_done: bool = False, **parameters) -> None:
    """Execute the train notebook with its ``parameters`` and say what came of it.

    unless_done: wait for a process that trains this run, and leave a finished one alone. Raises
    InputError or OSError, one line, for whatever ends it early, and KeyboardInterrupt."""
    names = ("run", "seed", "epochs", "stop_epoch", "train_images")
    params = load_params(**{name: parameters[name] for name in names})
    folder = outputs_folder(parameters["output_folder"]) / params.folder
    state = status.read(folder, wait=unless_done).state
    if unless_done and state == "done":
        return
    if state == "running":
        raise InputError(f"another process is training in {folder}: wait, or take another seed")
    folder.mkdir(parents=True, exist_ok=True)
    click.echo(f"{params.run} seed {params.seed}: {params.question}")
    click.echo(f"record and notebook: {folder} (Ctrl-C stops it; the same command goes on)")
    if state == "done":
        click.echo("it is trained again; its record is replaced once the new one is complete")
    path = folder / "record.json"
    before = path.exists() and path.read_bytes()
    try:
        _execute(folder / "train.ipynb", parameters | SWITCHES)
    except KeyboardInterrupt:
        status.is_locked(folder, wait=True)  # until the kernel has ended
        epochs = plural(len(records.read_history(folder / "unfinished")), "epoch")
        text = f"Stopped: {epochs} saved in {folder}; the same command goes on from there"
        if path.exists() and path.read_bytes() != before:
            text = f"Stopped while results were shown: the record in {folder} is complete"
        click.echo(f"\n{text}")
        raise
    record = records.read_record(folder)
    shares = {part: record[f"{part}_accuracy"] for part in ("validation", "test")}
    reached = [f"{part} {share:.2%}" for part, share in shares.items() if share is not None]
    click.echo(f"{', '.join(reached)}; more in {folder}/train.ipynb (make lab)")


def _execute(output: Path, parameters: dict) -> None:
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # of all kernels python3, this environment's
    for name in ("JUPYTER_PATH", "JPY_SESSION_NAME"):  # of a notebook that runs `!make train`
        os.environ.pop(name, None)
    if not sys.stdout.isatty():  # the notebook's line of progress is a new one, once a minute
        os.environ["CIFARLIB_LOG"] = "1"
    files = (project_root() / "notebooks" / "train.ipynb", output)
    paths = [str(f).replace("{", "{{").replace("}", "}}") for f in files]  # for str.format
    try:
        execute_notebook(
            *paths,
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
        text = f"the notebook's process ended ({error}), perhaps for lack of memory"
        raise InputError(f"{text}; the same command goes on from the last saved epoch") from None
