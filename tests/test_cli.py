"""The commands as they are typed: ``python -m cifarlib ...``."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import click
import nbformat
import pytest
from filelock import FileLock
from made_up import make_record

from cifarlib import InputError, cli, project_root, records, status, train_notebook


def command(*arguments):
    return [sys.executable, "-m", "cifarlib", *map(str, arguments)]


def cifarlib(*arguments, **environment):
    options = {"cwd": project_root(), "capture_output": True, "env": {**os.environ, **environment}}
    return subprocess.run(command(*arguments), text=True, **options)


def test_every_option_has_a_help_text():
    for name, each in cli.commands.commands.items():
        options = [p for p in each.params if isinstance(p, click.Option)]
        assert [o.name for o in options if not o.help] == [], name
        assert each.help


def test_the_version_and_without_a_command_the_help():
    assert cifarlib("--version").stdout == f"cifarlib {version('cifarlib')}\n"
    assert cifarlib().stdout == cifarlib("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("status", "--runs", "Fsat"), "did you mean 'fast'?"),
        (("train", "--seed", "0,1"), "Invalid value for '--seed': '0,1' is not a valid integer"),
        (("status", "--seeds", "a"), "Invalid value for '--seeds'"),
        (("status", "--epochs", "0"), "epochs = 0: give a number from 1"),
        (("train", "--epoch", "3"), "No such option '--epoch'. Did you mean '--epochs'?"),
        (("stats",), "No such command 'stats'. Did you mean 'status'?"),
        (("handin",), "Missing option '--name'"),
        (("data", "--data", "C:/me"), "data_folder = 'C:/me': give a folder of this machine"),
        (("train", "--outputs", "/proc/no"), "No such file or directory: '/proc/no'"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(arguments, says):
    done = cifarlib(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_is_to_do_of_patterns_of_runs(tmp_path):
    make_record(tmp_path, "run6")
    options = ("--outputs", tmp_path, "--todo")
    done = cifarlib("status", "--RUNS", "07 6 fast-[cs]*", "--SEEDS", "0 1", *options)
    names = "run7/0 fast-constant/0 fast-sgd/0 run7/1 run6/1 fast-constant/1 fast-sgd/1"
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == names.split()
    assert done.stdout.splitlines()[0] == f"run7/0\t{tmp_path}/run7/seed0"


def test_a_reader_that_has_seen_enough_ends_a_command_quietly():
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    writer = subprocess.Popen(command("status"), cwd=project_root(), **piped)
    writer.stdout.close()
    assert writer.stderr.read() == b""


def notebook(folder, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"name": "nosuch", "display_name": "Another", "language": "python"}
    written = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    (folder / "notebooks").mkdir(exist_ok=True)
    nbformat.write(written, folder / "notebooks" / "train.ipynb")


def test_a_failing_cell_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(train_notebook, "project_root", lambda: tmp_path)
    given = dict.fromkeys(("epochs", "stop_epoch", "train_images"))
    given |= {"run": 7, "seed": 0, "output_folder": str(tmp_path)}
    notebook(tmp_path, "x = 1", "from cifarlib import InputError; raise InputError(f'x = {x}: no')")
    with pytest.raises(InputError, match=r"^x = 2: no$"):
        train_notebook.train(**given, x=2)
    notebook(tmp_path, "x = 1", "[][x]")
    reason = r"^IndexError: list index out of range \(the traceback is in .*/train.ipynb"
    with pytest.raises(InputError, match=reason):
        train_notebook.train(**given)


def test_ctrl_c_says_what_is_saved_and_the_same_command_goes_on(tmp_path):
    given = ("--run=7", "--epochs=50", "--train_images=128", "--device=cpu", "--outputs", tmp_path)
    options = {"cwd": project_root(), "stdout": subprocess.PIPE, "text": True}
    # pytest itself may run where it is ignored, as behind a shell's "&"
    options["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    first = subprocess.Popen(command("train", *given), **options)
    folder = tmp_path / "run7" / "seed0-epochs50-images128"
    while not records.read_history(folder / "unfinished"):
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGINT)
    last = first.communicate()[0].splitlines()[-1]
    assert first.returncode == 130
    saved = status.read(folder)
    assert saved.state == "unfinished"
    assert last == f"Stopped: {saved.reason} in {folder}; the same command goes on from there"


def test_ctrl_c_after_the_record_says_that_it_is_complete(tmp_path, monkeypatch, capsys):
    def execute(output, parameters):
        make_record(tmp_path, "fast")
        raise KeyboardInterrupt

    monkeypatch.setattr(train_notebook, "_execute", execute)
    given = dict.fromkeys(("epochs", "stop_epoch", "train_images"))
    with pytest.raises(KeyboardInterrupt):
        train_notebook.train(**given, run="fast", seed=0, output_folder=str(tmp_path))
    assert capsys.readouterr().out.endswith("seed0 is complete\n")


def test_a_second_start_is_refused_and_overwrites_nothing(tmp_path):
    folder = tmp_path / "run7" / "seed0"
    folder.mkdir(parents=True)
    (folder / "train.ipynb").write_text("of the first")
    with FileLock(folder / ".lock"):
        done = cifarlib("train", "--run", 7, "--outputs", tmp_path)
    assert done.stderr.startswith(f"error: another process is training in {folder}: wait")
    assert (folder / "train.ipynb").read_text(encoding="utf-8") == "of the first"


def test_training_takes_this_interpreter_and_nothing_of_an_edited_cell(copy_of_project, tmp_path):
    project = copy_of_project(tmp_path / "clone")
    outputs = tmp_path / "it's {mine} –"  # which Latin-1 does not have
    path = project / "notebooks" / "train.ipynb"
    edited = json.loads(path.read_text(encoding="utf-8"))
    cell = next(c for c in edited["cells"] if "parameters" in c["metadata"].get("tags", []))
    cell["source"] = [*cell["source"], "\nrun = 6\nepochs = 2 * 2\nprecision = 'none'"]
    edited["metadata"]["kernelspec"]["name"] = "nosuch"  # as JupyterLab notes another environment
    path.write_text(json.dumps(edited))
    other = tmp_path / "kernels" / "python3" / "kernel.json"
    other.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "nosuch", "-f", "{connection_file}"]
    other.write_text(json.dumps({"argv": argv, "display_name": "x", "language": "python"}))
    environment = {**os.environ, "JUPYTER_PATH": str(tmp_path), "PYTHONIOENCODING": "latin-1"}
    options = {"cwd": project, "env": environment | {"PYTHONPATH": str(project)}}
    options |= {"capture_output": True, "encoding": "latin-1"}
    given = ["--run=7", "--stop=1", "--train_images=256", "--seed=3", f"--outputs={outputs}"]
    done = subprocess.run(command("train", *given), **options)
    assert done.returncode == 0, done.stderr
    folder = outputs / "run7" / "seed3-stop1-images256"
    record = records.read_record(folder)
    lines = done.stdout.splitlines()
    assert "record and notebook: " in done.stdout
    assert lines[-1].startswith(f"validation {record['validation_accuracy']:.2%}, test ")
    assert len(lines) <= 10
    assert [path.name for path in outputs.glob("*/*/train.ipynb")] == ["train.ipynb"]
    assert not (project / "outputs").exists()
