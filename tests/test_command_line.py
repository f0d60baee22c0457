import subprocess
import sys

import pytest


def cifarlib(*arguments):
    return subprocess.run([sys.executable, "-m", "cifarlib", *map(str, arguments)], capture_output=True, text=True)


def test_folder_prints_where_a_record_goes():
    assert cifarlib("folder", 7, "--epochs=10", "--seed", 2).stdout == "run7/seed2-epochs10\n"
    assert cifarlib("folder", "run7-mean", "--stop-epoch", 95).stdout == "run7-mean/seed0-stop95\n"


def test_a_pattern_stands_for_all_runs_that_fit(tmp_path):
    done = cifarlib("status", "fast-[cs]*", "run7", "--todo", "--output-folder", tmp_path)
    assert done.stdout.split() == ["fast-constant/0", "fast-sgd/0", "run7/0"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("folder", 8), "run = '8': no file params/run8.yaml"),
        (("folder", 7, "--epochs", "ten"), "invalid int value: 'ten'"),
        (("status", 7, "--epochs", 0), "epochs = 0: give a number from 1"),
        (("status",), "required: runs"),
        (("export", "no-such.ipynb"), "no notebook no-such.ipynb"),
        (("data", "/proc/no"), "data_folder = '/proc/no'"),
        ((), "required: data | folder"),
        (("train",), "invalid choice: 'train'"),
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
    assert done.stderr.startswith(f"error: {tmp_path / 'run7' / 'seed0' / 'record.json'} is damaged")
    assert done.stderr.count("\n") == 1
