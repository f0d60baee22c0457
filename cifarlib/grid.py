"""The grid of Table 1: what of it is done, stale, unfinished, failed or missing. GNU make and Slurm
do the running.

``python -m cifarlib status 1 2 run7-mean --seeds 0 1 --epochs 8`` prints a table; see --help.
"""

import dataclasses
import datetime
import json
import math
import statistics
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from cifarlib import InputError, records
from cifarlib.params import RunParams
from cifarlib.provenance import MADE_ON, made_on

SLURM_ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}


@dataclass(frozen=True)
class Cell:
    """One run with one seed. state: done, stale, unfinished, failed, running or missing; reason:
    why it is in that state; task, slurm_state: its array task and what Slurm says of it."""

    params: RunParams
    folder: Path
    state: str
    reason: str = ""
    record: dict | None = None
    task: str = ""
    slurm_state: str = ""

    @property
    def queued(self) -> bool:
        """Whether Slurm has yet to end a task for it."""
        return bool(self.slurm_state) and self.slurm_state not in SLURM_ENDED

    @property
    def epochs_left(self) -> int:
        if self.state == "done":
            return 0
        return self.params.last_epoch - len(records.unfinished_history(self.folder))


def read_cell(params: RunParams, output_folder: Path) -> Cell:
    """The state of one run's folder, changing nothing in it."""
    folder = output_folder / params.folder
    saved = f"{len(records.unfinished_history(folder))} of {params.last_epoch} epochs saved"
    if is_locked(folder):
        return Cell(params, folder, "running", saved)
    failure = notebook_error(folder / "train.ipynb")
    try:
        record = records.read_record(folder)
    except InputError as error:
        if failure:
            return Cell(params, folder, "failed", failure)
        if (folder / "unfinished" / "checkpoint.pt").exists():
            return Cell(params, folder, "unfinished", saved)
        return Cell(
            params, folder, "missing", str(error) if (folder / "record.json").exists() else ""
        )
    changes = params.changes_since(record["parameters"])
    # the failure is of a stale record's new training, or of what a good one's notebook shows after
    # it
    state = "done" if not changes else "failed" if failure else "stale"
    return Cell(
        params, folder, state, "; ".join([*changes, failure] if failure else changes), record
    )


def is_locked(folder: Path) -> bool:
    """Whether a process is training there."""
    if not (folder / ".lock").exists():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # somebody else's folder, which cannot be locked
        return False


def wait_for(params: RunParams, output_folder: Path) -> None:
    """Returns once no other process trains this run."""
    folder = output_folder / params.folder
    if folder.exists():
        with FileLock(folder / ".lock"):
            pass


def notebook_error(path: Path) -> str:
    """Why the executed notebook ended, "" where it did not end by an error, or by being stopped."""
    try:
        cells = json.loads(path.read_text())["cells"]
    except (OSError, ValueError, KeyError):
        return ""
    for cell in cells:
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error" and output["ename"] not in (
                "KeyboardInterrupt",
                "Interrupted",
            ):
                return f"{output['ename']}: {output['evalue']}"
    return ""


