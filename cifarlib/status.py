"""Which runs are done, running, unfinished, stale, failed or missing, as their folders say.

No torch is imported: make asks many times.
"""

import json
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from filelock import Timeout

from cifarlib import InputError, plural, records
from cifarlib.params import SHORT_NAMES, RunParams, load_params, run_names

STATES = ("done", "running", "unfinished", "stale", "failed", "missing")
STOPPED = ("KeyboardInterrupt", "Interrupted")  # whoever stopped a run knows why it ended
FOLDER = re.compile(r"seed(\d+)-?(\S*)")  # "seed0-stop95"


class Status(NamedTuple):
    """How far a run is; ``state`` is one of STATES and ``reason`` says why."""

    state: str
    reason: str = ""


def read(folder: Path, wait: bool = False) -> Status:
    """Read the state of the run in a folder, which stays as it is; ``wait``: once no other process
    trains there."""
    is_running = is_locked(folder, wait)
    epochs = len(records.unfinished_history(folder))
    saved = f"{plural(epochs, 'epoch')} saved" if epochs else ""
    if is_running:
        return Status("running", saved)
    state = "unfinished" if saved else "missing"
    failure = notebook_error(folder / "train.ipynb")
    changes = []
    if (folder / "record.json").exists():
        state = "stale"
        changes = _changes(folder)
        if not changes:  # what its notebook shows after training may have failed all the same
            return Status("done", failure)
    reason = "; ".join(filter(None, [*changes, failure, saved]))
    return Status("failed" if failure else state, reason)


def _changes(folder: Path) -> list[str]:
    """Name why a record is not that of its run today: damage, a params file that changed."""
    seed, suffix = FOLDER.fullmatch(folder.name).groups()
    try:
        then = records.read_record(folder)["parameters"]
        named = {k: v for k, v in then.items() if f"-{SHORT_NAMES.get(k, k)}{v}" in f"-{suffix}"}
        params = load_params(folder.parent.name, seed=int(seed), **named)
    except InputError as error:
        return [str(error)]
    changes = params.changes_since(then)
    if not changes and Path(params.folder).name != folder.name:
        return [f"a copy of {params.folder}"]
    return changes


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


def notebook_error(path: Path) -> str:
    """Say which error ended the executed notebook; "" where none did, or it was stopped."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError):  # there is none, or its process was killed while it wrote
        return ""
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        if output["output_type"] == "error" and output["ename"] not in STOPPED:
            return f"{output['ename']}: {output['evalue']}".partition("\n")[0]
    return ""


def report(wanted: Sequence[RunParams], output_folder: Path, every: bool = False) -> str:
    """List what exists of the runs wanted (of all: ``every``), at whatever length; then name what
    has nothing at any length."""
    rows = []
    names = set(run_names()) if every else {params.run for params in wanted}
    for folder in sorted(output_folder.glob("*/seed*")):
        parts = FOLDER.fullmatch(folder.name)  # None: a copy
        if parts and folder.parent.name in names:
            rows.append((folder.parent.name, parts[2], *read(folder), parts[1]))
    columns = ["run", "settings", "state", "reason"]
    frame = pd.DataFrame(rows, columns=[*columns, "seeds"])
    frame = frame[frame["state"] != "missing"]
    there = set(frame["run"] + "/" + frame["seeds"])
    missing = [name for name in (f"{p.run}/{p.seed}" for p in wanted) if name not in there]
    counts = Counter({"missing": len(missing), **Counter(frame["state"])})
    lines = [", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])]
    if missing:
        text = f"missing: {', '.join(missing)}"
        lines.insert(0, textwrap.fill(text, 100, subsequent_indent="  "))
    if len(frame):
        seeds = frame.groupby(columns, sort=False)["seeds"].agg(" ".join)
        lines.insert(0, text_table(seeds.reset_index()))
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
