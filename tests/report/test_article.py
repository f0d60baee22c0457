import math
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from made_up import IMAGES, make_grid, make_record
from scipy import stats as reference

from cifarlib import InputError, records
from cifarlib.benchmark.contestants import CONTESTANTS, twin
from cifarlib.preprocess import channel_statistics, make_normalizer
from cifarlib.report import article, figures
from cifarlib.report.claims import judge, load_claims, on_test_images
from cifarlib.report.results import collect, collect_like
from cifarlib.report.statistics import binomial_interval
from cifarlib.whitening import eigenpatches, patch_covariance, whitening_filters


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    make_grid(folder)
    make_fast(folder)
    return folder


def make_fast(folder, seeds=3, **accuracies):
    """The fast recipe at 93.4 % and its arms, 1 point lower unless given (in per cent)."""
    for run in {run for claim in load_claims("paper", "fast").values() for run in claim.arms}:
        for seed in range(seeds):
            mean = accuracies.get(run, 93.4 if run == "fast" else 92.4)
            make_record(folder, run, seed, mean / 100 + 0.001 * (seed - 1))


def both_recipes(folder, **asked):
    judged = judge(collect(folder, **asked), load_claims("paper"))
    fast = judge(collect_like("fast", folder), load_claims("paper", "fast"))
    return judged, fast


def conclusions(folder, **kwargs):
    fast, asked = collect_like("fast", folder), load_claims("paper", "fast")
    judged = (
        judge(fast, asked),
        judge(fast, asked, pooled=False),
        judge(fast, on_test_images(asked)),
    )
    return article.conclusions(*judged, load_claims("paper"), **kwargs)


def claims_table(results, group="paper"):
    return article.claims_table(
        judge(results, load_claims(group)), "A caption.", "tbl"
    ).frame.set_index("comparison")


SMOOTHING = "label smoothing helps (run 7 sums the loss as well)"


def table_1(results):
    return article.table_1(results, "").frame.set_index("#")


def texts_of(folder):
    """All that the report says of results, by the function that says it."""
    (judged, fast_judged), results, fast = (
        both_recipes(folder),
        collect(folder),
        collect_like("fast", folder),
    )
    return {
        "status": article.status(results).data + article.status(fast).data,
        "reached": article.reached(results, fast),
        "conclusions": conclusions(folder),
        "sizes": article.sizes(fast_judged, load_claims("paper")),
        "disagreements": article.disagreements(judged, fast_judged),
        "table_1": table_1(results).to_string(),
        "claims": article.both_recipes(judged, fast_judged, "").frame.to_string(),
        "smoothing": str(
            vars(article.claims_table(judge(results, load_claims("smoothing")), "", "tbl"))
        ),
        "costs": article.costs(results, fast, "").frame.to_string(),
        "others": str(article.other_records(results, fast, "")),
        "environment": article.environment({"paper": results, "fast": fast}, "").frame.to_string(),
    }


def test_table_1_has_mean_deviation_and_interval_of_the_seeds(grid):
    results = collect(grid)
    values = 100 * results.of("run4")["validation_accuracy"]
    row = table_1(results).loc["4"]
    assert (row["paper %"], row["ours %"], row["n"]) == ("91.09", f"{values.mean():.2f}", 3)
    assert row["sd"] == f"{values.std(ddof=1):.2f}"
    variances = [np.var(results.values(run), ddof=1) for run in results.runs]  # three seeds each
    half = reference.t.ppf(0.975, 2 * len(variances)) * (np.mean(variances) / 3) ** 0.5
    assert row["95 % interval"] == f"{values.mean() - half:.2f} to {values.mean() + half:.2f}"
    assert row["difference"] == "–"  # of another schedule
    assert row["test %"] == f"{100 * results.of('run4')['test_accuracy'].mean():.2f}"


def test_table_1_gives_the_difference_to_the_paper_after_the_papers_epochs(tmp_path):
    make_record(tmp_path, "run1", accuracy=0.87)
    assert table_1(collect(tmp_path)).loc["1", "difference"] == "−0.70"


