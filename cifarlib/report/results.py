"""The records under outputs/ as a pandas DataFrame, one row a record, and which of them the report
compares.

``table()`` is for a user in JupyterLab, too: ``table().groupby(["run",
"epochs"]).validation_accuracy.mean()``."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cifarlib import InputError, provenance, records
from cifarlib.params import (
    DECAY_EPOCHS,
    PAPER_EPOCHS,
    TRAIN_IMAGES,
    RunParams,
    load_params,
    run_names,
)
from cifarlib.report.claims import load_published

TABLE_1 = tuple(f"run{i}" for i in range(1, 8))
# what a record counts as having where it names none
SETTINGS = RunParams("").settings() | {"training_version": 1}
RESULTS = [
    "run",
    "seed",
    "epochs",
    "stop_epoch",
    "epochs_trained",
    "train_images",
    "validation_accuracy",
    "test_accuracy",
    "validation_accuracy_views",
    "test_accuracy_views",
    "train_loss",
    "validation_loss",
    "test_loss",
    "early_loss",
    "seconds_per_epoch",
    *provenance.MADE_ON,
]
MAY_BE_MISSING = (  # where nothing is validated, or before there were views
    "validation_accuracy",
    "validation_loss",
    "validation_accuracy_views",
    "test_accuracy_views",
)
SHARES = [
    "validation_accuracy",
    "test_accuracy",
    "validation_accuracy_views",
    "test_accuracy_views",
]
LAST = ["schedule", "changes", "validation_images", "test_images", "commit", "folder"]


@dataclass(frozen=True)
class Schedule:
    epochs: int = PAPER_EPOCHS
    stop_epoch: int | None = None
    train_images: int = TRAIN_IMAGES
    schedule: str = "step"  # the rate's, see RunParams.learning_rate_at

    def __str__(self) -> str:
        """ "95 of the paper's 200 epochs", "the paper's schedule squeezed into 8 epochs", "12
        epochs, triangle schedule" ..."""
        epochs = f"{self.epochs} epoch{'s' * (self.epochs > 1)}"
        stopped = f", stopped after {self.stop_epoch}" if self.stop_epoch else ""
        if self.schedule != "step":
            text = f"{epochs}, {self.schedule} schedule{stopped}"
        elif self.epochs != PAPER_EPOCHS:
            text = f"the paper's schedule squeezed into {epochs}{stopped}"
        else:
            text = f"{self.stop_epoch} of " * bool(self.stop_epoch) + f"the paper's {epochs}"
        if self.train_images > TRAIN_IMAGES:
            text += f", on {self.train_images:,} images, without validation"
        return text + (
            f", on {self.train_images:,} of {TRAIN_IMAGES:,} training images"
            * (self.train_images < TRAIN_IMAGES)
        )

    def __lt__(self, other: "Schedule") -> bool:
        """The one of fewer images, then of fewer epochs, so that a table can be sorted and
        grouped."""
        return (self.train_images, self.last_epoch, self.epochs) < (
            other.train_images,
            other.last_epoch,
            other.epochs,
        )

    @property
    def last_epoch(self) -> int:
        return self.stop_epoch or self.epochs

    @property
    def is_the_papers(self) -> bool:
        """On all images and past the third and last large fall of the rate: then an accuracy may be
        set beside the paper's."""
        papers = Schedule(stop_epoch=self.stop_epoch)
        return self == papers and self.last_epoch > 3 * DECAY_EPOCHS

    @property
    def options(self) -> str:
        """As the Makefile takes it: " EPOCHS=8"."""
        names, usual = (
            {"epochs": "EPOCHS", "stop_epoch": "STOP", "train_images": "IMAGES"},
            vars(Schedule()),
        )
        return "".join(
            f" {name}={vars(self)[k]}" for k, name in names.items() if vars(self)[k] != usual[k]
        )


def table(output_folder: str | Path | None = None) -> pd.DataFrame:
    """All finished runs below outputs/ (default: the project's)."""
    return as_table(records.finished(output_folder))


