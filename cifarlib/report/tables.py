"""Every table of notebooks/report.ipynb, and the numbers that its sentences hold."""

import contextlib
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from scipy import stats
from torch import Tensor

from cifarlib import InputError, benchmark, records
from cifarlib.params import DECAY_EPOCHS, load_params
from cifarlib.report import claims, results
from cifarlib.report.claims import PAPER_RUNS, points, published
from cifarlib.report.display import Table, Text, duration

OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD", "sgd-nesterov": "Nesterov"}
SETTINGS = [  # that differ between the recipes
    *("epochs", "batch_size", "optimizer", "learning_rate", "schedule", "momentum", "weight_decay"),
    *("loss_reduction", "label_smoothing", "crop", "flip", "bias_rate", "lookahead"),
]


@contextlib.contextmanager
def missing_note() -> Iterator[None]:
    """Show what is there; of what is missing say so instead."""
    try:
        yield
    except InputError as error:
        display(Text(f"*Left out: {error}.*"))


def made(frame: pd.DataFrame, address: str | None = None) -> str:
    """Write when the newest record was finished, and by which code."""
    text = f"[Code]({address})" if address else "Code"
    for newest in frame.sort_values("finished").tail(1).itertuples():
        date = f"{pd.Timestamp(newest.finished):%-d %B %Y}"
        text = f"{date} (newest record) · {text}, commit `{newest.commit[:10]}`"
    return text


def first_of(compared: pd.DataFrame, run: str) -> pd.Series:
    """Choose the run's record of the lowest seed; InputError where there is none."""
    of_run = compared[compared["run"] == run]
    if of_run.empty:
        raise InputError(f"there is no record of {run} yet")
    return of_run.iloc[0]


def number(value: float) -> str:
    """Write a number, or a dash for nan."""
    return "–" if math.isnan(value) else f"{value:.2f}"


def reached(compared: pd.DataFrame, run: str) -> str:
    """Say what a run reached: "93.52 % of the validation and 93.42 % of the test images"."""
    means = results.summary(compared).set_index("run").reindex([run]).iloc[0]
    validation, test = map(number, means[["validation", "test"]])
    return f"{validation} % of the validation and {test} % of the test images"


def lead(paper: pd.DataFrame) -> str:
    """Say by how many points our runs end above the paper's: "0.3 to 2.5"."""
    ours = results.summary(paper).set_index("run")["validation"]
    gaps = ours - pd.Series(published()["validation_accuracy"])
    return f"{gaps.min():.1f} to {gaps.max():.1f}"


def early_lead(paper: pd.DataFrame) -> str:
    """Say how far AdamW's training loss (run 1) lies below SGD's (run 2) in the paper's first
    phase: "0.15 to 0.58 and on average 0.41"."""
    adamw, sgd = (records.read_history(first_of(paper, run)["folder"]) for run in ("run1", "run2"))
    pairs = zip(sgd[:DECAY_EPOCHS], adamw[:DECAY_EPOCHS], strict=True)
    gaps = np.array([one["train_loss"] - other["train_loss"] for one, other in pairs])
    return f"{gaps.min():.2f} to {gaps.max():.2f} and on average {gaps.mean():.2f}"


def times(compared: pd.DataFrame, run: str) -> str:
    """Write the median time of a run on each device, the shortest first."""
    of_run = compared[compared["run"] == run].groupby("device_name")["training_seconds"]
    medians = of_run.median().sort_values().items()
    return "; ".join(f"{duration(seconds)} on {name}" for name, seconds in medians) or "–"


def paper_runs(paper: pd.DataFrame, caption: str) -> Table:
    """Set the paper's Table 1 beside our means."""
    names = {"batch_size": "batch", "normalization": "normal.", "label_smoothing": "smoothing"}
    columns = ["run", "batch", "whitening", "padding", "optimizer", "normal.", "smoothing"]
    settings = pd.DataFrame([load_params(run).settings() for run in PAPER_RUNS], PAPER_RUNS)
    frame = settings.rename(columns=names)[columns].map(_setting)
    theirs = pd.Series(published()["validation_accuracy"])
    means = results.summary(paper).set_index("run").reindex(PAPER_RUNS)
    frame["run"] = frame["run"].str.removeprefix("run")
    frame["paper %"] = theirs.map(number)
    frame["ours %"] = means["validation"].map(number)
    frame["difference"] = (means["validation"] - theirs).map(points)
    frame["test %"] = means["test"].map(number)
    return Table(frame.assign(n=means["n"].fillna(0).astype(int)), caption, "tbl-runs")


def _side(judged: pd.DataFrame, difference: str, seeds: str, decision: str) -> pd.DataFrame:
    """Write each claim's difference with interval, n and verdict (*: provisional) in columns."""
    texts = judged[["estimate", "low", "high"]].map(points).astype(str)
    interval = texts["estimate"] + " (" + texts["low"] + " to " + texts["high"] + ")"
    frame = pd.DataFrame({difference: interval, seeds: judged["seeds"].astype(str)})
    frame[decision] = judged["verdict"] + judged["provisional"].map({True: "*", False: ""})
    frame.loc[judged["seeds"] == 0, [difference, decision]] = "–"
    return frame


def claims_twice(asked: pd.DataFrame, judged: pd.DataFrame, caption: str) -> Table:
    """Set each claim's result on the paper's schedule beside that around the fast recipe."""
    both = pd.concat([asked, judged.drop(asked.index, errors="ignore")])
    question = pd.DataFrame({"claim": both["says"], "paper": both["paper"].map(points)})
    on_schedule = _side(asked, "paper’s schedule", "n", "mark")
    around_fast = _side(judged, "fast recipe", "n ", "verdict")
    frame = pd.concat([question, on_schedule, around_fast], axis=1).fillna("–")
    return Table(frame, caption, "tbl-claims")


