import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats as reference

from cifarlib.params import run_names
from cifarlib.report.claims import (
    Claim,
    judge,
    load_claims,
    load_published,
    on_test_images,
    verdict,
)
from cifarlib.report.statistics import Estimate, contrast

GROUPS = (("paper", "paper"), ("paper", "fast"), ("padding", "paper"), ("smoothing", "paper"))


def results_of(values, right=None):
    """What ``judge`` asks of results: values a seed by run, and the images that a run gets
    right."""
    by_measure = {"validation_accuracy": values, "early_loss": values}
    return SimpleNamespace(
        runs=list(values),
        values=lambda run, measure: by_measure[measure].get(run, []),
        right_answers=lambda run: right[run],
    )


@pytest.mark.parametrize(
    ("value", "expected"), [(1.0, "reproduced"), (-1.0, "contradicted"), (0.1, "not resolved")]
)
def test_the_verdict_is_the_side_on_which_the_interval_lies(value, expected):
    assert verdict(Estimate(value, 0.2, 8, 0.4, 5), 1) == expected
    assert verdict(Estimate(-value, 0.2, 8, 0.4, 5), -1) == expected


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (0.1, 0.1, "reproduced"),
        (0.1, 0.5, "not resolved"),
        (1.5, 0.2, "contradicted"),
        (0.6, 0.2, "not resolved"),
    ],
)
def test_alike_is_two_one_sided_tests(value, error, expected):
    assert verdict(Estimate(value, error, 20, error, 5), 0) == expected
    one_sided = max(
        reference.t.sf((value + 0.5) / error, 20), reference.t.cdf((value - 0.5) / error, 20)
    )
    assert (one_sided < 0.05) == (expected == "reproduced")


@pytest.mark.parametrize("sign", [1, 0])
def test_fewer_than_three_seeds_give_no_verdict(sign):
    many = (-1, [91.1, 91.4, 91.2, 91.3])
    assert verdict(contrast([(1, [92.0]), many]), sign) == ""
    assert verdict(contrast([(1, [92.0, 92.01]), many]), sign) == ""
    assert verdict(contrast([(1, [92.0, 92.01, 92.02]), many]), sign) != ""


def test_a_wide_interval_gives_no_verdict_either():
    """Three seeds an arm, one arm without spread: Welch leaves two degrees of freedom."""
    assert (
        verdict(contrast([(1, [94.0, 90.9, 92.5]), (-1, [90.4, 90.4, 90.4])]), 1) == "not resolved"
    )


def test_the_directional_claims_of_a_group_share_five_per_cent_and_alike_has_its_own():
    """Three seeds a run; alone, the second claim would be resolved, beside a stronger and a weaker
    one it is not."""
    values = {
        "a": [90.0, 90.1, 90.2],
        "b": [92.0, 92.1, 92.2],
        "c": [90.25, 90.35, 90.45],
        "d": [90.0, 90.2, 90.4],
    }
    claims = {
        "strong": Claim("", {"b": 1, "a": -1}),
        "middle": Claim("", {"c": 1, "a": -1}),
        "weak": Claim("", {"d": 1, "a": -1}),
        "alike": Claim("", {"d": 1, "a": -1}, sign=0),
    }
    together, alone = (
        judge(results_of(values), claims),
        judge(results_of(values), {"middle": claims["middle"]}),
    )
    assert alone["middle"].verdict == "reproduced"
    assert together["middle"].verdict == "not resolved"
    assert together["middle"].seeds_needed > 3
    assert together["strong"].interval == pytest.approx(
        together["strong"].estimate.interval(1 - 0.05 / 3)
    )
    assert together["alike"].interval == pytest.approx(together["alike"].estimate.interval(0.9))
    assert together["alike"].verdict == "reproduced"
    assert together["alike"].seeds_needed is None