def as_table(finished: list[dict]) -> pd.DataFrame:
    """One row a record (each with its ``folder``), in their order. Accuracies are shares, losses
    means per image.

    early_loss: mean training loss over the first 15 % of the epochs, the paper's first phase of the
    learning rate. seconds_per_epoch: median. device, device_name, precision, convolutions: of all
    sessions where they differ. schedule: a Schedule. changes: what differs from the run's params
    file, beside schedule and seed."""
    columns = dict.fromkeys([*RESULTS, *SETTINGS, *LAST])
    frame = pd.DataFrame([_row(record) for record in finished], columns=list(columns))
    # then they are nan
    return frame.astype({"stop_epoch": "Int64", **dict.fromkeys(MAY_BE_MISSING, float)})


def _row(record: dict) -> dict:
    sessions, history = provenance.made_on(record), records.read_history(record["folder"])
    early = history[: max(1, round(0.15 * record["epochs"]))]
    settings = SETTINGS | record["parameters"]
    schedule = Schedule(
        record["epochs"], record["stop_epoch"], record["train_images"], settings["schedule"]
    )
    computed = {
        "early_loss": np.mean([row["train_loss"] for row in early]),
        "seconds_per_epoch": np.median(record["epoch_seconds"]),
        "schedule": schedule,
        "changes": f"there is no params/{record['run']}.yaml",
    }
    if record["run"] in run_names():
        own = load_params(record["run"])
        free = {name: own.settings()[name] for name in (*vars(schedule), "seed")}
        computed["changes"] = "; ".join(own.changes_since(record["parameters"] | free))
    made_on = {
        name: " / ".join(dict.fromkeys(s[name] for s in sessions)) for name in provenance.MADE_ON
    }
    return settings | record | computed | made_on


@dataclass(frozen=True)
class Results:
    """The records of one schedule that have the settings of their params files, beside all
    others."""

    schedule: Schedule
    every: pd.DataFrame
    table: pd.DataFrame  # those of the schedule
    others: pd.DataFrame

    @property
    def runs(self) -> list[str]:
        """Those that have a record, in the order of ``all_runs``."""
        return [run for run in all_runs(self.schedule) if run in set(self.table["run"])]

    def of(self, run: str) -> pd.DataFrame:
        return self.table[self.table["run"] == run]

    def values(self, run: str, measure: str = "validation_accuracy") -> list[float]:
        """One value a seed; accuracies in per cent."""
        factor = 100 if measure in SHARES else 1
        return [factor * value for value in self.of(run)[measure]]

    def right_answers(self, run: str) -> np.ndarray:
        """The share of the run's seeds that got each validation image right, (N,)."""
        from cifarlib.loop import right_answers  # imports torch, which the tables do not need

        answers = map(records.read_predictions, self.of(run)["folder"])
        return np.mean(
            [right_answers(a["validation"], a["validation_labels"]) for a in answers], axis=0
        )

    def longest(self, **columns) -> pd.Series:
        """Of all records with these values, ``run="run7", changes=""``, the one with the most
        epochs on the most images, of its seeds the first. Raises InputError where there is none."""
        fitting = self.every[(self.every[list(columns)] == pd.Series(columns)).all(axis=1)]
        if fitting.empty:
            wanted = ", ".join(
                f"{name} = {value}" for name, value in columns.items() if value != ""
            )
            raise InputError(
                f"there is no record yet with {wanted}: `make train RUN=7 EPOCHS=10` makes one"
            )
        order = {"train_images": False, "epochs_trained": False, "seed": True}
        return fitting.sort_values(list(order), ascending=list(order.values()), kind="stable").iloc[
            0
        ]


def all_runs(schedule: Schedule) -> list[str]:
    """Of the paper's schedule, whatever its length: Table 1, then its variants. Of another: the
    runs that have it."""
    if schedule.schedule == "step":
        variants = [
            run for run in run_names() if load_params(run).schedule == "step" and run not in TABLE_1
        ]
        return [*TABLE_1, *variants]
    return [run for run in run_names() if _schedule_of(run) == schedule]


