import pytest
import torch

import cifarlib.capture as module
from cifarlib.capture import CapturedEpoch
from cifarlib.loop import make_optimizer, train_epoch
from cifarlib.model import build_model
from cifarlib.params import load_params
from cifarlib.preprocess import channel_statistics, normalization

RUNS = [(7, {}), (1, {}), (2, {"batch_size": 256}), ("run7-preprocessed", {}), (5, {"augmentation": "none"})]


def parts(p, small, device):
    place = torch.device(device)
    images = small.train_images[: p.train_images]
    scale = normalization(images, p.normalization, channel_statistics(images))
    images = images.to(place).contiguous(memory_format=torch.channels_last)
    model = build_model(0, torch.randn(24, 3, 2, 2, generator=torch.Generator().manual_seed(0))).to(place)
    labels = small.train_labels[: p.train_images].to(place)
    scale = tuple(s.to(place) for s in scale)
    return model, make_optimizer(p, model, place), images, labels, scale, p, torch.float32


@pytest.mark.parametrize(("run", "other"), RUNS)
def test_captured_epochs_equal_eager_ones(run, other, small, device, monkeypatch):
    """Rates, order, crops, sums and the state put back after the warm-up; on a CPU with calls in the graph's place."""
    if device == "cpu":
        monkeypatch.setattr(module, "capture", lambda step, reset, _: [reset(), step()] and step)
    elif device != "cuda":
        pytest.skip("captured on CUDA alone")
    p = load_params(run, **{"batch_size": 128, "train_images": 500, "epochs": 3, **other})
    eager, captured = parts(p, small, device), parts(p, small, device)
    expected = [train_epoch(*eager, epoch) for epoch in (1, 2)]
    epoch = CapturedEpoch(*captured)
    steps = []
    rows = [epoch(1, steps.append), epoch(2)]
    assert steps == list(range(1, p.steps_per_epoch + 1))
    for ours, theirs in zip(rows, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3 if device == "cuda" else 1e-5)
    for ours, theirs in zip(captured[0].state_dict().values(), eager[0].state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)
