"""The records under outputs/ as a pandas DataFrame, a row a record, and which are compared.

``table()`` is for a user in JupyterLab, too:
``table().groupby(["run", "trained_for"]).held_out_accuracy.mean()``."""

from pathlib import Path

import numpy as np
import pandas as pd

from cifarlib import params, plural, records
from cifarlib.params import PAPER_EPOCHS, TRAIN_IMAGES, RunParams, load_params, run_names
from cifarlib.provenance import MADE_ON
from cifarlib.report.claims import FINAL_SEEDS, PAPER_RUNS, arms_of, published

# what a record counts as having where it names none
SETTINGS = RunParams("").settings() | {"training_version": 1}
SHARES = ["validation_accuracy", "test_accuracy", "held_out_accuracy", "test_accuracy_views"]
# that a frame has, beside the parameters, even where there is no record
COLUMNS = [*SETTINGS, *SHARES, *MADE_ON, "epochs_trained", "training_seconds", "train_loss", "toy"]
COLUMNS += ["trained_for", "changes", "finished", "commit", "packages", "data_sha256", "folder"]
LENGTH = ("seed", "epochs", "stop_epoch", "train_images")  # no change of a run's settings


def table(output_folder: str | Path | None = None) -> pd.DataFrame:
    """Read all finished runs below outputs/ (default: the project's), a row a record: those on the
    paper's schedule, around the fast recipe, others, toy runs.

    Accuracies are shares, losses means per image; held_out_accuracy is of validation and test
    images together. device, device_name, precision, convolutions: of all sessions where they
    differ. changes: what differs from the run's params file. toy: of fewer images than that says,
    or of at most 45 % of its epochs, after which the paper's rate has fallen three times."""
    frame = pd.DataFrame([_row(record) for record in records.read_all(output_folder)])
    frame = frame.reindex(columns=frame.columns.union(COLUMNS, sort=False))
    frame = frame.astype({"stop_epoch": "Int64", "toy": bool} | dict.fromkeys(SHARES, float))
    return pd.concat([of_paper(frame), of_fast(frame), others(frame), frame[frame["toy"]]])


def _row(record: dict) -> dict:
    row = SETTINGS | record["parameters"] | record
    images = [record["validation_images"], record["test_images"]]
    # without validation images the share is None, and that of both becomes nan
    shares = np.array([record["validation_accuracy"], record["test_accuracy"]], float)
    row["held_out_accuracy"] = np.average(shares, weights=images)
    row["training_seconds"] = sum(record["epoch_seconds"])
    for name in MADE_ON:
        row[name] = " / ".join(dict.fromkeys(session[name] for session in record["sessions"]))
    row["trained_for"] = _trained_for(row)
    row["changes"] = f"there is no params/{record['run']}.yaml"
    row["toy"] = False
    if record["run"] in run_names():
        own = load_params(record["run"])
        length = {name: getattr(own, name) for name in LENGTH}
        row["changes"] = "; ".join(own.changes_since(record["parameters"] | length))
        low_after = 3 * params.DECAY_EPOCHS / PAPER_EPOCHS * own.last_epoch
        row["toy"] = row["train_images"] < own.train_images or row["epochs_trained"] <= low_after
    return row


def _trained_for(row: dict) -> str:
    """Write how long it trained: "95 of the paper's 200 epochs" or "12 epochs, on 1,024 images"."""
    text = plural(row["epochs"], "epoch")
    if row["schedule"] == "step" and row["epochs"] == PAPER_EPOCHS:
        text = f"the paper's {text}"
    if row["stop_epoch"]:
        text = f"{row['stop_epoch']} of {text}"
    if row["train_images"] != TRAIN_IMAGES:
        text += f", on {row['train_images']:,} images"
    return text


def of_paper(frame: pd.DataFrame) -> pd.DataFrame:
    """Choose Table 1's runs and their variants in the claims, on the schedule of 200 epochs, all
    trained equally long: of several lengths that with most runs, then the longest."""
    named = _comparable(frame, [*PAPER_RUNS, *arms_of("paper")], PAPER_EPOCHS)
    runs = named.groupby("epochs_trained")["run"].nunique()
    return named[named["epochs_trained"] == runs[runs == runs.max()].index.max()]


def of_fast(frame: pd.DataFrame) -> pd.DataFrame:
    """Choose the records of the fast recipe and of its arms, trained to the end, of the seeds that
    were declared beforehand: a seed of one's own, such as 100, changes no verdict."""
    named = _comparable(frame, ["fast", *arms_of("fast")], load_params("fast").epochs)
    return named[(named["epochs_trained"] == named["epochs"]) & (named["seed"] < FINAL_SEEDS)]


def _comparable(frame: pd.DataFrame, runs: list[str], epochs: int) -> pd.DataFrame:
    chosen = frame[(frame["changes"] == "") & ~frame["toy"] & frame["run"].isin(runs)]
    chosen = chosen[(chosen["epochs"] == epochs) & (chosen["train_images"] == TRAIN_IMAGES)]
    order = np.lexsort([chosen["seed"].astype(int), chosen["run"].map(runs.index).astype(int)])
    return chosen.iloc[order]


def others(frame: pd.DataFrame) -> pd.DataFrame:
    """Choose what is in neither comparison and no toy: experiments, other lengths, all images."""
    compared = of_paper(frame).index.union(of_fast(frame).index)
    return frame[~frame["toy"]].drop(index=compared)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Summarise the seeds of each run, per cent: their number n, mean accuracies (views: of the
    test images with test-time augmentation), the standard deviation sd of the held-out one, and the
    paper's validation accuracy; nan where there is none, or where a seed has none."""
    groups = frame.groupby(["run", "changes", "trained_for"], sort=False)
    rows = 100 * groups[SHARES].agg(lambda shares: shares.mean(skipna=False))
    rows.columns = ["validation", "test", "held_out", "views"]
    rows = rows.assign(n=groups.size(), sd=100 * groups["held_out_accuracy"].std()).reset_index()
    return rows.assign(paper=rows["run"].map(published()["validation_accuracy"]))
