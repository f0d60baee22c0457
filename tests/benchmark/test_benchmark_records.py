import json
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cifarlib import InputError
from cifarlib.benchmark import record as records
from cifarlib.benchmark.contestants import CONTESTANTS, twin
from cifarlib.model import build_model
from cifarlib.params import TRAIN_IMAGES

RECORD = {
    "device": "cpu",
    "device_name": "A CPU (R), 2 threads",
    "batch_size": 128,
    "train_images": records.IMAGES["cpu"],
    "repeats": 5,
    "precision": "float32",
    "base": "ours",
    "finished": "2026-01-02T00:00:00Z",
    "airbench": None,
    "by_batch_size": [
        {
            "batch_size": 128,
            "images_per_second": [100.0],
            "float32": [141.6e9],
            "bfloat16": [70.8e9],
        }
    ],
    "contestants": {
        name: {
            "images_per_second": rates,
            "workers": None,
            "first_call_seconds": 1.0,
            "peak_memory_bytes": 10**9,
        }
        for name, rates in {
            "course": [50.0, 50.0, 100.0],
            "loader, float32": [100.0, 50.0, 80.0],
            "ready, float32": [200.0] * 3,
            "ours": [200.0, 100.0, 400.0],
            "ours, once": [220.0, 101.0, 404.0],
        }.items()
    },
}
A_GPU = {
    "device": "cuda",
    "device_name": "A GPU",
    "train_images": TRAIN_IMAGES,
    "finished": "2026-03-02T00:00:00Z",
}
READERS = [records.summary_table, records.summary_text, records.roofline, records.bars]


def write(folder, **other):
    record = RECORD | other
    records.write(record, folder)
    return folder / "benchmark" / records.folder_name(record) / "record.json"


def test_flop_per_image_is_what_torch_counts():
    model = build_model(0, torch.zeros(24, 3, 2, 2))
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(8, 3, 32, 32)).sum().backward()
    assert counter.get_total_flops() / 8 == pytest.approx(records.FLOP_PER_IMAGE, rel=0.01)


def test_reading_a_record_needs_no_torch():
    """The report reads records where no loader is needed; torch alone takes two seconds."""
    code = (
        "import sys, cifarlib.benchmark.record; print({'torch', 'torchvision'} & set(sys.modules))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        == "set()\n"
    )


def test_ratios_compare_neighbours_in_time():
    assert records.ratios(RECORD, "loader, float32", "ours") == [2.0, 2.0, 5.0]
    assert records.epoch_seconds(RECORD, "ours")[0] == 312 * 128 / 200
    assert records.fastest(RECORD, "loader") == "loader, float32"
    assert records.summary_table(RECORD)[1]["ours is faster by"] == "2.00 (2.00 to 5.00)"
    assert records.roofline(RECORD)[0]["share of float32 (%)"] == "50 (50 to 50)"
    text = records.summary_text(RECORD)
    assert "2.00 (2.00 to 5.00) times as fast as transforms in a DataLoader in float32" in text
    assert "cost it 1.0 (1.0 to 10.0) %" in text
    assert "PyTorch's convolutions" not in text


def test_the_text_compares_with_pytorchs_convolutions_where_they_were_measured():
    row = RECORD["contestants"]["ours"] | {"images_per_second": [100.0, 50.0, 400.0]}
    more = RECORD | {"contestants": RECORD["contestants"] | {"ours, PyTorch's convolutions": row}}
    assert (
        "2.00 (1.00 to 2.00) times as fast as itself with PyTorch's convolutions"
        in records.summary_text(more)
    )


def test_a_twin_differs_in_the_named_fields_alone():
    assert twin("ours", augmentation="once") == "ours, once"
    assert twin("ours", fast_convolutions=False) == "ours, PyTorch's convolutions"
    assert twin("ours, captured", augmentation="once") == "ours, captured, once"
    assert twin("ours, captured", fast_convolutions=False) is None
    assert len(set(CONTESTANTS.values())) == len(CONTESTANTS)


@pytest.mark.parametrize("absent", ["float32", "bfloat16", "both"])
def test_a_record_without_a_matrix_rate_can_be_read(absent, tmp_path):
    gone = ("float32", "bfloat16") if absent == "both" else (absent,)
    rows = [{k: v for k, v in row.items() if k not in gone} for row in RECORD["by_batch_size"]]
    write(tmp_path, by_batch_size=rows)
    (record,) = records.recorded(tmp_path)
    assert all(read(record) is not None for read in READERS)
    assert not any(
        name in column
        for name in gone
        for column in records.roofline(record)[0]
        if "loop" not in column
    )


def test_the_committed_records_can_be_read():
    committed = records.recorded()
    assert {record["device_name"] for record in committed} >= {"AMD EPYC, 2 threads"}
    for record in committed:
        assert set(record["contestants"]) <= set(CONTESTANTS)
        assert all(read(record) for read in READERS)
        assert "with PyTorch's convolutions" in records.summary_text(record)


def test_recorded_gives_a_devices_newest_full_measurement(tmp_path):
    assert records.recorded(tmp_path) == []
    write(tmp_path)
    write(tmp_path, repeats=2, finished="2026-02-02T00:00:00Z")
    write(tmp_path, **A_GPU)
    kept = records.recorded(tmp_path)
    assert [(r["folder"], r["repeats"]) for r in kept] == [
        ("cuda-a-gpu", 5),
        ("cpu-a-cpu-r-2-threads", 5),
    ]
    assert "A GPU, 2026-03-02" in records.cuda_text(RECORD, kept)
    assert "No record of a CUDA device" in records.cuda_text(RECORD, kept[1:])


def test_airbench_is_compared_repeat_by_repeat():
    measured = {
        "version": "0.1",
        "images_per_second": {"ours": [300.0, 100.0], "airbench94": [100.0, 100.0]},
    }
    assert "**2.00 (1.00 to 3.00) times**" in records.cuda_text(
        RECORD | A_GPU | {"airbench": measured}, []
    )
    assert "was not measured" in records.cuda_text(RECORD | A_GPU, [])


@pytest.mark.parametrize(
    "damage",
    [lambda t: t[:-5], lambda t: t.replace("400.0", "900.0"), lambda t: "[1]", lambda t: "{}"],
)
def test_a_damaged_record_is_refused(damage, tmp_path):
    path = write(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=r"record.json is damaged"):
        records.recorded(tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "benchmark").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="cannot be written"):
        records.write(RECORD, tmp_path)


def test_what_is_written_is_what_is_read(tmp_path):
    path = write(tmp_path)
    assert records.recorded(tmp_path) == [json.loads(path.read_text())]


def test_the_time_to_the_papers_accuracy_is_that_of_the_fast_recipes_epochs_at_this_rate():
    """200 images a second: 199.68 s an epoch of 312 batches of 128."""
    text = records.time_text(RECORD, [0.932, 0.934], 12, 13.5)
    assert "12 epochs of the fast recipe take **39.9 minutes**" in text
    assert "the paper's 200 took 45 minutes" in text
    assert "93.30 % of the validation images in the mean of 2 seeds" in text
    assert "make train RUN=fast" in records.time_text(RECORD, [], 12, 13.5)
