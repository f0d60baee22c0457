"""The real notebooks, executed by papermill on real CIFAR-10, small."""

import json
import re
import shutil
import subprocess
import sys
import time

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
from nbclient import NotebookClient
from PIL import Image

from cifarlib import project_root, records
from cifarlib.data import CLASSES

NOTEBOOKS = sorted((project_root() / "notebooks").glob("*.ipynb"))
TRAIN = project_root() / "notebooks" / "train.ipynb"
ARTICLES = ("start", "explore", "whitening", "train", "predict")


def papermill(*arguments, cwd, notebook=TRAIN):
    return [sys.executable, "-m", "papermill", str(notebook), *map(str, arguments)], {
        "cwd": cwd,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }


def pairs(**parameters):
    return [part for name, value in parameters.items() for part in ("-p", name, str(value))]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_clean_and_thin(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code), (
        "run: jupyter nbconvert --clear-output"
    )
    assert "parameters" in code[0].metadata["tags"]
    assert notebook.cells[0].source.startswith("# ")
    # the first: a line a parameter
    assert all(len(cell.source.splitlines()) <= 10 for cell in code[1:])


# train's takes a training to make
@pytest.mark.parametrize("name", ["explore", "whitening", "predict", "report"])
def test_the_executed_copies_are_of_the_notebooks_as_they_are(name):
    folders = project_root() / "notebooks", project_root() / "outputs" / "notebooks"
    ours, executed = (
        nbformat.read(folder / f"{name}.ipynb", as_version=4).cells for folder in folders
    )
    written = [
        cell for cell in executed if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    assert [cell.source for cell in written] == [cell.source for cell in ours], (
        "run: make notebooks"
    )


def test_every_parameter_is_listed_with_its_meaning():
    command, options = papermill("--help-notebook", cwd=project_root())
    done = subprocess.run(command, **options)
    assert done.returncode == 0
    for name in [
        "run",
        "seed",
        "epochs",
        "stop_epoch",
        "train_images",
        "device",
        "data_folder",
        "output_folder",
        "resume",
        "deterministic",
        "precision",
        "capture",
    ]:
        assert re.search(rf"^  {name}: .*\n? +\w+", done.stdout, re.MULTILINE), name


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """run 7 on 128 images for 2 epochs, started from a foreign folder, killed with its kernel in
    the middle, and started again by the same command. Gives the executed notebook's path and the
    record's folder."""
    folder = tmp_path_factory.mktemp("elsewhere")
    parameters = pairs(run=7, epochs=2, train_images=128, output_folder="out")
    command, options = papermill("executed.ipynb", *parameters, cwd=folder)
    record = folder / "out" / "run7" / "seed0-epochs2-images128"
    first = subprocess.Popen(command, **options)
    while not (record / "unfinished" / "checkpoint.pt").exists():
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.05)
    for process in (*psutil.Process(first.pid).children(recursive=True), first):
        process.kill()
    first.communicate()
    assert not (record / "record.json").exists()
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stdout
    return folder / "executed.ipynb", record


def test_jupyterlab_shows_a_finished_run_and_trains_it_again_when_asked(
    executed, tmp_path, monkeypatch
):
    # as Jupyter's server starts a kernel
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/train.ipynb")
    folder = tmp_path / "out" / executed[1].relative_to(executed[1].parents[1])
    shutil.copytree(executed[1], folder)
    parameters = {"run": 7, "epochs": 2, "train_images": 128, "output_folder": tmp_path / "out"}
    before = records.read_record(folder)
    shown = papermill_on("train", tmp_path, **parameters)
    assert shown.returncode == 0, shown.stdout
    assert records.read_record(folder) == before
    text = outputs(tmp_path / "train.ipynb")[0]["data"]["text/markdown"]
    assert text.startswith("**This run is finished** (20")
    assert "set `resume = False`" in text
    assert html_of(tmp_path / "train.ipynb").count("<figcaption>") == 4  # its curves, too
    asked = papermill_on("train", tmp_path, **parameters, resume=False)
    assert asked.returncode == 0, asked.stdout
    assert len(before["sessions"]) == 2
    assert len(records.read_record(folder)["sessions"]) == 1


def outputs(path):
    return [o for cell in nbformat.read(path, as_version=4).cells for o in cell.get("outputs", [])]


def html_of(path):
    return "".join(
        o["data"]["text/html"] for o in outputs(path) if "text/html" in o.get("data", {})
    )


def text_of(path):
    """Markdown and captions."""
    forms = [o.get("data", {}) for o in outputs(path)]
    return "\n".join(data.get("text/markdown") or data.get("text/plain", "") for data in forms)


