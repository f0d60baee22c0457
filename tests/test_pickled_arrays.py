import pickle
import subprocess

import numpy as np
import pytest
import torch

from cifarlib import InputError
from cifarlib.own_images import read_images
from cifarlib.pickled_arrays import read_pickled_arrays


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "array", [np.arange(24.0).reshape(2, 3, 4).T, np.array([[3, -1]], ">i2"), np.array(["a", "bc"])]
)
def test_arrays_come_back_as_they_were(protocol, array, tmp_path):
    for content, name in (
        (array, "array"),
        ({"x": array, b"n": 3}, "x"),
        ((array, array[0]), "0"),
        (list(array), "array"),
    ):
        (tmp_path / "my.pkl").write_bytes(pickle.dumps(content, protocol))
        read = read_pickled_arrays(tmp_path / "my.pkl")[name]
        np.testing.assert_array_equal(read, array)
        assert read.dtype == array.dtype


def as_python_2_writes_it(dtype, shape, content):
    """The pickle (protocol 2) of a batch of CIFAR-10: strings of bytes, NumPy's names of long
    ago."""
    text = lambda value: b"U" + bytes([len(value)]) + value  # noqa: E731
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01(" + b"".join(b"M" + size.to_bytes(2, "little") for size in shape) + b"t"
        b"cnumpy\ndtype\n"
        + text(dtype)
        + b"K\x00K\x01\x87R(K\x03"
        + text(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + len(content).to_bytes(4, "little") + content + b"tb"
    )
    labels = b"](" + b"".join(b"K" + bytes([i % 10]) for i in range(shape[0])) + b"e"
    return (
        b"\x80\x02}("
        + text(b"batch_label")
        + text(b"one")
        + text(b"labels")
        + labels
        + text(b"data")
        + array
        + b"u."
    )


def test_a_batch_of_cifar_is_read_with_its_labels(small, tmp_path):
    images = small.test.images[:20]
    (tmp_path / "data_batch_1").write_bytes(
        as_python_2_writes_it(b"u1", (20, 3072), images.numpy().tobytes())
    )
    own = read_images(tmp_path / "data_batch_1")
    assert torch.equal(own.images, images)
    assert own.labels.tolist() == [*range(10)] * 2
    assert own.notes[0] == "The images are the array `data`; not used: `batch_label`."


class Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            Runs(subprocess.getoutput, "touch ran"),
            "asks for subprocess.getoutput, and only NumPy arrays",
        ),
        ({"x": Runs(eval, "open('ran', 'w')")}, "asks for builtins.eval"),
        (Runs(np.fromfile, "x"), "asks for numpy.fromfile"),
        (torch.zeros(2), "asks for torch._utils._rebuild_tensor_v2"),
        (np.array([{}, 3], object), "an array of O8"),
        (np.zeros(2, "u1,O"), "an array of V9"),
    ],
    ids=["command", "eval", "function of NumPy", "tensor", "objects", "records"],
)
def test_nothing_in_a_pickle_is_run(content, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=f"is no array file or picture that can be read: .*{says}"):
        read_images("my.pkl")
    assert not (tmp_path / "ran").exists()


def test_a_forged_memory_layout_is_refused(tmp_path):
    """Raw bytes as an array of objects would be addresses of the file's choice; a size without
    bytes is memory unread."""
    content = b"\x00" * 16
    (tmp_path / "my.pkl").write_bytes(as_python_2_writes_it(b"O8", (2,), content))
    with pytest.raises(ValueError, match="only numbers and text"):
        read_pickled_arrays(tmp_path / "my.pkl")
    (tmp_path / "my.pkl").write_bytes(as_python_2_writes_it(b"u1", (9, 9), content))
    with pytest.raises(ValueError, match="cannot reshape"):
        read_pickled_arrays(tmp_path / "my.pkl")
