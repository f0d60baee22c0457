import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up import IMAGES, make_grid, make_record

from cifarlib import InputError, project_root, records
from cifarlib.grid import made_differently
from cifarlib.report import results
from cifarlib.report.results import Schedule


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outputs")
    make_grid(folder)
    return folder


def change(folder, **fields):
    """Other values in a record, and in each of its sessions that has them."""
    record = json.loads((folder / "record.json").read_text())
    record["sessions"] = [
        session | {k: v for k, v in fields.items() if k in session}
        for session in record["sessions"]
    ]
    (folder / "record.json").write_text(json.dumps(record | fields))


def test_a_table_has_one_row_a_record_in_plain_units(tmp_path):
    folder = make_record(tmp_path, "run7", 3, 0.932, epochs=20)
    make_record(tmp_path, "run1", 0, 0.8, stop_epoch=95)
    table = results.table(tmp_path)
    assert list(table["run"]) == ["run1", "run7"]
    assert list(table["stop_epoch"].isna()) == [False, True]
    row = table.iloc[1]
    assert (row.seed, row.epochs, row.epochs_trained, row.train_images) == (3, 20, 20, 40_000)
    assert (row.validation_accuracy, row.test_accuracy) == (0.932, 0.927)
    assert (row.device, row.precision, row.convolutions, row.training_version) == (
        "cpu",
        "float32",
        "PyTorch",
        1,
    )
    assert (row.batch_size, row.label_smoothing, row.seconds_per_epoch, row.folder) == (
        128,
        0.2,
        13.5,
        folder,
    )
    history = records.read_history(folder)
    # 15 % of 20
    assert row.early_loss == pytest.approx(np.mean([epoch["train_loss"] for epoch in history[:3]]))


def test_a_record_without_a_parameter_counts_as_having_its_default(tmp_path):
    path = make_record(tmp_path, "run7") / "record.json"
    record = json.loads(path.read_text())
    for name in ("training_version", "momentum"):
        del record["parameters"][name]
    path.write_text(json.dumps(record))
    row = results.table(tmp_path).iloc[0]
    assert (row.training_version, row.momentum, row.changes) == (1, 0.9, "")


def test_all_sessions_of_a_record_are_named_where_they_differ(tmp_path):
    folder = make_record(tmp_path, "run7")
    record = json.loads((folder / "record.json").read_text())
    record["sessions"] += [record["sessions"][0] | {"precision": "bfloat16", "first_epoch": 2}]
    (folder / "record.json").write_text(json.dumps(record | {"precision": "bfloat16"}))
    assert results.table(tmp_path)["precision"][0] == "float32 / bfloat16"


def test_a_table_without_records_has_its_columns(tmp_path):
    assert results.table(tmp_path).empty
    assert {"run", "validation_accuracy", "folder"} <= set(results.table(tmp_path))


def test_a_schedule_is_said_in_words_and_as_options():
    assert (str(Schedule()), Schedule().options) == ("the paper's 200 epochs", "")
    assert (str(Schedule(8)), Schedule(8).options) == (
        "the paper's schedule squeezed into 8 epochs",
        " EPOCHS=8",
    )
    assert str(Schedule(1)) == "the paper's schedule squeezed into 1 epoch"
    stopped = Schedule(200, 95, 2000)
    assert str(stopped) == "95 of the paper's 200 epochs, on 2,000 of 40,000 training images"
    assert stopped.options == " STOP=95 IMAGES=2000"


def test_records_can_be_grouped_by_schedule(grid, tmp_path):
    mixed = shutil.copytree(grid, tmp_path / "outputs")
    make_record(mixed, "run7", 0, 0.937, stop_epoch=95)
    sizes = results.table(mixed).groupby("schedule").size()
    assert sizes.to_dict() == {Schedule(8): 39, Schedule(200, 95): 1}


