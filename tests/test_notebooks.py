"""The real notebooks, executed by papermill on real CIFAR-10, small."""

import itertools
import re
import subprocess
import sys
import time

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from PIL import Image

from cifarlib import project_root, records
from cifarlib.data import CLASSES

NOTEBOOKS = sorted((project_root() / "notebooks").glob("*.ipynb"))
TRAIN = project_root() / "notebooks" / "train.ipynb"
SMALL = {"run": 7, "epochs": 2, "train_images": 128, "device": "cpu"}
FOLDER = "run7/seed0-epochs2-images128"


def papermill(name, cwd, *options, **parameters):
    """The command that executes a notebook into ``cwd``."""
    notebook = str(TRAIN.with_stem(name))
    pairs = [part for k, v in parameters.items() for part in ("-p", k, str(v))]
    return [sys.executable, "-m", "papermill", notebook, f"{name}.ipynb", *options, *pairs]


def execute(name, cwd, *options, **parameters):
    command = papermill(name, cwd, *options, **parameters)
    return subprocess.run(command, cwd=cwd, text=True, stdout=-1, stderr=subprocess.STDOUT)


def outputs(path):
    return [o for cell in nbformat.read(path, as_version=4).cells for o in cell.get("outputs", [])]


def forms(path, kind):
    return "\n".join(o["data"].get(kind, "") for o in outputs(path) if "data" in o)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_clean_and_thin(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), "clear the outputs"
    assert "parameters" in code[0].metadata["tags"]
    assert notebook.cells[0].source.startswith("# ")
    # the first: a line a parameter
    assert all(len(cell.source.splitlines()) <= 13 for cell in code[1:] if path.stem != "report")


def test_each_notebook_leads_to_the_next_and_the_first_to_all():
    link = re.compile(r"\((\w+)\.ipynb\)")
    linked = {path.stem: set(link.findall(path.read_text())) for path in NOTEBOOKS}
    assert linked["start"] == {path.stem for path in NOTEBOOKS} - {"start"}
    chain = ("start", "explore", "whitening", "train", "predict", "report")
    assert all(following in linked[this] for this, following in itertools.pairwise(chain))


@pytest.mark.parametrize("name", ["start", "explore", "whitening"])
def test_each_notebook_is_an_article_in_under_two_minutes(name, tmp_path):
    folders = {"output_folder": tmp_path} if name != "explore" else {}
    done = execute(name, tmp_path, **folders)
    assert done.returncode == 0, done.stdout
    path = tmp_path / f"{name}.ipynb"
    assert nbformat.read(path, as_version=4).metadata.papermill.duration < 120  # seconds
    assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in outputs(path))
    assert_figures_are_numbered(path)
    if name == "whitening":
        assert "There is no record of run 3" in forms(path, "text/markdown")


def assert_figures_are_numbered(path):
    html = forms(path, "text/html")
    figures = re.findall(r' alt="([^"]*)"[^>]*>.*?<b>Figure (\d+)\.</b> ([^<]+)<', html)
    assert [int(number) for _, number, _ in figures] == [*range(1, html.count("<figure ") + 1)]
    assert all(len(alt) > 30 and len(caption) > 20 for alt, _, caption in figures)
    return len(figures)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """run 7 on 128 images for 2 epochs, started from a foreign folder, killed with its kernel in
    the middle, and started again by the same command, with what papermill then logs. Gives the
    executed notebook's path, the record's folder and the log."""
    folder = tmp_path_factory.mktemp("elsewhere")
    record = folder / "out" / FOLDER
    command = papermill("train", folder, **SMALL, output_folder="out")
    first = subprocess.Popen(command, cwd=folder, stdout=-1, stderr=subprocess.STDOUT)
    while not list(record.glob("unfinished/checkpoint.*")):
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.05)
    for process in (*psutil.Process(first.pid).children(recursive=True), first):
        process.kill()
    first.communicate()
    assert not (record / "record.json").exists()
    done = execute("train", folder, "--log-output", **SMALL, output_folder="out")
    assert done.returncode == 0, done.stdout
    return folder / "train.ipynb", record, done.stdout


def test_papermill_resumes_a_killed_run(executed):
    first, second = records.read_record(executed[1])["sessions"]
    assert first["first_epoch"] == 1
    assert second["first_epoch"] in (2, 3)
    assert len(records.read_history(executed[1])) == 2


