import re

import pytest

from cifarlib.params import load_params
from cifarlib.report import train_page


def row(epoch):
    part = {"epoch": epoch, "train_seconds": 60.0, "validation_seconds": 5.0}
    return part | {"train_loss": 1.25, "validation_accuracy": 0.5, "train_accuracy": 0.5}


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.delenv("CIFARLIB_LOG", raising=False)
    monkeypatch.setattr(train_page.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(train_page.Progress, "draw", lambda self: None)
    return now


def test_one_line_says_how_far_it_is_and_how_long_it_takes_evaluation_included(clock, capsys):
    with train_page.Progress(load_params("fast")) as progress:
        progress(0.0, [])
        clock[0] = 65.0
        progress(1.0, [row(1)])
        clock[0] = 66.0
        progress(1.01, [row(1)])  # too soon for another line
    first, second = re.findall("\r(epoch [^\033]*)", capsys.readouterr().out)
    assert first == "epoch 0.0 of 12"
    # 11 epochs of 65 s, and an evaluation that takes as long as another
    expected = "epoch 1.0 of 12, loss 1.2500, validation 50.00 %, 65.0 s an epoch, 13 min left"
    assert second == expected


def test_a_log_file_gets_a_line_a_minute_and_the_last(clock, capsys, monkeypatch):
    monkeypatch.setenv("CIFARLIB_LOG", "1")
    with train_page.Progress(load_params("fast", epochs=2)) as progress:
        for clock[0], epochs in ((0.0, 0.0), (50.0, 0.8), (65.0, 1.0), (80.0, 1.5), (99.0, 2.0)):
            progress(epochs, [row(n + 1) for n in range(int(epochs))])
    lines = re.findall(r"(?m)^epoch \d.\d", capsys.readouterr().out)  # none follows a "\r"
    assert lines == ["epoch 0.0", "epoch 1.0", "epoch 2.0"]


def test_a_line_is_closed_when_the_run_ends_or_is_stopped(clock, capsys):
    for epochs in (0.4, 1.0):  # 1.0: stopped while it validates
        with train_page.Progress(load_params("fast")) as progress:
            progress(epochs, [])
        out = capsys.readouterr().out
        assert out.startswith("The curves appear")
        assert f"\repoch {epochs} of 12\033[K\n" in out
        assert "Stopped in epoch 1 of 12: 0 epochs trained" in out
    params = load_params("fast", epochs=1)
    with train_page.Progress(params) as progress:
        progress(1.0, [row(1)])
    out = capsys.readouterr().out
    assert "evaluating on the held-out images" in out
    assert "Complete: 1 epoch trained" in out
