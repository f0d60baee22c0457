import json
import pickle
from pathlib import Path

import pytest
import torch

from cifarlib import InputError


def test_tensors_come_back_as_they_were(tmp_path):
    tensors = {
        "a": torch.randn(3, 2, 4, 4).contiguous(memory_format=torch.channels_last),
        "b": torch.tensor(3.0),
    }
    records.save_model(tmp_path / "t.safetensors", tensors, {"why": ["x", 1]})
    back, about = records.load_model(tmp_path / "t.safetensors")
    assert about == {"why": ["x", 1]}
    assert all(torch.equal(back[k], tensors[k]) for k in tensors)


def test_a_changed_byte_anywhere_is_noticed(tmp_path):
    path = tmp_path / "t.safetensors"
    records.save_model(path, {"a": torch.arange(4.0)}, {"mean": 2.125})
    whole = path.read_bytes()
    for old, new in (
        (b"2.125", b"9.125"),
        (torch.tensor(3.0).numpy().tobytes(), torch.tensor(5.0).numpy().tobytes()),
    ):
        assert whole.count(old) == 1
        path.write_bytes(whole.replace(old, new))
        with pytest.raises(InputError, match="damaged"):
            records.load_model(path)


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
            records.load_model(path)
    with pytest.raises(InputError, match="no file"):
        records.load_model(tmp_path / "missing")
    assert not Path("/tmp/executed-by-pickle").exists()
