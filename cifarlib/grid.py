"""The grid of Table 1: what of it is done, stale, unfinished, failed or missing. GNU make and Slurm do the running.

``python -m cifarlib.grid 1 2 run7-mean --seeds 0 1 --epochs 8`` prints a table; see --help.
"""

import argparse
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from cifarlib import InputError, project_root, records
from cifarlib.params import RunParams, load_params


@dataclass(frozen=True)
class Cell:
    """One run with one seed. state: done, stale, unfinished, failed, running or missing; why: what is to say of it."""

    params: RunParams
    folder: Path
    state: str
    why: str = ""
    record: dict | None = None

    @property
    def epochs_left(self) -> int:
        if self.state == "done":
            return 0
        saved = len(records.read_history(self.folder)) if (self.folder / "unfinished" / "history.csv").exists() else 0
        return self.params.last_epoch - saved


def look(params: RunParams, output_folder: Path) -> Cell:
    """The state of one run's folder, read without changing it."""
    folder = output_folder / params.folder
    if is_locked(folder):
        return Cell(params, folder, "running", _epochs_saved(folder, params))
    try:
        record = records.read_record(folder)
    except InputError as error:
        if failure := notebook_error(folder / "train.ipynb"):
            return Cell(params, folder, "failed", failure)
        if (folder / "unfinished" / "checkpoint.safetensors").exists():
            return Cell(params, folder, "unfinished", _epochs_saved(folder, params))
        return Cell(params, folder, "missing", str(error) if (folder / "record.json").exists() else "")
    changes = [f"{k} {record['parameters'].get(k)!r}, now {v!r}" for k, v in params.settings().items()
               if record["parameters"].get(k) != v]  # fmt: skip
    old = record.get("code", {})
    changes += [
        f"cifarlib/{name} changed"
        for name, digest in records.code_digests(record["device"]).items()
        if old.get(name) != digest
    ]
    return Cell(params, folder, "stale" if changes else "done", "; ".join(changes), record)


def is_locked(folder: Path) -> bool:
    """Whether a process is training there."""
    if not (folder / ".lock").exists():
        return False
    try:
        with FileLock(folder / ".lock", timeout=0):
            return False
    except Timeout:
        return True


def _epochs_saved(folder: Path, params: RunParams) -> str:
    saved = folder / "unfinished" / "history.csv"
    return f"{len(records.read_history(folder)) if saved.exists() else 0} of {params.last_epoch} epochs saved"


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


def duration_left(cells: list[Cell]) -> float | None:
    """Seconds that the epochs left will take at the pace of this grid's own records; None before the first."""
    paces = {c.params.run: statistics.median(c.record["epoch_seconds"]) for c in cells if c.record}
    if not paces:
        return None
    usual = statistics.median(paces.values())
    return sum(c.epochs_left * paces.get(c.params.run, usual) for c in cells)


def summary(cells: list[Cell]) -> str:
    """ "3 done, 1 failed, 9 missing; about 2 h 10 min left"."""
    from cifarlib.notebook import duration

    states = [c.state for c in cells]
    order = ("done", "running", "unfinished", "stale", "failed", "missing")
    text = ", ".join(f"{states.count(s)} {s}" for s in order if s in states)
    left = duration_left(cells)
    return text + (f"; about {duration(left)} left" if left else "")


def as_table(cells: list[Cell]) -> str:
    import pandas as pd

    rows = []
    for c in cells:
        row = {"run": c.params.run, "seed": c.params.seed, "state": c.state}
        numbers = c.record if c.state in ("done", "stale") else None
        for part in ("validation", "test"):
            row[f"{part} %"] = f"{100 * numbers[f'{part}_accuracy']:.2f}" if numbers else ""
        row["s/epoch"] = f"{statistics.median(numbers['epoch_seconds']):.1f}" if numbers else ""
        rows.append({**row, "": c.why})
    return pd.DataFrame(rows).to_string(index=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="what of the grid is done")
    parser.add_argument("runs", nargs="+", help="1 to 7, or names of files in params/")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--stop-epoch", type=int)
    parser.add_argument("--train-images", type=int)
    parser.add_argument("--output-folder", type=Path, default=project_root() / "outputs")
    parser.add_argument("--todo", action="store_true", help="print run/seed of what is not done, a line each")
    parser.add_argument("--brief", action="store_true", help="print one line")
    parser.add_argument("--wait", action="store_true", help="first wait for other processes training these runs")
    given = parser.parse_args()
    schedule = {"epochs": given.epochs, "stop_epoch": given.stop_epoch, "train_images": given.train_images}
    try:
        every = [load_params(run, seed=seed, **schedule) for seed in given.seeds for run in given.runs]
    except InputError as error:
        sys.exit(f"error: {error}")
    for params in every if given.wait else ():
        folder = given.output_folder / params.folder
        if folder.exists():
            with FileLock(folder / ".lock"):
                pass
    cells = [look(params, given.output_folder) for params in every]
    if given.todo:
        for c in cells:
            if c.state != "done":
                print(f"{c.params.run}/{c.params.seed}")
    else:
        print(summary(cells) if given.brief else f"{as_table(cells)}\n{summary(cells)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
