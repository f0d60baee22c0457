import signal
import subprocess
import sys

import nbformat
import psutil
import pytest
import torch

from cifarlib import InputError, project_root
from cifarlib.benchmark import measure as measuring
from cifarlib.benchmark import record as records
from cifarlib.benchmark.contestants import CONTESTANTS
from cifarlib.benchmark.measure import left_out, measure
from cifarlib.device import convolutions

# a measurement that would go on for hours; sys.argv: how many workers the loader has
ENDLESS = """
import logging, sys
from cifarlib.benchmark import measure
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
measure.CONTESTANTS = {name: measure.CONTESTANTS[name] for name in ("loader, float32", "ours")}
measure.measure("cpu", batch_size=8, train_images=64, repeats=10**6, workers=int(sys.argv[1]))
"""


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGKILL, 1), (signal.SIGTERM, 0)])
def test_nothing_is_left_of_a_measurement_that_is_killed(number, workers):
    command = [sys.executable, "-c", ENDLESS, str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=project_root())
    left = []
    try:
        assert any("repeat 1 of" in line for line in process.stdout)  # all are at work
        left = psutil.Process(process.pid).children(recursive=True)
        assert len(left) >= 3 + workers  # the fork server, two contestants, the loader's worker
        process.send_signal(number)
        process.wait()
        assert psutil.wait_procs(left, timeout=15)[1] == []
    finally:
        process.kill()
        process.stdout.close()
        for child in (child for child in left if child.is_running()):
            child.kill()


def names(device: str, precision: str, monkeypatch) -> set[str]:
    monkeypatch.setattr(measuring, "pick_precision", lambda device: precision)
    return {
        name
        for name, contestant in CONTESTANTS.items()
        if not left_out(contestant, torch.device(device))
    }


def test_doubles_are_left_out(monkeypatch):
    monkeypatch.setattr(convolutions, "faster_in_bfloat16", lambda: True)
    with_units = names("cpu", "bfloat16", monkeypatch)
    assert set(CONTESTANTS) - with_units == {"ours, captured", "ours, captured, once"}
    assert set(CONTESTANTS) - names("cuda", "bfloat16", monkeypatch) == {
        "ours, PyTorch's convolutions"
    }
    monkeypatch.setattr(convolutions, "faster_in_bfloat16", lambda: False)
    assert with_units - names("cpu", "bfloat16", monkeypatch) == {"ours, PyTorch's convolutions"}
    assert "ours, PyTorch's convolutions" in names("cpu", "float32", monkeypatch)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_a_precision_without_units_is_left_out_and_said_to_be(device, monkeypatch):
    assert not any("bfloat16" in name for name in names(device, "float32", monkeypatch))
    assert "no known units for bfloat16" in left_out(
        CONTESTANTS["loader, bfloat16"], torch.device(device)
    )


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"repeats": 0}, "repeats = 0"),
        ({"workers": -1}, "workers = -1"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"train_images": 5}, "train_images = 5"),
        ({"device": "tpu"}, "device = 'tpu'"),
        ({"output_folder": 2026}, "output_folder = 2026"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(wrong, says):
    with pytest.raises(InputError, match=says):
        measure(**wrong)


def test_the_notebook_measures_and_leaves_a_record(tmp_path):
    small = {
        "batch_size": 8,
        "train_images": 16,
        "repeats": 1,
        "workers": 0,
        "device": "cpu",
        "output_folder": tmp_path,
    }
    pairs = [part for name, value in small.items() for part in ("-p", name, str(value))]
    notebook = project_root() / "notebooks" / "benchmark.ipynb"
    command = [sys.executable, "-m", "papermill", str(notebook), "out.ipynb", *pairs]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (record,) = records.recorded(tmp_path)
    rows = record["contestants"]
    assert set(rows) == {
        name for name, who in CONTESTANTS.items() if not left_out(who, torch.device("cpu"))
    }
    assert {len(row["images_per_second"]) for row in rows.values()} == {1}
    assert all(row["peak_memory_bytes"] > 10**8 for row in rows.values())
    assert (record["convolutions"] == "Winograd") == ("ours, PyTorch's convolutions" in rows)
    for row in record["by_batch_size"]:
        assert set(row) == {"batch_size", "images_per_second", "float32", record["precision"]}
    outputs = [
        o
        for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells
        for o in cell.get("outputs", [])
    ]
    shown = "".join("".join(o.get("data", {}).values()) for o in outputs)
    images_per_second = records.summary_table(record)[0]["images/s"]
    for needed in (
        records.summary_text(record),
        "Figure 3.",
        "No record of a CUDA device",
        "needs CUDA",
        images_per_second,
    ):
        assert needed in shown, needed
    assert ("no known units for bfloat16" in shown) == (record["precision"] == "float32")
    assert not any(o.get("name") == "stderr" for o in outputs)