def test_the_executed_notebook_shows_what_a_learner_and_a_reader_expect(executed):
    path, folder, _ = executed
    assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in outputs(path))
    record = records.read_record(folder)
    text = forms(path, "text/markdown") + forms(path, "text/html")
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    for needed in (
        "**2 epochs will be trained.**",
        record["question"],
        "class Block(nn.Module):",
        "def train_step(",
        "1,972,792",
        record["data_sha256"],
        f"{100 * record['test_accuracy']:.2f} %",
        f"`model = '{folder}'`",
    ):
        assert needed in text, needed
    assert assert_figures_are_numbered(path) == 3


def test_the_terminal_gets_ten_lines_before_training_and_one_of_progress(executed):
    log = re.sub(r"(?m)^(Input|Output) Notebook.*\n|^(Executing|Ending) .*\n", "", executed[2])
    before, _, after = log.partition("\nepoch ")  # rewritten lines are lines here
    lines = [line for line in before.splitlines() if line.strip() and "IPKernelApp" not in line]
    assert len(lines) <= 10, lines
    assert "**" not in log
    assert "evaluating on the held-out images" in after
    streams = [o for o in outputs(executed[0]) if o.output_type == "stream"]
    assert not any("epoch" in o.text for o in streams)  # a sentence is left in its place
    assert "Complete: 2 epochs trained" in forms(executed[0], "text/markdown")


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"epoch": 5}, "'epoch' is unknown: did you mean 'epochs'?"),
        ({"device": "cuda:7"}, "device = 'cuda:7' is not there: choose one of auto, "),
        ({"data_folder": "nowhere/x"}, "data_folder = 'nowhere/x' cannot be used"),
    ],
)
def test_bad_input_is_one_clear_error_before_any_work(parameters, says, tmp_path):
    done = execute("train", tmp_path, output_folder="out", **SMALL | parameters)
    assert done.returncode == 1
    assert f"InputError: {says}" in done.stdout.replace("parameter '", "'")
    assert "cifarlib/params.py" not in done.stdout  # no traceback through the package
    assert not list(tmp_path.glob("out/**/*.*"))
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_of_pictures_is_said_as_it_was_read(cifar10, tiny_run, tmp_path):
    for i, label in enumerate(cifar10.test.labels[:12].tolist()):
        folder = tmp_path / "mine" / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = cifar10.test.images[i].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{i + 1}.png")
    (tmp_path / "mine" / "14.heic").write_bytes(b"a cat")
    done = execute("predict", tmp_path, images="mine", model=tiny_run, submission=True)
    assert done.returncode == 0, done.stdout
    text = forms(tmp_path / "predict.ipynb", "text/markdown")
    log = "".join(o.get("text", "") for o in outputs(tmp_path / "predict.ipynb"))
    assert "8 bits a channel: 14.heic" in log
    table = pd.read_csv(tmp_path / "predictions.csv")
    right = (table["image"].str.split("/").str[0] == table["class"]).mean()
    assert f"Of 12 labelled images right: {right:.2%} by run7/" in text
    assert np.load(tmp_path / "predictions.npy").shape == (12, 10)
    assert len((tmp_path / "predictions-submission.csv").read_text().splitlines()) == 13


def test_images_that_cannot_be_read_are_one_clear_error_before_any_work(tmp_path):
    np.save(tmp_path / "small.npy", np.full((2, 3072), -0.5))
    done = execute("predict", tmp_path, data_folder="none", images="small.npy")
    assert done.returncode == 1
    says = "InputError: images = 'small.npy': its values go from -0.5 to -0.5: expected"
    assert says in done.stdout
    # no data fetched, either
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predict.ipynb", "small.npy"]


def test_the_executed_copies_are_of_the_notebooks_as_they_are():
    copies = sorted((project_root() / "outputs" / "notebooks").glob("*.ipynb"))
    assert [copy.stem for copy in copies] == ["explore", "predict", "report", "train", "whitening"]
    for copy in copies:
        notebook = nbformat.read(project_root() / "notebooks" / copy.name, as_version=4)
        executed = nbformat.read(copy, as_version=4)
        sources = [cell.source for cell in notebook.cells]
        assert [cell.source for cell in executed.cells] == sources, f"make notebooks: {copy.stem}"
