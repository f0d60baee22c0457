"""The paper's numbers and claims (params/published/), and the verdicts that records give on them.

One measure: the accuracy over all held-out images, validation and test together, as no run uses
either to choose an epoch. One interval: it is about other seeds and other images at once. One rule:
the intervals of a family of claims hold together (Bonferroni), and a claim is reproduced where its
interval lies wholly on the paper's side of zero, contradicted where wholly on the other."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from scipy import stats

from cifarlib import project_root, records

LEVEL = 0.95  # at which all intervals of a family hold together
# an accuracy, and the images that it is of
MEASURES = {"validation": ["validation"], "test": ["test"], "held_out": ["validation", "test"]}
MARGIN = 0.5  # points within which "alike" holds
VERDICT_SEEDS = 3  # of each run, for a verdict
JUDGED_SEEDS = 8  # 0 to 7, declared before the last of them were trained
PAPER_RUNS = tuple(f"run{number}" for number in range(1, 8))  # Table 1
# what is said on the paper's side of zero (1), on the other side (-1), and of neither (0)
VERDICTS = {1: "reproduced", -1: "contradicted", 0: "not resolved"}
OUR_VERDICTS = {1: "above zero", -1: "below zero", 0: "not resolved"}
MARKS = {1: "agrees", -1: "disagrees", 0: "open"}
OUR_MARKS = {1: "above", -1: "below", 0: "open"}
NO_RECORDS = "without records"


def _read(name: str) -> dict:
    return yaml.safe_load((project_root() / "params/published" / name).read_text(encoding="utf-8"))


def published() -> dict:
    """Read the paper's own numbers, params/published/table1.yaml."""
    return _read("table1.yaml")


def arms_of(recipe: str) -> list[str]:
    """Name the runs that the claims compare, recipe "paper" or "fast", each once."""
    claims = [claim for group in _read("claims.yaml").values() for claim in group.values()]
    return list(dict.fromkeys(run for claim in claims for run in claim.get(recipe, {})))


def pooled_variance(compared: pd.DataFrame, measure: str = "held_out") -> tuple[float, int]:
    """Estimate the variance of an accuracy (points squared) between seeds, taken to be the same for
    all runs, with its degrees of freedom; nan, 0 where no run has two seeds."""
    groups = (100 * compared[f"{measure}_accuracy"]).groupby(compared["run"])
    freedom = len(compared) - groups.ngroups
    squares = (groups.var(ddof=0) * groups.size()).sum()
    return (float(squares) / freedom, freedom) if freedom else (math.nan, 0)


def contrast(arms: list[tuple[float, np.ndarray]], pooled: tuple[float, int]) -> tuple[float, ...]:
    """Estimate a weighted sum of accuracies: value, standard error (points), degrees of freedom.

    arms: (weight, right), right (n, N) being whether each of n seeds got each of N images right.
    pooled: variance between seeds, points squared, and its degrees of freedom.

    The variance is the seeds' plus the images'. The scatter of the N differences also holds a
    residual, the chance of which images a seed gets right. That is in the seeds' variance already
    and taken off. At one seed it cannot be told apart: then the variance is that over the images.
    """
    count = arms[0][1].shape[1]
    difference = sum(100 * weight * right.mean(axis=0) for weight, right in arms)
    over_images = difference.var(ddof=1) / count
    if min(len(right) for _, right in arms) == 1:
        return float(difference.mean()), math.sqrt(over_images), math.inf
    of_seeds = sum(weight**2 * pooled[0] / len(right) for weight, right in arms)
    residual = sum(weight**2 * right.var(axis=0, ddof=1) / len(right) for weight, right in arms)
    variance = of_seeds + max(0.0, over_images - 100**2 * residual.mean() / count)
    # Satterthwaite; beside the seeds', the images' degrees of freedom are without number
    freedom = pooled[1] * (variance / of_seeds) ** 2 if of_seeds else math.inf
    return float(difference.mean()), math.sqrt(variance), freedom


