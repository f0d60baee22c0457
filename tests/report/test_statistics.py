import math

import numpy as np
import pytest
from scipy import stats as reference

from cifarlib.report.statistics import (
    Estimate,
    binomial_interval,
    contrast,
    holm_levels,
    mean_interval,
    paired_interval,
    pooled_variance,
    seeds_needed,
)

A, B = [91.1, 91.4, 91.2, 91.3, 91.5], [91.9, 92.2, 92.0]


def test_the_mean_of_a_worked_example():
    """Five values of mean 91.3 and standard deviation 0.1581: half-width 2.7764 x 0.1581 / sqrt(5)
    = 0.1963."""
    assert mean_interval(A) == pytest.approx((91.3 - 0.1963, 91.3 + 0.1963), abs=1e-4)


def simulated(deviations, level=0.995, experiments=20_000):
    """An arm of three seeds against a base of five beside nine more arms: how often pooled and
    Welch's intervals exclude a difference of zero where there is none, and where the arm is three
    of the base's deviations above."""
    random, seeds = np.random.default_rng(0), [5] + 10 * [3]
    runs = [random.normal(0, s, (experiments, n)) for s, n in zip(deviations, seeds, strict=True)]
    freedom = sum(n - 1 for n in seeds)
    pooled = (
        sum((n - 1) * values.var(1, ddof=1) for n, values in zip(seeds, runs, strict=True))
        / freedom
    )
    base, arm = runs[:2]
    difference, a, b = arm.mean(1) - base.mean(1), arm.var(1, ddof=1) / 3, base.var(1, ddof=1) / 5
    ours = contrast([(1, arm[0]), (-1, base[0])], pooled_variance([values[0] for values in runs]))
    assert (ours.error, ours.freedom) == pytest.approx(
        (math.sqrt(pooled[0] * (1 / 3 + 1 / 5)), freedom)
    )
    half = np.sqrt(pooled * (1 / 3 + 1 / 5)) * reference.t.ppf(0.5 + level / 2, freedom)
    welch = np.sqrt(a + b) * reference.t.ppf(0.5 + level / 2, (a + b) ** 2 / (a**2 / 2 + b**2 / 4))
    return [
        [100 * np.mean(abs(d) > h) for d in (difference, difference + 3 * deviations[0])]
        for h in (half, welch)
    ]


def test_a_pooled_deviation_resolves_what_three_seeds_alone_do_not():
    """Why verdicts pool it, and what that costs where deviations differ: the report quotes these
    numbers."""
    (false, found), (welch_false, welch_found) = simulated(np.ones(11))
    assert (false, welch_false) == pytest.approx((0.5, 0.4), abs=0.1)
    assert (found, welch_found) == pytest.approx((83, 36), abs=1)
    assert simulated([1, 2] + 9 * [1])[0][0] == pytest.approx(5.8, abs=0.3)


def test_the_pooled_variance_of_a_worked_example():
    """Squares 2 and 8 around the means of two runs, 1 + 2 degrees of freedom; one seed adds
    nothing."""
    assert pooled_variance([[1.0, 3.0], [0.0, 2.0, 4.0], [7.0]]) == pytest.approx((10 / 3, 3))
    assert math.isnan(pooled_variance([[1.0], []])[0])


def test_a_pooled_difference_of_two_runs_is_students():
    ours, theirs = contrast([(1, B), (-1, A)], pooled_variance([A, B])), reference.ttest_ind(B, A)
    assert (ours.p, *ours.interval(0.99)) == pytest.approx(
        (theirs.pvalue, *theirs.confidence_interval(0.99))
    )


def test_a_share_of_images_has_wilsons_interval():
    """9,320 of 10,000: centre (p + z2/2n) / (1 + z2/n), half-width z sqrt(p (1-p)/n + z2/4n2) / (1
    + z2/n)."""
    p, n, z = 0.932, 10_000, 1.959964
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)
    assert binomial_interval(p, n) == pytest.approx(expected, abs=1e-7)


