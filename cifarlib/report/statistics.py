"""Intervals, contrasts between runs and the seeds they need. scipy does the statistics.

A run's accuracy varies with its seed and with the choice of the images. Between runs the seeds
decide: an estimate is a weighted sum of the runs' means, its interval from the deviation between
seeds, pooled over the runs of a recipe or (Welch's) of each run alone. One seed a run gives no such
interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

LEVEL, POWER = 0.95, 0.8  # of intervals; of the seeds asked for


def binomial_interval(share: float, n: int) -> tuple[float, float]:
    """95 % interval (Wilson) of an accuracy measured on n images: the images' chance alone, not the
    seed's."""
    interval = stats.binomtest(round(share * n), n).proportion_ci(LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


def paired_interval(arms: Sequence[tuple[float, np.ndarray]]) -> tuple[float, float, float]:
    """Weighted sum of accuracies on the same images, and its 95 % interval by the images' chance
    alone.

    arms: (weight, (N,): which images this run got right, or the share of its seeds that did).
    """
    by_image = sum(weight * np.asarray(right, float) for weight, right in arms)
    half = stats.norm.ppf(0.5 + LEVEL / 2) * by_image.std(ddof=1) / math.sqrt(len(by_image))
    return float(by_image.mean()), float(by_image.mean() - half), float(by_image.mean() + half)


@dataclass(frozen=True)
class Estimate:
    """A weighted sum of means."""

    value: float
    error: float  # standard error; nan at one seed an arm, as are the next two
    freedom: float  # degrees of freedom
    error_of_one: float  # the standard error that one seed an arm would give
    seeds: int  # of the arm with the fewest

    @property
    def p(self) -> float:
        """Two-sided, of a value of zero."""
        if self.error == 0:
            return float(self.value == 0)
        return float(2 * stats.t.sf(abs(self.value) / self.error, self.freedom))

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        half = self.error * stats.t.ppf(0.5 + level / 2, self.freedom) if self.error else 0.0
        return self.value - half, self.value + half


def pooled_variance(runs: Sequence[Sequence[float]]) -> tuple[float, int]:
    """The variance between seeds, taken to be the same for all runs (one-way analysis of variance),
    and its degrees of freedom; nan, 0 where no run has two seeds."""
    several = [values for values in runs if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    squares = sum((len(values) - 1) * np.var(values, ddof=1) for values in several)
    return (float(squares) / freedom if freedom else math.nan), freedom


def contrast(
    arms: Sequence[tuple[float, Sequence[float]]], pooled: tuple[float, int] | None = None
) -> Estimate:
    """The weighted sum of the means of independent arms, each (weight, one value a seed).

    pooled: variance of a seed and its degrees of freedom; None: each arm's own, after Welch and
    Satterthwaite."""
    value = sum(weight * np.mean(values) for weight, values in arms)
    seeds = min(len(values) for _, values in arms)
    if seeds < 2:
        return Estimate(float(value), math.nan, math.nan, math.nan, seeds)
    of_one = [
        weight**2 * (pooled[0] if pooled else np.var(values, ddof=1)) for weight, values in arms
    ]
    of_mean = [v / len(values) for v, (_, values) in zip(of_one, arms, strict=True)]
    total = sum(of_mean)
    spent = sum(v**2 / (len(values) - 1) for v, (_, values) in zip(of_mean, arms, strict=True))
    freedom = pooled[1] if pooled else total**2 / spent if total else math.nan
    return Estimate(float(value), math.sqrt(total), float(freedom), math.sqrt(sum(of_one)), seeds)


def mean_interval(
    values: Sequence[float], pooled: tuple[float, int] | None = None
) -> tuple[float, float]:
    """95 % interval (Student) of the mean over seeds, see ``contrast``; nan at one seed."""
    return contrast([(1.0, values)], pooled).interval()


def holm_levels(p: Sequence[float]) -> list[float]:
    """The level of each claim's interval by which it excludes zero exactly where Holm's procedure,
    at 5 % for all claims together, rejects: the smallest p at alpha/m, the next at alpha/(m-1), ...
    and from the first that fails on all at that one's. nan (no interval) counts as a claim and is
    never rejected."""
    levels, alpha, stopped = [math.nan] * len(p), 0.0, False
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: (math.isnan(p[i]), p[i]))):
        if not stopped:
            alpha = (1 - LEVEL) / (len(p) - rank)
            stopped = math.isnan(p[i]) or p[i] >= alpha
        levels[i] = 1 - alpha
    return levels


def seeds_needed(estimate: Estimate, level: float = LEVEL) -> int | None:
    """Seeds an arm for which a difference of this size would be resolved with 80 % power at this
    level, more than there are, as these did not resolve it; None where nothing can be said, or
    above 1,000."""
    if estimate.seeds < 2 or not estimate.value:
        return None
    more = estimate.seeds + 1
    if not estimate.error_of_one:
        return more

    def lacking(n: float) -> float:
        # degrees of freedom grow like this where all runs have n seeds
        freedom = estimate.freedom * (n - 1) / (estimate.seeds - 1)
        critical = stats.t.ppf(0.5 + level / 2, freedom)
        shift = abs(estimate.value) / estimate.error_of_one * math.sqrt(n)
        return stats.nct.sf(critical, freedom, shift) - POWER

    if lacking(1000) < 0:
        return None
    return more if lacking(more) > 0 else math.ceil(optimize.brentq(lacking, more, 1000))
