"""Every table of notebooks/report.ipynb, and the numbers that its sentences hold."""

import contextlib
import math
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from IPython.display import display
from scipy import stats
from torch import Tensor

from cifarlib import InputError, benchmark, records
from cifarlib.params import PAPER_EPOCHS, load_params
from cifarlib.report import claims, results
from cifarlib.report.claims import PAPER_RUNS, VERDICTS, points, published
from cifarlib.report.display import Table, Text, duration

OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD", "sgd-nesterov": "Nesterov"}
SETTINGS = [  # that differ between the recipes
    *("epochs", "batch_size", "optimizer", "learning_rate", "schedule", "momentum"),
    *("weight_decay", "loss_reduction", "label_smoothing", "crop", "flip", "bias_rate"),
    "lookahead",
]


@contextlib.contextmanager
def missing_note() -> Iterator[None]:
    """Show what is there; of what is missing say so instead."""
    try:
        yield
    except InputError as error:
        display(Text(f"*Left out: {error}.*"))


def guard(
    paper: pd.DataFrame,
    asked: pd.DataFrame,
    judged: pd.DataFrame,
    marks: dict[str, str],
    verdicts: dict[str, str],
) -> Text | None:
    """Name what the records at hand say otherwise than the text expects; nothing where they agree.

    marks: of the paper's schedule, and the ``length`` of its runs; verdicts: of the fast recipe.
    """
    found = claims.surprises(asked, marks) + claims.surprises(judged, verdicts)
    if trained_for(paper) != marks["length"]:
        found.append(
            f"the paper's runs: {trained_for(paper)}, where the text has {marks['length']}"
        )
    if not found:
        return None
    return Text(
        "**The sentences of this report were written for other records.** Its tables and figures "
        f"show the records at hand, and those say otherwise: {'; '.join(found)}."
    )


def made(frame: pd.DataFrame, address: str | None = None) -> str:
    """Write when the newest record was finished, and by which code."""
    code = f"[Code]({address})" if address else "Code"
    if "finished" not in frame:
        return code
    newest = frame.sort_values("finished").iloc[-1]
    date = f"{pd.Timestamp(newest['finished']):%-d %B %Y}"
    return f"{date} (newest record) · {code}, commit `{str(newest['commit'])[:10]}`"


def trained_for(compared: pd.DataFrame) -> str:
    """Say for how long the records of a comparison were trained."""
    return compared["trained_for"].iloc[0] if len(compared) else "no training yet"


def first_of(compared: pd.DataFrame, run: str) -> pd.Series:
    """Choose the run's record of the lowest seed; InputError where there is none."""
    of_run = compared[compared["run"] == run]
    if of_run.empty:
        raise InputError(f"there is no record of {run} yet")
    return of_run.iloc[0]


def estimated(judged: pd.DataFrame) -> pd.DataFrame:
    """Choose the claims that have their records; InputError where none has."""
    if (judged["basis"] == "").all():
        raise InputError("no claim has its records yet")
    return judged[judged["basis"] != ""]


def number(value: float, digits: int = 2) -> str:
    """Write a number, or a dash for nan."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


def numbers(paper: pd.DataFrame, fast: pd.DataFrame, judged: pd.DataFrame) -> SimpleNamespace:
    """Compute the numbers that the report's sentences hold, written out; a dash for what has no
    record."""
    said = SimpleNamespace(gain={name: points(row.estimate) for name, row in judged.iterrows()})
    theirs = judged.loc[~judged["ours"], "verdict"]
    said.claims = len(theirs)
    said.reproduced, said.contradicted, said.not_resolved = (
        (theirs == verdict).sum() for verdict in VERDICTS.values()
    )
    means = results.summary(pd.concat([paper, fast])).set_index("run")
    gaps = (means["validation"] - means["paper"]).dropna()
    said.above = f"{(gaps > 0).sum()} of our {len(gaps)}"
    said.gaps = f"{number(gaps.min(), 1)} to {number(gaps.max(), 1)}"
    means = means.reindex(["run7", "fast"])
    said.validation = means["validation"].map(number)
    said.test = means["test"].map(number)
    said.time = {"run7": _times(paper, "run7")[0], "fast": _times(fast, "fast")[0]}
    return said


def _times(compared: pd.DataFrame, run: str) -> list[str]:
    """Write the median time of a run on each device, the shortest first."""
    of_run = compared[compared["run"] == run]
    medians = of_run.groupby("device_name")["training_seconds"].median().sort_values()
    return [f"{duration(t)} on {name}" for name, t in medians.items()] or ["–"]


def paper_runs(paper: pd.DataFrame, caption: str) -> Table:
    """Set the paper's Table 1 beside our means."""
    means = results.summary(paper).set_index("run").reindex(PAPER_RUNS)
    theirs = published()["validation_accuracy"]
    rows = []
    for run, ours in means.iterrows():
        p = load_params(run)
        row = {"run": run.removeprefix("run"), "batch": p.batch_size}
        row |= {"whitening": _setting(p.whitening), "padding": p.padding}
        row |= {"optimizer": _setting(p.optimizer), "normal.": p.normalization}
        row |= {"smoothing": _setting(p.label_smoothing), "paper %": number(theirs[run])}
        row |= {"ours %": number(ours["validation"])}
        row |= {"difference": points(ours["validation"] - theirs[run])}
        rows.append(row | {"test %": number(ours["test"]), "n": number(ours["n"], 0)})
    return Table(rows, caption, "tbl-runs")


