"""The grid of Table 1: what of it is done, stale, unfinished, failed or missing. GNU make and Slurm do the running.

``python -m cifarlib.grid 1 2 run7-mean --seeds 0 1 --epochs 8`` prints a table; see --help.
"""

import argparse
import dataclasses
import datetime
import json
import math
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from cifarlib import InputError, project_root, records
from cifarlib.params import RunParams, load_params

SLURM_ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
               "PREEMPTED", "TIMEOUT"}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One run with one seed. state: done, stale, unfinished, failed, running or missing; why: what is to say of it;
    task, slurm: its array task and what Slurm says of it."""

    params: RunParams
    folder: Path
    state: str
    why: str = ""
    record: dict | None = None
    task: str = ""
    slurm: str = ""

    @property
    def queued(self) -> bool:
        """Whether Slurm has yet to end a task for it."""
        return bool(self.slurm) and self.slurm not in SLURM_ENDED

    @property
    def epochs_left(self) -> int:
        if self.state == "done":
            return 0
        return self.params.last_epoch - len(_saved(self.folder))


def look(params: RunParams, output_folder: Path) -> Cell:
    """The state of one run's folder, read without changing it."""
    folder = output_folder / params.folder
    if is_locked(folder):
        return Cell(params, folder, "running", _epochs_saved(folder, params))
    failure = notebook_error(folder / "train.ipynb")
    try:
        record = records.read_record(folder)
    except InputError as error:
        if failure:
            return Cell(params, folder, "failed", failure)
        if (folder / "unfinished" / "checkpoint.safetensors").exists():
            return Cell(params, folder, "unfinished", _epochs_saved(folder, params))
        return Cell(params, folder, "missing", str(error) if (folder / "record.json").exists() else "")
    changes = [f"{k} {record['parameters'].get(k)!r}, now {v!r}" for k, v in params.settings().items()
               if record["parameters"].get(k) != v]  # fmt: skip
    # a run that was resumed has a session for each start, and the code may have changed in between
    old = [record.get("code", {}), *(s["code"] for s in record.get("sessions", []) if "code" in s)]
    changes += [
        f"cifarlib/{name} changed"
        for name, digest in records.code_digests(record["device"]).items()
        if name not in records.KERNELS and any(code.get(name) != digest for code in old)
    ]
    # the failure is of a stale record's new training, or of what a good one's notebook shows after it
    state = "done" if not changes else "failed" if failure else "stale"
    return Cell(params, folder, state, "; ".join([*changes, failure] if failure else changes), record)


def is_locked(folder: Path) -> bool:
    """Whether a process is training there."""
    if not (folder / ".lock").exists():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def _saved(folder: Path) -> list[dict]:
    """The history of a run under way; an older record's lies one folder above."""
    try:
        return records.read_history(folder / "unfinished")
    except FileNotFoundError:
        return []


def _epochs_saved(folder: Path, params: RunParams) -> str:
    return f"{len(_saved(folder))} of {params.last_epoch} epochs saved"


def notebook_error(path: Path) -> str:
    """Why the executed notebook ended, "" where it did not end by an error, or by being stopped."""
    try:
        cells = json.loads(path.read_text())["cells"]
    except (OSError, ValueError, KeyError):
        return ""
    for cell in cells:
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error" and output["ename"] not in ("KeyboardInterrupt", "Interrupted"):
                return f"{output['ename']}: {output['evalue']}"
    return ""


def ask_slurm(cells: list[Cell], output_folder: Path) -> list[Cell]:
    """The cells with their newest Slurm task. One whose task is over and left no record has failed, whatever ended it.

    slurm/submit.sh leaves <output_folder>/slurm/<time>/cells.txt, whose line i task i trains and logs to i.log, and
    gives that folder to Slurm as the jobs' comment. squeue tells all: accounting needs a database that many lack.
    """
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%F_%K %T %k"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return cells  # no Slurm on this machine
    if listed.returncode:
        raise InputError(f"Slurm does not answer: {listed.stderr.strip()}")
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
    found = []
    for c in cells:
        task, state, log = newest.get(c.params.folder, ("", "", None))
        c = dataclasses.replace(c, task=task, slurm=state)
        if log and log.exists() and not c.queued and c.state in ("missing", "unfinished", "failed"):
            said = [text for text in log.read_text(errors="replace").splitlines() if text and text[:4] != "make"]
            why = c.why if c.state == "failed" else said[-1] if said else state
            c = dataclasses.replace(c, state="failed", why=f"{why} ({log})")
        found.append(c)
    return found


