from pathlib import Path

import numpy as np
import pytest

from cifarlib import InputError, project_root, records


@pytest.fixture
def folder(tmp_path):
    """A finished folder, made as train does, without the training."""
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "log.txt").write_text("log")
    (tmp_path / "unfinished" / "checkpoint.pt").write_text("checkpoint")
    records.finish(tmp_path, {"run": "run7"})
    return tmp_path


def test_finish_moves_all_but_the_checkpoint(folder):
    assert {p.name for p in folder.iterdir()} == {"log.txt", "record.json"}
    assert list(records.read_record(folder)["files"]) == ["log.txt"]


def test_a_file_of_another_run_is_noticed(folder):
    (folder / "log.txt").write_text("other")
    with pytest.raises(InputError, match=r"log.txt does not belong"):
        records.read_record(folder)


def test_a_file_that_was_not_kept_is_no_fault(folder):
    (folder / "log.txt").unlink()
    assert records.read_record(folder)["run"] == "run7"


def test_a_cut_off_record_is_no_record(folder):
    (folder / "record.json").write_text((folder / "record.json").read_text()[:20])
    with pytest.raises(InputError, match="damaged"):
        records.read_record(folder)


def test_no_record_is_said_as_such(tmp_path):
    with pytest.raises(InputError, match="has no record"):
        records.read_record(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    records.write_text(path, "old")

    def fail(file):
        file.write(b"new, but")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        records.write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/executed-by-pickle", "w"))


def test_predictions_with_pickles_inside_are_refused(tmp_path):
    np.savez(tmp_path / "predictions.npz", test=np.array([Evil()], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        records.read_predictions(tmp_path)


def test_the_committed_records_are_whole_and_done():
    from cifarlib.params import load_params
    from cifarlib.provenance import _git

    root = project_root()
    paths = sorted(map(Path, (_git("ls-files", "outputs/*/seed*/record.json") or "").split()))
    assert paths
    for path in paths:
        record = records.read_record((root / path).parent)
        schedule = {name: record[name] for name in ("seed", "epochs", "stop_epoch", "train_images")}
        assert load_params(record["run"], **schedule).changes_since(record["parameters"]) == [], (
            path
        )
        assert {"training_version"} <= set(record["parameters"])
        assert set(records.MADE_ON) <= set(record), path
        assert all(set(records.MADE_ON) <= set(session) for session in record["sessions"]), path
