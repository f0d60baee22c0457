"""Short histories against committed ones, so that a change of result is noticed and needs a new
TRAINING_VERSION.

After an intended change: raise TRAINING_VERSION in params.py, then ``python tests/test_golden.py``
writes the file anew."""

import json
import tempfile
from pathlib import Path
from unittest import mock

import pytest
import torch
from made_up import few

from cifarlib import records
from cifarlib.data import load_cifar10
from cifarlib.loop import Lookahead, epoch_plan
from cifarlib.params import TRAINING_VERSION, load_params
from cifarlib.train import train

FILE = Path(__file__).with_name("golden_histories.json")
RUNS = {
    "run1": 1024,
    "run3": 256,
    "run6": 256,
    "run7-mean": 256,
    "fast-preprocessed": 512,
    "fast": 512,
    "best": 512,
}  # images to train on
LOSSES = ("train_loss", "last_batch_loss", "validation_loss")


def history_of(run: str) -> dict:
    """Two epochs of a few steps in float32 on a CPU: learning rates, losses, and the plan of the
    second epoch."""
    p = load_params(run, seed=1, epochs=2, train_images=RUNS[run])
    order, crops = epoch_plan(p, 2, p.train_images)
    data = few(load_cifar10(), RUNS[run], 250, 10)
    often = mock.patch.object(Lookahead, "IMAGES", 256)  # in so few steps not only at the end
    with tempfile.TemporaryDirectory() as folder, often:
        where = train(p, data, folder, device="cpu", precision="float32")
        history = records.read_history(where)
    rows = [{name: row[name] for name in ("learning_rate", *LOSSES)} for row in history]
    return {"rows": rows, "order": order[:20].tolist(), "crops": crops[:20].tolist()}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_trains_to_the_committed_history(run):
    golden = json.loads(FILE.read_text())
    assert golden["training_version"] == TRAINING_VERSION, (
        "TRAINING_VERSION was raised: write the file anew"
    )
    ours, expected = history_of(run), golden["histories"][run]
    assert [ours["order"], ours["crops"]] == [expected["order"], expected["crops"]]
    for row, theirs in zip(ours["rows"], expected["rows"], strict=True):
        assert row["learning_rate"] == theirs["learning_rate"]
        for name in LOSSES:
            assert row[name] == pytest.approx(theirs[name], rel=1e-4), f"{name}: see the top"


if __name__ == "__main__":
    torch.set_num_threads(1)
    lines = [f"{json.dumps(run)}: {json.dumps(history_of(run))}" for run in RUNS]
    head = f'{{"training_version": {TRAINING_VERSION}, "histories": {{\n'
    FILE.write_text(head + ",\n".join(lines) + "\n}}\n")
