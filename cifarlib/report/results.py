"""The records under outputs/ as a pandas DataFrame, a row a record, and which are compared.

``table()`` is for a user in JupyterLab, too:
``table().groupby(["run", "trained_for"]).held_out_accuracy.mean()``."""

from pathlib import Path

import numpy as np
import pandas as pd

from cifarlib import InputError, params, plural, records
from cifarlib.params import DEFAULTS, PAPER_EPOCHS, TRAIN_IMAGES, load_params, run_names
from cifarlib.provenance import MADE_ON
from cifarlib.report.claims import JUDGED_SEEDS, PAPER_RUNS, arms_of, published

SHARES = ["validation_accuracy", "test_accuracy", "held_out_accuracy", "test_accuracy_views"]
# that a frame has, beside the parameters, even where there is no record
COLUMNS = [*DEFAULTS, *SHARES, *MADE_ON, "epochs_trained", "training_seconds", "train_loss", "toy"]
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
    row = DEFAULTS | record["parameters"] | record
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
    trained equally long: of several lengths that with most runs, then the longest. Seeds of one's
    own, such as 100, are in neither comparison: they change no verdict."""
    named = _comparable(frame, [*PAPER_RUNS, *arms_of("paper")], PAPER_EPOCHS)
    runs = named.groupby("epochs_trained")["run"].nunique()
    return named[named["epochs_trained"] == runs[runs == runs.max()].index.max()]


def of_fast(frame: pd.DataFrame) -> pd.DataFrame:
    """Choose the records of the fast recipe and of its arms, trained to the end."""
    named = _comparable(frame, ["fast", *arms_of("fast")], load_params("fast").epochs)
    return named[named["epochs_trained"] == named["epochs"]]


def _comparable(frame: pd.DataFrame, runs: list[str], epochs: int) -> pd.DataFrame:
    chosen = frame[(frame["changes"] == "") & ~frame["toy"] & (frame["seed"] < JUDGED_SEEDS)]
    chosen = chosen.query("run in @runs and epochs == @epochs and train_images == @TRAIN_IMAGES")
    order = np.lexsort([chosen["seed"].astype(int), chosen["run"].map(runs.index).astype(int)])
    return chosen.iloc[order]


def others(frame: pd.DataFrame) -> pd.DataFrame:
    """Choose what is in neither comparison and no toy: experiments, other lengths, all images."""
    compared = of_paper(frame).index.union(of_fast(frame).index)
    return frame[~frame["toy"]].drop(index=compared)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Summarise the seeds of each run, one's own apart, per cent: number n, mean accuracies (views:
    averaged over six), deviation sd of the held-out one, the paper's validation; nan: has none."""
    is_judged = (frame["seed"] < JUDGED_SEEDS).rename("judged")
    groups = frame.groupby(["run", "changes", "trained_for", is_judged], sort=False)
    rows = 100 * groups[SHARES].agg(lambda shares: shares.mean(skipna=False))
    rows.columns = ["validation", "test", "held_out", "views"]
    rows = rows.assign(n=groups.size(), sd=100 * groups["held_out_accuracy"].std()).reset_index()
    return rows.assign(paper=rows["run"].map(published()["validation_accuracy"]))


def first_of(compared: pd.DataFrame, run: str) -> pd.Series:
    """Choose the run's record of the lowest seed; InputError where there is none."""
    of_run = compared[compared["run"] == run]
    if of_run.empty:
        raise InputError(f"there is no record of {run} yet")
    return of_run.iloc[0]


def histories(compared: pd.DataFrame) -> pd.DataFrame:
    """Read what figures.loss_curves draws: the histories of Table 1's runs, one after the other."""
    rows = compared[compared["run"].isin(PAPER_RUNS)]
    if rows.empty:
        raise InputError("there is no record of the paper's seven runs yet")
    read = [pd.DataFrame(records.read_history(path)).assign(folder=path) for path in rows["folder"]]
    return pd.concat(read).merge(rows[["folder", "run", "seed", "label_smoothing"]])
