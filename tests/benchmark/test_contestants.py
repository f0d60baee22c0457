"""Each contestant trains what it says, in this process."""

import os
import sys
import types

import pytest
import torch

from cifarlib import preprocess, train
from cifarlib.benchmark import batches, trainer
from cifarlib.benchmark.contestants import CONTESTANTS
from cifarlib.benchmark.trainer import Machine, Trainer
from cifarlib.device import cuda_graph
from cifarlib.device.choice import pick_precision
from cifarlib.device.convolutions import FastConvolution
from cifarlib.params import load_params

CPU = torch.device("cpu")
FLOAT32 = Machine(CPU, "float32")


def normalizer_of(data):
    return preprocess.make_normalizer(
        data.train.images, "channel", preprocess.channel_statistics(data.train.images)
    )


def make(kind, data, params, workers=0):
    return batches.make_batches(kind, data, normalizer_of(data), params, workers, False)


def our_crops(data, index, crops):
    images = data.train.images.contiguous(memory_format=torch.channels_last)
    return preprocess.crop_and_flip(images, normalizer_of(data), index, crops, "reflect")


def test_the_courses_loop_makes_the_pixels_that_ours_makes(small):
    p = load_params("run7-mean", batch_size=16, train_images=64)
    order = preprocess.draw_order(0, 3, 512)[:32]
    x, y = (torch.cat(parts) for parts in zip(*make("course", small, p)(3, 2), strict=True))
    assert x.dtype == torch.float32
    torch.testing.assert_close(x, our_crops(small, order, preprocess.draw_crops(0, 3, 512)[order]))
    assert y.equal(small.train.labels[order])


@pytest.mark.parametrize("workers", [0, 1])
def test_torchvisions_transforms_make_one_of_our_crops(small, workers):
    few = small.head(8, 1, 1)
    p = load_params("run7-mean", batch_size=4, train_images=8)
    every = torch.cartesian_prod(
        torch.arange(8), torch.arange(-4, 5), torch.arange(-4, 5), torch.arange(2)
    )
    ours = our_crops(few, every[:, 0], every[:, 1:]).flatten(1)
    loader = make("loader", few, p, workers)
    torch.manual_seed(0)
    seen = []
    for x, y in (pair for epoch in (1, 2) for pair in loader(epoch, 2)):
        distance, at = torch.cdist(
            x.flatten(1), ours, compute_mode="donot_use_mm_for_euclid_dist"
        ).min(1)
        assert distance.max() < 1e-3
        assert y.equal(few.train_labels[every[at, 0]])
        seen += at.tolist()
    assert len(set(seen)) > 8  # drawn anew in the second epoch
    assert sorted(every[seen[:8], 0].tolist()) == list(range(8))


def test_ready_images_are_one_crop_each(small):
    few = small.head(8, 1, 1)
    p = load_params(7, batch_size=4, train_images=8)
    x = torch.cat([x for x, _ in make("ready", few, p)(1, 2)])
    ours = our_crops(few, torch.arange(8), preprocess.draw_crops(0, preprocess.BEFORE_TRAINING, 8))
    assert torch.cdist(x.flatten(1), ours.flatten(1)).min(1).values.max() < 1e-2


def test_all_train_one_network_and_as_many_steps(small, monkeypatch):
    monkeypatch.setattr(cuda_graph, "capture", lambda step, reset, _: [reset(), step()] and step)
    built, make_optimizer = [], trainer.make_optimizer
    monkeypatch.setattr(
        trainer,
        "make_optimizer",
        lambda p, model: (
            built.append({k: v.clone() for k, v in model.state_dict().items()})
            or make_optimizer(p, model)
        ),
    )
    p, small = load_params("run7-mean", batch_size=4, train_images=8), small.head(64, 1, 1)
    for name, contestant in CONTESTANTS.items():
        made = Trainer(contestant, p, FLOAT32, small)
        assert all(value.equal(built[0][key]) for key, value in built[-1].items()), name
        fast = any(isinstance(module, FastConvolution) for module in made.training.model.modules())
        assert fast == contestant.fast_convolutions == (made.convolutions == "Winograd"), name
        assert made.training.params.augmentation == contestant.augmentation
        assert made.images_per_second(1) > 0
        after = made.training.model.state_dict()
        assert after["net.2.norm1.num_batches_tracked"] == 2, name
        assert not after["net.7.weight"].equal(built[0]["net.7.weight"]), name


