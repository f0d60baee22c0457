import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from cifarlib import project_root


def cifarlib(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "cifarlib", *map(str, arguments)], capture_output=True, text=True
    )


def make(*arguments):
    command = [
        "make",
        "--no-print-directory",
        "SETUP=",
        f"BIN={Path(sys.executable).parent}",
        *map(str, arguments),
    ]
    return subprocess.run(command, cwd=project_root(), capture_output=True, text=True)


def test_runs_and_seeds_are_read_as_people_write_them(tmp_path):
    done = make("status", "RUNS=07, 6 run5", "SEEDS=0,1", f"OUTPUTS={tmp_path}/it's (R&D) é")
    assert done.returncode == 0, done.stderr
    words = [line.split()[:3] for line in done.stdout.splitlines()[1:7]]
    assert words == [[f"run{run}", str(seed), "missing"] for seed in (0, 1) for run in (7, 6, 5)]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("train", "RUN=7 6"),
            """run = '7 6': one is trained at a time; make table RUNS="7 6" SEEDS="0" trains""",
        ),
        (
            ("train", "SEED=0,1"),
            """seed = '0,1': one is trained at a time; make table RUNS="7" SEEDS="0,1" trains""",
        ),
        (("train", "SEED=-1"), "seed = -1: give a number from 0"),
        (("train", "EPOCHS=abc"), "epochs = 'abc': give a value of type int"),
        (("train", "EPOCHS=1 2"), "epochs = '1 2': give a value of type int"),
        (("table", "RUNS=run1 it's"), """run = "it's": no file params/it's.yaml"""),
        (("pdf",), "make pdf needs a notebook: make pdf NB="),
        (("html", "NB=it's mine.ipynb"), "no notebook it's mine.ipynb"),
        (
            ("train", r"OUTPUTS=C:\Users\me"),
            r"output_folder = 'C:\\Users\\me': give a folder of this machine",
        ),
        (
            ("status", "OUTPUTS=s3://bucket/x"),
            "output_folder = 's3://bucket/x': give a folder of this machine",
        ),
        (
            ("report", "OUTPUTS=s3://bucket/x"),
            "'s3://bucket/x/report.ipynb': give a folder of this machine",
        ),
        (
            ("data", "DATA=C:/Users/me"),
            "data_folder = 'C:/Users/me': give a folder of this machine",
        ),
    ],
)
def test_bad_input_to_make_is_one_line_and_an_exit_code(arguments, says):
    done = make(*arguments)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert line.startswith("error: ")
    assert says in line
    assert done.stdout == ""


def test_a_mistyped_variable_is_refused_before_anything_runs():
    done = make("train", "EPOCH=10", "IMAGE=512", "SBATCH=--a=b --c")
    assert done.returncode == 2
    assert done.stderr.endswith(
        "there is no variable EPOCH IMAGE: `make` lists what can be given.  Stop.\n"
    )
    assert done.stdout == ""


def test_names_reach_the_report_as_they_are_written(tmp_path):
    authors = """Conan O'Brien; Ada "the" `id` & Zoë"""
    done = make("report", f"OUTPUTS={tmp_path}", f"AUTHORS={authors}")
    assert done.returncode == 0, done.stderr
    cells = nbformat.read(tmp_path / "report.ipynb", as_version=4).cells
    (cell,) = [cell for cell in cells if "authors" in cell.metadata.get("tags", [])]
    assert cell.outputs[0].data["text/markdown"] == authors


def test_a_pattern_stands_for_all_runs_that_fit(tmp_path):
    done = cifarlib("status", "fast-[cs]*", "run7", "--todo", "--output-folder", tmp_path)
    assert done.stdout.split() == ["fast-constant/0", "fast-sgd/0", "run7/0"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("status", 8), "run = '8': no file params/run8.yaml"),
        (("status", 7, "--epochs", "ten"), "invalid int value: 'ten'"),
        (("execute", "no-such.ipynb", "out.ipynb"), "no notebook no-such.ipynb"),
        (("status", 7, "--epochs", 0), "epochs = 0: give a number from 1"),
        (("status",), "required: runs"),
        (("export", "no-such.ipynb"), "no notebook no-such.ipynb"),
        (("data", "/proc/no"), "data_folder = '/proc/no'"),
        ((), "required: data | train"),
        (("folder",), "invalid choice: 'folder'"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(arguments, says):
    done = cifarlib(*arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_damaged_record_is_one_line(tmp_path):
    (tmp_path / "run7" / "seed0").mkdir(parents=True)
    (tmp_path / "run7" / "seed0" / "record.json").write_text("{}")
    done = cifarlib("results", "--output-folder", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        f"error: {tmp_path / 'run7' / 'seed0' / 'record.json'} is damaged"
    )
    assert done.stderr.count("\n") == 1