def ask_slurm(cells: list[Cell], output_folder: Path) -> list[Cell]:
    """The cells with their newest Slurm task. One whose task is over and left no record has failed,
    whatever ended it.

    slurm/submit.sh leaves <output_folder>/slurm/<time>/cells.txt, whose line i task i trains and
    logs to i.log, and gives that folder to Slurm as the jobs' comment. squeue tells all: accounting
    needs a database that many lack."""
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%F_%K %T %k"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return cells  # no Slurm on this machine
    if listed.returncode:
        raise InputError(" ".join(["Slurm does not answer:", *listed.stderr.splitlines()[-1:]]))
    queue = {}
    for line in listed.stdout.splitlines():
        task, state, comment = (*line.split(" ", 2), "", "")[:3]
        queue[comment, task.rpartition("_")[2]] = task, state
    newest = {}
    for path in sorted((output_folder / "slurm").glob("*/cells.txt")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            task, state = queue.get((str(path.parent.resolve()), str(number)), ("", ""))
            log = path.with_name(f"{number}.log")
            if state or log.exists():
                newest[line.split()[1]] = task, state, log
    with_tasks = []
    for cell in cells:
        task, state, log = newest.get(cell.params.folder, ("", "", None))
        cell = dataclasses.replace(cell, task=task, slurm_state=state)
        if (
            log
            and log.exists()
            and not cell.queued
            and cell.state in ("missing", "unfinished", "failed")
        ):
            lines = [
                line
                for line in log.read_text(errors="replace").splitlines()
                if line and line[:4] != "make"
            ]
            reason = cell.reason if cell.state == "failed" else lines[-1] if lines else state
            cell = dataclasses.replace(cell, state="failed", reason=f"{reason} ({log})")
        with_tasks.append(cell)
    return with_tasks


def duration_left(cells: list[Cell]) -> float | None:
    """Seconds that the epochs left will take at the pace of this grid's own epochs, as many runs at
    once as there are now; None before the first epoch."""
    paces = {}
    for cell in cells:
        seconds = [
            row["train_seconds"] + row["validation_seconds"]
            for row in records.unfinished_history(cell.folder)
        ]
        if cell.record or seconds:
            paces[cell.params.run] = statistics.median(seconds or cell.record["epoch_seconds"])
    if not paces:
        return None
    usual = statistics.median(paces.values())
    left = [cell.epochs_left * paces.get(cell.params.run, usual) for cell in cells]
    return max(max(left), sum(left) / max(1, sum(cell.state == "running" for cell in cells)))


def summary(cells: list[Cell]) -> str:
    """ "3 done, 1 failed, 9 missing; about 2:10:00 left"."""
    states = Counter(cell.state for cell in cells)
    order = ("done", "running", "unfinished", "stale", "failed", "missing")
    text = ", ".join(f"{states[state]} {state}" for state in order if states[state])
    left = duration_left(cells)
    return text + (
        f"; about {datetime.timedelta(minutes=math.ceil(left / 60))} left" if left else ""
    )


def made_differently(compared: Sequence[dict]) -> str:
    """In what the rounding of these records may differ, and in which of them: "convolutions
    Winograd in run1 (seeds 1, 2), else PyTorch"; "" where all were made alike."""
    texts = []
    for name in MADE_ON:
        values = [
            " / ".join(dict.fromkeys(session[name] for session in made_on(record)))
            for record in compared
        ]
        (usual, _), *rarer = Counter(values).most_common() or [("", 0)]
        parts = []
        for value, _ in rarer:
            seeds: dict[str, list[str]] = {}
            for record, its_value in zip(compared, values, strict=True):
                if its_value == value:
                    seeds.setdefault(record["run"], []).append(str(record["seed"]))
            runs = [
                f"{run} (seed{'s' * (len(of) > 1)} {', '.join(of)})"
                for run, of in sorted(seeds.items())
            ]
            parts.append(f"{value} in {', '.join(runs)}")
        if parts:
            texts.append(f"{name.replace('_', ' ')} {', '.join(parts)}, else {usual}")
    return "; ".join(texts)


def as_table(cells: list[Cell]) -> str:
    import pandas as pd

    rows = []
    for cell in cells:
        row = {"run": cell.params.run, "seed": cell.params.seed, "state": cell.state}
        if any(other.slurm_state for other in cells):
            row["slurm"] = f"{cell.slurm_state} {cell.task}"
        record = cell.record if cell.state in ("done", "stale") else None
        for part in ("validation", "test"):
            # None of validation where all images train
            accuracy = record and record[f"{part}_accuracy"]
            row[f"{part} %"] = "" if accuracy is None else f"{100 * accuracy:.2f}"
        row["s/epoch"] = f"{statistics.median(record['epoch_seconds']):.1f}" if record else ""
        rows.append({**row, "": cell.reason.ljust(max(len(other.reason) for other in cells))})
    return "\n".join(
        line.rstrip() for line in pd.DataFrame(rows).to_string(index=False).splitlines()
    )


def as_todo(cell: Cell, with_slurm: bool) -> str:
    """``run/seed`` as make's targets have it; with Slurm also the folder and, if queued, the
    task."""
    more = f" {cell.params.folder} {cell.task if cell.queued else ''}" if with_slurm else ""
    return f"{cell.params.run}/{cell.params.seed}{more}".rstrip()


def of_other_settings(cells: list[Cell]) -> str:
    """Says where what is missing has a record under another folder name; "" where nothing has."""
    found = [
        path
        for cell in cells
        if cell.state == "missing"
        for path in sorted(cell.folder.parent.glob(f"seed{cell.params.seed}-*/record.json"))[:1]
    ]
    if not found:
        return ""
    return (
        f"Of what is missing {len(found)} ha{'s' if len(found) == 1 else 've'} a record of another length, such as {found[0].parent}: "
        "give the EPOCHS=, STOP= or IMAGES= that its name says."
    )


def full_text(cells: list[Cell]) -> str:
    """The table, its summary, and where the records that are done were made differently."""
    different = made_differently([cell.record for cell in cells if cell.state == "done"])
    return "\n".join(
        filter(
            None,
            (
                as_table(cells),
                summary(cells),
                different and f"The records differ: {different}.",
                of_other_settings(cells),
            ),
        )
    )
