import math

import numpy as np
import pandas as pd
import pytest
from made_up import make_fast, make_grid
from scipy import stats

from cifarlib import project_root
from cifarlib.params import run_names
from cifarlib.report import claims, results


def pooled_variance(arms):
    """Pool the variance of arms, each (seeds, images)."""
    shares = [pd.Series(right.mean(axis=1)) for right in arms]
    frame = pd.concat(dict(enumerate(shares)), names=["run"]).rename("held_out_accuracy")
    return claims.pooled_variance(frame.reset_index())


def test_the_seeds_part_is_students_with_the_pooled_deviation():
    # each seed gets other images right, so that the images' part is nothing
    right = np.zeros((2, 4, 1000), bool)
    for arm, wrong in enumerate(([70, 72, 75, 71], [80, 79, 84, 81])):
        for seed, count in enumerate(wrong):
            right[arm, seed] = np.roll(np.arange(1000) >= count, 100 * (4 * arm + seed))
    shares = 100 * right.mean(axis=2)
    pooled = pooled_variance(right)
    estimate, error, freedom = claims.contrast([(1, right[0]), (-1, right[1])], pooled)
    students = stats.ttest_ind(*shares)
    assert (estimate, freedom) == (pytest.approx(shares[0].mean() - shares[1].mean()), 6)
    assert estimate / error == pytest.approx(students.statistic)
    doubled = claims.contrast([(1, right[0]), (-2, right[1])], pooled)
    assert doubled[1] == pytest.approx(math.sqrt(pooled[0] * (1 / 4 + 2**2 / 4)))


def test_one_seed_is_compared_image_by_image():
    rng = np.random.default_rng(0)
    one, other = rng.random((2, 1, 500)) < [[[0.9]], [[0.8]]]
    estimate, error, freedom = claims.contrast([(1, one), (-1, other)], (math.nan, 0))
    paired = stats.ttest_rel(one[0].astype(float), other[0].astype(float))
    assert estimate / error == pytest.approx(paired.statistic)
    assert freedom == math.inf
    of_several = claims.contrast([(1, one), (-1, rng.random((3, 500)) < 0.8)], (0.1, 9))
    assert of_several[2] == math.inf


def test_only_the_seeds_part_of_the_variance_has_few_degrees_of_freedom():
    weighted = list(zip((1, -2, 1), simulate(np.random.default_rng(3), (4, 3, 2)), strict=True))
    estimate, error, freedom = claims.contrast(weighted, (0.5, 9))
    assert estimate == pytest.approx(100 * sum(w * right.mean() for w, right in weighted))
    of_seeds = 0.5 * (1 / 4 + 2**2 / 3 + 1 / 2)
    assert freedom == pytest.approx(9 * (error**2 / of_seeds) ** 2)
    assert freedom > 9


def simulate(rng, seeds, images=1500, gain=0.0):
    """Draw images and seeds: each arm has its own probability of getting an image right, near a
    common one; ``gain`` shifts the first arm's."""
    common = rng.normal(3.5, 2, images)
    arms = [common + rng.normal(gain * (arm == 0), 0.6, images) for arm in range(len(seeds))]
    chances = [1 / (1 + np.exp(-arm)) for arm in arms]
    return [rng.random((n, images)) < c for n, c in zip(seeds, chances, strict=True)]


@pytest.mark.parametrize(("seeds", "alone"), [((4, 3), 0.93), ((8, 8), 0.90)])
def test_the_interval_holds_the_truth_where_one_over_seeds_alone_is_too_short(seeds, alone):
    rng = np.random.default_rng(1)
    truth = 100 * np.subtract(*[x.mean() for x in simulate(rng, [1, 1], 3_000_000, gain=0.3)])
    held = np.zeros(2)
    for _ in range(1500):
        arms = simulate(rng, seeds, gain=0.3)
        pooled = pooled_variance(arms)
        estimate, error, freedom = claims.contrast([(1, arms[0]), (-1, arms[1])], pooled)
        errors = np.array([error, math.sqrt(pooled[0] * sum(1 / n for n in seeds))])
        held += abs(estimate - truth) < errors * stats.t.ppf(0.975, [freedom, pooled[1]])
    assert held / 1500 == pytest.approx([0.95, alone], abs=0.015)


