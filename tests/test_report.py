import json
import re
import shutil

import numpy as np
import pytest
from made_up import IMAGES, make_grid, make_record

from cifarlib import InputError, records, report


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    make_grid(folder)
    return folder


def text_of(results):
    """All that the report says of results, as text."""
    parts = [
        report.abstract(results), report.status(results), report.table_1(results), report.claims_table(results),
        report.two_by_two(results), report.speed_table([]), report.speed_text(results), report.test_text(results),
        report.environment(results),
    ]  # fmt: skip
    return [
        p.data if isinstance(p, report.Text) else p.frame.to_string() + p.caption.partition(".** ")[2] for p in parts
    ]


def row_of(table, first):
    return next(row for row in table.frame.to_dict("records") if next(iter(row.values())) == first)


def test_table_1_has_mean_deviation_and_interval_of_the_seeds(grid):
    results = report.collect(grid)
    values = np.array([100 * r["validation_accuracy"] for r in results.runs["run4"]])
    row = row_of(report.table_1(results), "4")
    assert (row["paper %"], row["ours %"], row["n"]) == ("91.09", f"{values.mean():.2f}", 3)
    assert row["sd"] == f"{values.std(ddof=1):.2f}"
    half = 4.303 * values.std(ddof=1) / 3**0.5  # Student's t, two degrees of freedom
    assert row["95 % interval"] == f"{values.mean() - half:.2f} to {values.mean() + half:.2f}"
    assert "squeezed into 8 epochs" in report.table_1(results).caption


def test_a_changed_record_changes_abstract_table_and_claims(grid, tmp_path):
    changed = shutil.copytree(grid, tmp_path / "outputs")
    before = text_of(report.collect(changed))
    shutil.rmtree(changed / "run7")
    for seed in range(3):
        make_record(changed, "run7", seed, 0.85 + 0.001 * seed, epochs=8)
    after = text_of(report.collect(changed))
    same = [a == b for a, b in zip(before, after, strict=True)]
    assert same == [False, True, False, False, False, True, False, False, True]  # where run 7's accuracy does not count
    assert (
        row_of(report.claims_table(report.collect(changed)), "label smoothing (with the summed loss) helps")["verdict"]
        == "contradicted"
    )


def test_effects_far_beyond_the_spread_are_reproduced_and_none_without(grid):
    table = report.claims_table(report.collect(grid)).frame.set_index("comparison")
    assert table.loc["SGD ends above AdamW", "verdict"] == "reproduced"
    assert table.loc["batch sizes 128 and 1024 perform alike", "verdict"] == "reproduced"
    early = table[table.index.str.startswith("AdamW converges early")].iloc[0]
    assert early["verdict"] == "not resolved"
    assert int(early["seeds to resolve"]) > 3


def test_one_seed_has_an_interval_over_images_and_no_verdict(tmp_path):
    make_grid(tmp_path, seeds=1)
    results = report.collect(tmp_path)
    share = results.values("run7")[0] / 100
    row = row_of(report.table_1(results), "7")
    low, high = report.stats.binomial_interval(share, IMAGES)
    assert row["95 % interval"] == f"{100 * low:.2f} to {100 * high:.2f} ᵃ"
    claims = report.claims_table(results)
    assert set(claims.frame["verdict"]) == {"none (n = 1)"}
    assert "One seed" in claims.caption
    assert "no claim is judged" in report.abstract(results).data


def test_the_images_interval_belongs_to_the_estimate_where_seeds_are_uneven(tmp_path):
    for run, accuracies in (("run6", [0.92]), ("run7", [0.95, 0.85])):
        for seed, accuracy in enumerate(accuracies):
            make_record(tmp_path, run, seed, accuracy, epochs=8)
    claim = report.Claim("smoothing", report.difference("run7", "run6"))
    (judged,) = report.judge(report.collect(tmp_path), [claim])
    assert judged.estimate.value == pytest.approx(sum(judged.interval) / 2) == pytest.approx(-2)


def test_the_papers_verdicts_are_for_the_papers_claims_alone(grid):
    results = report.collect(grid)
    table = report.confounds_table(results, report.SMOOTHING, "", "").frame.set_index("comparison")
    assert table.loc["summing the loss, given smoothing", "verdict"] == "above zero"
    assert table.loc["smoothing alone (mean loss)", "verdict"] in ("reproduced", "not resolved")