def judge(
    frame: pd.DataFrame, group: str = "paper", recipe: str = "paper", measure: str = "held_out"
) -> pd.DataFrame:
    """Judge the claims of a group of claims.yaml by the records of one comparison, a row a claim.

    frame: ``results.of_paper`` or, recipe "fast", ``results.of_fast``. measure: the accuracy, see
    MEASURES. Columns: says, ours, sign; paper and estimate, the paper's difference and ours in
    points; error, freedom; low and high, the interval; seeds, of the run with the fewest; verdict,
    which is a mark with few seeds and NO_RECORDS with none."""
    claims = {name: claim for name, claim in _read("claims.yaml")[group].items() if recipe in claim}
    pooled = pooled_variance(frame, measure)
    folders = frame.groupby("run")["folder"]
    right = {run: np.stack([read_right(f, measure) for f in of_run]) for run, of_run in folders}
    accuracies = published()["validation_accuracy"]
    rows = []
    for claim in claims.values():
        arms = claim[recipe]
        terms = [w * accuracies.get(run, math.nan) for run, w in claim.get("paper", {}).items()]
        row = {"ours": False, "sign": 1} | claim
        row["paper"] = claim.get("published", sum(terms or [math.nan]))
        row["seeds"] = min(len(right.get(run, [])) for run in arms)
        if row["seeds"]:
            weighted = [(weight, right[run]) for run, weight in arms.items()]
            row["estimate"], row["error"], row["freedom"] = contrast(weighted, pooled)
        rows.append(row)
    columns = ["says", "ours", "sign", "paper", "estimate", "error", "freedom", "seeds"]
    return decide(pd.DataFrame(rows, list(claims), columns))


def read_right(folder: Path, measure: str) -> np.ndarray:
    """Read which of a measure's images (see MEASURES) a run got right, (N,) bool."""
    answers = records.read_predictions(folder)
    parts = MEASURES[measure]
    return np.concatenate([answers[p].argmax(1) == answers[f"{p}_labels"] for p in parts])


def decide(judged: pd.DataFrame) -> pd.DataFrame:
    """Add verdicts and intervals, which hold together for the paper's claims and for ours. "Alike"
    (sign 0) has the interval of two one-sided tests."""
    family = judged.groupby("ours")["says"].transform("size")
    tails = judged["sign"] + 1
    half = judged["error"] * stats.t.ppf(1 - (1 - LEVEL) / family / tails, judged["freedom"])
    judged = judged.assign(low=judged["estimate"] - half, high=judged["estimate"] + half)
    return judged.assign(verdict=[_verdict(row) for row in judged.itertuples()])


def _verdict(row: tuple) -> str:
    """Say where a claim's interval lies; below VERDICT_SEEDS seeds that is a mark."""
    if not row.seeds:
        return NO_RECORDS
    side = int(row.low > 0) - int(row.high < 0)
    if row.sign == 0:
        is_outside = row.low > MARGIN or row.high < -MARGIN
        side = int(row.low > -MARGIN and row.high < MARGIN) - int(is_outside)
    if row.seeds >= VERDICT_SEEDS:
        return (OUR_VERDICTS if row.ours else VERDICTS)[side]
    return (OUR_MARKS if row.ours else MARKS)[side]


def surprises(judged: pd.DataFrame, expected: dict[str, str]) -> list[str]:
    """Name the claims whose verdict or mark is another than the text at hand was written for."""
    frame = judged.assign(was=pd.Series(expected)).fillna({"was": NO_RECORDS})
    others = frame[frame["verdict"] != frame["was"]].itertuples()
    return [f"{row.says}: {row.verdict}, where the text has {row.was}" for row in others]


def conclusion(judged: pd.DataFrame) -> str:
    """List the paper's claims by verdict in Markdown, each with our difference and the paper's."""
    asked = judged[~judged["ours"]].sort_values("estimate", ascending=False)
    ours = asked["estimate"].map(points)
    theirs = asked["paper"].map(points)
    claims = asked["says"] + " (" + ours + " points, the paper " + theirs + ")"
    groups = claims.groupby(asked["verdict"], sort=False)
    lines = [f"- **{len(texts)} {verdict}**: {'; '.join(texts)}" for verdict, texts in groups]
    return "\n".join(lines)


def points(value: float) -> str:
    """Write a difference with its sign, a true minus; a dash for nan."""
    digits = 2 if abs(value) >= 0.005 else 3  # no −0.00
    return "–" if math.isnan(value) else f"{value:+.{digits}f}".replace("-", "−")