def test_a_changed_record_changes_what_it_counts_for(grid, tmp_path):
    changed = shutil.copytree(grid, tmp_path / "outputs")
    before = texts_of(changed)
    for run in ("run7", "fast"):
        shutil.rmtree(changed / run)
        for seed in range(3):
            make_record(
                changed, run, seed, 0.85 + 0.001 * seed, **({"epochs": 8} if run == "run7" else {})
            )
    after = texts_of(changed)
    assert {name for name in before if before[name] == after[name]} == {
        "status",
        "others",
        "environment",
    }
    assert claims_table(collect(changed)).loc[SMOOTHING, "verdict"] == "contradicted"


def test_effects_far_beyond_the_spread_are_reproduced_and_none_without(grid):
    table = claims_table(collect(grid))
    assert table.loc["SGD ends above AdamW", "verdict"] == "reproduced"
    assert (
        table.loc["small batches and those of 1024 perform alike (128; fast recipe 256)", "verdict"]
        == "reproduced"
    )
    early = table[table.index.str.startswith("AdamW converges early")].iloc[0]
    assert (needs := re.fullmatch(r"not resolved \(needs n = (\d+)\)", early["verdict"]))
    assert int(needs[1]) > 3


def test_the_report_says_which_verdicts_rest_on_the_pooled_deviation(tmp_path):
    """One arm of eleven scatters ten times as much as the others: pooled, its gain of 1.5 points is
    resolved, and the report says that by Welch's interval it is not, and that the deviations
    differ."""

    def said():
        fast, asked = collect_like("fast", tmp_path), load_claims("paper", "fast")
        return article.deviation(
            fast, judge(fast, asked), judge(fast, asked, pooled=False)
        ), conclusions(tmp_path)

    make_fast(tmp_path, **{"fast-adamw": 92.0})
    text, verdicts = said()
    assert "deviates by 0.10 points (pooled over the runs, 22 degrees of freedom)" in text
    assert (
        "lie between 0.10 and 0.10; Bartlett's test [@bartlett1937] does not tell them apart (p = 1)"
        in text
    )
    assert "would leave no verdict open" in text
    assert "Only with" not in verdicts
    for seed, accuracy in enumerate((0.91, 0.92, 0.93)):
        make_record(tmp_path, "fast-adamw", seed, accuracy)
    text, verdicts = said()
    assert "calls them unequal" in text
    assert text.endswith("Welch's intervals would leave open: SGD ends above AdamW.")
    assert verdicts.endswith("Only with the deviation pooled over all runs: SGD ends above AdamW.")


def test_an_alike_that_rests_on_the_pooled_deviation_is_among_those_verdicts(tmp_path):
    make_fast(tmp_path, **{"fast-batch1024": 93.4})
    for seed, accuracy in enumerate((0.930, 0.937, 0.934)):
        make_record(tmp_path, "fast-batch1024", seed, accuracy)
    assert "pooled over all runs: small batches and those of 1024 perform alike." in conclusions(
        tmp_path
    )


def test_verdicts_that_the_test_images_do_not_share_are_named(grid):
    judged = both_recipes(grid)[1]
    tested = judge(collect_like("fast", grid), on_test_images(load_claims("paper", "fast")))
    # half a point lower than the validation accuracy everywhere
    text = article.on_test_images(judged, tested)
    assert (
        text
        == "The same procedure on the test images gives the same verdict for 11 of 11 comparisons."
    )
    tested["padding"] = replace(tested["padding"], verdict="not resolved")
    text = article.on_test_images(judged, tested)
    assert "for 10 of 11 comparisons, and another for these" in text
    assert re.search(r"\n- \*reflect padding helps\*: \+1\.00 \(\+.*\), not resolved$", text)
    verdicts = judged, judged, tested, load_claims("paper")
    assert article.conclusions(*verdicts).endswith(
        "Another verdict on the test images: reflect padding helps."
    )
    assert article.conclusions(*verdicts, brief=True).endswith(
        " Of these verdicts 1 would change on the test images."
    )


def test_what_is_still_open_follows_from_the_records(grid, tmp_path):
    text = article.still_open(collect(grid), both_recipes(grid)[1])
    assert (
        text == "Still open: the claims that are not resolved, the private test set of the course."
    )
    make_record(tmp_path, "run7", stop_epoch=95)
    text = article.still_open(collect(tmp_path), both_recipes(tmp_path)[1])
    assert (
        "without a verdict, all that rests on one seed of the paper's own schedule, what needs records that are not there (run1, run2"
        in text
    )
    assert text.endswith("what its epochs after 95 would add, the private test set of the course.")


