import json
import pickle

import numpy as np
import pytest
import torch

from cifarlib import InputError, records


@pytest.fixture
def folder(tmp_path):
    """A finished folder, made as train does, without the training."""
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "log.txt").write_text("log")
    (tmp_path / "unfinished" / "checkpoint.safetensors").write_text("checkpoint")
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


def test_tensors_come_back_as_they_were(tmp_path):
    tensors = {"a": torch.randn(3, 2, 4, 4).contiguous(memory_format=torch.channels_last), "b": torch.tensor(3.0)}
    records.save_tensors(tmp_path / "t.safetensors", tensors, {"why": ["x", 1]})
    back, about = records.load_tensors(tmp_path / "t.safetensors")
    assert about == {"why": ["x", 1]}
    assert all(torch.equal(back[k], tensors[k]) for k in tensors)


def test_a_changed_byte_anywhere_is_noticed(tmp_path):
    path = tmp_path / "t.safetensors"
    records.save_tensors(path, {"a": torch.arange(4.0)}, {"mean": 2.125})
    whole = path.read_bytes()
    for old, new in ((b"2.125", b"9.125"), (torch.tensor(3.0).numpy().tobytes(), torch.tensor(5.0).numpy().tobytes())):
        assert whole.count(old) == 1
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(InputError, match="damaged"):
            records.load_tensors(path)


class Evil:
    def __reduce__(self):
        return (open, ("/tmp/executed-by-pickle", "w"))


def test_an_untrusted_model_file_is_refused_without_executing_it(tmp_path):
    for name, content in (("p", pickle.dumps(Evil())), ("t", None), ("j", json.dumps({}).encode())):
        path = tmp_path / name
        if content is None:
            torch.save(Evil(), path)
        else:
            path.write_bytes(content)
        with pytest.raises(InputError, match="damaged, or no file of this project"):
            records.load_tensors(path)
    with pytest.raises(InputError, match="no file"):
        records.load_tensors(tmp_path / "missing")
    from pathlib import Path

    assert not Path("/tmp/executed-by-pickle").exists()


def test_predictions_with_pickles_inside_are_refused(tmp_path):
    np.savez(tmp_path / "predictions.npz", test=np.array([Evil()], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        records.read_predictions(tmp_path)


def test_the_code_version_comes_from_git_or_a_variable(monkeypatch, tmp_path):
    here = records.code_version()
    assert len(here["commit"]) == 40
    assert here["code"].items() >= records.code_digests("cuda").items()
    monkeypatch.setattr(records, "project_root", lambda: tmp_path)
    monkeypatch.setenv("CIFARLIB_COMMIT", "abc")
    assert records.code_version() == {"commit": "abc", "dirty": None, "code": here["code"]}
    copy = records.Path(records.__file__).parent  # a folder inside another checkout is not that checkout
    monkeypatch.setattr(records, "project_root", lambda: copy)
    assert records.code_version() == {"commit": "abc", "dirty": None, "code": here["code"]}


def test_the_committed_records_are_whole_and_the_readme_shows_them():
    root = records.project_root()
    paths = sorted(map(records.Path, (records._git("ls-files", "outputs/*/seed*/record.json") or "").split()))
    assert paths
    found = [records.read_record((root / path).parent) for path in paths]
    assert records.results_markdown(found) in (root / "README.md").read_text()
