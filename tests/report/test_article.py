import shutil

import numpy as np
import pytest
from made_up import IMAGES, make_grid, make_record

from cifarlib import InputError
from cifarlib.benchmark.contestants import CONTESTANTS, twin
from cifarlib.preprocess import channel_statistics, make_normalizer
from cifarlib.report import article, figures
from cifarlib.report.claims import judge, load_claims
from cifarlib.report.results import collect
from cifarlib.report.statistics import binomial_interval
from cifarlib.whitening import eigenpatches, patch_covariance, whitening_filters


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    make_grid(folder)
    return folder


def claims_table(results, group="paper"):
    return article.claims_table(judge(results, load_claims(group)), "A caption.", "tbl").frame.set_index("comparison")


def table_1(results):
    return article.table_1(results, "").frame.set_index("#")


def texts_of(results):
    """All that the report says of results, by the function that says it."""
    judged = judge(results, load_claims("paper"))
    return {
        "status": article.status(results).data,
        "reached": article.reached(results),
        "conclusions": article.conclusions(results, judged),
        "table_1": table_1(results).to_string(),
        "claims": article.claims_table(judged, "", "").frame.to_string(),
        "two_by_two": article.two_by_two(results, "").frame.to_string(),
        "others": str(article.other_schedules(results, "")),
        "environment": article.environment(results).frame.to_string(),
    }


def test_table_1_has_mean_deviation_and_interval_of_the_seeds(grid):
    results = collect(grid)
    values = 100 * results.of("run4")["validation_accuracy"]
    row = table_1(results).loc["4"]
    assert (row["paper %"], row["ours %"], row["n"]) == ("91.09", f"{values.mean():.2f}", 3)
    assert row["sd"] == f"{values.std(ddof=1):.2f}"
    half = 4.303 * values.std(ddof=1) / 3**0.5  # Student's t, two degrees of freedom
    assert row["95 % interval"] == f"{values.mean() - half:.2f} to {values.mean() + half:.2f}"
    assert row["difference"] == "–"  # of another schedule
    assert row["test %"] == f"{100 * results.of('run4')['test_accuracy'].mean():.2f}"


def test_table_1_gives_the_difference_to_the_paper_after_the_papers_epochs(tmp_path):
    make_record(tmp_path, "run1", accuracy=0.87)
    assert table_1(collect(tmp_path)).loc["1", "difference"] == "−0.70"


def test_a_changed_record_changes_what_it_counts_for(grid, tmp_path):
    changed = shutil.copytree(grid, tmp_path / "outputs")
    before = texts_of(collect(changed))
    shutil.rmtree(changed / "run7")
    for seed in range(3):
        make_record(changed, "run7", seed, 0.85 + 0.001 * seed, epochs=8)
    after = texts_of(collect(changed))
    assert {name for name in before if before[name] == after[name]} == {"status", "others", "environment"}
    assert (
        claims_table(collect(changed)).loc["label smoothing (with the summed loss) helps", "verdict"] == "contradicted"
    )


def test_effects_far_beyond_the_spread_are_reproduced_and_none_without(grid):
    table = claims_table(collect(grid))
    assert table.loc["SGD ends above AdamW", "verdict"] == "reproduced"
    assert table.loc["batch sizes 128 and 1024 perform alike", "verdict"] == "reproduced"
    early = table[table.index.str.startswith("AdamW converges early")].iloc[0]
    assert early["verdict"] == "not resolved"
    assert int(early["seeds to resolve"]) > 3


def test_one_seed_has_an_interval_over_images_and_no_verdict(tmp_path):
    make_grid(tmp_path, seeds=1)
    results = collect(tmp_path)
    share = results.values("run7")[0] / 100
    low, high = binomial_interval(share, IMAGES)
    assert table_1(results).loc["7", "95 % interval"] == f"{100 * low:.2f} to {100 * high:.2f} ᵃ"
    table = claims_table(results)
    assert set(table["verdict"]) == {"none (n = 1)"}
    assert table.loc["patch whitening helps", "interval"].endswith(" ᵃ")
    claims = judge(results, load_claims("paper"))
    assert f"for want of seeds or records, {len(claims)}." in article.conclusions(results, claims)


def test_the_conclusions_count_the_verdicts_of_the_claims_table(grid):
    results = collect(grid)
    counts = claims_table(results)["verdict"].value_counts()
    text = article.conclusions(results, judge(results, load_claims("paper")))
    for verdict in ("reproduced", "contradicted", "not resolved"):
        assert f"{verdict} {counts.get(verdict, 0)}" in text
    assert f"Of the paper's {counts.sum()} claims" in text
    assert "The paper's full schedule may decide otherwise" in text


def test_the_papers_verdicts_are_for_the_papers_claims_alone(grid):
    table = claims_table(collect(grid), "smoothing")
    assert table.loc["summing the loss, given smoothing", "verdict"] == "above zero"
    assert table.loc["smoothing alone (mean loss)", "verdict"] in ("reproduced", "not resolved")


def test_records_of_several_devices_are_said_to_be(grid, tmp_path):
    mixed = shutil.copytree(grid, tmp_path / "outputs")
    for path in mixed.glob("run7-preprocessed/*/record.json"):
        path.write_text(path.read_text().replace("a made-up device", "another device"))
    assert "another device in run7-preprocessed (0, 1, 2)" in article.status(collect(mixed)).data
    assert "differ" not in article.status(collect(grid)).data
    assert article.devices(collect(mixed)) == "a made-up device (float32); another device (float32)"


