"""What `make status` says of a folder of records."""

import json
import shutil

import pytest
from filelock import FileLock
from made_up import make_record

from cifarlib import status
from cifarlib.params import load_params

LENGTH = {"epochs": 2, "train_images": 128}


@pytest.fixture
def folder(tmp_path):
    return make_record(tmp_path, "run7", accuracy=0.9, **LENGTH)


def change(folder, **parameters):
    path = folder / "record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["parameters"] |= parameters
    path.write_text(json.dumps(record))


def begin_again(folder):
    """Leave what a process that trains the run leaves after its first epoch."""
    (folder / "unfinished").mkdir(exist_ok=True)
    lines = (folder / "history.csv").read_text(encoding="utf-8").splitlines()[:2]
    (folder / "unfinished" / "history.csv").write_text("\n".join(lines))


def report(outputs, *runs, every=False):
    return status.report([load_params(run) for run in runs], outputs, every)


def test_a_record_is_done_until_its_settings_change(folder):
    assert status.read(folder) == ("done", "")
    change(folder, momentum=0.5)
    assert status.read(folder) == ("stale", "momentum 0.5, now 0.9")
    change(folder, momentum=0.9, cutout=8)
    assert status.read(folder).reason.startswith("cutout 8, unknown here")


def test_a_run_under_way_is_running_from_its_start_and_unfinished_when_it_was_stopped(folder):
    (folder / "record.json").unlink()
    begin_again(folder)
    for lock in (folder / ".lock", folder / "unfinished" / ".lock"):
        with FileLock(lock):
            assert status.read(folder) == ("running", "1 epoch saved")
    assert status.read(folder) == ("unfinished", "1 epoch saved")
    shutil.rmtree(folder / "unfinished")
    assert status.read(folder) == ("missing", "")


def test_what_exists_is_listed_at_whatever_length_before_what_is_missing(tmp_path):
    for seed, accuracy in ((0, 0.9), (1, 0.91)):
        make_record(tmp_path, "run7", seed, accuracy, stop_epoch=95)
    make_record(tmp_path, "fast", batch_size=128)
    text = report(tmp_path, "run6", "run7")
    assert [line.split() for line in text.splitlines()] == [
        ["run", "settings", "state", "reason", "seeds", "validation", "%", "test", "%"],
        ["run7", "stop95", "done", "0", "1", "90.50", "90.00"],
        ["missing:", "run6/0"],
        ["2", "done,", "1", "missing"],
    ]
    assert "fast  batch_size128  done" in report(tmp_path, "run7", every=True)


def test_a_copy_is_no_run_and_is_named_once(folder):
    outputs = folder.parents[1]
    name = folder.name
    for copy in (f"run7/{name} (1)", f"run7.bak/{name}", "run7/seed9", "run7/seed0-stop1"):
        shutil.copytree(folder, outputs / copy)
        assert status.read(outputs / copy) == ("stale", "a copy")
    text = report(outputs, "run7", every=True)
    assert text.count("a copy") == 4
    assert text.splitlines()[-1] == "1 done, 4 stale"


def test_a_long_reason_goes_on_below(folder):
    (folder / "record.json").write_text("{")
    table = report(folder.parents[1], "run7").splitlines()
    assert max(map(len, table)) <= 100
    assert len(table) > 4