def test_schedules_are_never_mixed(grid, tmp_path):
    mixed = shutil.copytree(grid, tmp_path / "outputs")
    make_record(mixed, "run7", 0, 0.937, stop_epoch=95)
    make_record(mixed, "run7", 0, 0.5, train_images=2000)
    make_record(mixed, "run7", 0, 0.4, epochs=8, batch_size=64)
    compared = results.collect(mixed)
    assert compared.schedule == Schedule(200, 95)  # its accuracies may be set beside the paper's
    assert compared.runs == ["run7"]
    assert "batch_size 64, now 128" in set(compared.others["changes"])
    assert compared.longest(run="run7", changes="").epochs_trained == 95
    # more epochs, but not with run 7's settings
    make_record(mixed, "run7", 0, 0.1, epochs=150, learning_rate=1.0)
    assert results.collect(mixed).longest(run="run7", changes="").epochs_trained == 95
    short = results.collect(mixed, epochs=8)
    assert short.schedule == Schedule(8)
    assert len(short.of("run7")) == 3
    with pytest.raises(InputError, match="epochs = 9"):
        results.collect(mixed, epochs=9)


def test_of_two_schedules_with_as_many_runs_the_longer_is_compared(tmp_path):
    for epochs in (8, 30, 10):
        make_record(tmp_path, "run7", epochs=epochs)
    assert results.collect(tmp_path).schedule == Schedule(30)
    make_record(tmp_path, "run6", epochs=10)
    assert results.collect(tmp_path).schedule == Schedule(10)


def test_only_a_long_part_of_the_papers_schedule_may_stand_beside_the_paper():
    assert [s.is_the_papers for s in (Schedule(), Schedule(200, 95), Schedule(200, 91))] == [
        True
    ] * 3
    others = (
        Schedule(200, 90),
        Schedule(100),
        Schedule(200, None, 2000),
        Schedule(200, None, 40_000, "triangle"),
    )
    assert not any(s.is_the_papers for s in others)


def test_an_unknown_run_is_not_compared(tmp_path):
    folder = make_record(tmp_path, "run7")
    (tmp_path / "mine").mkdir()
    change(folder.rename(tmp_path / "mine" / "seed0"), run="mine")
    compared = results.collect(tmp_path)
    assert compared.runs == []
    assert "params/mine.yaml" in compared.others["changes"].iloc[0]


def test_values_are_per_cent_one_a_seed_in_the_order_of_the_seeds(tmp_path):
    for seed, accuracy in ((10, 0.91), (2, 0.92)):
        make_record(tmp_path, "run7", seed, accuracy, epochs=8)
    compared = results.collect(tmp_path)
    assert compared.values("run7") == pytest.approx([92, 91])
    assert compared.values("run7", "test_loss") == [0.5, 0.5]
    assert compared.values("run6") == []
    assert compared.right_answers("run7").mean() == pytest.approx(0.915)
    assert len(compared.right_answers("run7")) == IMAGES


def test_the_longest_record_is_of_the_most_images_then_epochs_then_the_first_seed(tmp_path):
    for seed, schedule in (
        (0, {"train_images": 2000}),
        (2, {"epochs": 8}),
        (1, {"epochs": 8}),
        (0, {"epochs": 4}),
    ):
        make_record(tmp_path, "run7", seed, **schedule)
    longest = results.collect(tmp_path).longest(run="run7", changes="")
    assert (longest.seed, longest.epochs) == (1, 8)
    with pytest.raises(InputError, match="no record yet with run = run6"):
        results.collect(tmp_path).longest(run="run6", changes="")
    with pytest.raises(InputError, match="no record yet"):
        results.collect(tmp_path / "none").longest(run="run7")


def test_rows_of_the_table_say_where_they_were_made_differently(grid, tmp_path):
    mixed = shutil.copytree(grid, tmp_path / "outputs")
    for run in ("run1", "run2"):
        for seed in (1, 2):
            change(mixed / run / f"seed{seed}-epochs8", convolutions="Winograd")
    rows = results.table(mixed).to_dict("records")
    assert (
        made_differently(rows)
        == "convolutions Winograd in run1 (seeds 1, 2), run2 (seeds 1, 2), else PyTorch"
    )


def test_a_record_of_another_training_version_is_not_compared(grid, tmp_path):
    mixed = shutil.copytree(grid, tmp_path / "outputs")
    folder = mixed / "run5" / "seed2-epochs8"
    change(folder, parameters=records.read_record(folder)["parameters"] | {"training_version": 0})
    compared = results.collect(mixed)
    assert list(compared.of("run5")["seed"]) == [0, 1]
    assert list(compared.others["changes"]) == ["training_version 0, now 1"]


