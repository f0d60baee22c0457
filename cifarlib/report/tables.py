"""Every table of notebooks/report.ipynb, and the numbers that its sentences hold."""

import contextlib
import math
from collections.abc import Iterator

import pandas as pd
from IPython.display import display

from cifarlib import InputError, benchmark
from cifarlib.params import load_params, run_names
from cifarlib.report import claims, results
from cifarlib.report.claims import PAPER_RUNS, points, published
from cifarlib.report.display import Table, Text, duration

OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD", "sgd-nesterov": "Nesterov"}


@contextlib.contextmanager
def missing_note() -> Iterator[None]:
    """Show what is there; of what is missing say so instead."""
    try:
        yield
    except InputError as error:
        display(Text(f"*Left out: {error}.*"))


def number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def times(compared: pd.DataFrame, run: str) -> str:
    """Write the median time of a run on each device and in each precision, the shortest first."""
    of_run = compared[compared["run"] == run]
    groups = of_run.groupby(["device_name", "precision"])["training_seconds"]
    medians = groups.median().sort_values().items()
    return "; ".join(f"{duration(s)} on {name} ({how})" for (name, how), s in medians) or "–"


def paper_runs(paper: pd.DataFrame, caption: str) -> Table:
    """Set the paper's Table 1 beside our means."""
    names = {"batch_size": "batch", "normalization": "normal.", "label_smoothing": "smoothing"}
    columns = ["run", "batch", "whitening", "padding", "optimizer", "normal.", "smoothing"]
    settings = pd.DataFrame([load_params(run).settings() for run in PAPER_RUNS], PAPER_RUNS)
    frame = settings.rename(columns=names)[columns].map(_setting)
    frame["run"] = frame["run"].str.removeprefix("run")
    means = results.summary(paper).set_index("run").reindex(PAPER_RUNS)
    theirs = pd.Series(published()["validation_accuracy"])
    frame["paper %"] = theirs.map(number)
    frame["ours %"] = means["validation"].map(number)
    frame["difference"] = (means["validation"] - theirs).map(points)
    frame["our test %"] = means["test"].map(number)
    return Table(frame.assign(n=means["n"].fillna(0).astype(int)), caption, "tbl-runs")


def _side(judged: pd.DataFrame, difference: str, seeds: str, decision: str) -> pd.DataFrame:
    """Write each claim's difference with interval, n and verdict in columns."""
    texts = judged[["estimate", "low", "high"]].map(points).astype(str)
    interval = texts["estimate"] + " (" + texts["low"] + " to " + texts["high"] + ")"
    frame = pd.DataFrame({difference: interval, seeds: judged["seeds"].astype(str)})
    frame[decision] = judged["verdict"]
    frame.loc[judged["seeds"] == 0, :] = "–"
    return frame


def claims_twice(asked: pd.DataFrame, judged: pd.DataFrame, caption: str) -> Table:
    """Set each claim's result on the paper's schedule beside that around the fast recipe."""
    both = pd.concat([asked, judged.drop(asked.index, errors="ignore")])
    question = pd.DataFrame({"claim": both["says"], "paper": both["paper"].map(points)})
    on_schedule = _side(asked, "paper’s schedule", "n", "mark")
    around_fast = _side(judged, "fast recipe", "n ", "verdict")  # "n ": no column twice
    frame = pd.concat([question, on_schedule, around_fast], axis=1).fillna("–")
    return Table(frame, caption, "tbl-claims")


def parts(paper: pd.DataFrame) -> pd.DataFrame:
    """Take the two steps of Table 1 apart that change two things, as far as runs are there."""
    judged = pd.concat([claims.judge(paper, "padding"), claims.judge(paper, "smoothing")])
    judged = judged[judged["seeds"] > 0].reset_index()
    sides = _side(judged, "difference (interval)", "n", "result")
    return pd.DataFrame({"change (runs)": judged["says"]}).join(sides)


