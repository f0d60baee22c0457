"""The paper's numbers and claims (params/published/), and the verdicts that records give on them.

One measure: the accuracy over all held-out images, validation and test together, as no run chooses
anything on either. One interval: it is about other seeds and other images at once. One rule: the
intervals of a family of claims hold together (Bonferroni), and a claim is reproduced where its
interval lies wholly on the paper's side of zero, contradicted where wholly on the other.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from cifarlib import project_root, records
from cifarlib.params import DECAY_EPOCHS

LEVEL = 0.95  # at which all intervals of a family hold together
MARGIN = 0.5  # points within which "alike" holds
VERDICT_SEEDS = 3  # of each run, for a verdict
FINAL_SEEDS = 8  # with fewer a verdict is provisional; fixed before any run had them
PAPER_RUNS = tuple(f"run{number}" for number in range(1, 8))  # Table 1
# what is said on the paper's side of zero (1), on the other side (-1), and of neither (0)
VERDICTS = {1: "reproduced", -1: "contradicted", 0: "not resolved"}
OUR_VERDICTS = {1: "above zero", -1: "below zero", 0: "not resolved"}
MARKS = {1: "agrees", -1: "disagrees", 0: "open"}
OUR_MARKS = {1: "above", -1: "below", 0: "open"}


def _read(name: str) -> dict:
    path = project_root() / "params" / "published" / name
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def published() -> dict:
    """Read the paper's own numbers, params/published/table1.yaml."""
    return _read("table1.yaml")


def arms_of(recipe: str) -> list[str]:
    """Name the runs that the claims compare, recipe "paper" or "fast", each once."""
    claims = [claim for group in _read("claims.yaml").values() for claim in group.values()]
    return list(dict.fromkeys(run for claim in claims for run in claim.get(recipe, {})))


