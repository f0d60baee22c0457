import json
import os
import subprocess
import sys
import types

import nbformat
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cifarlib import InputError, bench, capture, preprocess, project_root, winograd
from cifarlib.model import build_model
from cifarlib.params import TRAIN_IMAGES, load_params

CPU = torch.device("cpu")


def test_flop_per_image_is_what_torch_counts():
    model = build_model(0, torch.zeros(24, 3, 2, 2))
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(8, 3, 32, 32)).sum().backward()
    assert counter.get_total_flops() / 8 == pytest.approx(bench.FLOP_PER_IMAGE, rel=0.01)


def crops(data, index, draws):
    images = data.train_images.contiguous(memory_format=torch.channels_last)
    scale = preprocess.normalization(images, "channel", preprocess.channel_statistics(images))
    return preprocess.crop_and_flip(images, *scale, index, draws, "reflect")


def test_the_courses_loop_makes_the_pixels_that_ours_makes(small):
    p = load_params("run7-mean", batch_size=16, train_images=64)
    made = list(bench.baseline_batches("course", small, p, 0, False)(3, 2))
    order = preprocess.draw_order(0, 3, 512)[:32]
    x, y = (torch.cat(parts) for parts in zip(*made, strict=True))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, crops(small, order, preprocess.draw(0, 3, 512)[order]))
    assert y.equal(small.train_labels[order])


@pytest.mark.parametrize("workers", [0, 1])
def test_torchvisions_transforms_make_one_of_our_crops(small, workers):
    few = small.head(8, 1, 1)
    p = load_params("run7-mean", batch_size=4, train_images=8)
    every = torch.cartesian_prod(torch.arange(8), torch.arange(-4, 5), torch.arange(-4, 5), torch.arange(2))
    ours = crops(few, every[:, 0], every[:, 1:]).flatten(1)
    loader = bench.baseline_batches("loader", few, p, workers, False)
    torch.manual_seed(0)
    seen = []
    for x, y in (pair for epoch in (1, 2) for pair in loader(epoch, 2)):
        distance, at = torch.cdist(x.flatten(1), ours, compute_mode="donot_use_mm_for_euclid_dist").min(1)
        assert distance.max() < 1e-3
        assert y.equal(few.train_labels[every[at, 0]])
        seen += at.tolist()
    assert len(set(seen)) > 8  # drawn anew in the second epoch
    assert sorted(every[seen[:8], 0].tolist()) == list(range(8))


def test_ready_images_are_one_crop_each(small):
    few = small.head(8, 1, 1)
    x = torch.cat(
        [
            x
            for x, _ in bench.baseline_batches("ready", few, load_params(7, batch_size=4, train_images=8), 0, False)(
                1, 2
            )
        ]
    )
    ours = crops(few, torch.arange(8), preprocess.draw(0, 0, 8))
    assert torch.cdist(x.flatten(1), ours.flatten(1)).min(1).values.max() < 1e-2


def test_all_contestants_train_one_network_and_as_many_steps(small, monkeypatch):
    monkeypatch.setattr(capture, "capture", lambda step, reset, _: [reset(), step()] and step)
    monkeypatch.setattr(winograd, "IMAGES", 1)
    used, conv3x3 = [], winograd.conv3x3
    monkeypatch.setattr(winograd, "conv3x3", lambda *given: used.append(1) or conv3x3(*given))
    built, make = [], bench.make_optimizer
    monkeypatch.setattr(bench, "make_optimizer", lambda p, model, device: built.append(model) or make(p, model, device))
    p, small = load_params("run7-mean", batch_size=4, train_images=8), small.head(64, 1, 1)
    first = None
    for name in bench.CONTESTANTS:
        used.clear()
        contestant = bench.Contestant(name, p, CPU, "float32", small, 0)
        weights = {k: v.clone() for k, v in built[-1].state_dict().items()}
        first = first or weights
        for key, value in weights.items():
            assert value.equal(first[key]), (name, key)
        assert contestant.images_per_second(1) > 0
        assert bool(used) == (name.startswith("ours") and "PyTorch" not in name), name
        assert built[-1].state_dict()["net.2.norm1.num_batches_tracked"] == 2, name
        assert not built[-1].state_dict()["net.7.weight"].equal(first["net.7.weight"]), name


def test_a_profile_adds_up_to_the_steps_time(small):
    p = load_params("run7-mean", batch_size=8, train_images=16)
    kinds = bench.Contestant("loader, float32", p, CPU, "float32", small, 0).profile(2)
    assert all(v >= 0 for v in kinds.values())
    assert kinds["convolution"] > kinds["optimizer"] > 0
    assert kinds["Python, NumPy, PIL"] > 0


RECORD = {
    "device": "cpu", "device_name": "A CPU (R), 2 threads", "batch_size": 128, "train_images": bench.CPU_IMAGES,
    "repeats": 5, "precision": "float32", "base": "ours", "finished": "2026-01-02T00:00:00Z", "airbench": None,
    "by_batch_size": [{"batch_size": 128, "images_per_second": [100.0], "float32": [141.6e9], "bfloat16": [70.8e9]}],
    "contestants": {
        name: {"images_per_second": rates, "workers": None, "first_call_seconds": 1.0, "peak_memory_bytes": 10**9}
        for name, rates in {
            "course": [50.0, 50.0, 100.0], "loader, float32": [100.0, 50.0, 80.0], "ready, float32": [200.0] * 3,
            "ours": [200.0, 100.0, 400.0], "ours, once": [220.0, 101.0, 404.0],
        }.items()
    },
}  # fmt: skip