def test_papermill_resumes_a_killed_run(executed):
    record = records.read_record(executed[1])
    sessions = record["sessions"]
    assert sessions[0]["first_epoch"] == 1
    assert 2 <= sessions[1]["first_epoch"] <= 3
    assert len(records.read_history(executed[1])) == 2


def test_the_first_output_says_how_long_it_takes(executed):
    assert re.search(
        r"About \d+ (s|min).* on this (CPU|GPU)", outputs(executed[0])[0]["data"]["text/markdown"]
    )


def test_the_executed_notebook_shows_what_a_reader_expects(executed):
    shown = outputs(executed[0])
    assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in shown)
    text = html_of(executed[0]) + "".join(o.get("data", {}).get("text/markdown", "") for o in shown)
    record = records.read_record(executed[1])
    for needed in (
        "1,972,792",
        record["question"],
        record["data_sha256"],
        f"{100 * record['test_accuracy']:.2f} %",
        f"{100 * record['validation_accuracy']:.2f} %",
        "95 % interval",
        "no comparison",
        "model.safetensors",
        f"convolutions: {record['convolutions']}",
        "the hardest, ",
    ):
        assert needed in text, needed


def test_every_figure_has_number_caption_and_alt_text(executed):
    figures = re.findall(
        r'<img src="data:image/svg[^>]* alt="([^"]*)".*?<b>Figure (\d)\.</b> ([^<]+)<',
        html_of(executed[0]),
    )
    assert [number for _, number, _ in figures] == ["1", "2", "3", "4"]
    assert all(len(alt) > 40 and len(caption) > 30 for alt, _, caption in figures)


def test_one_line_of_progress_is_left(executed, tmp_path):
    command = [
        sys.executable,
        "-m",
        "nbconvert",
        "--to",
        "html",
        "--output-dir",
        str(tmp_path),
        str(executed[0]),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "executed.html").read_text()
    assert page.count("run7 seed 0: epoch ") == page.count("epoch 2.0 of 2, loss") == 1
    assert page.count("<figcaption>") == 4


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"run": 8}, "run = 8: no file params/run8.yaml; there are fast, "),
        ({"epoch": 5}, "'epoch' is unknown: did you mean 'epochs'?"),
        ({"epochs": "ten"}, "epochs = 'ten': give a value of type int"),
        ({"device": "cuda:7"}, "device = 'cuda:7' is not there: choose one of auto, "),
    ],
)
def test_bad_input_is_one_clear_error_and_exit_1(parameters, says, tmp_path):
    command, options = papermill(
        "out.ipynb", *pairs(output_folder="out", **parameters), cwd=tmp_path
    )
    done = subprocess.run(command, **options)
    assert done.returncode == 1
    assert f"InputError: {says}" in done.stdout.replace("parameter '", "'")
    assert "cifarlib/params.py" not in done.stdout  # no traceback through the package
    assert not (tmp_path / "out").exists()


def test_a_second_pass_in_one_kernel_raises_no_false_alarm(tmp_path):
    notebook = nbformat.read(TRAIN, as_version=4)
    notebook.cells[
        1
    ].source += f"\noutput_folder = {str(tmp_path)!r}\ntrain_images = 128\nepochs = 1"
    notebook.cells += [
        nbformat.from_dict({**cell, "id": f"again-{i}"}) for i, cell in enumerate(notebook.cells)
    ]
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    record = json.loads((tmp_path / "run7" / "seed0-epochs1-images128" / "record.json").read_text())
    assert record["epochs_trained"] == 1


def papermill_on(name, cwd, **parameters):
    command, options = papermill(
        f"{name}.ipynb", *pairs(**parameters), cwd=cwd, notebook=TRAIN.with_stem(name)
    )
    return subprocess.run(command, **options)


def test_the_start_page_leads_to_every_notebook():
    text = TRAIN.with_stem("start").read_text()
    linked = set(re.findall(r"\((\w+\.ipynb)\)", text))
    assert linked == {path.name for path in NOTEBOOKS if path.stem != "start"}
    executed_copies = re.findall(r"\(\.\./outputs/notebooks/(\w+\.ipynb)\)", text)
    assert set(executed_copies) <= linked
    assert len(executed_copies) == 5


@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.stem in ARTICLES], ids=lambda path: path.stem
)
def test_a_sentence_stands_before_every_figure_and_a_conclusion_at_the_end(path):
    cells = nbformat.read(path, as_version=4).cells
    sentence = False
    for cell in cells:
        if re.search(r"display\.(show|explore)\(", cell.source):
            assert sentence, cell.source
            sentence = False
        elif cell.cell_type == "markdown" or "display.Text(" in cell.source:
            sentence = True
    titles = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert titles[-1].startswith(
        "## What this showed" if path.stem != "start" else "## Where to go on"
    )
    assert cells[-1].cell_type == "code"