def test_a_contestants_precision_and_memory_format_are_its_own(small):
    p, few = load_params("run7-mean", batch_size=4, train_images=8), small.head(64, 1, 1)
    for name in (
        "loader, float32",
        "loader, float32, channels_last",
        "loader, bfloat16",
        "ready, our precision",
    ):
        contestant, made = CONTESTANTS[name], Trainer(CONTESTANTS[name], p, FLOAT32, few)
        assert made.training.dtype == getattr(torch, contestant.precision or "float32")
        weight = made.training.model.net[3].conv1.weight
        assert (
            weight.is_contiguous(memory_format=torch.channels_last) == contestant.channels_last
        ), name


def test_ours_is_set_up_as_a_run_is(small, device, tmp_path, monkeypatch):
    device = torch.device(device)
    precision, p = pick_precision(device), load_params("run7-mean", batch_size=64, train_images=512)
    kept = []
    for module in (train, trainer):
        monkeypatch.setattr(
            module, "keep_freed_memory", lambda name=module.__name__: kept.append(name)
        )
    run = train.prepare(p, small, tmp_path, device, precision, resume=False, deterministic=False)
    made = Trainer(CONTESTANTS["ours"], p, Machine(device, precision), small)
    assert kept == [train.__name__, trainer.__name__] * (device.type == "cpu")
    assert made.convolutions == run.sessions[-1]["convolutions"]
    ours, its = made.training, run.training
    assert (ours.params, ours.dtype, type(ours.optimizer)) == (
        its.params,
        its.dtype,
        type(its.optimizer),
    )
    assert [type(m) for m in ours.model.modules()] == [type(m) for m in its.model.modules()]
    tensors = [
        [*t.model.state_dict().values(), t.images, t.labels, t.normalizer.mean] for t in (ours, its)
    ]
    assert [(t.shape, t.stride(), t.device, t.dtype) for t in tensors[0]] == [
        (t.shape, t.stride(), t.device, t.dtype) for t in tensors[1]
    ]


def test_a_profile_adds_up_to_the_steps_time(small):
    p = load_params("run7-mean", batch_size=8, train_images=16)
    kinds = Trainer(CONTESTANTS["loader, float32"], p, FLOAT32, small).profile(2)
    assert all(v >= 0 for v in kinds.values())
    assert kinds["convolution"] > kinds["optimizer"] > 0
    assert kinds["Python, NumPy, PIL"] > 0


def test_matrices_grow_until_a_product_takes_long_enough(monkeypatch):
    """On a slow device a small product tells the rate; the largest takes seconds there."""
    clock, sizes, randn = iter(range(1000)), [], torch.randn
    monkeypatch.setattr(
        trainer.torch, "randn", lambda *shape, **to: sizes.append(shape[1]) or randn(*shape, **to)
    )
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: float(next(clock)))
    assert trainer.matrix_rate("float32", CPU) == 2 * sizes[0] ** 3
    assert sizes == [256]
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: next(clock) / 1000)
    trainer.matrix_rate("float32", CPU)
    assert sizes == [256, 256, 512, 1024, 2048]


def test_airbench_gets_its_own_terms_and_leaves_the_folder_as_it_was(small, monkeypatch):
    """With a stand-in for the package, whose own loop needs CUDA."""
    calls, clock = [], iter(range(0, 10_000))

    class CifarLoader(list):
        def __init__(self, path, batch_size, aug, altflip):
            data = torch.load(f"{path}/train.pt")
            calls.append((data["images"].shape, len(data["labels"]), batch_size, aug))
            super().__init__(range(48))

    class Ours:
        def __init__(self, contestant, params, machine, data):
            calls.append(
                (
                    contestant.name,
                    params.batch_size,
                    params.train_images,
                    params.crop,
                    len(data.train.images),
                )
            )
            self.seconds, self.images_per_second = lambda epoch: 0, lambda epoch: 7.0

    package = types.SimpleNamespace(
        CifarLoader=CifarLoader,
        train94=lambda loader, epochs, verbose: [next(clock) for _ in range(epochs)],
    )
    monkeypatch.setitem(sys.modules, "airbench", package)
    monkeypatch.setattr(trainer.importlib.metadata, "version", lambda name: "0.0")
    monkeypatch.setattr(trainer, "load_data", lambda folder: small)
    monkeypatch.setattr(trainer, "Trainer", Ours)
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: float(next(clock)))
    before = os.getcwd()
    measured = trainer.against_airbench(CONTESTANTS["ours"], load_params("run7-mean"), FLOAT32, 2)
    assert calls == [
        ((612, 32, 32, 3), 612, 1024, {"flip": True, "translate": 2}),
        ("ours", 1024, 40_000, 2, 612),
    ]
    assert measured["images_per_second"] == {"airbench94": [48 * 1024.0] * 2, "ours": [7.0] * 2}
    assert os.getcwd() == before