def test_records_of_several_devices_are_said_to_be(grid, tmp_path):
    mixed = shutil.copytree(grid, tmp_path / "outputs")
    for path in mixed.glob("run7-preprocessed/*/record.json"):
        path.write_text(path.read_text().replace("a made-up device", "another device"))
    results = report.collect(mixed)
    assert "differ in device" in report.status(results).data
    assert "differ in device" not in report.status(report.collect(grid)).data


def test_what_pre_processing_saves_comes_from_the_benchmark():
    rates = {"ours": [80.0, 100.0, 90.0], "ours, once": [100.0, 100.0, 100.0]}
    record = {
        "device_name": "a CPU", "precision": "float32", "base": "ours", "batch_size": 128,
        "contestants": {name: {"images_per_second": some} for name, some in rates.items()},
    }  # fmt: skip
    row = row_of(report.speed_table([record]), "a CPU")
    assert (row["fresh augmentation"], row["drawn once"]) == ("444 s", "399 s")
    assert row["time saved"] == "10 % (0 to 20)"


def test_a_missing_run_is_named_with_the_command_that_makes_it(grid, tmp_path):
    partial = shutil.copytree(grid, tmp_path / "outputs")
    for run in ("run3", "run6-sum"):
        shutil.rmtree(partial / run)
    results = report.collect(partial)
    text = report.status(results).data
    assert "No record yet of run3, run6-sum" in text
    assert 'make table RUNS="3 run6-sum" EPOCHS=8' in text
    assert row_of(report.claims_table(results), "patch whitening helps")["verdict"] == "no record"
    text_of(results)


def test_without_any_record_everything_says_so(tmp_path):
    results = report.collect(tmp_path)
    assert "No run has a record yet" in report.abstract(results).data
    text_of(results)


def test_schedules_are_never_mixed(grid, tmp_path):
    mixed = shutil.copytree(grid, tmp_path / "outputs")
    make_record(mixed, "run7", 0, 0.937, stop_epoch=95)
    make_record(mixed, "run7", 0, 0.5, train_images=2000)
    make_record(mixed, "run7", 0, 0.4, epochs=8, batch_size=64)
    results = report.collect(mixed)
    assert row_of(report.table_1(results), "7")["n"] == 3
    assert len(report.other_schedules(results).frame) == 3
    assert "95 epochs of the paper's 200" in report.abstract(results).data
    make_record(mixed, "run7", 0, 0.1, epochs=150, learning_rate=1.0)  # more epochs, but not with run 7's settings
    assert report.collect(mixed).best_run7() == results.best_run7()
    long = report.collect(mixed, epochs=200, stop_epoch=95)
    assert list(long.runs) == ["run7"]
    with pytest.raises(InputError, match="epochs = 9"):
        report.collect(mixed, epochs=9)


def test_a_damaged_record_is_one_error(grid, tmp_path):
    damaged = shutil.copytree(grid, tmp_path / "outputs")
    with open(next(damaged.glob("run5/*/predictions.npz")), "ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"run5.*does not belong to its record"):
        report.collect(damaged)


def test_the_spectrum_had_back_from_filters_is_the_covariances(cifar10, tmp_path):
    from cifarlib.preprocess import channel_statistics, normalization, normalize
    from cifarlib.whitening import eigenpatches, patch_covariance, whitening_filters

    images = cifar10.train_images[:500]
    covariance = patch_covariance([normalize(images, *normalization(images, "channel", channel_statistics(images)))])
    np.save(tmp_path / "first_layer.npy", whitening_filters(covariance).numpy())
    values, vectors = report.whitening_of({"folder": tmp_path, "parameters": {"whitening_eps": 5e-4}})
    expected_values, expected_vectors = eigenpatches(covariance)
    np.testing.assert_allclose(values, expected_values, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(vectors, expected_vectors, rtol=0, atol=1e-5)


def test_claims_know_the_papers_own_differences():
    claims = [claim for claim in (*report.CLAIMS, report.ALIKE) if claim.measure == "validation_accuracy"]
    published = {claim.name: round(claim.published(), 2) for claim in claims}
    assert published["2 − 1"] == 3.03
    assert published["7 − 6"] == 1.17
    assert published["3 − 2"] == -0.01
    assert published["7 − 2·6 + 5"] == 0.57


def test_records_are_read_with_their_labels(grid):
    folder = next(grid.glob("run7/seed0*"))
    record, said = records.read_record(folder), records.read_predictions(folder)
    right = said["validation"].argmax(1) == said["validation_labels"]
    assert right.mean() == record["validation_accuracy"]
    assert re.fullmatch(r"[0-9a-f]{64}", json.loads((folder / "record.json").read_text())["files"]["predictions.npz"])