def _schedule_of(run: str) -> Schedule:
    p = load_params(run)
    return Schedule(p.epochs, p.stop_epoch, p.train_images, p.schedule)


def collect(
    output_folder: str | Path | None = None,
    epochs: int | None = None,
    stop_epoch: int | None = None,
) -> Results:
    """All records below ``output_folder``, and those of one length of the paper's schedule: the one
    asked for, else one that may be set beside the paper, else any; of several the one under which
    most runs have a record, then the longest. A run counts only with the settings of its params
    file."""
    every = table(output_folder)
    own, asked = every["changes"] == "", epochs is not None or stop_epoch is not None
    runs: dict[Schedule, set[str]] = {}
    for s, run in zip(every["schedule"][own], every["run"][own], strict=True):
        fits = not asked or (epochs in (None, s.epochs) and stop_epoch == s.stop_epoch)
        if fits and s.schedule == "step":
            runs.setdefault(s, set()).add(run)
    if asked and not runs:
        folder = output_folder or "outputs"
        there = "; ".join(sorted({str(s) for s in every["schedule"][own]})) or "no record at all"
        raise InputError(
            f"epochs = {epochs}, stop_epoch = {stop_epoch}: no record below {folder} has this schedule; there is: {there}"
        )
    chosen = max(
        runs,
        key=lambda s: (s.train_images, s.is_the_papers, len(runs[s]), s.last_epoch),
        default=Schedule(),
    )
    return _of_schedule(every, chosen)


def collect_like(run: str, output_folder: str | Path | None = None) -> Results:
    """The same for the schedule that this run has in its params file."""
    return _of_schedule(table(output_folder), _schedule_of(run))


def _of_schedule(every: pd.DataFrame, schedule: Schedule) -> Results:
    compared = (every["changes"] == "") & (every["schedule"] == schedule)
    return Results(schedule, every, every[compared].sort_values(["run", "seed"]), every[~compared])


def summary(finished: list[dict]) -> pd.DataFrame:
    """A row for each run and schedule: n, mean and sd of the seeds' validation accuracies, mean
    test accuracies without and with test-time augmentation, all in per cent, and the paper's
    validation accuracy; nan where there is none, or where a seed has none. The paper's schedule
    comes first."""
    frame, published = as_table(finished), load_published()["validation_accuracy"]
    frame[SHARES] *= 100
    groups = frame.groupby(["run", "changes", "schedule"])
    columns = {
        "n": groups.size(),
        "validation": groups.validation_accuracy.mean(),
        "sd": groups.validation_accuracy.std(),
        "test": groups.test_accuracy.mean(),
        "views": groups.test_accuracy_views.agg(lambda v: v.mean(skipna=False)),
    }
    rows = pd.DataFrame(columns).reset_index()
    rows["paper"] = rows["run"].map(published)
    return rows.sort_values(
        "schedule", key=lambda schedules: [s.schedule != "step" for s in schedules], kind="stable"
    )


def results_markdown(finished: list[dict]) -> str:
    """The README's table of results: ``summary`` in Markdown."""
    header = [
        "run",
        "what it asks",
        "schedule",
        "n",
        "validation % (± sd)",
        "test %",
        "test %, with views",
        "paper, validation %",
    ]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for r in summary(finished).itertuples():
        validation, test, views, paper = (
            "–" if math.isnan(v) else f"{v:.2f}" for v in (r.validation, r.test, r.views, r.paper)
        )
        validation += f" ± {r.sd:.2f}" if r.n > 1 else ""
        name = f"{r.run} ({r.changes})" if r.changes else r.run
        question = load_params(r.run).question if r.run in run_names() else "–"
        lines.append(
            f"| {name} | {question} | {r.schedule} | {r.n} | {validation} | {test} | {views} | {paper} |"
        )
    return "\n".join(lines)