def test_the_images_interval_belongs_to_the_estimate_where_seeds_are_uneven():
    """One seed of a is right on 92 of 100 images; two of b on 95 and on 85, so that some images
    count half."""
    right = {
        "a": np.arange(100) < 92,
        "b": ((np.arange(100) < 95) + 1.0 * (np.arange(100) < 85)) / 2,
    }
    claim = {"smoothing": Claim("smoothing", {"b": 1, "a": -1})}
    judged = judge(results_of({"a": [92.0], "b": [95.0, 85.0]}, right), claim)["smoothing"]
    assert judged.estimate.value == pytest.approx(sum(judged.interval) / 2) == pytest.approx(-2)
    assert judged.verdict == ""


def test_a_claim_without_records_is_not_estimated_and_still_counts():
    values = {"a": [90.0, 90.1, 90.2], "c": [90.25, 90.35, 90.45]}
    claims = {"there": Claim("", {"c": 1, "a": -1}), "missing": Claim("", {"x": 1, "a": -1})}
    judged = judge(results_of(values), claims)
    assert judged["missing"].estimate is None
    assert judged["missing"].verdict == ""
    assert judged["there"].interval == pytest.approx(
        judged["there"].estimate.interval(1 - 0.05 / 2)
    )


def test_a_claim_about_losses_has_no_interval_at_one_seed():
    judged = judge(
        results_of({"a": [1.0], "b": [2.0]}),
        {"early": Claim("", {"b": 1, "a": -1}, measure="early_loss")},
    )
    assert judged["early"].estimate.value == 1
    assert all(map(math.isnan, judged["early"].interval))


def test_every_run_of_the_schedule_counts_for_the_deviation_and_so_each_group_of_claims_has_the_same():
    values = {
        "a": [90.0, 90.1, 90.2],
        "b": [92.0, 92.1, 92.2],
        "of another group": [80.0, 84.0, 88.0],
    }
    judged = judge(results_of(values), {"one": Claim("", {"b": 1, "a": -1})})["one"]
    variance = (0.1**2 + 0.1**2 + 4**2) / 3
    assert judged.estimate.error == pytest.approx((2 * variance / 3) ** 0.5)
    assert judged.estimate.freedom == 6


def test_claims_about_accuracy_can_be_asked_of_the_test_images():
    asked = on_test_images(load_claims("paper"))
    assert set(asked) == set(load_claims("paper")) - {"early"}
    assert {claim.measure for claim in asked.values()} == {"test_accuracy"}


def test_claims_know_the_papers_own_differences():
    published = {
        claim.formula: round(claim.papers_value(), 2)
        for claim in load_claims("paper").values()
        if claim.measure == "validation_accuracy"
    }
    assert published["2 − 1"] == 3.03
    assert published["7 − 6"] == 1.17
    assert published["3 − 2"] == -0.01
    assert published["7 − 2·6 + 5"] == 0.57
    assert (
        published["7 − 7-preprocessed"]
        == load_published()["accuracy_drop_of_preprocessed_images"]
        == 4
    )
    assert math.isnan(load_claims("paper")["early"].papers_value())


@pytest.mark.parametrize(("group", "recipe"), GROUPS)
def test_the_claims_file_names_runs_that_exist_and_compares_them(group, recipe):
    claims = load_claims(group, recipe)
    assert claims
    for claim in claims.values():
        assert set(claim.arms) <= set(run_names())
        assert sum(claim.arms.values()) == 0
        assert claim.says
        assert claim.says.startswith(claim.title)


def test_each_claim_is_asked_around_both_recipes_and_every_arm_answers_one():
    paper, fast = load_claims("paper"), load_claims("paper", "fast")
    assert set(fast) - set(paper) == {"dirac"}  # no run of the paper tests it
    assert set(paper) - set(fast) == {"early"}  # whose rate does not rise at first
    asked = {run for claim in fast.values() for run in claim.arms}
    assert asked == {run for run in run_names() if run == "fast" or run.startswith("fast-")}


def test_the_paper_gives_an_accuracy_for_each_run_of_table_1():
    assert (
        set(load_published()["validation_accuracy"])
        == {f"run{i}" for i in range(1, 8)}
        <= set(run_names())
    )