def test_a_damaged_record_is_one_error(grid, tmp_path):
    damaged = shutil.copytree(grid, tmp_path / "outputs")
    with open(next(damaged.glob("run5/*/predictions.npz")), "ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"run5.*does not belong to its record"):
        results.collect(damaged)


def test_records_are_read_with_their_labels(grid):
    record = records.read_record(grid / "run7" / "seed0-epochs8")
    answers = records.read_predictions(grid / "run7" / "seed0-epochs8")
    right = answers["validation"].argmax(1) == answers["validation_labels"]
    assert right.mean() == record["validation_accuracy"]


def test_the_readmes_table_and_figure_are_those_of_the_committed_records(tmp_path):
    root = project_root()
    listed = subprocess.run(
        ["git", "-C", root, "ls-files", "outputs/*/seed*/record.json"],
        capture_output=True,
        text=True,
    )
    folders = [Path(path).parent for path in listed.stdout.split()]
    assert folders
    for folder in folders:
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / folder).symlink_to(root / folder)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "cifarlib",
            "results",
            "--output-folder",
            tmp_path / "outputs",
            "--figure",
            tmp_path / "a.svg",
        ],
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert done.stdout in (root / "README.md").read_text()
    assert (tmp_path / "a.svg").read_text() == (root / "docs" / "results.svg").read_text()


def test_a_line_of_the_readmes_table_is_of_a_run_and_schedule_over_its_seeds(tmp_path):
    for seed, accuracy in enumerate((0.92, 0.93)):
        make_record(tmp_path, "run7", seed, accuracy, stop_epoch=95)
    make_record(
        tmp_path, "run7-mean", 1, 0.5, epochs=20, stop_epoch=8, train_images=2000, batch_size=64
    )
    lines = results.results_markdown(records.finished(tmp_path)).splitlines()[2:]
    asks = "What does label smoothing, with the loss summed over the batch, bring over run 6?"
    assert (
        lines[0]
        == f"| run7 | {asks} | 95 of the paper's 200 epochs | 2 | 92.50 ± 0.71 | 92.00 | – | 93.20 |"
    )
    assert lines[1].startswith(
        "| run7-mean (batch_size 64, now 128) | How much of run 7's gain is label smoothing alone"
    )
    assert "? | the paper's schedule squeezed into 20 epochs, stopped" in lines[1]
    assert lines[1].endswith("| 1 | 50.00 | 49.50 | – | – |")


def test_the_table_begins_with_the_papers_schedule_and_takes_a_run_that_has_no_params_file_any_more(
    tmp_path,
):
    for run in ("fast", "run7"):
        make_record(tmp_path, run)
    path = make_record(tmp_path, "fast-sgd") / "record.json"
    path.write_text(path.read_text().replace('"run": "fast-sgd"', '"run": "gone"'))
    lines = results.results_markdown(records.finished(tmp_path)).splitlines()[2:]
    assert [line.split()[1] for line in lines] == ["run7", "fast", "gone"]
    assert lines[2].startswith("| gone (there is no params/gone.yaml) | – |")


def test_tables_need_no_torch():
    code = "import sys; from cifarlib.report import results; results.collect(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=project_root()).returncode == 0


def test_a_run_without_validation_stands_in_the_tables_with_a_dash(tmp_path):
    change(make_record(tmp_path, "run7", accuracy=0.9), validation_accuracy=None)
    assert np.isnan(results.table(tmp_path)["validation_accuracy"][0])
    assert "| 1 | – | 89.50 |" in results.results_markdown(records.finished(tmp_path))


def test_the_fast_recipe_is_compared_among_its_own(tmp_path):
    make_grid(tmp_path, seeds=1)
    for run in ("fast", "fast-sgd", "fast-no-dirac", "fast94"):
        for seed in range(5):
            make_record(tmp_path, run, seed)
    assert results.collect(tmp_path).schedule == Schedule(epochs=8)
    fast = results.collect_like("fast", tmp_path)
    assert fast.runs == ["fast", "fast-no-dirac", "fast-sgd"]
    assert str(fast.schedule) == "12 epochs, triangle schedule"
    assert len(fast.values("fast")) == 5
    everything = results.collect_like("fast94", tmp_path)
    assert everything.runs == ["fast94"]
    assert (
        str(everything.schedule)
        == "16 epochs, triangle schedule, on 50,000 images, without validation"
    )