def _side(judged: pd.DataFrame, difference: str, seeds: str, decision: str) -> pd.DataFrame:
    """Write each claim's difference with its interval, n, and verdict (provisional: *) or mark, in
    columns of these names."""
    rows = {}
    for name, row in judged.iterrows():
        interval = f"{points(row.estimate)} ({points(row.low)} to {points(row.high)})"
        word = row["verdict"] or row["mark"] or "–"
        rows[name] = {
            difference: interval if row["basis"] else "–",
            seeds: str(row["seeds"]),
            decision: f"{word}*" if row["provisional"] else word,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def claims_twice(asked: pd.DataFrame, judged: pd.DataFrame, caption: str) -> Table:
    """Set each claim's result on the paper's schedule beside that around the fast recipe."""
    both = pd.concat([asked, judged])
    both = both[~both.index.duplicated()]
    question = pd.DataFrame({"claim": both["says"], "paper": both["paper"].map(points)})
    on_schedule = _side(asked, "paper's schedule", "n", "mark")
    around_fast = _side(judged, "fast recipe", "n ", "verdict")
    frame = pd.concat([question, on_schedule, around_fast], axis=1).fillna("–")
    return Table(frame, caption, "tbl-claims")


def parts(paper: pd.DataFrame, caption: str) -> Table:
    """Take the two steps of Table 1 apart that change two things, as far as runs are there."""
    judged = pd.concat([claims.judge(paper, "padding"), claims.judge(paper, "smoothing")])
    judged = judged[judged["basis"] != ""]
    if judged.empty:
        return Table([{"change": "none of these runs has been trained"}], caption, "tbl-parts")
    judged.index = range(len(judged))
    frame = judged[["says", "formula"]].rename(columns={"says": "change", "formula": "runs"})
    return Table(
        frame.join(_side(judged, "difference (interval)", "n", "result")), caption, "tbl-parts"
    )


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


def costs(paper: pd.DataFrame, fast: pd.DataFrame, caption: str) -> Table:
    """Say what a run costs and reaches: the paper's run 7, ours, and the fast recipe."""
    columns = ["run", "epochs", "time and device", "validation %", "test %", "n"]
    theirs = published()
    time = duration(PAPER_EPOCHS * theirs["seconds_per_epoch"]["per_epoch"])
    shares = [number(theirs[f"{images}_accuracy"]["run7"]) for images in ("validation", "test")]
    rows = [["run 7, the paper", PAPER_EPOCHS, f"{time} on NVIDIA A100", *shares, 1]]
    for compared, run in ((paper, "run7"), (fast, "fast")):
        for ours in results.summary(compared[compared["run"] == run]).itertuples():
            length = compared["epochs_trained"].iloc[0]
            shares = [number(ours.validation), number(ours.test)]
            rows.append([run, length, "; ".join(_times(compared, run)), *shares, ours.n])
    return Table(pd.DataFrame(rows, columns=columns), caption, "tbl-costs")


def speed(output_folder: str | None, caption: str) -> Table:
    """Set the paper's seconds an epoch beside our benchmark's, with crops drawn anew and once."""
    columns = ["device", "drawn anew", "drawn once", "time saved", "times as fast as a DataLoader"]
    theirs = published()["seconds_per_epoch"]
    saved = f"{100 * (1 - theirs['once'] / theirs['per_epoch']):.0f} %"
    device = "NVIDIA A100 (the paper)"
    rows = [[device, f"{theirs['per_epoch']} s", f"{theirs['once']} s", saved, "–"]]
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
    found = results.summary(results.others(frame))
    if found.empty:
        return Table([{"run": "none"}], caption, "tbl-others")
    names = {"run": "run", "changes": "other settings", "trained_for": "trained for", "n": "n"}
    shares = {"validation": "validation %", "test": "test %", "views": "test %, with views"}
    rows = found[list(names)].rename(columns=names).replace("", "–")
    rows = rows.join(found[list(shares)].map(number).rename(columns=shares))
    return Table(rows, caption, "tbl-others")


def environment(paper: pd.DataFrame, fast: pd.DataFrame, caption: str) -> Table:
    """Say what the records of each comparison were made with; several values where they differ."""
    columns = {}
    for name, compared in {"paper's schedule": paper, "fast recipe": fast}.items():
        of_records = compared[["device_name", "precision", "convolutions"]].astype(str)
        of_records = of_records.join(pd.DataFrame(list(compared["packages"]), compared.index))
        of_records["commit"] = compared["commit"].astype(str).str[:10]
        of_records["data, SHA-256"] = compared["data_sha256"].str[:16]
        values = {k: ", ".join(sorted(set(v.dropna()))) for k, v in of_records.items()}
        time = duration(compared["training_seconds"].sum())
        columns[name] = {"records": str(len(compared)), **values, "training time": time}
    frame = pd.DataFrame(columns).fillna("–").rename_axis("").reset_index()
    return Table(frame, caption, "tbl-environment")


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
    frames = []
    for row in compared[compared["run"].isin(PAPER_RUNS)].itertuples():
        history = pd.DataFrame(records.read_history(row.folder)).assign(run=row.run, seed=row.seed)
        frames.append(history.assign(label_smoothing=row.label_smoothing))
    if not frames:
        raise InputError("there is no record of the paper's seven runs yet")
    return pd.concat(frames, ignore_index=True)


def whitening_of(record: pd.Series) -> tuple[Tensor, Tensor]:
    """Compute eigenvalues (12,) and eigenvectors (12, 12), one a row, of the patch covariance from
    a record's frozen filters, whose length is 1 / sqrt(eigenvalue + epsilon)."""
    filters = torch.from_numpy(np.load(record.folder / "first_layer.npy")).double()
    filters = filters[: len(filters) // 2].flatten(1)
    length = filters.norm(dim=1, keepdim=True)
    return length.squeeze(1) ** -2 - record.whitening_eps, filters / length
