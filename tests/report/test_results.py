import json
import math
import shutil

import pytest
from made_up import IMAGES, make_fast, make_grid, make_record

from cifarlib import project_root
from cifarlib.report import claims, results


def edit(folder, **changes):
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | changes))


def test_a_table_has_a_row_for_each_record_in_plain_units(tmp_path):
    make_record(tmp_path, "run7", 1, accuracy=0.9, stop_epoch=95)
    row = results.table(tmp_path).iloc[0]
    assert (row.run, row.seed, row.batch_size, row.optimizer) == ("run7", 1, 128, "sgd-nesterov")
    assert row.validation_accuracy == 0.9
    assert row.held_out_accuracy == pytest.approx((0.9 + 0.895) / 2)
    assert row.training_seconds == 95 * 13.5
    assert (row.device_name, row.validation_images) == ("a made-up device", IMAGES)
    assert (row.trained_for, row.changes, row.toy) == ("95 of the paper's 200 epochs", "", False)


def test_an_older_record_has_the_defaults_and_all_its_sessions_are_named(tmp_path):
    folder = make_record(tmp_path, "fast")
    record = json.loads((folder / "record.json").read_text())
    parameters = record["parameters"]
    del parameters["whitening_eps"]
    names = ("one", "another", "one")
    sessions = [record["sessions"][0] | {"device_name": name} for name in names]
    edit(folder, parameters=parameters, sessions=sessions)
    row = results.of_fast(results.table(tmp_path)).iloc[0]
    assert (row.whitening_eps, row.device_name) == (5e-4, "one / another")


@pytest.mark.parametrize(
    ("run", "schedule", "text", "toy"),
    [
        ("run7", {}, "the paper's 200 epochs", False),
        ("run7", {"stop_epoch": 91}, "91 of the paper's 200 epochs", False),
        ("run7", {"stop_epoch": 90}, "90 of the paper's 200 epochs", True),
        ("run7", {"train_images": 1024}, "the paper's 200 epochs, on 1,024 images", True),
        ("fast", {}, "12 epochs", False),
        ("run7", {"epochs": 90}, "90 epochs", True),
        ("fast", {"stop_epoch": 6}, "6 of 12 epochs", False),
        ("fast", {"epochs": 5}, "5 epochs", True),
        ("fast94", {}, "16 epochs, on 50,000 images", False),
        ("fast94", {"train_images": 40000}, "16 epochs", True),
    ],
)
def test_how_long_a_run_trained_is_said_and_whether_it_is_a_toy(tmp_path, run, schedule, text, toy):
    make_record(tmp_path, run, **schedule)
    row = results.table(tmp_path).iloc[0]
    assert (row.trained_for, row.toy) == (text, toy)


def test_toy_runs_are_not_compared_and_are_listed_last(tmp_path):
    make_grid(tmp_path)
    make_fast(tmp_path, seeds=1)
    before = results.table(tmp_path)
    make_record(tmp_path, "run7", accuracy=0.08, train_images=1024, epochs=2)
    # a seed that was not declared, and trainings of other lengths
    lengths = ({"seed": 8}, {"stop_epoch": 8}, {"epochs": 8}, {"train_images": 50000})
    own = {make_record(tmp_path, "fast", **how) for how in lengths}
    frame = results.table(tmp_path)
    assert own <= set(results.others(frame)["folder"])
    frame = frame[~frame["folder"].isin(own)]
    for part in (results.of_paper, results.of_fast, results.others):
        assert part(frame)["folder"].tolist() == part(before)["folder"].tolist()
    *others, toy = results.summary(frame).astype(str).to_numpy().tolist()
    assert others == results.summary(before).astype(str).to_numpy().tolist()
    assert "2 epochs, on 1,024 images" in toy


def test_only_runs_of_one_length_are_compared_and_the_others_stand_apart(tmp_path):
    make_grid(tmp_path)
    make_record(tmp_path, "run7")
    frame = results.table(tmp_path)
    paper = results.of_paper(frame)
    assert paper["run"].tolist() == list(claims.PAPER_RUNS)
    assert set(paper["trained_for"]) == {"95 of the paper's 200 epochs"}
    assert results.others(frame)["trained_for"].tolist() == ["the paper's 200 epochs"]
    for run in claims.PAPER_RUNS[:6]:  # of two lengths with as many runs the longer
        make_record(tmp_path, run)
    paper = results.of_paper(results.table(tmp_path))
    assert set(paper["trained_for"]) == {"the paper's 200 epochs"}


def test_other_settings_and_other_training_versions_are_not_compared(tmp_path):
    make_record(tmp_path, "fast", momentum=0.8)
    folder = make_record(tmp_path, "fast", 1)
    parameters = json.loads((folder / "record.json").read_text())["parameters"]
    edit(folder, parameters=parameters | {"training_version": 0})
    frame = results.table(tmp_path)
    assert results.of_fast(frame).empty
    changes = results.others(frame)["changes"]
    assert "momentum 0.8, now 0.85" in changes.tolist()
    assert any("training_version 0" in text for text in changes)


def test_an_experiment_of_ones_own_and_one_whose_file_is_gone_stand_among_the_others(
    tmp_path, monkeypatch
):
    shutil.copytree(project_root() / "params", tmp_path / "params")
    own = tmp_path / "params" / "wide-crop.yaml"
    own.write_text("# Does run 6 gain from larger shifts?\ncrop: 6\nepochs: 10\n")
    monkeypatch.setattr("cifarlib.params.project_root", lambda: tmp_path)
    make_record(tmp_path / "outputs", "wide-crop", accuracy=0.91)
    frame = results.table(tmp_path / "outputs")
    assert results.others(frame)["run"].tolist() == ["wide-crop"]
    own.unlink()
    frame = results.table(tmp_path / "outputs")
    assert results.others(frame)["changes"].tolist() == ["there is no params/wide-crop.yaml"]


def test_a_line_of_the_summary_is_of_a_run_and_length_over_its_seeds(tmp_path):
    for seed, accuracy in enumerate((0.93, 0.94)):
        make_record(tmp_path, "run7", seed, accuracy, stop_epoch=95)
    row = results.summary(results.table(tmp_path)).iloc[0]
    assert (row.n, row.paper) == (2, 93.20)
    assert row.validation == pytest.approx(93.5)
    assert row.sd == pytest.approx(0.7071, abs=1e-4)
    assert math.isnan(row.views)
