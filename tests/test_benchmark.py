"""The benchmark is fair, times what it says and leaves a record; its notebook is an article."""

import subprocess
import sys
import time

import psutil
import pytest
import torch
from made_up import few

from cifarlib import InputError, benchmark, project_root, records
from cifarlib.benchmark import BEST, NAMES, ONCE, OURS, PLAIN
from cifarlib.device.choice import pick_precision
from cifarlib.loop import train_epoch
from cifarlib.params import load_params
from cifarlib.preprocess import crop_and_flip
from cifarlib.train import train

PARAMS = load_params("run7-mean", batch_size=8, train_images=16, epochs=1)


@pytest.fixture
def made(small):
    """What each contestant trains, by its name."""
    arguments = PARAMS, small.train.head(16), torch.device("cpu")
    return {name: benchmark.make_training(name, *arguments) for name in NAMES}


def test_all_start_from_one_network_and_train_as_many_images(made, small):
    start = {k: v.clone() for k, v in made[OURS].model.state_dict().items()}
    for name, training in made.items():
        assert all(v.equal(start[k]) for k, v in training.model.state_dict().items()), name
        if name in (OURS, ONCE):
            train_epoch(training, 1)
        else:
            loader = benchmark.make_loader(small.train, training, 0)
            benchmark.train_on(loader, training, 1)
        assert training.model.net[2].norm1.num_batches_tracked == 2, name
        assert not training.model.state_dict()["net.7.weight"].equal(start["net.7.weight"]), name


def test_each_is_what_it_is_called(made):
    ours = getattr(torch, pick_precision(torch.device("cpu")))
    dtypes = [training.dtype for training in made.values()]
    assert dtypes == [torch.float32, ours, ours, ours]
    assert made[BEST].model.net[3].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert made[PLAIN].model.net[3].conv1.weight.is_contiguous()
    assert "FastConvolution" not in repr(made[BEST].model)
    assert (made[OURS].params, made[ONCE].params.augmentation) == (PARAMS, "once")


def test_ours_trains_a_runs_own_epoch_bit_for_bit(made, small, tmp_path):
    folder = train(PARAMS, few(small, 16, 8, 8), tmp_path, device="cpu")
    trained, _ = records.read_model(folder / "model.safetensors")
    train_epoch(made[OURS], 1)
    assert all(v.equal(trained[k]) for k, v in made[OURS].model.state_dict().items())


def test_a_loader_makes_our_crops(made, small):
    split = small.train.head(16)
    every = torch.cartesian_prod(*(torch.arange(*ends) for ends in ((16,), (-4, 5), (-4, 5), (2,))))
    images = split.images.contiguous(memory_format=torch.channels_last)
    chosen = every[:, 0], every[:, 1:]
    ours = crop_and_flip(images, made[PLAIN].normalizer, *chosen, "reflect").flatten(1)
    loader = benchmark.make_loader(split, made[PLAIN], 0)
    seen = set()
    for x, y in [*loader, *loader]:
        distances = torch.cdist(x.flatten(1), ours, compute_mode="donot_use_mm_for_euclid_dist")
        distance, at = distances.min(1)
        assert distance.max() < 1e-3
        assert y.equal(split.labels[every[at, 0]])
        seen |= set(at.tolist())
    assert len(seen) > 8  # drawn anew, image by image


def test_a_contestant_ends_with_a_measurement_that_is_killed():
    code = "from cifarlib import benchmark; benchmark.measure('cpu', images=128, rounds=10**6)"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        while len(psutil.Process(process.pid).children()) < 2:  # one is multiprocessing's own
            assert process.poll() is None
            time.sleep(0.1)
        children = psutil.Process(process.pid).children()
        process.kill()
    assert psutil.wait_procs(children, timeout=300)[1] == []


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"images": 5}, {"images": 6**6}, {"device": "x"}])
def test_bad_input_is_refused_before_anything_is_measured(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} = "):
        benchmark.measure(**wrong)


def test_ratios_compare_neighbours_in_time():
    record = {"images_per_second": {PLAIN: [50.0, 50.0, 100.0], OURS: [200.0, 100.0, 400.0]}}
    assert benchmark.ratios(record)[PLAIN].tolist() == [4, 2, 4]
    assert benchmark.epoch_seconds(record)[OURS].tolist() == [200, 400, 100]
    assert benchmark.spread(benchmark.ratios(record)[PLAIN]) == "4.00 (2.00 to 4.00)"


def test_the_committed_records_can_be_read():
    committed = benchmark.recorded()
    assert {record["device_name"] for record in committed} >= {"AMD EPYC, 2 threads"}
    assert all(set(benchmark.ratios(record)) >= set(NAMES) for record in committed)


def test_the_notebook_shows_a_short_measurement_which_is_not_recorded(tmp_path):
    notebook = project_root() / "notebooks" / "benchmark.ipynb"
    given = f"-p images 128 -p rounds 1 -p device cpu -p output_folder {tmp_path}".split()
    command = [sys.executable, "-m", "papermill", notebook, "out.ipynb", *given]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert benchmark.recorded(tmp_path) == []
    made = (tmp_path / "out.ipynb").read_text()
    assert all(needed in made for needed in ("Figure 1", "Table 1", "rounds of 128 images", *NAMES))
    assert '"stderr"' not in made


def test_a_full_measurement_is_recorded(tmp_path, monkeypatch):
    rates = {"images_per_second": {name: [1.0] * benchmark.ROUNDS for name in NAMES}}
    monkeypatch.setattr(benchmark, "take_turns", lambda *_: rates)
    record = benchmark.measure("cpu", output_folder=tmp_path)
    assert benchmark.recorded(tmp_path) == [record]
