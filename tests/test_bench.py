import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cifarlib import bench
from cifarlib.model import build_model


def test_flop_per_image_is_what_torch_counts():
    model = build_model(0, torch.zeros(24, 3, 2, 2))
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(8, 3, 32, 32)).sum().backward()
    assert counter.get_total_flops() / 8 == pytest.approx(bench.FLOP_PER_IMAGE, rel=0.01)


def test_the_benchmark_prints_rates_and_shares(capsys):
    bench.main(batches=(128,), repeats=1)
    text = capsys.readouterr().out
    assert "matrix product, bfloat16" in text
    assert "training, batch 128" in text
    assert "% of the float32 matrix rate" in text