def test_contestants_that_would_be_doubles_are_left_out(monkeypatch):
    def names(device: str, precision: str) -> set[str]:
        return {name for name in bench.CONTESTANTS if bench.takes_part(name, torch.device(device), precision)}

    monkeypatch.setattr(winograd, "in_bfloat16", lambda: True)
    assert names("cpu", "bfloat16") - names("mps", "float32") == {"ours, PyTorch's convolutions"}
    monkeypatch.setattr(winograd, "in_bfloat16", lambda: False)
    assert names("cpu", "float32") - names("cpu", "bfloat16") == {"ours, PyTorch's convolutions"}
    assert names("cuda", "bfloat16") - names("cpu", "bfloat16") == {"ours, captured", "ours, captured, once"}


def write(folder, **other):
    record = RECORD | other
    path = folder / "benchmark" / bench.folder_name(record) / "record.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | {"sha256": bench._digest(record)}))
    return path


def test_ratios_compare_neighbours_in_time():
    assert bench.ratios(RECORD, "loader, float32", "ours") == [2.0, 2.0, 5.0]
    assert bench.epoch_seconds(RECORD, "ours")[0] == 312 * 128 / 200
    assert bench.fastest(RECORD, "loader") == "loader, float32"
    assert bench.summary(RECORD)[1]["ours is faster by"] == "2.00 (2.00 to 5.00)"
    assert bench.roofline(RECORD)[0]["share of float32 (%)"] == "50 (50 to 50)"
    text = bench.verdict(RECORD)
    assert "**2.00 (2.00 to 5.00)** times as fast as transforms in a DataLoader in float32" in text
    assert "cost it 1.0 (1.0 to 10.0) %" in text


def test_recorded_gives_a_devices_newest_full_measurement(tmp_path):
    assert bench.recorded(tmp_path) == []
    write(tmp_path)
    write(tmp_path, repeats=2, finished="2026-02-02T00:00:00Z")
    write(tmp_path, device="cuda", device_name="A GPU", train_images=TRAIN_IMAGES, finished="2026-03-02T00:00:00Z")
    found = bench.recorded(tmp_path)
    assert [(r["folder"], r["repeats"]) for r in found] == [("cuda-a-gpu", 5), ("cpu-a-cpu-r-2-threads", 5)]
    assert "A GPU, 2026-03-02" in bench.cuda_text(RECORD, found)
    assert "No record of a CUDA device" in bench.cuda_text(RECORD, found[1:])


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-5], lambda t: t.replace("400.0", "900.0"), lambda t: "[1]", lambda t: "{}"]
)
def test_a_damaged_record_is_refused(damage, tmp_path):
    path = write(tmp_path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(InputError, match=r"record.json is damaged"):
        bench.recorded(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"repeats": 0}, "repeats = 0"), ({"workers": -1}, "workers = -1"), ({"batch_size": 0}, "batch_size = 0"),
     ({"train_images": 5}, "train_images = 5"), ({"device": "tpu"}, "device = 'tpu'")],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_measured(wrong, says):
    with pytest.raises(InputError, match=says):
        bench.measure(**wrong)


def test_airbench_gets_its_own_terms_and_leaves_the_folder_as_it_was(small, monkeypatch):
    """With a stand-in for the package, whose own loop needs CUDA."""
    calls, clock = [], iter(range(0, 10_000))

    class CifarLoader(list):
        def __init__(self, path, batch_size, aug, altflip):
            data = torch.load(f"{path}/train.pt")
            calls.append((data["images"].shape, len(data["labels"]), batch_size, aug, preprocess.PADDING))
            super().__init__(range(48))

    package = types.SimpleNamespace(
        CifarLoader=CifarLoader, train94=lambda loader, epochs, verbose: [next(clock) for _ in range(epochs)]
    )
    monkeypatch.setitem(sys.modules, "airbench", package)
    monkeypatch.setattr(bench.importlib.metadata, "version", lambda name: "0.0")
    monkeypatch.setattr(bench, "_data", lambda folder: small)
    monkeypatch.setattr(
        bench,
        "Contestant",
        lambda *a: types.SimpleNamespace(seconds=lambda *b, **c: 0, images_per_second=lambda e: 7.0),
    )
    monkeypatch.setattr(bench.time, "perf_counter", lambda: float(next(clock)))
    here = os.getcwd()
    found = bench._airbench("ours", load_params("run7-mean"), "cpu", "float32", None, 2)
    assert calls == [((612, 32, 32, 3), 612, 1024, {"flip": True, "translate": 2}, 2)]
    assert found["images_per_second"] == {"airbench94": [48 * 1024.0] * 2, "ours": [7.0] * 2}
    assert (os.getcwd(), preprocess.PADDING) == (here, 4)


def test_the_notebook_measures_and_leaves_a_record(tmp_path):
    given = {
        "batch_size": 8,
        "train_images": 16,
        "repeats": 1,
        "workers": 0,
        "device": "cpu",
        "output_folder": tmp_path,
    }
    pairs = [part for name, value in given.items() for part in ("-p", name, str(value))]
    notebook = project_root() / "notebooks" / "benchmark.ipynb"
    command = [sys.executable, "-m", "papermill", str(notebook), "out.ipynb", *pairs]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (record,) = bench.recorded(tmp_path)
    assert {len(row["images_per_second"]) for row in record["contestants"].values()} == {1}
    assert all(row["peak_memory_bytes"] > 10**8 for row in record["contestants"].values())
    outputs = [o for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells for o in cell.get("outputs", [])]
    shown = "".join("".join(o.get("data", {}).values()) for o in outputs)
    for needed in (
        bench.verdict(record),
        "Figure 3.",
        "No record of a CUDA device",
        "channels_last",
        bench.summary(record)[0]["images/s"],
    ):
        assert needed in shown, needed
    assert not any(o.get("name") == "stderr" for o in outputs)
