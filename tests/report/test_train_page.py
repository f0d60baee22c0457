import os
import signal
import subprocess
import sys

import pytest
import torch

from cifarlib.params import load_params
from cifarlib.report import train_page


@pytest.fixture
def busy(monkeypatch):
    """Two threads, of which the second has no core of its own: an epoch takes 60 s on one, and 90 s
    on two."""
    threads = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[0])
    monkeypatch.setattr(torch, "set_num_threads", lambda n: threads.__setitem__(0, n))
    monkeypatch.setattr(train_page.os, "getloadavg", lambda: (1.3, 1, 1))
    monkeypatch.setattr(
        train_page, "estimate_epoch_seconds", lambda *_: 60 if threads[0] == 1 else 90
    )
    return threads


def test_where_another_process_is_busy_fewer_threads_are_recommended_and_not_set(busy, monkeypatch):
    text = train_page.announce(load_params(7), "cpu").data
    assert "with `OMP_NUM_THREADS=1` an epoch takes 60 s" in text
    assert busy == [2]
    monkeypatch.setattr(train_page, "estimate_epoch_seconds", lambda *_: 60)
    assert "busy" not in train_page.announce(load_params(7), "cpu").data
    monkeypatch.setattr(train_page.os, "getloadavg", lambda: (0.1, 1, 1))
    assert not train_page._faster_on_fewer_threads(load_params(7), 90)


def test_openmps_threads_spin_little_unless_the_user_says_otherwise(monkeypatch):
    code = "import cifarlib, os; print(os.environ['GOMP_SPINCOUNT'])"
    for given, expected in (({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")):
        monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
        for name, value in given.items():
            monkeypatch.setenv(name, value)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.strip() == expected


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
        progress.show([])
    assert drawn == [True]
    assert signal.getsignal(signal.SIGINT) is before
