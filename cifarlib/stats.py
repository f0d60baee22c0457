"""How results are judged: intervals, contrasts between runs, verdicts. scipy does the statistics.

A run's accuracy varies with its seed and with the choice of the images. Between runs the seeds decide: an estimate is a
weighted sum of the runs' means, its interval Welch's. One seed a run gives no such interval and no verdict.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

LEVEL, POWER, MARGIN = 0.95, 0.8, 0.5  # of intervals; of the seeds asked for; points within which "alike" holds


def binomial_interval(share: float, n: int) -> tuple[float, float]:
    """95 % interval (Wilson) of an accuracy measured on n images: the images' chance alone, not the seed's."""
    interval = stats.binomtest(round(share * n), n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def paired_interval(right: Sequence[tuple[float, np.ndarray]]) -> tuple[float, float, float]:
    """Weighted sum of accuracies on the same images, and its 95 % interval by the images' chance alone.

    right: (weight, (N,): which images this run got right, or the share of its seeds that did).
    """
    each = sum(weight * np.asarray(row, float) for weight, row in right)
    half = stats.norm.ppf(0.5 + LEVEL / 2) * each.std(ddof=1) / math.sqrt(len(each))
    return float(each.mean()), float(each.mean() - half), float(each.mean() + half)


@dataclass(frozen=True)
class Estimate:
    """A weighted sum of means: its value, standard error, degrees of freedom (both nan at one seed an arm), the
    standard error that one seed an arm would give, and the least number of seeds of its arms."""

    value: float
    error: float
    freedom: float
    error_of_one: float
    seeds: int

    @property
    def p(self) -> float:
        """Two-sided, of a value of zero."""
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.freedom))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        half = self.error * stats.t.ppf(0.5 + level / 2, self.freedom) if self.error else 0.0
        return self.value - half, self.value + half


def contrast(arms: Sequence[tuple[float, Sequence[float]]]) -> Estimate:
    """The weighted sum of the means of independent arms, each (weight, one value a seed), after Welch and
    Satterthwaite: unequal variances, unequal numbers of seeds."""
    value = sum(weight * np.mean(values) for weight, values in arms)
    seeds = min(len(values) for _, values in arms)
    if seeds < 2:
        return Estimate(float(value), math.nan, math.nan, math.nan, seeds)
    one = [weight**2 * np.var(values, ddof=1) for weight, values in arms]
    parts = [v / len(values) for v, (_, values) in zip(one, arms, strict=True)]
    total = sum(parts)
    freedom = total**2 / sum(v**2 / (len(a) - 1) for v, (_, a) in zip(parts, arms, strict=True)) if total else math.nan
    return Estimate(float(value), math.sqrt(total), float(freedom), math.sqrt(sum(one)), seeds)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval (Student) of the mean over seeds; nan at one seed."""
    return contrast([(1.0, values)]).interval()


def holm_levels(p: Sequence[float]) -> list[float]:
    """The level of each claim's interval by which it excludes zero exactly where Holm's procedure, at 5 % for all
    claims together, rejects: the smallest p at alpha/m, the next at alpha/(m-1), ... and from the first that fails on
    all at that one's. nan (no interval) counts as a claim and is never rejected."""
    levels, alpha, stopped = [math.nan] * len(p), 0.0, False
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: (math.isnan(p[i]), p[i]))):
        if not stopped:
            alpha = (1 - LEVEL) / (len(p) - rank)
            stopped = not p[i] < alpha
        levels[i] = 1 - alpha
    return levels


def verdict(estimate: Estimate, sign: float, level: float = LEVEL) -> str:
    """ "reproduced" where the interval lies wholly on the paper's side of zero (sign), "contradicted" where wholly on
    the other, else "not resolved"; "" at one seed."""
    if estimate.seeds < 2:
        return ""
    low, high = (end * sign for end in estimate.interval(level))
    return "reproduced" if min(low, high) > 0 else "contradicted" if max(low, high) < 0 else "not resolved"


def alike(estimate: Estimate, margin: float = MARGIN) -> str:
    """Equivalence by two one-sided tests at 5 %: "reproduced" where the 90 % interval lies within the margin,
    "contradicted" where the 95 % interval lies wholly outside, else "not resolved"; "" at one seed."""
    if estimate.seeds < 2:
        return ""
    low, high = estimate.interval(2 * LEVEL - 1)
    if -margin < low and high < margin:
        return "reproduced"
    low, high = estimate.interval()
    return "contradicted" if low > margin or high < -margin else "not resolved"


def seeds_needed(estimate: Estimate, level: float = LEVEL) -> int | None:
    """Seeds an arm for which a difference of this size would be resolved with 80 % power at this level, more than there
    are, as these did not resolve it; None where nothing can be said, or above 1,000."""
    if estimate.seeds < 2 or not estimate.value:
        return None
    more = estimate.seeds + 1
    if not estimate.error_of_one:
        return more

    def lacking(n: float) -> float:
        # Welch's degrees of freedom grow like this where all arms have n seeds
        freedom = estimate.freedom * (n - 1) / (estimate.seeds - 1)
        critical = stats.t.ppf(0.5 + level / 2, freedom)
        shift = abs(estimate.value) / estimate.error_of_one * math.sqrt(n)
        return stats.nct.sf(critical, freedom, shift) - POWER

    if lacking(1000) < 0:
        return None
    return more if lacking(more) > 0 else math.ceil(optimize.brentq(lacking, more, 1000))