def test_a_difference_is_welchs():
    ours, theirs = contrast([(1, B), (-1, A)]), reference.ttest_ind(B, A, equal_var=False)
    assert ours.value == pytest.approx(np.mean(B) - np.mean(A))
    assert ours.p == pytest.approx(theirs.pvalue)
    for level in (0.9, 0.95, 0.99):
        assert ours.interval(level) == pytest.approx(tuple(theirs.confidence_interval(level)))


def test_an_interaction_of_equal_arms_has_the_textbooks_error():
    """Four arms of n = 4 with one variance s2: error sqrt(4 s2 / 4), degrees of freedom 4 (n -
    1)."""
    arm = np.array([1.0, 2.0, 3.0, 4.0])
    e = contrast([(1, arm), (-1, arm + 5), (-1, arm + 7), (1, arm)])
    assert (e.value, e.error, e.freedom) == pytest.approx(
        (-12.0, math.sqrt(np.var(arm, ddof=1)), 12.0)
    )


def test_one_seed_gives_an_estimate_and_nothing_else():
    e = contrast([(1, [92.0]), (-1, A)])
    assert e.value == pytest.approx(0.7)
    assert all(math.isnan(x) for x in (e.error, e.p, *e.interval()))
    assert seeds_needed(e) is None


def test_holm_on_a_worked_example():
    """p = 0.01, 0.04, 0.03, 0.005 at 5 %: 0.005 < 0.0125 and 0.01 < 0.0167 are rejected, 0.03 >
    0.025 is not, and then 0.04 is not either, although it is below 0.05."""
    levels = holm_levels([0.01, 0.04, 0.03, 0.005])
    assert levels == pytest.approx([1 - 0.05 / 3, 1 - 0.05 / 2, 1 - 0.05 / 2, 1 - 0.05 / 4])
    assert holm_levels([math.nan, 0.02]) == pytest.approx([0.95, 1 - 0.05 / 2])


@pytest.mark.parametrize(("difference", "expected"), [(0.3, 6), (0.1, 37)])
def test_seeds_needed_agree_with_the_usual_power_table(difference, expected):
    """Standard deviation 0.15 in both arms, two-sided 5 %, 80 % power; and by simulation."""
    assert seeds_needed(Estimate(difference, 0.1, 8, 0.15 * math.sqrt(2), 5)) == expected
    rng = np.random.default_rng(0)
    arms = rng.normal(0, 0.15, (2, 4000, expected))
    power = (reference.ttest_ind(arms[0] + difference, arms[1], axis=1).pvalue < 0.05).mean()
    assert 0.77 < power < 0.9


def test_more_seeds_are_asked_for_than_there_are():
    """Two seeds an arm, one arm without spread: Welch leaves one degree of freedom, and the
    interval is wide."""
    e = contrast([(1, [94.0, 93.0]), (-1, [90.4, 90.4])])
    low, high = e.interval()
    assert low < 0 < high
    assert seeds_needed(e) > 2
    assert seeds_needed(Estimate(1.0, 0.0, math.nan, 0.0, 2)) == 3


def test_a_difference_that_no_number_of_seeds_resolves_says_so():
    assert seeds_needed(Estimate(0.001, 0.1, 8, 0.2, 5)) is None


def test_the_paired_interval_counts_only_the_images_that_differ():
    """Of 1,000 images one run alone is right on 30, the other alone on 10: 2 points, McNemar's
    error."""
    a, b = np.zeros(1000, bool), np.zeros(1000, bool)
    a[:530], b[30:540] = True, True
    value, low, high = paired_interval([(1, a), (-1, b)])
    assert value == pytest.approx(0.02)
    error = math.sqrt((0.04 - 0.02**2) / 999)
    assert (low, high) == pytest.approx((0.02 - 1.96 * error, 0.02 + 1.96 * error), abs=1e-5)
