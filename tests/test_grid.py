"""`make table` on real data, tiny: failures, kills and stale records."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

from cifarlib import grid, project_root, records
from cifarlib.params import load_params
from cifarlib.train import train

TINY = {"train_images": 128, "epochs": 1}
LONGER = {"train_images": 128, "epochs": 2}


def folder_of(run, outputs, schedule=TINY):
    return outputs / load_params(run, **schedule).folder


def make_table(outputs, runs="run6 run7", epochs=1):
    here = ["SETUP=", f"BIN={Path(sys.executable).parent}"]
    command = [
        "make",
        "table",
        f"RUNS={runs}",
        f"EPOCHS={epochs}",
        "IMAGES=128",
        f"OUTPUTS={outputs}",
        *here,
    ]
    return command, {
        "cwd": project_root(),
        "text": True,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
    }


def history(folder):
    return [
        {k: v for k, v in row.items() if "seconds" not in k} for row in records.read_history(folder)
    ]


def state(run, outputs, schedule=TINY):
    return grid.read_cell(load_params(run, **schedule), outputs)


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A grid in which run 6 cannot start, because its checkpoint is garbage, and run 7 can."""
    outputs = tmp_path_factory.mktemp("grid")
    checkpoint = folder_of("run6", outputs) / "unfinished" / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_text("garbage")
    command, options = make_table(outputs)
    return outputs, subprocess.run(command, **options)


def test_a_failure_stops_no_other_run_and_is_named(broken):
    outputs, done = broken
    assert done.returncode != 0
    last = done.stdout[done.stdout.rindex("== the grid in") :]
    assert "1 done, 1 failed" in last
    assert "failed" in last
    assert "checkpoint.pt is damaged" in last
    assert state("run6", outputs).state == "failed"
    assert state("run7", outputs).state == "done"
    assert (folder_of("run7", outputs) / "train.ipynb").exists()


def test_the_second_call_repairs_only_the_failed_one(broken):
    outputs, _ = broken
    before = (folder_of("run7", outputs) / "record.json").stat().st_mtime_ns
    (folder_of("run6", outputs) / "unfinished" / "checkpoint.pt").unlink()
    command, options = make_table(outputs)
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("== training run") == 1
    assert "2 done" in done.stdout.splitlines()[-1]
    assert (folder_of("run7", outputs) / "record.json").stat().st_mtime_ns == before
    assert state("run6", outputs).state == "done"
    third = subprocess.run(command, **options)
    assert third.returncode == 0
    assert "== training run" not in third.stdout


@pytest.fixture(scope="module")
def undisturbed(cifar10, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return history(train(load_params("run7", **LONGER), cifar10, folder, device="cpu"))


@pytest.mark.parametrize("victim", ["make", "papermill", "kernel"])
def test_sigkill_leaves_nothing_that_looks_done_and_the_next_call_completes_it(
    victim, undisturbed, tmp_path
):
    command, options = make_table(tmp_path, runs="run7", epochs=2)
    first = subprocess.Popen(command, **options)
    folder = folder_of("run7", tmp_path, LONGER)
    while not (folder / "unfinished" / "checkpoint.pt").exists():
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.05)
    names = {"make": "make", "papermill": "papermill notebooks", "kernel": "ipykernel_launcher"}
    for process in [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]:
        if names[victim] in " ".join(process.cmdline()):
            process.send_signal(signal.SIGKILL)
    assert not (folder / "record.json").exists()
    second = subprocess.run(command, **options)
    first.communicate()
    assert second.returncode == 0, second.stdout
    assert state("run7", tmp_path, LONGER).state == "done"
    assert history(folder) == undisturbed