@pytest.mark.parametrize("name", ["start", "explore", "whitening", "predict"])
def test_each_notebook_is_an_article_in_under_two_minutes(name, tiny_run, tmp_path):
    parameters = {"predict": {"model": tiny_run}, "whitening": {"output_folder": tmp_path}}.get(
        name, {}
    )
    done = papermill_on(name, tmp_path, **parameters)
    assert done.returncode == 0, done.stdout
    path = tmp_path / f"{name}.ipynb"
    assert nbformat.read(path, as_version=4).metadata.papermill.duration < 120  # seconds
    assert not any(o.output_type == "error" or o.get("name") == "stderr" for o in outputs(path))
    figures = re.findall(r' alt="([^"]*)"[^>]*>.*?<b>Figure (\d+)\.</b> ([^<]+)<', html_of(path))
    assert [number for _, number, _ in figures] == [
        str(i + 1) for i in range(html_of(path).count("<figure"))
    ]
    assert all(len(alt) > 60 and len(caption) > 20 for alt, _, caption in figures)
    if name == "whitening":
        assert "`make train RUN=3 EPOCHS=10` makes one" in path.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{name}.ipynb"]


def test_a_file_of_images_becomes_a_file_of_probabilities(cifar10, tiny_run, tmp_path):
    """Pixel by pixel, which nobody said."""
    np.save(tmp_path / "my.npy", cifar10.test.images[:500].permute(0, 2, 3, 1).reshape(-1, 3072))
    done = papermill_on("predict", tmp_path, images="my.npy", model=tiny_run, submission=True)
    assert done.returncode == 0, done.stdout
    probabilities = np.load(tmp_path / "predictions.npy")
    assert probabilities.shape == (500, 10)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    saved = records.read_predictions(tiny_run)["test"][:500]
    assert (probabilities.argmax(1) != saved.argmax(1)).sum() <= 2
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 501
    submission = (tmp_path / "submission.csv").read_text().splitlines()
    assert submission[0] == "id,label"
    assert submission[500] == f"499,{CLASSES[probabilities[499].argmax()]}"
    assert "The rows are read pixel by pixel (hwc)" in text_of(tmp_path / "predict.ipynb")


def test_a_folder_of_pictures_is_said_as_it_was_read(cifar10, tiny_run, tmp_path):
    for i, label in enumerate(cifar10.test.labels[:12].tolist()):
        folder = tmp_path / "mine" / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cifar10.test.images[i].permute(1, 2, 0).numpy()).save(
            folder / f"{i + 1}.png"
        )
    (tmp_path / "mine" / "14.heic").write_bytes(b"a cat")
    done = papermill_on("predict", tmp_path, images="mine", model=tiny_run)
    assert done.returncode == 0, done.stdout
    text = text_of(tmp_path / "predict.ipynb")
    assert text.index("Warning: predictions for 12 of 13 files. Left out: `14.heic`") < text.index(
        "The first pictures"
    )
    table = pd.read_csv(tmp_path / "predictions.csv")
    right = (table["image"].str.split("/").str[0] == table["class"]).sum()
    assert f"Of 12 images with a label, {right} are answered right" in text
    assert not (tmp_path / "submission.csv").exists()


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (
            {"images": "small.npy"},
            "images = 'small.npy': its values go from -0.5 to -0.5: expected numbers from 0 to 255",
        ),
        (
            {"layout": "nhwc", "images": "small.npy"},
            "layout = 'nhwc': choose auto, channel by channel (chw",
        ),
        ({"model": "outputs/run9"}, "model = 'outputs/run9': there is no such file or folder"),
        ({"image": "small.npy"}, "parameter 'image' is unknown: did you mean 'images'?"),
        ({"images": "small.npy", "submission": "yes"}, "submission = 'yes': choose True or False"),
        (
            {"images": "small.npy", "predictions": "p.csv"},
            "predictions = 'p.csv': give a file name that ends in .npy",
        ),
    ],
)
def test_bad_input_to_predict_is_one_clear_error_before_any_work(parameters, says, tmp_path):
    np.save(tmp_path / "small.npy", np.full((2, 3072), -0.5))
    done = papermill_on("predict", tmp_path, **{"data_folder": "none", **parameters})
    assert done.returncode == 1
    assert f"InputError: {says}" in done.stdout
    # no data fetched, either
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predict.ipynb", "small.npy"]
