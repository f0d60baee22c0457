"""What `make status` says of a folder of records."""

import json
import shutil

import pytest
from filelock import FileLock
from made_up import make_record

from cifarlib import status
from cifarlib.params import load_params


@pytest.fixture
def folder(tmp_path):
    return make_record(tmp_path, "run7", epochs=2, train_images=128)


def change(folder, **parameters):
    path = folder / "record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["parameters"] |= parameters
    path.write_text(json.dumps(record))


def report(outputs, *runs):
    return status.overview([load_params(run) for run in runs], outputs)


def test_a_record_is_done_until_its_settings_change(folder):
    assert status.read(folder) == ("done", "")
    change(folder, momentum=0.5)
    assert status.read(folder) == ("stale", "momentum 0.5, now 0.9")
    (folder / "unfinished").mkdir()  # it is trained again
    shutil.copy(folder / "history.csv", folder / "unfinished")
    assert status.read(folder) == ("stale", "momentum 0.5, now 0.9; 2 epochs saved")
    change(folder, momentum=0.9, mixup=0.2)
    assert status.read(folder).reason.startswith("mixup 0.2, unknown here")
    (folder / "record.json").write_text("<<<<<<< HEAD")
    assert status.read(folder).state == "stale"


def test_a_run_under_way_is_running_and_unfinished_when_it_was_stopped(folder):
    (folder / "record.json").unlink()
    (folder / "unfinished").mkdir()
    lines = (folder / "history.csv").read_text(encoding="utf-8").splitlines()
    (folder / "unfinished" / "history.csv").write_text("\n".join(lines[:2]))
    with FileLock(folder / ".lock"):
        assert status.read(folder) == ("running", "1 epoch saved")
    assert status.read(folder) == ("unfinished", "1 epoch saved")
    (folder / "unfinished" / "history.csv").write_text("epoch,loss\n1,a")
    assert "history.csv is damaged" in status.read(folder).reason
    shutil.rmtree(folder / "unfinished")
    assert status.read(folder) == ("missing", "")


def test_what_exists_is_listed_at_whatever_length_before_what_is_missing(tmp_path):
    for seed in (0, 1):
        make_record(tmp_path, "run7", seed, stop_epoch=95)
    make_record(tmp_path, "fast", batch_size=128)
    (tmp_path / "fast" / "seed3.zip").touch()
    text = report(tmp_path, "run6", "run7")
    assert [line.split() for line in text.splitlines()] == [
        ["run", "settings", "seeds", "state", "reason"],
        ["fast", "batch_size128", "0", "done"],
        ["run7", "stop95", "0", "1", "done"],
        ["missing:", "run6/0"],
        ["3", "done,", "1", "missing"],
    ]
    wanted = [load_params("run7", stop_epoch=stop) for stop in (94, 95)]
    assert "missing: run7/0\n" in status.overview(wanted, tmp_path)
    assert report(tmp_path / "none", "run7").startswith(f"no record in {tmp_path}/none\nmissing:")


def test_a_copy_is_no_run_and_is_named_once(folder):
    outputs = folder.parents[1]
    for copy in (f"run7/{folder.name} (1)", f"run7.bak/{folder.name}", "run7/seed9", "7/seed0"):
        shutil.copytree(folder, outputs / copy)
        assert status.read(outputs / copy) == ("stale", "a copy")
    text = report(outputs, "run7")
    assert text.count("a copy") == 4
    assert text.splitlines()[-1] == "4 stale, 1 done"
