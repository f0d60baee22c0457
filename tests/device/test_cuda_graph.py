import pytest
import torch

from cifarlib.device import cuda_graph
from cifarlib.device.cuda_graph import CapturedEpoch
from cifarlib.loop import Lookahead, Training, make_optimizer, train_epoch
from cifarlib.model import build_model
from cifarlib.params import load_params
from cifarlib.preprocess import channel_statistics, make_normalizer

RUNS = [
    (7, {}),
    (1, {}),
    (2, {"batch_size": 256}),
    ("run7-preprocessed", {}),
    ("fast", {}),
    (5, {"augmentation": "none"}),
]


def training_of(p, small, device):
    images = small.train_images[: p.train_images]
    normalizer = make_normalizer(images, p.normalization, channel_statistics(images)).to(torch.device(device))
    images = images.to(device).contiguous(memory_format=torch.channels_last)
    model = build_model(0, torch.randn(24, 3, 2, 2, generator=torch.Generator().manual_seed(0))).to(device)
    labels = small.train_labels[: p.train_images].to(device)
    lookahead = Lookahead(p, model) if p.lookahead else None
    return Training(p, model, make_optimizer(p, model), images, labels, normalizer, torch.float32, lookahead)


@pytest.mark.parametrize(("run", "other"), RUNS)
def test_captured_epochs_equal_eager_ones(run, other, small, device, monkeypatch):
    """Rates, order, crops, sums and the state put back after the warm-up; on a CPU with calls in the graph's place."""
    if device == "cpu":
        monkeypatch.setattr(cuda_graph, "capture", lambda step, reset, _: [reset(), step()] and step)
    elif device != "cuda":
        pytest.skip("captured on CUDA alone")
    monkeypatch.setattr(Lookahead, "IMAGES", 256)
    p = load_params(run, **{"batch_size": 128, "train_images": 500, "epochs": 3, **other})
    eager, captured = training_of(p, small, device), training_of(p, small, device)
    expected = [train_epoch(eager, epoch) for epoch in (1, 2)]
    epoch = CapturedEpoch(captured)
    steps = []
    rows = [epoch(1, steps.append), epoch(2)]
    assert steps == list(range(1, p.steps_per_epoch + 1))
    for ours, theirs in zip(rows, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3 if device == "cuda" else 1e-5)
    for ours, theirs in zip(captured.model.state_dict().values(), eager.model.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)
