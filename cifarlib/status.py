"""Which runs are done, running, unfinished, stale or missing, read from their folders. torch is not
imported, as make asks often."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from filelock import Timeout

from cifarlib import InputError, plural, records
from cifarlib.params import SHORT_NAMES, RunParams, load_params


class Status(NamedTuple):
    """How far a run is: "done", "running", "unfinished", "stale" or "missing", and why."""

    state: str
    reason: str = ""


def read(folder: Path, wait: bool = False) -> Status:
    """Read the state of the run in a folder; ``wait``: once no other process trains there."""
    is_running = is_locked(folder, wait)
    try:
        epochs = len(records.read_history(folder / "unfinished"))
    except InputError as error:
        return Status("stale", str(error))
    saved = [f"{plural(epochs, 'epoch')} saved"] if epochs else []
    if is_running:
        return Status("running", *saved)
    if not (folder / "record.json").exists():
        return Status("unfinished" if saved else "missing", *saved)
    changes = _changes(folder)
    return Status("stale" if changes else "done", "; ".join(changes + saved))


def is_locked(folder: Path, wait: bool = False) -> bool:
    """Tell whether a process trains there; ``wait``: until none does."""
    if not (folder / ".lock").exists():
        return False
    try:
        with records.locked(folder, timeout=-1 if wait else 0.5):
            return False
    except Timeout:
        return True
    except InputError:  # somebody else's folder, or a file system without locks
        return False


def _changes(folder: Path) -> list[str]:
    """Say why a record no longer counts as its run's: damaged, a copy, of other settings."""
    try:
        record = records.read_record(folder)
        then = record["parameters"]
        shown = [k for k, v in then.items() if f"-{SHORT_NAMES.get(k, k)}{v}" in folder.name]
        now = load_params(record["run"], seed=record["seed"], **{k: then[k] for k in shown})
    except InputError as error:
        return [str(error).partition(";")[0]]
    if f"{folder.parent.name}/{folder.name}" != now.folder:
        return ["a copy"]
    return now.changes_since(then)


def overview(wanted: Sequence[RunParams], output_folder: Path) -> str:
    """List all records there are, of whatever length, then the wanted runs without a record: of the
    length that is asked for or, where none is asked for, of any length."""
    rows = []
    there = set()  # folders, and of each seed the one of the params file's own schedule
    folders = [path for path in output_folder.glob("*/seed*") if path.is_dir()]
    for folder in sorted(folders, key=lambda p: (p.parent, len(p.name), p.name)):  # 10 after 2
        state, reason = read(folder)
        if state != "missing":
            seed, _, settings = folder.name.removeprefix("seed").partition("-")
            rows.append([folder.parent.name, settings, seed, state, reason])
            there |= {f"{folder.parent.name}/seed{seed}", f"{folder.parent.name}/{folder.name}"}
    columns = ["run", "settings", "seeds", "state", "reason"]
    frame = pd.DataFrame(rows, columns=columns)
    missing = [f"{params.run}/{params.seed}" for params in wanted if params.folder not in there]
    lines = []
    if rows:
        groups = frame.groupby(["run", "settings", "state", "reason"], sort=False, as_index=False)
        lines.append(groups.agg({"seeds": " ".join})[columns].to_string(index=False))
    else:
        lines.append(f"no record in {output_folder}")
    if missing:
        lines.append(f"missing: {', '.join(missing)}")
    counts = Counter(frame["state"]) + Counter(missing=len(missing))
    lines.append(", ".join(f"{count} {state}" for state, count in counts.items()))
    return "\n".join(lines)