def test_what_pre_processing_saves_comes_from_the_benchmark():
    base = next(name for name, contestant in CONTESTANTS.items() if contestant.batches == "ours")
    rates = {base: [80.0, 100.0, 90.0], twin(base, augmentation="once"): [100.0, 100.0, 100.0]}
    record = {
        "device_name": "a CPU", "precision": "float32", "base": base, "batch_size": 128,
        "contestants": {name: {"images_per_second": values} for name, values in rates.items()},
    }  # fmt: skip
    row = article.speed_table([record], "").frame.set_index("device").loc["a CPU"]
    assert (row["fresh augmentation"], row["drawn once"]) == ("444 s", "399 s")
    assert row["time saved"] == "10 % (0 to 20)"


def test_a_missing_run_is_named_with_the_command_that_makes_it(grid, tmp_path):
    partial = shutil.copytree(grid, tmp_path / "outputs")
    for run in ("run3", "run6-sum"):
        shutil.rmtree(partial / run)
    results = collect(partial)
    text = article.status(results).data
    assert "No record yet of run3, run6-sum" in text
    assert 'make table RUNS="run3 run6-sum" EPOCHS=8' in text
    assert claims_table(results).loc["patch whitening helps", "verdict"] == "no record"
    assert table_1(results).loc["3", "ours %"] == "–"
    assert list(article.accuracies(results)[0]) == results.runs
    assert set(article.histories(results)[0]) == {"run1", "run2", "run4", "run5", "run6", "run7"}


def test_without_any_record_everything_says_so(tmp_path, capsys):
    results = collect(tmp_path)
    texts = texts_of(results)
    assert texts["conclusions"] == "No run has a record yet."
    assert texts["reached"] == ""
    for draw in (article.accuracies, article.histories, lambda r: article.contrasts(judge(r, load_claims("paper")))):
        with article.missing_note():
            draw(results)
            pytest.fail("it drew something")
        assert "no record yet" in capsys.readouterr().out


def test_a_missing_result_is_said_with_what_makes_it_and_other_errors_are_not_hidden(capsys, tmp_path):
    with article.missing_note():
        collect(tmp_path).longest(run="run7", changes="")
    assert "run = run7: `make train RUN=7 EPOCHS=10` makes one" in capsys.readouterr().out
    with article.missing_note():
        article.needed([], "make bench")
    assert "no record yet: `make bench` makes one" in capsys.readouterr().out
    assert article.needed([1]) == [1]
    with pytest.raises(ZeroDivisionError), article.missing_note():
        _ = 1 / 0


def test_without_data_the_pictures_are_said_to_be_left_out(monkeypatch):
    def no_network(_):
        raise InputError("a long story")

    monkeypatch.setattr(article, "load_cifar10", no_network)
    with pytest.raises(InputError, match="CIFAR-10 is not there, `make data` fetches it"):
        article.load_images()


def test_other_schedules_are_listed_apart_and_the_longest_run_7_is_the_one_reached(grid, tmp_path):
    mixed = shutil.copytree(grid, tmp_path / "outputs")
    make_record(mixed, "run7", 0, 0.937, stop_epoch=95)
    make_record(mixed, "run7", 0, 0.4, epochs=8, batch_size=64)
    results = collect(mixed)
    assert table_1(results).loc["7", "n"] == 3
    others = article.other_schedules(results, "").frame
    assert list(others["other settings"]) == ["batch_size 64, now 128", "–"]
    assert others.iloc[1]["validation %"] == "93.70"
    assert "93.70 % validation and 93.20 % test accuracy after the paper's 200 epochs, stopped after 95" in (
        article.reached(results)
    )


def test_what_figures_draw_is_what_the_tables_say(grid):
    results = collect(grid)
    values, intervals, published = article.accuracies(results)
    assert values["run4"] == results.values("run4")
    assert article.interval_text(intervals["run4"]) == table_1(results).loc["4", "95 % interval"]
    assert published == {}  # of another schedule
    judged = judge(results, load_claims("paper"))
    rows = article.contrasts(judged)
    assert [row.name for row in rows] == [j.claim.formula for j in judged.values() if j.claim.measure != "early_loss"]
    histories, smoothing = article.histories(results)
    assert len(histories["run7"]) == 3
    assert smoothing["run7"] == 0.2
    for figure in (figures.run_accuracies(values, intervals, published), figures.contrasts(rows),
                   figures.loss_curves(histories, smoothing)):  # fmt: skip
        assert figure.alt


def test_the_environment_names_every_version(grid, tmp_path):
    mixed = shutil.copytree(grid, tmp_path / "outputs")
    path = next(mixed.glob("run1/seed0-*/record.json"))
    path.write_text(path.read_text().replace('"torch": "0"', '"torch": "1"').replace("1" * 40, "2" * 40))
    rows = article.environment(collect(mixed)).frame.set_index("")["value"]
    assert (rows["records"], rows["packages"]) == ("39", "torch 0 / 1")
    assert rows["code commits"] == "1111111111, 2222222222"
    assert rows["training time"] == "1 h 10 min"  # 39 runs of 8 epochs of 13.5 s


def test_the_spectrum_had_back_from_filters_is_the_covariances(cifar10, tmp_path):
    images = cifar10.train_images[:500]
    normalizer = make_normalizer(images, "channel", channel_statistics(images))
    covariance = patch_covariance([normalizer.apply(images)])
    folder = make_record(tmp_path, "run7")
    record = collect(tmp_path).longest(whitening=True, normalization="channel")
    np.save(folder / "first_layer.npy", whitening_filters(covariance, record.whitening_eps).numpy())
    values, vectors = article.whitening_of(record)
    expected_values, expected_vectors = eigenpatches(covariance)
    np.testing.assert_allclose(values, expected_values, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(vectors, expected_vectors, rtol=0, atol=1e-5)