def hyperparameters(caption: str) -> Table:
    """Set the paper's last run and its run with AdamW beside the fast recipe."""
    settings = {run: load_params(run).settings() for run in ("run7", "run1", "fast")}
    frame = pd.DataFrame(settings).drop(index="run")
    frame = frame[frame.nunique(axis=1) > 1].map(_setting)
    frame.loc["momentum", frame.loc["optimizer"] == "AdamW"] = "–"  # it has none
    frame.index = frame.index.str.replace("_", " ").str.replace("lization", "lisation").rename("")
    return Table(frame.reset_index(), caption, "tbl-settings")


def _setting(value: object) -> str:
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
        ratios = benchmark.ratios(record)
        medians = benchmark.epoch_seconds(record).median()
        times = [f"{medians[name]:.3g} s" for name in (benchmark.OURS, benchmark.ONCE)]
        saved = benchmark.spread(100 * (1 - ratios[benchmark.ONCE]), 0).replace("-", "−")
        device = f"{record['device_name']} ({record['precision']})"
        rows.append([device, *times, f"{saved} %", benchmark.spread(ratios[benchmark.BEST])])
    return Table(pd.DataFrame(rows, columns=columns), caption, "tbl-speed")


def all_runs(frame: pd.DataFrame, caption: str) -> Table:
    """List the means of the fast recipe and its arms, and of all other complete runs but Table 1's:
    variants on its schedule, other lengths, experiments of one's own."""
    fast = results.summary(results.of_fast(frame))
    paper = results.of_paper(frame)
    variants = paper[~paper["run"].isin(PAPER_RUNS)]
    others = results.summary(pd.concat([variants, results.others(frame)]))
    fast["what is different"] = fast["run"].map(_arm).replace("", "–")
    named = others["run"].map(lambda run: _arm(run) if run in run_names() else "")
    texts = zip(others["trained_for"], named, others["changes"], strict=True)
    others["what is different"] = ["; ".join(filter(None, of_run)) for of_run in texts]
    names = {"validation": "validation %", "test": "test %", "held_out": "both %"}
    names |= {"sd": "SD", "views": "views %"}
    columns = ["run", "what is different", "n", *names]
    rows = pd.concat([fast, others], ignore_index=True)[columns]
    rows = rows.assign(**rows.select_dtypes("float").map(number)).rename(columns=names)
    toys = frame["folder"][frame["toy"]].map(lambda path: f"{path.parent.name}/{path.name}")
    if len(toys):
        caption += f" Left out, as trained on too little or not for long enough: {', '.join(toys)}."
    return Table(rows if len(rows) else [{"run": "none"}], caption, "tbl-all")


def _arm(run: str) -> str:
    """Say what a run changes of the fast recipe or, on the paper's schedule, of run 6, but for its
    length: "label smoothing 0, learning rate 0.000637"."""
    settings = load_params(run).settings()
    base = load_params("fast" if settings["schedule"] == "triangle" else "run6").settings()
    base |= {name: settings[name] for name in ("run", *results.LENGTH)}
    changed = {k: v for k, v in settings.items() if v != base[k]}
    texts = [f"no {k}" if v is False else f"{k} {_setting(v)}" for k, v in changed.items()]
    return ", ".join(texts).replace("_", " ").replace("lization", "lisation")


def environment(paper: pd.DataFrame, fast: pd.DataFrame, caption: str) -> Table:
    """Say what the records of each comparison were made with; several values where they differ."""
    columns = {}
    for name, compared in {"paper’s schedule": paper, "fast recipe": fast}.items():
        made = compared[["device_name", "precision", "convolutions", "commit", "data_sha256"]]
        made = made.join(pd.DataFrame(list(compared["packages"]), compared.index))
        made["commit"] = made["commit"].astype(str).str[:10]
        values = made.agg(lambda of: ", ".join(sorted(set(of.dropna()))) or "–")
        values["records"] = str(len(compared))
        values["training time"] = duration(compared["training_seconds"].sum())
        columns[name] = values
    frame = pd.DataFrame(columns).fillna("–").rename_axis("").reset_index()
    return Table(frame, caption, "tbl-environment")
