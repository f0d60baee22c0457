"""make, as people call it: what it hands on, and `make table` on real data, tiny."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cifarlib import project_root, status
from cifarlib.params import load_params

BIN = Path(sys.executable).parent


def call(target, *variables, **environment):
    # of two values of BIN make takes the later one
    command = ["make", "--no-print-directory", target, "SETUP=", f"BIN={BIN}", *variables]
    options = {"cwd": project_root(), "env": {**os.environ, **environment}, "text": True}
    return command, options


def make(target, *variables, **environment):
    command, options = call(target, *variables, **environment)
    return subprocess.run(command, capture_output=True, **options)


def pretend(folder, name, script):
    """Put a program into a folder."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_alone_it_says_what_to_type():
    done = subprocess.run(["make"], cwd=project_root(), capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("make train RUN=fast ")
    assert max(map(len, lines)) <= 100
    makefile = (project_root() / "Makefile").read_text(encoding="utf-8")
    (phony,) = [line for line in makefile.splitlines() if line.startswith(".PHONY:")]
    assert {word.rstrip(",") for word in done.stdout.split()} >= set(phony.split()[2:])
    subprocess.run(["bash", "-n"], input=make("notebooks", "-n").stdout, text=True, check=True)


def test_a_notebook_is_given_no_parameter_that_it_does_not_have():
    shown = make("notebooks", "-n", "OUTPUTS=/x", "DATA=/y").stdout.splitlines()
    (explore,) = [line for line in shown if "explore.ipynb" in line]
    assert [word for word in explore.split() if "_folder" in word] == ["data_folder"]


def test_a_mistyped_or_misplaced_variable_is_refused_before_anything_runs():
    for target, variable, says in (
        ("train", "EPOCH=10", "make train takes no EPOCH"),
        ("train", "SEEDS=1 2", "make train takes no SEEDS"),
        ("table", "RUN=7", "make table takes no RUN"),
        ("report", "DEVICE=cuda", "make report takes no DEVICE"),
        ("report", "OUTPUTS=~/x", "give $HOME instead of ~"),
    ):
        done = make(target, variable, "DATA=--a=b --c")
        assert (done.returncode, done.stdout) == (2, "")
        assert says in done.stderr


def test_values_come_as_they_are_from_the_command_line_and_from_nowhere_else(tmp_path):
    pretend(tmp_path, "python", 'for word; do echo "$word"; done')
    images = """it's  "mine" $HOME; `id` é.npy"""
    others = {"RUN": "4", "NAME": "COMPUTER", "OUTPUTS": "/elsewhere"}
    given = ("handin", f"IMAGES={images.replace('$', '$$')}", f"BIN={tmp_path}")
    shown = make(*given, **others).stdout.splitlines()
    assert shown[:6] == ["-m", "cifarlib", "handin", "--IMAGES", images, "--check"]


def test_lab_and_its_terminals_know_nothing_of_make(tmp_path):
    pretend(tmp_path, "jupyter", "env; echo $*")
    done = make("lab", "LAB=--no-browser", "DATA=x", f"BIN={tmp_path}", "-j2")
    assert "--no-browser notebooks/start.ipynb" in done.stdout
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert not names & {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "LAB", "DATA", "OUTPUTS"}


def folder_of(run, outputs, epochs):
    return outputs / load_params(run, epochs=epochs, train_images=128).folder


def table(outputs, runs, epochs):
    small = f"EPOCHS={epochs} TRAIN_IMAGES=128 DEVICE=cpu".split()  # a GPU saves less often
    return ("table", f"RUNS={runs}", f"OUTPUTS={outputs}", *small)


def test_a_failure_stops_no_other_run_and_the_second_call_repairs_it_alone(tmp_path):
    garbage = folder_of("run6", tmp_path, 1) / "unfinished" / "checkpoint.pt"
    garbage.parent.mkdir(parents=True)
    garbage.write_text("garbage")
    done = make(*table(tmp_path, "6 7", 1))
    assert done.returncode != 0
    assert done.stdout.splitlines()[-1] == "1 done, 1 missing"
    assert "checkpoint.pt is damaged" in done.stderr
    record = folder_of("run7", tmp_path, 1) / "record.json"
    before = record.stat().st_mtime_ns
    garbage.unlink()
    done = make(*table(tmp_path, "6 7", 1))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("record and notebook:") == 1
    assert done.stdout.splitlines()[-1] == "2 done"
    assert record.stat().st_mtime_ns == before
    assert "record and notebook:" not in make(*table(tmp_path, "6 7", 1)).stdout


@pytest.mark.parametrize("victim", ["make", "cifarlib train", "ipykernel_launcher"])
def test_sigkill_leaves_nothing_that_looks_done_and_the_next_call_completes_it(victim, tmp_path):
    command, options = call(*table(tmp_path, "run7", 2))
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    folder = folder_of("run7", tmp_path, 2)
    while not (folder / "unfinished" / "checkpoint.pt").exists():
        assert first.poll() is None
        time.sleep(0.05)
    for process in [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]:
        if victim in " ".join(process.cmdline()):
            process.send_signal(signal.SIGKILL)
    assert not (folder / "record.json").exists()
    second = subprocess.run(command, capture_output=True, **options)
    first.wait()
    assert second.returncode == 0, second.stderr
    assert status.read(folder).state == "done"
