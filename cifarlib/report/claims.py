"""The paper's numbers and claims, read from params/published/, and how a claim is judged by the
values of the runs."""

import math
from dataclasses import dataclass, replace

import yaml

from cifarlib import project_root
from cifarlib.report import statistics
from cifarlib.report.statistics import LEVEL, Estimate

MARGIN = 0.5  # points within which "alike" holds
VERDICT_SEEDS = 3  # of each run: with fewer its own deviation, beside the pooled one, says nothing


def _read(name: str) -> dict:
    return yaml.safe_load((project_root() / "params" / "published" / name).read_text("utf-8"))


def load_published() -> dict:
    """The paper's own numbers, params/published/table1.yaml."""
    return _read("table1.yaml")


@dataclass(frozen=True)
class Claim:
    """One statement as a weighted sum of runs' means, ``arms``; params/published/claims.yaml
    explains the fields."""

    says: str
    arms: dict[str, float]  # run: weight
    sign: int = 1
    measure: str = "validation_accuracy"
    ours: bool = False
    published: str = ""

    @property
    def title(self) -> str:
        """The statement without what stands in brackets."""
        return self.says.partition(" (")[0]

    @property
    def formula(self) -> str:
        """ "7 − 2·6 + 5", "fast − fast-sgd"."""
        signs = ["− " if weight < 0 else "+ " for weight in self.arms.values()]
        factors = ["" if abs(weight) == 1 else f"{abs(weight):g}·" for weight in self.arms.values()]
        names = [run.removeprefix("run") for run in self.arms]
        return " ".join(map("".join, zip(signs, factors, names, strict=True))).removeprefix("+ ")

    def papers_value(self) -> float:
        """Points; nan where the paper has no such number."""
        published = load_published()
        if self.published:
            return published[self.published]
        paper = published[self.measure] if self.measure == "validation_accuracy" else {}
        return sum(weight * paper.get(run, math.nan) for run, weight in self.arms.items())


def load_claims(group: str, recipe: str = "paper") -> dict[str, Claim]:
    """A group of params/published/claims.yaml, as asked of Table 1's runs or, recipe "fast", of the
    fast recipe and its arms."""
    claims = {}
    for name, fields in _read("claims.yaml")[group].items():
        arms = {key: fields.pop(key, None) for key in ("paper", "fast")}
        if arms[recipe]:
            claims[name] = Claim(arms=arms[recipe], **fields)
    return claims


def on_test_images(claims: dict[str, Claim]) -> dict[str, Claim]:
    """The claims about validation accuracy, asked of the test images."""
    measured = {
        name: claim for name, claim in claims.items() if claim.measure == "validation_accuracy"
    }
    return {name: replace(claim, measure="test_accuracy") for name, claim in measured.items()}


@dataclass(frozen=True)
class Judged:
    claim: Claim
    estimate: Estimate | None  # None where a run has no record
    # adjusted for the number of claims; at one seed of the images alone, or nan
    interval: tuple[float, float]
    verdict: str  # "reproduced", "contradicted", "not resolved"; "" where none can be given
    seeds_needed: int | None


def judge(results, claims: dict[str, Claim], pooled: bool = True) -> dict[str, Judged]:
    """Each claim by ``results.values(run, measure)``, at one seed with an interval of
    ``results.right_answers(run)``. The directional claims are adjusted together by Holm's
    procedure; "alike" (sign 0) is tested apart.

    pooled: one deviation between seeds for all of ``results.runs``; else each run's own (Welch).
    """
    estimates, p, variances = {}, {}, {}
    for measure in {claim.measure for claim in claims.values()}:
        variances[measure] = statistics.pooled_variance(
            [results.values(run, measure) for run in results.runs]
        )
    for name, claim in claims.items():
        arms = [(weight, results.values(run, claim.measure)) for run, weight in claim.arms.items()]
        variance = variances[claim.measure] if pooled else None
        estimates[name] = (
            statistics.contrast(arms, variance) if all(values for _, values in arms) else None
        )
        if claim.sign:
            judgeable = estimates[name] and estimates[name].seeds >= VERDICT_SEEDS
            p[name] = estimates[name].p if judgeable else math.nan
    levels = dict(zip(p, statistics.holm_levels(list(p.values())), strict=True))
    judged = {}
    for name, claim in claims.items():
        estimate, interval, needed = estimates[name], (math.nan, math.nan), None
        level = levels.get(name, 2 * LEVEL - 1)  # the 90 % interval is two one-sided tests at 5 %
        decided = verdict(estimate, claim.sign, level) if estimate else ""
        if estimate and estimate.seeds > 1:
            interval = estimate.interval(level)
            needed = (
                statistics.seeds_needed(estimate, level)
                if decided == "not resolved" and claim.sign
                else None
            )
        elif estimate and claim.measure == "validation_accuracy":
            right = [(weight, results.right_answers(run)) for run, weight in claim.arms.items()]
            _, low, high = statistics.paired_interval(right)
            interval = 100 * low, 100 * high
        judged[name] = Judged(claim, estimate, interval, decided, needed)
    return judged


def verdict(estimate: Estimate, sign: int, level: float = LEVEL) -> str:
    """ "reproduced" where the interval lies wholly on the paper's side of zero (sign),
    "contradicted" where wholly on the other, else "not resolved"; "" with fewer than
    ``VERDICT_SEEDS`` seeds of a run.

    Sign 0, alike, is equivalence by two one-sided tests at 5 %: "reproduced" where the 90 %
    interval lies within the margin, "contradicted" where the 95 % interval lies wholly outside."""
    if estimate.seeds < VERDICT_SEEDS:
        return ""
    if sign == 0:
        reproduced = max(map(abs, estimate.interval(2 * LEVEL - 1))) < MARGIN
        low, high = estimate.interval()
        contradicted = low > MARGIN or high < -MARGIN
    else:
        low, high = sorted(end * sign for end in estimate.interval(level))
        reproduced, contradicted = low > 0, high < 0
    return "reproduced" if reproduced else "contradicted" if contradicted else "not resolved"