def test_how_accuracy_moved_after_the_last_fall_of_the_rate_is_said(tmp_path):
    folders = {
        before: make_record(tmp_path, run, accuracy=0.9, stop_epoch=95)
        for run, before in (("run1", 0.88), ("run7", 0.926))
    }
    results = collect(tmp_path)
    for before, folder in folders.items():
        history = records.read_history(folder)
        history[90]["validation_accuracy"] = before
        (folder / "history.csv").write_text(records.history_csv(history))
    text = article.status(results).data
    assert (
        "From epoch 91 to 95 validation accuracy moved by −2.60 to +2.00 points; what the other 105 epochs"
        in text
    )


def test_the_report_says_where_a_difference_has_another_size_than_the_papers(tmp_path):
    make_fast(tmp_path, **{"fast-adamw": 90.4, "fast-constant": 93.1, "fast-length": 92.75})
    text = article.sizes(both_recipes(tmp_path)[1], load_claims("paper"))
    assert "patch whitening helps (+0.37)" in text  # 1 point around the fast recipe
    assert "SGD" not in text  # 3.0 and the paper's 3.03
    assert "padding" not in text  # 0.3 and 0.34
    assert "normalising" not in text  # 0.65 and 0.60


def test_one_seed_has_an_interval_over_images_and_no_verdict(tmp_path):
    make_grid(tmp_path, seeds=1)
    results = collect(tmp_path)
    share = results.values("run7")[0] / 100
    low, high = binomial_interval(share, IMAGES)
    assert table_1(results).loc["7", "95 % interval"] == f"{100 * low:.2f} to {100 * high:.2f} ᵃ"
    table = claims_table(results)
    assert set(table["verdict"]) == {"too few seeds"}
    assert table.loc["patch whitening helps", "ours (interval)"].endswith(" ᵃ")


def test_the_conclusions_name_the_claims_by_their_verdicts_around_the_fast_recipe(grid):
    text = conclusions(grid)
    assert text.startswith(
        "- **6 reproduced**: SGD ends above AdamW (+1.00 points, the paper +3.03), patch whitening"
    )
    assert (
        "\n- **1 contradicted**: small batches and those of 1024 perform alike (+1.00 points, the paper −0.01)"
        in text
    )
    assert "\n- **1 not resolved**: smoothing's gain exceeds that" in text
    assert "Nesterov" not in text  # not a claim of the paper
    assert "Dirac" not in text
    sentence = "; ".join(line.removeprefix("- ") for line in text.splitlines())
    assert conclusions(grid, brief=True) == sentence.partition(": smoothing's gain")[0] + "."


def test_each_claim_stands_beside_itself_around_both_recipes(grid, tmp_path):
    make_grid(tmp_path, seeds=1, stop_epoch=95, epochs=200)
    make_fast(tmp_path, fast_adamw=0)
    shutil.rmtree(tmp_path / "fast-adamw")
    judged, fast = both_recipes(tmp_path)
    table = article.both_recipes(judged, fast, "").frame.set_index("claim")
    assert table.loc["SGD ends above AdamW", "fast recipe"] == "–"
    assert table.loc["SGD ends above AdamW", "verdict"] == "no record"
    row = table.loc["patch whitening helps"]
    assert (row["paper"], row["n"], row["n "], row["verdict"]) == ("+0.37", 1, 3, "reproduced")
    assert row["the paper's schedule"].endswith(" ᵃ")
    assert row["fast recipe"].startswith("+1.00 (+")
    assert table.loc["Dirac initialisation against PyTorch's own", "the paper's schedule"] == "–"
    early = table[table.index.str.startswith("AdamW converges early")].iloc[0]
    assert (early["n"], early["fast recipe"], early["n "], early["verdict"]) == (
        1,
        "–",
        0,
        "not asked",
    )
    assert "its verdict" not in table
    assert "its verdict" in article.both_recipes(*both_recipes(grid), "").frame  # three seeds a run