def test_states_of_a_folder(tmp_path, small):
    p = load_params(7, **LONGER)
    assert state("run7", tmp_path, LONGER).state == "missing"
    folder = train(p, small, tmp_path, device="cpu")
    assert (state("run7", tmp_path, LONGER).state, state("run7", tmp_path, LONGER).epochs_left) == (
        "done",
        0,
    )

    with FileLock(folder / ".lock"):
        assert state("run7", tmp_path, LONGER).state == "running"

    whole = grid.read_cell(load_params(7), tmp_path)
    assert (
        f"Of what is missing 1 has a record of another length, such as {folder}"
        in grid.full_text([whole])
    )
    (folder / ".lock").unlink()
    (folder / ".lock").mkdir()  # as a colleague's lock, it cannot be opened
    assert state("run7", tmp_path, LONGER).state == "done"
    (folder / ".lock").rmdir()

    record = json.loads((folder / "record.json").read_text())
    for name, value, reason in (
        ("momentum", 0.5, "momentum 0.5, now 0.9"),
        ("training_version", 0, "training_version 0, now 1"),
    ):
        changed = {**record, "parameters": {**record["parameters"], name: value}}
        (folder / "record.json").write_text(json.dumps(changed))
        assert (state("run7", tmp_path, LONGER).state, state("run7", tmp_path, LONGER).reason) == (
            "stale",
            reason,
        )
        assert state("run7", tmp_path, LONGER).epochs_left == 2
    older = {
        k: v
        for k, v in record["parameters"].items()
        if k not in ("training_version", "augmentation")
    }
    (folder / "record.json").write_text(json.dumps({**record, "parameters": older}))
    assert state("run7", tmp_path, LONGER).state == "done"  # made before these parameters existed
    (folder / "record.json").write_text(json.dumps(record))
    # trained again: how far it is has nothing to do with the older record
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "history.csv").write_text(
        "\n".join((folder / "history.csv").read_text().splitlines()[:2])
    )
    with FileLock(folder / ".lock"):
        assert state("run7", tmp_path, LONGER).reason == "1 of 2 epochs saved"
        assert state("run7", tmp_path, LONGER).epochs_left == 1
    shutil.rmtree(folder / "unfinished")

    (folder / "record.json").write_text(json.dumps(changed))
    broken = {
        "cells": [
            {
                "outputs": [
                    {"output_type": "error", "ename": "Diverged", "evalue": "the loss is nan"}
                ]
            }
        ]
    }
    (folder / "train.ipynb").write_text(json.dumps(broken))
    assert state("run7", tmp_path, LONGER).state == "failed"
    assert (
        state("run7", tmp_path, LONGER).reason
        == "training_version 0, now 1; Diverged: the loss is nan"
    )
    (folder / "record.json").write_text(json.dumps(record))
    assert (state("run7", tmp_path, LONGER).state, state("run7", tmp_path, LONGER).reason) == (
        "done",
        "Diverged: the loss is nan",
    )
    (folder / "train.ipynb").unlink()

    (folder / "record.json").unlink()
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "checkpoint.pt").touch()
    (folder / "unfinished" / "history.csv").write_text(
        "\n".join((folder / "history.csv").read_text().splitlines()[:2])
    )
    (folder / "history.csv").unlink()
    cell = state("run7", tmp_path, LONGER)
    assert (cell.state, cell.reason, cell.epochs_left) == ("unfinished", "1 of 2 epochs saved", 1)


def test_what_a_record_was_made_on_is_that_of_each_session():
    one = {"device": "cpu", "device_name": "A", "precision": "float32", "convolutions": "Winograd"}
    other = {**one, "device_name": "B", "convolutions": "PyTorch"}
    assert grid.made_on(
        {**other, "sessions": [{**one, "commit": "1"}, {**other, "commit": "2"}]}
    ) == [one, other]
    # before sessions noted it
    assert grid.made_on({**other, "sessions": [{"commit": "1"}]}) == [other]
    assert grid.made_on(other) == [other]


def test_records_that_were_made_differently_are_named():
    alike = {
        "device": "cpu",
        "device_name": "A",
        "precision": "float32",
        "convolutions": "Winograd",
        "run": "run7",
    }
    two = [{**alike, "seed": 0}, {**alike, "seed": 1}]
    assert grid.made_differently(two) == grid.made_differently([]) == ""
    resumed = {**alike, "seed": 2, "sessions": [alike, {**alike, "convolutions": "PyTorch"}]}
    other = {**alike, "run": "run6", "seed": 0, "precision": "bfloat16"}
    assert grid.made_differently([*two, resumed, other]) == (
        "precision bfloat16 in run6 (seed 0), else float32; convolutions Winograd / PyTorch in run7 (seed 2), else Winograd"
    )


def test_a_check_that_fails_is_no_run_that_is_done(tmp_path):
    for broken in ({"BIN": str(tmp_path / "nowhere")}, {"RUNS": "7"}):
        given = {
            "SETUP": "",
            "BIN": str(Path(sys.executable).parent),
            "OUTPUTS": str(tmp_path / "out"),
        } | broken
        command = ["make", "cell/nope/0", *(f"{k}={v}" for k, v in given.items())]
        done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True)
        assert done.returncode != 0, done.stdout


