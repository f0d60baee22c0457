"""Which runs are done, running, unfinished, stale or missing, as their folders say.

No torch is imported: make asks many times.
"""

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from filelock import Timeout

from cifarlib import InputError, plural, records
from cifarlib.params import SHORT_NAMES, RunParams, load_params

STATES = ("done", "running", "unfinished", "stale", "missing")


class Status(NamedTuple):
    """How far a run is; ``state`` is one of STATES and ``reason`` says why."""

    state: str
    reason: str = ""


def read(folder: Path, wait: bool = False) -> Status:
    """Read the state of the run in a folder; ``wait``: once no other process trains there."""
    is_running = is_locked(folder, wait)
    epochs = len(records.read_history(folder / "unfinished"))
    saved = f"{plural(epochs, 'epoch')} saved" if epochs else ""
    if is_running:
        return Status("running", saved)
    if not (folder / "record.json").exists():
        return Status("unfinished" if saved else "missing", saved)
    changes = _changes(folder)
    return Status("stale" if changes else "done", "; ".join(changes) or saved)


def _changes(folder: Path) -> list[str]:
    """Name why a record is not its run's of today: damaged, a copy, of an older params file."""
    try:
        then = records.read_record(folder)["parameters"]
        shown = [k for k, v in then.items() if f"-{SHORT_NAMES.get(k, k)}{v}" in folder.name]
        now = load_params(then["run"], seed=then["seed"], **{k: then[k] for k in shown})
    except InputError as error:
        return [str(error).partition(";")[0]]
    if not folder.match(now.folder):
        return ["a copy"]
    return now.changes_since(then)


def is_locked(folder: Path, wait: bool = False) -> bool:
    """Tell whether a process is training there, or about to; ``wait``: until none is."""
    # held by the training itself, and from its start by the process that executes the notebook
    for path in (folder / "unfinished", folder):
        try:
            if (path / ".lock").exists():
                with records.locked(path, timeout=-1 if wait else 0):
                    pass
        except Timeout:
            return True
        except InputError:  # somebody else's folder, or a file system without locks
            continue
    return False


def report(wanted: Sequence[RunParams], output_folder: Path, every: bool = False) -> str:
    """List what exists of the runs wanted (of all: ``every``), at whatever length, with the mean
    accuracies of what is done; then name what has nothing at any length."""
    rows = []
    names = {params.run for params in wanted}
    for folder in sorted(output_folder.glob("*/seed*")):
        run = folder.parent.name
        state, reason = read(folder)
        if state != "missing" and (every or run in names):
            seed, _, settings = folder.name.removeprefix("seed").partition("-")
            record = records.read_record(folder, verify=False) if state == "done" else {}
            shares = [record.get(f"{part}_accuracy") or math.nan for part in ("validation", "test")]
            rows.append([run, settings, state, reason, seed, *(100 * share for share in shares)])
    columns = ["run", "settings", "state", "reason"]
    accuracies = ["validation %", "test %"]
    frame = pd.DataFrame(rows, columns=[*columns, "seeds", *accuracies])
    there = set(frame["run"] + "/" + frame["seeds"])
    missing = [name for name in (f"{p.run}/{p.seed}" for p in wanted) if name not in there]
    counts = Counter({"missing": len(missing), **Counter(frame["state"])})
    lines = [", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])]
    if missing:
        text = f"missing: {', '.join(missing)}"
        lines.insert(0, textwrap.fill(text, 100, subsequent_indent="  "))
    if len(frame):
        how = {"seeds": " ".join} | dict.fromkeys(accuracies, "mean")
        lines.insert(0, text_table(frame.groupby(columns, sort=False).agg(how).reset_index()))
    return "\n".join(lines)


def text_table(frame: pd.DataFrame, width: int = 30) -> str:
    """Set a DataFrame in columns of texts, "-" for nan; a text longer than ``width`` goes on
    below."""
    texts = frame.map(lambda value: f"{value:.2f}" if isinstance(value, float) else str(value))
    lines = []
    for row in [tuple(frame), *texts.replace("nan", "-").itertuples(index=False)]:
        lines += zip_longest(*(textwrap.wrap(text, width) for text in row), fillvalue="")
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
