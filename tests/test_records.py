import json
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up import make_record

from cifarlib import InputError, evaluate, project_root, provenance, records
from cifarlib.params import load_params


@pytest.fixture
def folder(tmp_path):
    """A finished folder, made as train does, without the training."""
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "log.txt").write_text("log")
    (tmp_path / "unfinished" / "checkpoint.pt").write_text("checkpoint")
    records.complete(tmp_path, {"run": "run7", "seed": 0, "parameters": {}})
    return tmp_path


def test_completing_a_run_moves_all_but_the_checkpoint(folder):
    assert {p.name for p in folder.iterdir()} == {"log.txt", "record.json"}
    assert list(records.read_record(folder)["files"]) == ["log.txt"]


def test_a_file_of_another_run_is_noticed_and_a_missing_one(folder):
    (folder / "log.txt").write_text("other")
    with pytest.raises(InputError, match=r"log.txt is missing, or its SHA-256 is not"):
        records.read_record(folder)
    (folder / "log.txt").unlink()
    with pytest.raises(InputError, match=r"log.txt is missing"):
        records.read_record(folder)


@pytest.mark.parametrize("text", ['{"run": "run7", ', '{"files": {}}', "[]"])
def test_a_damaged_record_or_history_is_said_as_such(folder, text):
    for name, read in (("record.json", records.read_record), ("history.csv", records.read_history)):
        (folder / name).write_text(f"epoch\n{text}" if name == "history.csv" else text)
        with pytest.raises(InputError, match=rf"{name} is damaged"):
            read(folder)


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
        return (exec, ("raise SystemExit('executed')",))  # which no except Exception stops


def test_a_model_comes_back_as_it_was_saved(tmp_path):
    channels_last = torch.randn(3, 2, 4, 4).contiguous(memory_format=torch.channels_last)
    tensors = {"a": channels_last, "b": torch.tensor(3.0)}
    records.write_model(tmp_path / "model.safetensors", tensors, {"why": ["x", 1]})
    back, description = records.read_model(tmp_path / "model.safetensors")
    assert description == {"why": ["x", 1]}
    assert all(torch.equal(back[k], tensors[k]) for k in tensors)


def test_an_untrusted_model_file_is_refused_without_executing_it(tmp_path):
    torch.save(Evil(), tmp_path / "torch")
    (tmp_path / "pickle").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "json").write_text("{}")
    for name in ("torch", "pickle", "json", "missing"):
        with pytest.raises(InputError, match="missing, damaged, or of another kind"):
            records.read_model(tmp_path / name)


def test_copies_damaged_records_and_those_of_other_code_do_not_count(tmp_path, caplog):
    folder = make_record(tmp_path, "fast", 1)
    short = make_record(tmp_path, "fast", 1, epochs=4)
    for name in ("fast/seed1 (copy)", "fast/seed7", "fast.bak/seed1", "fast/seed1-old"):
        shutil.copytree(folder, tmp_path / name)
    make_record(tmp_path, "fast", 1, accuracy=0.8)  # trained again: the copies stay copies
    newer = make_record(tmp_path, "fast", 2)
    record = json.loads((newer / "record.json").read_text())
    record["parameters"]["mixup"] = 0.2
    (newer / "record.json").write_text(json.dumps(record))
    (make_record(tmp_path, "fast", 3) / "log.txt").write_text("of another run")
    assert [record["folder"] for record in records.read_all(tmp_path)] == [folder, short]
    assert "6 records left out" in caplog.text
    assert "its SHA-256 is not the one in record.json; restore" in caplog.text
    assert "fast/seed7 (a copy of fast/seed1)" in caplog.text
    assert "fast/seed2 (mixup 0.2, unknown here)" in caplog.text


def test_predictions_with_pickles_inside_are_refused(tmp_path):
    np.savez(tmp_path / "predictions.npz", test=np.array([Evil()], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        records.read_predictions(tmp_path)


def test_the_committed_records_are_whole_and_done():
    root = project_root()
    command = ["git", "-C", root, "ls-files", "outputs/*/seed*/record.json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    paths = sorted(map(Path, done.stdout.split()))
    assert paths
    for path in paths:
        record = records.read_record((root / path).parent)
        schedule = {name: record[name] for name in ("seed", "epochs", "stop_epoch", "train_images")}
        now = load_params(record["run"], **schedule)
        assert now.changes_since(record["parameters"]) == [], path
        assert "training_version" in record["parameters"]
        answers = records.read_predictions((root / path).parent)
        for part in ("validation", "test"):
            if record[f"{part}_images"]:
                share = evaluate.accuracy(answers[part], answers[f"{part}_labels"])
                assert share == record[f"{part}_accuracy"], path
        assert set(provenance.MADE_ON) <= set(record), path
        assert all(set(provenance.MADE_ON) <= set(session) for session in record["sessions"]), path