@pytest.mark.parametrize(
    ("wrong", "says"), [("EPOCHS=0", "epochs = 0"), ("SEEDS=a", "--seeds"), ("RUNS=8", "run = '8'")]
)
def test_bad_input_is_one_line_before_anything_is_fetched_or_trained(wrong, says, tmp_path):
    (tmp_path / "sbatch").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "sbatch").chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    environment["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    for target in ("table", "slurm"):
        given = [
            "SETUP=",
            f"BIN={Path(sys.executable).parent}",
            f"OUTPUTS={tmp_path / 'out'}",
            f"DATA={tmp_path / 'data'}",
        ]
        command = ["make", "--no-print-directory", target, *given, wrong]
        done = subprocess.run(
            command, cwd=project_root(), env=environment, capture_output=True, text=True
        )
        assert done.returncode != 0
        (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make")]
        assert line.startswith("error: ")
        assert says in line
        assert not (tmp_path / "data").exists()


def test_time_left_counts_epochs_under_way_and_runs_side_by_side(tmp_path):
    cells = []
    for seed in (0, 1):
        p = load_params(7, seed=seed, epochs=4)
        (tmp_path / p.folder / "unfinished").mkdir(parents=True)
        rows = [
            dict.fromkeys(records.HISTORY, 0)
            | {"epoch": 1, "train_seconds": 90, "validation_seconds": 10}
        ]
        records.write_text(
            tmp_path / p.folder / "unfinished" / "history.csv", records.history_csv(rows)
        )
        cells.append(grid.Cell(p, tmp_path / p.folder, "running"))
    assert grid.duration_left(cells) == 300
    assert grid.duration_left([cells[0], dataclasses.replace(cells[1], state="unfinished")]) == 600
    assert grid.duration_left([]) is None


def test_slurm_without_sbatch_names_what_does_the_same(tmp_path):
    for tool in ("make", "bash"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    command = [
        "make",
        "slurm",
        f"OUTPUTS={tmp_path / 'out'}",
        "SETUP=",
        f"BIN={Path(sys.executable).parent}",
    ]
    options = {
        "cwd": project_root(),
        "env": {"PATH": str(tmp_path)},
        "capture_output": True,
        "text": True,
    }
    done = subprocess.run(command, **options)
    assert done.returncode != 0
    assert "error: no sbatch on this machine: make table" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_slurm_that_does_not_answer_hides_no_record_and_gets_no_second_submission(tmp_path):
    (tmp_path / "squeue").write_text("#!/bin/sh\necho squeue: nobody there >&2; exit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    command = [
        sys.executable,
        "-m",
        "cifarlib",
        "status",
        "7",
        "--slurm",
        "--output-folder",
        str(tmp_path),
    ]
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    options = {"cwd": project_root(), "env": environment, "capture_output": True, "text": True}
    asked = subprocess.run(command, **options)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.endswith("1 missing\nSlurm does not answer: squeue: nobody there\n")
    submitting = subprocess.run([*command, "--todo"], **options)
    assert (submitting.returncode, submitting.stdout) == (1, "")
    assert "Slurm does not answer" in submitting.stderr


def test_a_task_that_slurm_has_forgotten_is_still_named_with_its_last_word(tmp_path, monkeypatch):
    """Slurm forgets a job minutes after its end, and one killed for its memory leaves no word in
    the notebook."""
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 7_N/A RUNNING another job of mine\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    jobs = tmp_path / "slurm" / "20260101-000000-000"
    jobs.mkdir(parents=True)
    cells = [grid.read_cell(load_params(run, **TINY), tmp_path) for run in ("run6", "run7")]
    (jobs / "cells.txt").write_text("".join(f"{c.params.run}/0 {c.params.folder}\n" for c in cells))
    (jobs / "2.log").write_text(
        "== run7/0: job 3\nslurmstepd: error: Detected 1 oom-kill event\nmake: *** Error 137\n"
    )
    asked = grid.ask_slurm(cells, tmp_path)
    assert [(c.state, c.queued) for c in asked] == [("missing", False), ("failed", False)]
    assert asked[1].reason == f"slurmstepd: error: Detected 1 oom-kill event ({jobs / '2.log'})"


def test_asking_for_states_imports_no_torch(tmp_path):
    """It is asked several times a run, and torch alone takes seconds."""
    code = (
        "import sys; from cifarlib.__main__ import main; main(); assert 'torch' not in sys.modules"
    )
    command = [
        sys.executable,
        "-c",
        code,
        "status",
        "7",
        "--slurm",
        "--output-folder",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=project_root(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_without_validation_has_a_state_and_an_empty_cell(tmp_path):
    from made_up import make_record

    folder = make_record(tmp_path, "run7", accuracy=0.9)
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record | {"validation_accuracy": None}))
    text = grid.full_text([grid.read_cell(load_params(7), tmp_path)])
    assert "done" in text
    assert "89.50" in text
    assert "90.00" not in text
