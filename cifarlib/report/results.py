"""The records under outputs/ as a pandas DataFrame, one row a record, and which of them the report
compares.

``table()`` is for a user in JupyterLab, too:
``table().groupby(["run", "trained_for"]).held_out_accuracy.mean()``.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from cifarlib import params, plural, records
from cifarlib.params import PAPER_EPOCHS, TRAIN_IMAGES, RunParams, load_params, run_names
from cifarlib.provenance import MADE_ON, made_on
from cifarlib.report.claims import PAPER_RUNS, arms_of, published

# what a record counts as having where it names none
SETTINGS = RunParams("").settings() | {"training_version": 1}
SHARES = ["validation_accuracy", "test_accuracy", "held_out_accuracy"]
SHARES += ["validation_accuracy_views", "test_accuracy_views"]
# that a frame has, beside the parameters, even where there is no record
COLUMNS = (
    *SHARES,
    *("train_loss", "validation_loss", "test_loss", "epochs_trained"),
    *("seconds_per_epoch", "training_seconds", *MADE_ON),
    *("trained_for", "changes", "toy", "commit", "packages", "data_sha256", "folder"),
)


def table(output_folder: str | Path | None = None) -> pd.DataFrame:
    """Read all finished runs below outputs/ (default: the project's), a row a record.

    Accuracies are shares, losses means per image; held_out_accuracy is of validation and test
    images together. seconds_per_epoch: median. device, device_name, precision, convolutions: of all
    sessions where they differ. trained_for: how long, in words. changes: what differs from the
    run's params file, apart from seed and length. toy: see ``_is_toy``.
    """
    rows = [_row(record) for record in records.finished(output_folder)]
    columns = dict.fromkeys([*SETTINGS, *COLUMNS, *(name for row in rows for name in row)])
    frame = pd.DataFrame(rows, columns=list(columns))
    # a run that validates on nothing has None there, which becomes nan
    types = {"stop_epoch": "Int64", "toy": bool, "validation_loss": float}
    return frame.astype({**types, **dict.fromkeys(SHARES, float)})


def _row(record: dict) -> dict:
    settings = SETTINGS | record["parameters"]
    row = settings | record
    row["held_out_accuracy"] = math.nan
    if record["validation_accuracy"] is not None:
        images = [record["validation_images"], record["test_images"]]
        shares = [record["validation_accuracy"], record["test_accuracy"]]
        row["held_out_accuracy"] = np.average(shares, weights=images)
    row["seconds_per_epoch"] = np.median(record["epoch_seconds"])
    row["training_seconds"] = sum(record["epoch_seconds"])
    for name in MADE_ON:
        row[name] = " / ".join(dict.fromkeys(session[name] for session in made_on(record)))
    row["trained_for"] = _trained_for(row)
    row["changes"] = f"there is no params/{record['run']}.yaml"
    row["toy"] = False
    if record["run"] in run_names():
        own = load_params(record["run"])
        free = {name: getattr(own, name) for name in ("seed", "epochs", "stop_epoch")}
        free["train_images"] = own.train_images
        row["changes"] = "; ".join(own.changes_since(record["parameters"] | free))
        row["toy"] = _is_toy(row, own)
    return row


def _trained_for(row: dict) -> str:
    """Say it as "95 of the paper's 200 epochs" or "12 epochs, 1,024 of 40,000 images"."""
    epochs = plural(row["epochs"], "epoch")
    if row["schedule"] == "step":
        epochs = f"the paper's {PAPER_EPOCHS} epochs"
        if row["epochs"] != PAPER_EPOCHS:
            epochs += f" squeezed into {row['epochs']}"
    text = f"{row['stop_epoch']} of {epochs}" if row["stop_epoch"] else epochs
    if row["train_images"] < TRAIN_IMAGES:
        text += f", {row['train_images']:,} of {TRAIN_IMAGES:,} images"
    if row["train_images"] > TRAIN_IMAGES:
        text += f", on {row['train_images']:,} images"
    return text


def _is_toy(row: dict, own: RunParams) -> bool:
    """Tell whether a run is too small to stand beside others: on part of the data, squeezed into
    fewer epochs than its params file has, or stopped before its rate was low.

    The rate is low after the third fall of the paper's schedule, and else at the end.
    """
    is_small = row["train_images"] < own.train_images or row["epochs"] < own.epochs
    low_after = row["epochs"] - 1
    if row["schedule"] == "step":
        low_after = 3 * params.DECAY_EPOCHS / PAPER_EPOCHS * row["epochs"]
    end = own.stop_epoch or own.epochs
    return is_small or (row["epochs_trained"] < end and row["epochs_trained"] <= low_after)


def of_paper(frame: pd.DataFrame) -> pd.DataFrame:
    """Choose what is compared on the paper's schedule: Table 1's runs and the variants that the
    claims name, all trained equally long.

    Of several lengths it is the one with most runs, then the longest.
    """
    named = _comparable(frame, [*PAPER_RUNS, *arms_of("paper")])
    named = named[named["epochs"] == PAPER_EPOCHS]
    runs = named.groupby("epochs_trained")["run"].nunique()
    return named[named["epochs_trained"] == runs[runs == runs.max()].index.max()]


def of_fast(frame: pd.DataFrame) -> pd.DataFrame:
    """Choose the records of the fast recipe and of its arms, trained as long as its params file
    says."""
    named = _comparable(frame, ["fast", *arms_of("fast")])
    own = load_params("fast")
    return named[(named["epochs"] == own.epochs) & (named["epochs_trained"] == own.last_epoch)]


def _comparable(frame: pd.DataFrame, runs: list[str]) -> pd.DataFrame:
    chosen = frame[(frame["changes"] == "") & ~frame["toy"]]
    chosen = chosen[chosen["run"].isin(runs) & (chosen["train_images"] == TRAIN_IMAGES)]
    places = {run: place for place, run in enumerate(dict.fromkeys(runs))}
    order = np.lexsort([chosen["seed"].astype(int), chosen["run"].map(places).astype(int)])
    return chosen.iloc[order]


def others(frame: pd.DataFrame) -> pd.DataFrame:
    """Choose what stands in neither comparison and is no toy: experiments of one's own, runs on all
    50,000 images, another length."""
    compared = of_paper(frame).index.union(of_fast(frame).index)
    return frame[~frame["toy"]].drop(index=compared)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Summarise the seeds of each run, per cent: their number n, mean accuracies (views: of the
    test images with test-time augmentation), the deviation sd of the validation accuracy, and the
    paper's validation accuracy; nan where there is none, or where a seed has none."""
    shares = {"validation": "validation_accuracy", "test": "test_accuracy"}
    shares |= {"held_out": "held_out_accuracy", "views": "test_accuracy_views"}
    groups = frame.groupby(["run", "changes", "trained_for"], sort=False)
    means = 100 * groups[list(shares.values())].agg(lambda values: values.mean(skipna=False))
    means.columns = list(shares)
    rows = means.assign(n=groups.size(), sd=100 * groups["validation_accuracy"].std()).reset_index()
    return rows.assign(paper=rows["run"].map(published()["validation_accuracy"]))


def markdown(frame: pd.DataFrame) -> str:
    """Write the README's table of results, the paper's schedule first, and the toy runs apart."""
    ordered = pd.concat([of_paper(frame), of_fast(frame), others(frame)])
    text = _as_markdown(ordered) if len(ordered) else "There is no record yet."
    toys = frame[frame["toy"]]
    if len(toys):
        text += (
            "\n\nToy runs (part of the data, a squeezed schedule, or stopped early), which no "
            f"table and no verdict counts:\n\n{_as_markdown(toys)}"
        )
    return text


def _as_markdown(frame: pd.DataFrame) -> str:
    columns = ["run", "what it asks", "trained for", "n", "validation % (± sd)", "test %"]
    columns += ["test %, with views", "paper, validation %"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in summary(frame).itertuples():
        means = [row.validation, row.test, row.views, row.paper]
        cells = ["–" if math.isnan(mean) else f"{mean:.2f}" for mean in means]
        if row.n > 1:
            cells[0] += f" ± {row.sd:.2f}"
        name = f"{row.run} ({row.changes})" if row.changes else row.run
        asks = load_params(row.run).question if row.run in run_names() else "–"
        lines.append(f"| {' | '.join([name, asks, row.trained_for, str(row.n), *cells])} |")
    return "\n".join(lines)