def test_a_claim_on_which_the_recipes_disagree_is_named(grid, tmp_path):
    text = article.disagreements(*both_recipes(grid))
    assert "same side of zero for: " in text
    assert "patch whitening helps (n = 3 on the paper's schedule)" in text
    make_grid(tmp_path, seeds=1)
    make_fast(tmp_path, **{"fast-length": 94.4})
    text = article.disagreements(*both_recipes(tmp_path))
    assert text.startswith("Not the same around both recipes")
    line = next(line for line in text.splitlines() if "by channel" in line)
    assert "- *label smoothing helps" not in text  # +1.2 and +1.00, whose intervals meet
    assert line.startswith("- *normalising by channel beats by length*: −1.00 (")
    assert "around the fast recipe (contradicted), +" in line
    assert line.endswith("on the paper's schedule, n = 1.")


def test_how_far_the_runs_lie_from_the_papers_is_said(grid, tmp_path):
    assert article.beside_the_paper(collect(grid)) == ""  # eight squeezed epochs
    make_record(tmp_path, "run1", accuracy=0.902, stop_epoch=95)
    assert article.beside_the_paper(collect(tmp_path)) == ""
    make_record(tmp_path, "run7", accuracy=0.93, stop_epoch=95)
    text = article.beside_the_paper(collect(tmp_path))
    assert "in 1 of 2 runs; the differences are −0.20 to +2.50 points" in text
    assert "2.80 points apart here, 5.50 in the paper" in text


def test_intervals_apart_have_no_value_in_common(grid):
    one = next(iter(both_recipes(grid)[1].values()))
    among = {
        interval: replace(one, interval=interval)
        for interval in ((0.1, 0.5), (0.4, 2.0), (0.6, 2.0), (math.nan,) * 2)
    }
    low, meeting, high, none = among.values()
    assert article.apart(low, high)
    assert article.apart(high, low)
    assert not article.apart(low, meeting)
    assert not article.apart(low, none)
    assert not article.apart(low, None)
    assert not article.apart(low, replace(high, estimate=None))


def test_what_a_run_costs_is_the_median_of_its_records_by_device(grid):
    costs = article.costs(collect(grid), collect_like("fast", grid), "").frame
    assert list(costs["run"]) == ["run 7, the paper", "run7", "fast"]
    assert list(costs["a run"]) == ["45 min", "108 s", "162 s"]  # 200, 8 and 12 epochs of 13.5 s
    assert list(costs["n"]) == [1, 3, 3]


def test_the_papers_verdicts_are_for_the_papers_claims_alone(grid):
    table = claims_table(collect(grid), "smoothing")
    assert table.loc["summing the loss, given smoothing", "verdict"] == "above zero"
    assert table.loc["smoothing alone (mean loss)", "verdict"].startswith(
        ("reproduced", "not resolved")
    )


def test_records_of_several_devices_are_said_to_be(grid, tmp_path):
    mixed = shutil.copytree(grid, tmp_path / "outputs")
    for path in mixed.glob("run7-preprocessed/*/record.json"):
        path.write_text(path.read_text().replace("a made-up device", "another device"))
    assert (
        "another device in run7-preprocessed (seeds 0, 1, 2)" in article.status(collect(mixed)).data
    )
    assert "differ" not in article.status(collect(grid)).data
    assert article.devices(collect(mixed)) == "a made-up device (float32); another device (float32)"


def test_what_pre_processing_saves_comes_from_the_benchmark():
    base = next(name for name, contestant in CONTESTANTS.items() if contestant.batches == "ours")
    rates = {base: [80.0, 100.0, 90.0], twin(base, augmentation="once"): [100.0, 100.0, 100.0]}
    record = {
        "device_name": "a CPU",
        "precision": "float32",
        "base": base,
        "batch_size": 128,
        "contestants": {name: {"images_per_second": values} for name, values in rates.items()},
    }
    row = article.speed_table([record], "").frame.set_index("device").loc["a CPU"]
    assert (row["fresh augmentation"], row["drawn once"]) == ("444 s", "399 s")
    assert row["time saved"] == "10 % (0 to 20)"


