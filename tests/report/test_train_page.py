import os
import re
import signal

import pytest

from cifarlib.params import load_params
from cifarlib.report import train_page


def row(epoch):
    part = {"epoch": epoch, "train_seconds": 60.0, "validation_seconds": 5.0}
    return part | {"train_loss": 1.25, "validation_accuracy": 0.5, "train_accuracy": 0.5}


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(train_page.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(train_page.Progress, "draw", lambda self: None)
    return now


def test_one_line_says_how_far_it_is_and_how_long_it_takes_evaluation_included(clock, capsys):
    """40,000 images cost what 13,333 forward passes do three times: 10,000 held-out images cost a
    twelfth of an epoch, and the 130,000 of the evaluation a little more than one."""
    with train_page.Progress(load_params("fast")) as progress:
        progress(0.0, [])
        clock[0] = 65.0
        progress(1.0, [row(1)])
        clock[0] = 66.0
        progress(1.01, [row(1)])  # too soon for another line
    first, second = re.findall("\r(epoch [^\033]*)", capsys.readouterr().out)
    assert first == "epoch 0.0 of 12"
    # 11 epochs of 65 s, and then 13 passes of 10,000 images
    expected = "epoch 1.0 of 12, loss 1.2500, validation 50.00 %, 65.0 s an epoch, 13 min left"
    assert second == expected


def test_a_line_is_closed_when_the_run_ends_or_is_stopped(clock, capsys):
    progress = train_page.Progress(load_params("fast"))
    with progress:
        progress(0.4, [])
    out = capsys.readouterr().out
    assert out.startswith("The curves appear")
    assert "\repoch 0.4 of 12\033[K\n" in out
    assert "Stopped in epoch 1 of 12: 0 epochs trained" in out
    params = load_params("fast", epochs=1)
    with train_page.Progress(params) as progress:
        progress(1.0, [row(1)])
    out = capsys.readouterr().out
    assert "evaluating on the held-out images" in out
    assert "Complete: 1 epoch trained" in out


class StoppedWhenFreed:
    """Python ignores what is raised in ``__del__``, a KeyboardInterrupt too."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))


def test_a_stop_while_the_curves_are_drawn_is_not_lost(monkeypatch):
    progress, drawn = train_page.Progress(load_params(7)), []

    def draw(_):
        StoppedWhenFreed()
        drawn.append(True)

    monkeypatch.setattr(train_page.figures, "training_curves", lambda *_: None)
    monkeypatch.setattr(progress.figure, "draw", draw)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        progress.draw()
    assert drawn == [True]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("run", "epochs", "accuracy", "says"),
    [
        ("run7", 200, 0.935, "93.50 %"),
        ("run7", 95, 0.935, "cannot be compared"),
        ("fast", 12, 0.935, "The paper's best run reaches 93.20 %"),
        ("fast", 1, 0.09, "near chance"),
    ],
)
def test_a_result_says_what_it_may_be_set_beside(run, epochs, accuracy, says):
    parts = {
        f"{p}_{k}": v
        for p in ("validation", "test")
        for k, v in {"images": 10_000, "accuracy": accuracy}.items()
    }
    record = {"run": run, "epochs_trained": epochs, "train_images": 40_000, **parts}
    record["parameters"] = {"batch_size": 128}
    text = train_page.result(record, {"validation_accuracy": {"run7": 93.2}}).data
    assert says in text
    assert ("near chance" in text) == (accuracy < 0.25)
    assert ("cannot be compared" in text) == (epochs != 200)