def test_a_family_of_true_null_claims_is_wrong_in_at_most_five_per_cent():
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(400):
        arms = simulate(rng, [5] + [3] * 8, images=800)
        pooled = pooled_variance(arms)
        rows = [claims.contrast([(1, arms[0]), (-1, arm)], pooled) for arm in arms[1:]]
        judged = pd.DataFrame(rows, columns=["estimate", "error", "freedom"])
        judged = claims.decide(judged.assign(sign=1, ours=False, seeds=3, says=""))
        wrong += set(judged["verdict"]) != {"not resolved"}
    assert wrong / 400 < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 400)


@pytest.mark.parametrize(
    ("low", "high", "sign", "expected"),
    [
        (0.1, 0.9, 1, "reproduced"),
        (-0.9, -0.1, 1, "contradicted"),
        (-0.1, 0.9, 1, "not resolved"),
        (-0.4, 0.45, 0, "reproduced"),
        (0.1, 0.6, 0, "not resolved"),
        (0.6, 0.9, 0, "contradicted"),
    ],
)
def test_the_verdict_is_where_the_interval_lies(low, high, sign, expected):
    # with so many degrees of freedom the interval is that of the normal distribution
    tail = 0.05 / 2 if sign else 0.05
    judged = {"estimate": (low + high) / 2, "freedom": math.inf, "sign": sign, "ours": False}
    judged["error"] = (high - low) / 2 / stats.norm.ppf(1 - tail)
    judged = pd.DataFrame([judged | {"says": "", "seeds": 8}])
    assert claims.decide(judged).loc[0, ["low", "high"]].tolist() == pytest.approx([low, high])
    assert claims.decide(judged)["verdict"].tolist() == [expected]
    assert claims.decide(judged.assign(seeds=2))["verdict"].isin(claims.MARKS.values()).all()


def test_intervals_hold_together_within_the_papers_claims_and_within_ours():
    row = {"estimate": 0.0, "error": 1.0, "freedom": 7, "seeds": 8, "sign": 1, "says": ""}
    rows = [row | {"ours": ours} for ours in [False] * 8 + [True] * 3]
    expected = [stats.t.ppf(1 - 0.05 / 2 / size, 7) for size in [8] * 8 + [3] * 3]
    assert claims.decide(pd.DataFrame(rows))["high"].tolist() == pytest.approx(expected)


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    make_grid(folder)
    make_fast(folder, fast_batch1024=93.45, fast_length=93.3)
    return results.table(folder)


def test_claims_around_the_fast_recipe_get_verdicts(frame):
    judged = claims.judge(results.of_fast(frame), recipe="fast")
    assert judged.loc["augmentation", ["estimate", "paper"]].tolist() == pytest.approx([1.0, 4.0])
    names = ["augmentation", "batch-size", "normalisation", "image-channel"]
    words = ["reproduced", "reproduced", "not resolved", "below zero"]
    assert judged.loc[names, "verdict"].tolist() == words
    of_test = claims.judge(results.of_fast(frame), recipe="fast", measure="test")
    assert (of_test["error"] > judged["error"]).all()  # of half the images
    found = claims.surprises(judged, dict(judged["verdict"]) | {"whitening": "contradicted"})
    assert found == ["patch whitening helps: reproduced, where the text has contradicted"]
    text = claims.conclusion(judged)
    assert "channel beats length normalisation (+0.10 points, the paper +0.60)" in text


def test_the_papers_schedule_with_one_seed_gets_marks(frame):
    asked = claims.judge(results.of_paper(frame))
    assert asked.loc["optimizer", ["verdict", "seeds"]].tolist() == ["agrees", 1]
    assert asked.loc["augmentation", ["verdict", "seeds"]].tolist() == ["without records", 0]
    assert "- **1 without records**: fresh augmentation" in claims.conclusion(asked)


def test_the_claims_file_compares_runs_that_exist_and_the_paper_has_their_numbers():
    assert set(claims.arms_of("paper") + claims.arms_of("fast")) <= set(run_names())
    assert set(claims.published()["validation_accuracy"]) == set(claims.PAPER_RUNS)
    empty = results.table(project_root() / "params")
    for group in ("paper", "padding", "smoothing", "afterwards"):
        assert (claims.judge(empty, group)["seeds"] == 0).all()
    paper = claims.judge(empty)["paper"]
    assert paper["optimizer"] == pytest.approx(3.03)
    assert paper["largest"] == pytest.approx(0.57)
