"""Which runs are done, running, unfinished, stale, failed or missing, as their folders say.

No torch is imported: make asks many times.
"""

import dataclasses
import json
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import fmean

import yaml
from filelock import Timeout

from cifarlib import InputError, plural, records
from cifarlib.params import SHORT_NAMES, RunParams, load_params

STATES = ("done", "running", "unfinished", "stale", "failed", "missing")
STOPPED = ("KeyboardInterrupt", "Interrupted")  # whoever stopped a run knows why it ended
FIELDS = {SHORT_NAMES.get(f.name, f.name): f.name for f in dataclasses.fields(RunParams)}
NAMES = "|".join(FIELDS)
OVERRIDE = re.compile(rf"-({NAMES})(.+?)(?=-(?:{NAMES})|$)")  # "-stop95" in a folder's name


@dataclass(frozen=True)
class Status:
    """One run with one seed; ``state`` is one of STATES and ``reason`` says why."""

    params: RunParams
    folder: Path
    state: str
    reason: str = ""
    record: dict | None = None


def read(params: RunParams, output_folder: Path, wait: bool = False) -> Status:
    """Read the state of one run from its folder, which stays as it is; ``wait``: once no other
    process trains there."""
    folder = output_folder / params.folder
    is_running = is_locked(folder, wait)
    epochs = len(records.unfinished_history(folder))
    saved = f"{epochs} of {plural(params.last_epoch, 'epoch')} saved" if epochs else ""
    if is_running:
        return Status(params, folder, "running", saved)
    failure = notebook_error(folder / "train.ipynb")
    reasons = [reason for reason in (failure, saved) if reason]
    try:
        record = records.read_record(folder)
    except InputError as error:
        if (folder / "record.json").exists():
            reasons.append(str(error))
        state = "missing"
        if failure:
            state = "failed"
        elif epochs:
            state = "unfinished"
        return Status(params, folder, state, "; ".join(reasons))
    changes = params.changes_since(record["parameters"])
    if not changes:
        # what its notebook shows after training may have failed all the same
        return Status(params, folder, "done", failure, record)
    state = "failed" if failure else "stale"
    return Status(params, folder, state, "; ".join([*changes, *reasons]), record)


def is_locked(folder: Path, wait: bool = False) -> bool:
    """Tell whether a process is training there, or about to; ``wait``: until none is."""
    # held by the training itself, and from its start by the process that executes the notebook
    for path in (folder / "unfinished", folder):
        if not (path / ".lock").exists():
            continue
        try:
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
    except (OSError, ValueError, KeyError):
        return ""
    for cell in cells:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error" and output["ename"] not in STOPPED:
                return f"{output['ename']}: {output['evalue']}".partition("\n")[0]
    return ""


def existing(output_folder: Path) -> tuple[list[Status], list[str]]:
    """Read the state of every run below a folder, at whatever length, and name the folders that
    are of no run: copies, and runs whose params file is gone."""
    found, others = [], []
    folders = [path for path in output_folder.glob("*/seed*") if path.is_dir()]
    for folder in sorted(folders):
        name = f"{folder.parent.name}/{folder.name}"
        begin, seed = re.match(r"seed(\d*)", folder.name).group(0, 1)
        changes = OVERRIDE.findall(folder.name.removeprefix(begin))
        overrides = {FIELDS[field]: yaml.safe_load(value) for field, value in changes}
        try:
            params = load_params(folder.parent.name, seed=int(seed or -1), **overrides)
        except (InputError, yaml.YAMLError):
            params = None
        if params is None or params.folder != name:
            others.append(name)
            continue
        run = read(params, output_folder)
        if run.state != "missing":
            found.append(run)
    return found, others


def report(wanted: Sequence[RunParams], output_folder: Path, every: bool = False) -> str:
    """List what exists of the runs wanted (of all: ``every``), at whatever length, then name those
    that have nothing at any length."""
    found, others = existing(output_folder)
    names = {params.run for params in wanted}
    listed = [run for run in found if every or run.params.run in names]
    there = {(run.params.run, run.params.seed) for run in listed}
    missing = [f"{p.run}/{p.seed}" for p in wanted if (p.run, p.seed) not in there]
    lines = [_table(listed)] if listed else []
    for title, texts in (("missing", missing), ("of no run", others)):
        if texts:
            text = f"{title}: {', '.join(texts)}"
            lines.append(textwrap.fill(text, 100, subsequent_indent="  "))
    counts = Counter([run.state for run in listed] + ["missing"] * len(missing))
    lines.append(", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]))
    return "\n".join(lines)


def _table(runs: Sequence[Status]) -> str:
    """Write a line for the seeds of a run that share settings and state, with mean accuracies."""
    groups: dict[tuple[str, ...], list[Status]] = {}
    for run in runs:
        name = run.folder.name.removeprefix(f"seed{run.params.seed}")
        key = (run.params.run, name.strip("-"), run.state, run.reason)
        groups.setdefault(key, []).append(run)
    rows = [("run", "settings", "seeds", "state", "validation %", "test %", "")]
    for (name, settings, state, reason), members in groups.items():
        seeds = " ".join(str(run.params.seed) for run in members)
        shares = [_mean_percent(members, part) for part in ("validation", "test")]
        rows.append((name, settings, seeds, state, *shares, reason))
    return text_table(rows)


def _mean_percent(runs: Sequence[Status], part: str) -> str:
    """Write the mean accuracy of runs; "" where one has none."""
    shares = [run.record and run.record[f"{part}_accuracy"] for run in runs]
    return "" if None in shares else f"{100 * fmean(shares):.2f}"


def text_table(rows: Sequence[Sequence[str]], width: int = 30) -> str:
    """Set rows of texts in columns; a text longer than ``width`` goes on below."""
    lines = []
    for row in rows:
        lines += zip_longest(*(textwrap.wrap(text, width) for text in row), fillvalue="")
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
