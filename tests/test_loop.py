from functools import partial

import pytest
import torch
import torch.nn.functional as F

from cifarlib import evaluate, loop
from cifarlib.params import load_params
from cifarlib.preprocess import channel_statistics, normalize
from cifarlib.train import build

BY_LENGTH = partial(normalize, mode="length", statistics=())


def test_an_epochs_plan_flips_each_image_every_other_time():
    p = load_params("fast", train_images=500)
    flips = {}
    for epoch in (1, 2, 3):
        order, crops = loop.epoch_plan(p, epoch, 500)
        flips[epoch] = torch.zeros(500, dtype=torch.int64).scatter(0, order, crops[:, 2])
        assert crops[:, :2].abs().max() == p.crop
    assert 200 < flips[1].sum() < 300
    assert torch.equal(flips[1], flips[3])
    assert torch.equal(flips[1] + flips[2], torch.ones(500, dtype=torch.int64))


def test_images_augmented_once_keep_crop_flip_and_cutout():
    p = load_params("fast-preprocessed", train_images=500, cutout=8)
    kept = []
    for epoch in (1, 2):
        order, crops = loop.epoch_plan(p, epoch, 500)
        kept.append(torch.empty(500, 5, dtype=torch.int64).index_copy(0, order, crops))
    assert torch.equal(*kept)


def test_batchnorms_biases_learn_faster_and_decay_as_much_less(small):
    p = load_params("fast", train_images=256)
    training = training_on(small.train.head(256), p, "cpu", "float32")
    loop.train_epoch(training, 1)
    model = training.model
    weights, biases = training.optimizer.param_groups
    assert weights["lr"] == p.learning_rate_at(0)
    assert biases["lr"] == 64 * weights["lr"]
    assert [b.shape for b in biases["params"]] == [(64,), (64,), (256,), (256,), (256,), (256,)]
    assert biases["weight_decay"] == pytest.approx(weights["weight_decay"] / 64)
    assert len(weights["params"]) + 6 == sum(p.requires_grad for p in model.parameters())
    (only,) = loop.make_optimizer(load_params(7), model).param_groups
    assert len(only["params"]) == len(weights["params"]) + 6


def training_on(split, p, device, precision):
    return build(p, split, channel_statistics(split.images), torch.device(device), precision)


def first_step(training):
    return loop.train_step(training, training.normalizer.apply(training.images), training.labels)


@pytest.mark.parametrize("run", ["run7-mean", "run1"])
def test_float16_loses_no_gradient(run, small, device, monkeypatch):
    """The mean over a batch has small gradients. A CPU takes its time in float16: 32 images, whose
    loss is as small a part of the mean as in the run's own batch."""
    p = load_params(run)
    cross_entropy = F.cross_entropy
    part = 32 / p.batch_size
    monkeypatch.setattr(F, "cross_entropy", lambda *of, **how: part * cross_entropy(*of, **how))
    gradients = {}
    for precision in ("float32", "float16"):
        training = training_on(small.train.head(32), p, device, precision)
        first_step(training)
        # as the optimizer unscaled them
        gradients[precision] = [p.grad for p in training.model.parameters() if p.requires_grad]
    for half, full in zip(gradients["float16"], gradients["float32"], strict=True):
        assert (half - full).norm() <= 0.15 * full.norm()
        assert ((half == 0) & (full != 0)).float().mean() < 0.01


def test_a_step_whose_gradients_overflow_float16_is_left_out(small, device):
    training = training_on(small.train.head(16), load_params(7), device, "float16")
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    scale, training.scale = training.scale, 2.0**30
    training.scaler = torch.amp.GradScaler(device, training.scale)
    first_step(training)
    for name, parameter in training.model.named_parameters():
        assert torch.equal(parameter, before[name]), name
    assert not any(state["momentum_buffer"].any() for state in training.optimizer.state.values())
    training.scale = scale
    training.scaler.update(scale)
    loss, _ = first_step(training)
    assert loss.isfinite()
    assert all(value.isfinite().all() for value in training.model.state_dict().values())
    assert not torch.equal(training.model.first_layer.bias, before["net.0.bias"])


def test_after_training_in_float16_prediction_is_in_float32(small, device):
    training = training_on(small.train.head(128), load_params(7), device, "float32")
    half, full = (
        evaluate.Predictor(training.model, BY_LENGTH, dtype).logits(training.images)
        for dtype in (torch.float16, torch.float32)
    )
    assert torch.equal(half, full)


def test_lookahead_is_its_authors_update():
    """Every 20 steps of 256 images: average.lerp_(w, 1 - d), w = average, d = 0.95^5 (t / T)^3;
    d = 1 at the schedule's end."""
    p = load_params("fast", epochs=2, stop_epoch=1, train_images=48 * 256)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    lookahead = loop.Lookahead(p, model)
    weight = average = model[0].weight.detach().clone()
    for step in range(1, 97):
        weight = weight + step
        with torch.no_grad():
            model[0].weight += step
            model[1].running_mean += step
        model[1].num_batches_tracked += 1
        lookahead.after(step)
        if step % 20 == 0 or step == 96:
            d = 1 if step == 96 else 0.95**5 * (step / 96) ** 3
            weight = average = d * average + (1 - d) * weight
        torch.testing.assert_close(model[0].weight, weight)
    assert model[1].num_batches_tracked == 96
    assert model[1].running_mean[0] == pytest.approx(lookahead.averages["1.running_mean"][0])
    assert model[1].running_mean[0] < sum(range(1, 81))