def test_a_table_of_comparisons_without_any_record_is_a_sentence(tmp_path):
    make_record(tmp_path, "run6", stop_epoch=95)
    judged = judge(collect(tmp_path), load_claims("smoothing"))
    sentence = article.claims_table(judged, "A caption.", "tbl").data
    assert sentence.startswith(
        "No record yet for: smoothing alone (mean loss) (7-mean − 6), summing the loss alone"
    )


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
    texts, results = texts_of(tmp_path), collect(tmp_path)
    assert texts["conclusions"].startswith(
        "- **none contradicted**\n- **8 not judged yet, for want of seeds**: SGD ends"
    )
    assert texts["reached"] == texts["disagreements"] == ""
    judged, _ = both_recipes(tmp_path)
    for draw in (
        article.accuracies,
        article.histories,
        lambda _: article.contrasts(judged, load_claims("paper")),
    ):
        with article.missing_note():
            draw(results)
            pytest.fail("it drew something")
        assert "no record yet" in capsys.readouterr().out


def test_a_missing_result_is_said_with_what_makes_it_and_other_errors_are_not_hidden(
    capsys, tmp_path
):
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


def test_records_of_neither_comparison_are_listed_apart(grid, tmp_path):
    mixed = shutil.copytree(grid, tmp_path / "outputs")
    make_record(mixed, "run7", 0, 0.4, epochs=8, batch_size=64)
    make_record(mixed, "fast94", 0, 0.94)
    results, fast = collect(mixed), collect_like("fast", mixed)
    assert table_1(results).loc["7", "n"] == 3
    others = article.other_records(results, fast, "").frame
    assert list(others["run"]) == ["fast94", "run7"]
    assert list(others["other settings"]) == ["–", "batch_size 64, now 128"]
    assert "no records" in article.other_records(collect(grid), collect_like("fast", grid), "").data
    reached = article.reached(results, fast)
    assert "after 12 epochs, triangle schedule (3 seeds; 162 s on a made-up device)" in reached


def test_what_figures_draw_is_what_the_tables_say(grid):
    results = collect(grid)
    values, intervals, published = article.accuracies(results)
    assert values["run4"] == results.values("run4")
    assert article.interval_text(intervals["run4"]) == table_1(results).loc["4", "95 % interval"]
    assert published == {}  # of another schedule
    judged = judge(results, load_claims("paper"))
    rows = article.contrasts(judged, load_claims("paper"))
    assert [row.name for row in rows] == [
        j.claim.title for j in judged.values() if j.claim.measure != "early_loss"
    ]
    assert rows[1].paper == pytest.approx(0.37)
    histories, smoothing = article.histories(results)
    assert len(histories["run7"]) == 3
    assert smoothing["run7"] == 0.2
    for figure in (
        figures.run_accuracies(values, intervals, published),
        figures.contrasts(rows),
        figures.loss_curves(histories, smoothing),
    ):
        assert figure.alt


def test_the_environment_names_every_version(grid, tmp_path):
    mixed = shutil.copytree(grid, tmp_path / "outputs")
    path = next(mixed.glob("run1/seed0-*/record.json"))
    path.write_text(
        path.read_text().replace('"torch": "0"', '"torch": "1"').replace("1" * 40, "2" * 40)
    )
    rows = article.environment({"paper": collect(mixed)}, "").frame.set_index("")["paper"]
    assert (rows["records"], rows["packages"]) == (39, "torch 0 / 1")
    assert rows["code commits"] == "1111111111, 2222222222"
    assert rows["training time"] == "1 h 10 min"  # 39 runs of 8 epochs of 13.5 s


def test_the_spectrum_had_back_from_filters_is_the_covariances(cifar10, tmp_path):
    images = cifar10.train.images[:500]
    normalizer = make_normalizer(images, "channel", channel_statistics(images))
    covariance = patch_covariance([normalizer.apply(images)])
    folder = make_record(tmp_path, "run7")
    record = collect(tmp_path).longest(whitening=True, normalization="channel")
    np.save(folder / "first_layer.npy", whitening_filters(covariance, record.whitening_eps).numpy())
    values, vectors = article.whitening_of(record)
    expected_values, expected_vectors = eigenpatches(covariance)
    np.testing.assert_allclose(values, expected_values, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(vectors, expected_vectors, rtol=0, atol=1e-5)
