"""`make train` and the like: a notebook executed as someone edited it, and one line where that
cannot be."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from cifarlib import InputError, execute, records


def notebook(path, *sources):
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=cells,
            metadata={
                "kernelspec": {"name": "nosuch", "display_name": "Another", "language": "python"}
            },
        ),
        path,
    )
    return path


def make(project, target, *variables):
    command = [
        "make",
        "--no-print-directory",
        target,
        "SETUP=",
        f"BIN={Path(sys.executable).parent}",
        *variables,
    ]
    return subprocess.run(command, cwd=project, capture_output=True, text=True)


def test_make_trains_what_the_edited_parameters_cell_says_and_names_the_real_folder(
    copy_of_project, tmp_path
):
    project, outputs = copy_of_project(tmp_path / "clone"), tmp_path / "it's {mine} é"
    path = project / "notebooks" / "train.ipynb"
    edited = json.loads(path.read_text())
    cell = next(
        cell for cell in edited["cells"] if "parameters" in cell["metadata"].get("tags", [])
    )
    cell["source"] += [
        f"\nrun = 6\nepochs = 1\ntrain_images = 2 * 128\noutput_folder = {str(outputs)!r}"
    ]
    # as JupyterLab notes a kernel of another environment
    edited["metadata"]["kernelspec"]["name"] = "nosuch"
    path.write_text(json.dumps(edited))
    folder = outputs / "run6" / "seed3-epochs1-images256"
    done = make(project, "train", "SEED=3")  # given, it wins over the cell
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"== training run and executed notebook: {folder}"
    assert records.read_record(folder)["run"] == "run6"
    assert sorted(path.name for path in outputs.glob("*/*/train.ipynb")) == ["train.ipynb"]
    assert not (project / "outputs").exists()


def test_a_grid_trains_its_own_runs_whatever_the_cell_says(copy_of_project, tmp_path):
    project = copy_of_project(tmp_path)
    path = project / "notebooks" / "train.ipynb"
    path.write_text(
        path.read_text().replace(
            'epochs: \\"int or None\\" = None', 'epochs: \\"int or None\\" = 1'
        )
    )
    planned = make(project, "-n", "cell/run6/0").stdout
    assert (
        "-p epochs None -p stop_epoch None -p train_images None -p output_folder None -p precision auto "
        "-p deterministic False -p capture True -p resume True -p run run6 -p seed 0" in planned
    )


@pytest.mark.parametrize(
    ("source", "says"), [("run = ", "cannot be run: SyntaxError"), ("run = 7", "does not set seed")]
)
def test_a_parameters_cell_that_cannot_be_used_is_named(source, says, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    notebook(tmp_path / "notebooks" / "train.ipynb", source)
    monkeypatch.setattr(execute, "project_root", lambda: tmp_path)
    with pytest.raises(InputError, match=says):
        execute.train({})


def test_a_failing_cell_is_one_line(tmp_path):
    failing = notebook(
        tmp_path / "in.ipynb",
        "x = 1",
        "from cifarlib import InputError; raise InputError(f'x = {x}: no')",
    )
    with pytest.raises(execute.ExecutionError, match=r"^x = 2: no$"):
        execute.execute(failing, tmp_path / "out.ipynb", {"x": 2})
    failing = notebook(tmp_path / "in.ipynb", "x = 1", "[][x]")
    with pytest.raises(
        execute.ExecutionError,
        match=r"^IndexError: list index out of range \(the traceback is in .*out",
    ):
        execute.execute(failing, tmp_path / "out.ipynb", {})


def test_without_a_kernel_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "KERNEL", "nosuch")
    with pytest.raises(
        execute.ExecutionError,
        match=r"^no kernel 'nosuch' in this environment: pip install ipykernel$",
    ):
        execute.execute(notebook(tmp_path / "in.ipynb", "x = 1"), tmp_path / "out.ipynb", {})


@pytest.mark.parametrize("name", ["JUPYTER_RUNTIME_DIR", "IPYTHONDIR"])
def test_a_home_folder_that_cannot_be_written_is_named_before_a_kernel_starts(
    name, tmp_path, monkeypatch
):
    monkeypatch.setenv(name, "/proc/home")
    with pytest.raises(
        InputError, match=r"^/proc/home cannot be written, and executing a notebook needs it: "
    ):
        execute.execute(notebook(tmp_path / "in.ipynb", "x = 1"), tmp_path / "out.ipynb", {})
    assert not (tmp_path / "out.ipynb").exists()


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(dir):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(execute.tempfile, "TemporaryFile", full)
    with pytest.raises(
        InputError,
        match=rf"^{tmp_path} cannot be written, .*: \[Errno 28\] No space left on device$",
    ):
        execute.execute(notebook(tmp_path / "in.ipynb", "x = 1"), tmp_path / "out.ipynb", {})


def test_a_relative_folder_is_the_same_for_the_executed_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = notebook(tmp_path / "in.ipynb", "output_folder = None", "print(output_folder)")
    execute.execute(source, "sub/out.ipynb", {"output_folder": "mine"})
    cells = nbformat.read(tmp_path / "sub" / "out.ipynb", as_version=4).cells
    assert cells[-1].outputs[0].text == f"{tmp_path / 'mine'}\n"