def parts(paper: pd.DataFrame, caption: str) -> Table:
    """Take the two steps of Table 1 apart that change two things, as far as runs are there."""
    judged = pd.concat([claims.judge(paper, "padding"), claims.judge(paper, "smoothing")])
    judged = judged[judged["seeds"] > 0].reset_index()
    sides = _side(judged, "difference (interval)", "n", "result")
    frame = pd.DataFrame({"change (runs)": judged["says"]}).join(sides)
    none = [{"change (runs)": "none of these runs has been trained"}]
    return Table(none if frame.empty else frame, caption, "tbl-parts")


def hyperparameters(caption: str) -> Table:
    """Set the paper's settings beside the fast recipe's, SGD and AdamW each."""
    runs = {"paper, run 7": "run7", "paper, run 1": "run1", "fast": "fast"}
    runs["fast, AdamW"] = "fast-adamw"
    settings = {heading: load_params(run).settings() for heading, run in runs.items()}
    frame = pd.DataFrame(settings).loc[SETTINGS].map(_setting)
    frame.index = frame.index.str.replace("_", " ").rename("")
    return Table(frame.reset_index(), caption, "tbl-settings")


def _setting(value: object) -> str:
    """Write a parameter as a table has it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else OPTIMIZERS.get(value, str(value))


def speed(output_folder: str | None, caption: str) -> Table:
    """Set the paper's seconds an epoch beside our benchmark's, with crops drawn anew and once."""
    columns = ["device", "drawn anew", "drawn once", "time saved", "times as fast as a DataLoader"]
    theirs = pd.Series(published()["seconds_per_epoch"])
    saved = f"{100 * (1 - theirs['once'] / theirs['per_epoch']):.0f} %"
    rows = [["NVIDIA A100 (the paper)", *theirs.map("{} s".format), saved, "–"]]
    for record in benchmark.recorded(output_folder):
        seconds = benchmark.epoch_seconds(record)
        ours, once = (seconds[name] for name in (benchmark.BASE, benchmark.ONCE))
        device = f"{record['device_name']} ({record['precision']})"
        times = [f"{values.median():.3g} s" for values in (ours, once)]
        saved = f"{benchmark.spread(100 * (1 - once / ours), 0)} %".replace("-", "−")
        faster = benchmark.spread(benchmark.ratios(record)[benchmark.BEST])
        rows.append([device, *times, saved, faster])
    return Table(pd.DataFrame(rows, columns=columns), caption, "tbl-speed")


def other_runs(frame: pd.DataFrame, caption: str) -> Table:
    """List the complete runs that neither comparison takes in, an experiment of one's own too."""
    names = {"run": "run", "changes": "other settings", "trained_for": "trained for", "n": "n"}
    names |= {"validation": "validation %", "test": "test %", "views": "test %, with views"}
    found = results.summary(results.others(frame))[list(names)].replace("", "–")
    rows = found.assign(**found.select_dtypes("float").map(number)).rename(columns=names)
    return Table(rows if len(rows) else [{"run": "none"}], caption, "tbl-others")


def environment(paper: pd.DataFrame, fast: pd.DataFrame, caption: str) -> Table:
    """Say what the records of each comparison were made with; several values where they differ."""
    both = pd.concat({"paper’s schedule": paper, "fast recipe": fast})
    made = both[["device_name", "precision", "convolutions", "commit", "data_sha256"]]
    made = made.join(pd.DataFrame(list(both["packages"]), both.index))
    made["commit"] = made["commit"].astype(str).str[:10]
    groups = made.groupby(level=0, sort=False)
    values = groups.agg(lambda of: ", ".join(sorted(set(of.dropna()))))
    values["training time"] = both.groupby(level=0)["training_seconds"].sum().map(duration)
    values.insert(0, "records", groups.size())
    return Table(values.T.rename_axis("").reset_index(), caption, "tbl-environment")


def accuracies(compared: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what figures.run_accuracies draws: each seed's held-out accuracy, and each run's mean
    with its 95 % interval over seeds, the deviation pooled over the runs."""
    seeds = compared[["run"]].assign(accuracy=100 * compared["held_out_accuracy"])
    groups = seeds.groupby("run", sort=False)["accuracy"]
    variance, freedom = claims.pooled_variance([of_run for _, of_run in groups])
    means = groups.agg(["mean", "size"])
    half = stats.t.ppf(0.975, freedom) * np.sqrt(variance / means["size"])
    return seeds, means.assign(low=means["mean"] - half, high=means["mean"] + half)


def histories(compared: pd.DataFrame) -> pd.DataFrame:
    """Return what figures.loss_curves draws: the histories of Table 1's runs below each other."""
    rows = compared[compared["run"].isin(PAPER_RUNS)]
    if rows.empty:
        raise InputError("there is no record of the paper's seven runs yet")
    read = [pd.DataFrame(records.read_history(path)).assign(folder=path) for path in rows["folder"]]
    return pd.concat(read).merge(rows[["folder", "run", "seed", "label_smoothing"]])


def whitening_of(record: pd.Series) -> tuple[Tensor, Tensor]:
    """Compute eigenvalues (12,) and eigenvectors (12, 12), one a row, of the patch covariance from
    a record's frozen filters, whose length is 1 / sqrt(eigenvalue + epsilon)."""
    filters = torch.from_numpy(np.load(record.folder / "first_layer.npy")).double()
    filters = filters[: len(filters) // 2].flatten(1)
    length = filters.norm(dim=1, keepdim=True)
    return length.squeeze(1) ** -2 - record.whitening_eps, filters / length