def duration_left(cells: list[Cell]) -> float | None:
    """Seconds that the epochs left will take at the pace of this grid's own epochs, as many runs at once as there are
    now; None before the first epoch."""
    paces = {}
    for c in cells:
        seconds = [row["train_seconds"] + row["validation_seconds"] for row in _saved(c.folder)]
        if c.record or seconds:
            paces[c.params.run] = statistics.median(seconds or c.record["epoch_seconds"])
    if not paces:
        return None
    usual = statistics.median(paces.values())
    left = [c.epochs_left * paces.get(c.params.run, usual) for c in cells]
    return max(max(left), sum(left) / max(1, sum(c.state == "running" for c in cells)))


def summary(cells: list[Cell]) -> str:
    """ "3 done, 1 failed, 9 missing; about 2:10:00 left"."""
    states = [c.state for c in cells]
    order = ("done", "running", "unfinished", "stale", "failed", "missing")
    text = ", ".join(f"{states.count(s)} {s}" for s in order if s in states)
    left = duration_left(cells)
    return text + (f"; about {datetime.timedelta(minutes=math.ceil(left / 60))} left" if left else "")


def as_table(cells: list[Cell]) -> str:
    import pandas as pd

    rows = []
    for c in cells:
        row = {"run": c.params.run, "seed": c.params.seed, "state": c.state}
        if any(other.slurm for other in cells):
            row["slurm"] = f"{c.slurm} {c.task}"
        numbers = c.record if c.state in ("done", "stale") else None
        for part in ("validation", "test"):
            row[f"{part} %"] = f"{100 * numbers[f'{part}_accuracy']:.2f}" if numbers else ""
        row["s/epoch"] = f"{statistics.median(numbers['epoch_seconds']):.1f}" if numbers else ""
        rows.append({**row, "": c.why.ljust(max(len(other.why) for other in cells))})
    return "\n".join(line.rstrip() for line in pd.DataFrame(rows).to_string(index=False).splitlines())


def main() -> int:
    parser = argparse.ArgumentParser(description="what of the grid is done")
    parser.add_argument("runs", nargs="+", help="1 to 7, or names of files in params/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--stop-epoch", type=int)
    parser.add_argument("--train-images", type=int)
    parser.add_argument("--output-folder", type=Path, default=project_root() / "outputs")
    parser.add_argument("--todo", action="store_true", help="print run/seed of what is not done, a line each")
    parser.add_argument("--slurm", action="store_true", help="ask Slurm too; --todo adds folder and, if queued, task")
    parser.add_argument("--brief", action="store_true", help="print one line")
    parser.add_argument("--wait", action="store_true", help="first wait for other processes training these runs")
    parser.error = lambda message: sys.exit(f"error: {message}")  # without the lines of usage
    given = parser.parse_args()
    schedule = {"epochs": given.epochs, "stop_epoch": given.stop_epoch, "train_images": given.train_images}
    try:
        every = [load_params(run, seed=seed, **schedule) for seed in given.seeds for run in given.runs]
        every = list(dict.fromkeys(every))  # a run named twice is one run
    except InputError as error:
        sys.exit(f"error: {error}")
    for params in every if given.wait else ():
        folder = given.output_folder / params.folder
        if folder.exists():
            with FileLock(folder / ".lock"):
                pass
    cells, silence = [look(params, given.output_folder) for params in every], ""
    if given.slurm:
        try:
            cells = ask_slurm(cells, given.output_folder)
        except InputError as error:
            silence = str(error)
    if given.todo:
        if silence:  # what is queued would be submitted twice
            sys.exit(f"error: {silence}")
        for c in cells:
            if c.state != "done":
                more = f" {c.params.folder} {c.task if c.queued else ''}" if given.slurm else ""
                print(f"{c.params.run}/{c.params.seed}{more}".rstrip())
    else:
        print(summary(cells) if given.brief else f"{as_table(cells)}\n{summary(cells)}")
        if silence:
            print(silence)
    return 0


if __name__ == "__main__":
    sys.exit(main())