def binomial_interval(share: float, n: int) -> tuple[float, float]:
    """Compute the 95 % interval (Wilson) of an accuracy on n images, the seed left as it is."""
    interval = stats.binomtest(round(share * n), n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def pooled_variance(runs: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Estimate the variance between seeds, taken to be the same for all runs, with its degrees of
    freedom; nan, 0 where no run has two seeds."""
    freedom = sum(len(values) - 1 for values in runs)
    squares = sum(len(values) * np.var(values) for values in runs)
    return (float(squares) / freedom, freedom) if freedom else (math.nan, 0)


def contrast(
    arms: Sequence[tuple[float, np.ndarray]], pooled: tuple[float, int]
) -> tuple[float, float, float]:
    """Estimate a weighted sum of accuracies: value and standard error in points, and the degrees of
    freedom.

    arms: (weight, right), right (n, N) being whether each of n seeds got each of N images right.
    pooled: variance between seeds, points squared, and its degrees of freedom.

    The variance is the seeds' plus the images'. The scatter of the N differences also holds a
    residual, the chance of which images a seed gets right. That is in the seeds' variance already
    and taken off. At one seed it cannot be told apart: then the variance is that over the images.
    """
    count = arms[0][1].shape[1]
    shares = [100 * right.mean(axis=0) for _, right in arms]
    difference = sum(weight * share for (weight, _), share in zip(arms, shares, strict=True))
    over_images = difference.var(ddof=1) / count
    if min(len(right) for _, right in arms) == 1:
        return float(difference.mean()), math.sqrt(over_images), math.inf
    residual = 0.0
    of_seeds = 0.0
    for (weight, right), share in zip(arms, shares, strict=True):
        residual += weight**2 * (share * (100 - share)).mean() / (len(right) - 1) / count
        of_seeds += weight**2 * pooled[0] / len(right)
    variance = of_seeds + max(0.0, over_images - residual)
    # Satterthwaite; beside the seeds', the images' degrees of freedom are without number
    freedom = pooled[1] * (variance / of_seeds) ** 2 if of_seeds else math.inf
    return float(difference.mean()), math.sqrt(variance), freedom


def judge(frame: pd.DataFrame, group: str = "paper", recipe: str = "paper") -> pd.DataFrame:
    """Judge the claims of a group of claims.yaml by the records of one comparison, a row a claim.

    frame: ``results.of_paper`` or, recipe "fast", ``results.of_fast``. Columns: says, formula,
    ours, sign, measure; paper and estimate, the paper's difference and ours in points (nats for a
    loss); error, freedom; low and high, the interval, and basis, what it is over; seeds, of the run
    with the fewest; verdict, provisional; mark, which stands for a verdict where seeds are too few.
    """
    claims = {name: claim for name, claim in _read("claims.yaml")[group].items() if recipe in claim}
    rows = [_question(claim, recipe) for claim in claims.values()]
    pooled = pooled_variance([100 * g for _, g in frame.groupby("run")["held_out_accuracy"]])
    folders = {run: list(of.sort_values("seed")["folder"]) for run, of in frame.groupby("run")}
    right: dict[str, np.ndarray] = {}
    for row, claim in zip(rows, claims.values(), strict=True):
        arms = claim[recipe]
        row["seeds"] = min(len(folders.get(run, [])) for run in arms)
        if row["seeds"] and row["measure"] == "early_loss":
            row |= _early_losses(arms, folders)
        elif row["seeds"]:
            for run in arms.keys() - right.keys():
                right[run] = np.stack([_right_answers(folder) for folder in folders[run]])
            weighted = [(weight, right[run]) for run, weight in arms.items()]
            row["estimate"], row["error"], row["freedom"] = contrast(weighted, pooled)
            row["basis"] = "images" if row["seeds"] == 1 else "seeds and images"
            family = [r for r in rows if (r["ours"], r["measure"]) == (row["ours"], row["measure"])]
            row["low"], row["high"] = _interval(row, len(family))
        row |= _decision(row)
    return pd.DataFrame(rows, index=list(claims))


def _question(claim: dict, recipe: str) -> dict:
    """Lay out what a claim asks, and the paper's own difference."""
    row = {"says": claim["says"], "formula": _formula(claim[recipe])}
    row |= {"ours": claim.get("ours", False), "sign": claim.get("sign", 1)}
    row["measure"] = claim.get("measure", "held_out_accuracy")
    numbers = published()
    accuracies = numbers["validation_accuracy"]
    row["paper"] = math.nan
    if "published" in claim:
        row["paper"] = numbers[claim["published"]]
    elif "paper" in claim and row["measure"] == "held_out_accuracy":
        terms = [weight * accuracies.get(run, math.nan) for run, weight in claim["paper"].items()]
        row["paper"] = sum(terms)
    unknown = dict.fromkeys(("estimate", "error", "freedom", "low", "high"), math.nan)
    return row | unknown | {"basis": ""}


def _formula(arms: dict[str, float]) -> str:
    """Write the sum as "7 − 2·6 + 5" or "fast − fast-sgd"."""
    text = ""
    for run, weight in arms.items():
        text += " − " if weight < 0 else " + "
        if abs(weight) != 1:
            text += f"{abs(weight):g}·"
        text += run.removeprefix("run")
    return text.removeprefix(" + ")


def _right_answers(folder: Path) -> np.ndarray:
    """Read which of the held-out images a run got right, (N,)."""
    answers = records.read_predictions(folder)
    parts = ("validation", "test")
    return np.concatenate([answers[p].argmax(1) == answers[f"{p}_labels"] for p in parts])


def _early_losses(arms: dict[str, float], folders: dict[str, list[Path]]) -> dict:
    """Compare training losses over the first phase of the paper's rate: the mean over its epochs,
    and as the interval the range over them."""
    difference = np.zeros(())
    for run, weight in arms.items():
        histories = [records.read_history(folder) for folder in folders[run]]
        losses = np.array([[row["train_loss"] for row in history] for history in histories])
        difference = difference + weight * losses.mean(axis=0)
    early = difference[:DECAY_EPOCHS]
    ends = {"low": early.min(), "high": early.max()}
    return {"estimate": early.mean(), **ends, "basis": "epochs"}


def _interval(row: dict, family: int) -> tuple[float, float]:
    """Compute the interval that holds together with the others of its family; "alike" (sign 0) has
    that of two one-sided tests."""
    tails = 2 if row["sign"] else 1
    half = row["error"] * stats.t.ppf(1 - (1 - LEVEL) / family / tails, row["freedom"])
    return row["estimate"] - half, row["estimate"] + half


def _decision(row: dict) -> dict:
    """Give the verdict or, below VERDICT_SEEDS seeds, the mark."""
    low, high = sorted((row["sign"] or 1) * row[end] for end in ("low", "high"))
    if row["sign"]:
        side = int(low > 0) - int(high < 0)
    else:
        side = int(low > -MARGIN and high < MARGIN) - int(low > MARGIN or high < -MARGIN)
    decision = {"verdict": "", "mark": "", "provisional": False}
    if row["seeds"] >= VERDICT_SEEDS and row["basis"] == "seeds and images":
        decision["verdict"] = (OUR_VERDICTS if row["ours"] else VERDICTS)[side]
        decision["provisional"] = row["seeds"] < FINAL_SEEDS
    elif row["basis"]:
        decision["mark"] = (OUR_MARKS if row["ours"] else MARKS)[side]
    return decision


def surprises(judged: pd.DataFrame, expected: dict[str, str]) -> list[str]:
    """Name the claims whose verdict or mark is another than the text at hand was written for."""
    found = []
    for name, row in judged.iterrows():
        is_now = row.verdict or row["mark"] or "without records"
        was = expected.get(name, "without records")
        if is_now != was:
            found.append(f"{row.says}: {is_now}, where the text has {was}")
    return found


def conclusion(judged: pd.DataFrame) -> str:
    """List the paper's claims by verdict in Markdown, each with our difference and the paper's."""
    lines = []
    for verdict in (*VERDICTS.values(), ""):
        rows = judged[~judged["ours"] & (judged["verdict"] == verdict)]
        texts = []
        for row in rows.sort_values("estimate", ascending=False).itertuples():
            difference = f" ({points(row.estimate)} points, the paper {points(row.paper)})"
            texts.append(row.says + difference if verdict else row.says)
        if texts:
            heading = verdict or "without a verdict"
            lines.append(f"- **{len(texts)} {heading}**: {'; '.join(texts)}")
    if judged["provisional"].any():
        lines.append(f"\nThese verdicts are provisional until each run has {FINAL_SEEDS} seeds.")
    return "\n".join(lines)


def points(value: float, digits: int = 2) -> str:
    """Write a difference with its sign, a true minus; a dash for nan."""
    return "–" if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")
