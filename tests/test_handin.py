import shutil
import subprocess
import zipfile

import numpy as np
import pytest

from cifarlib import InputError, handin, predict, records


@pytest.fixture
def outputs(tiny_run, tmp_path):
    """An output folder with one finished run, its executed notebook, and the report of
    First_Last."""
    folder = tmp_path / "outputs"
    shutil.copytree(tiny_run.parents[1], folder)
    run = next(folder.glob("run7/*"))
    (run / "train.ipynb").write_text("{}")
    (folder / "handin" / "First_Last").mkdir(parents=True)
    for kind in ("pdf", "html", "ipynb"):
        (folder / "handin" / "First_Last" / f"report.{kind}").write_bytes(b"a report")
    (folder / "handin" / "First_Last" / "tex").mkdir()
    (folder / "handin" / "First_Last" / "tex" / "report.tex").write_text("a report")
    return folder


@pytest.fixture
def private(small, tmp_path):
    """Rows pixel by pixel, as courses hand out images without labels."""
    rows = small.test.images[:50].permute(0, 2, 3, 1).reshape(50, 3072).numpy()
    np.save(tmp_path / "private.npy", rows)
    return tmp_path / "private.npy"


def test_the_zip_holds_all_that_is_asked_for_and_its_sums_hold(outputs, private, small, tmp_path):
    path = handin.hand_in("First_Last", "run7", private, output_folder=outputs)
    assert path == outputs / "handin" / "First_Last.zip"
    shutil.unpack_archive(path, tmp_path / "unpacked")
    root = tmp_path / "unpacked" / "First_Last"
    names = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}
    (model,) = (root / "saved_models").iterdir()
    assert {
        "predictions.npy",
        "predictions.csv",
        "report.pdf",
        "report.html",
        "README.md",
        "code/README.md",
        "code/Makefile",
        "tex/report.tex",
        "code/cifarlib/train.py",
        "code/params/run7.yaml",
        "notebooks/report.ipynb",
        f"notebooks/train-{model.name}.ipynb",
    } <= names
    assert {p.name for p in model.iterdir()} >= {
        "model.safetensors",
        "record.json",
        "history.csv",
        "log.txt",
    }
    assert not any("__pycache__" in name or "/." in name for name in names)
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == len(names) - 1
    network, description = predict.load_model(next(outputs.glob("run7/*")))
    expected = predict.logits_of(network, description, small.test.images[:50]).softmax(1)
    probabilities = np.load(root / "predictions.npy")
    assert probabilities.shape == (50, 10)
    # the record's precision may be bfloat16
    np.testing.assert_allclose(probabilities, expected, atol=0.02)


def test_without_images_the_test_images_are_predicted(outputs, monkeypatch, small):
    monkeypatch.setattr(handin, "load_cifar10", lambda _: small)
    monkeypatch.setattr(handin, "_predict_again", lambda *_: None)
    path = handin.hand_in("First_Last", "run7", output_folder=outputs)
    with zipfile.ZipFile(path) as archive, archive.open("First_Last/predictions.npy") as file:
        assert np.load(file).shape == (100, 10)


def test_a_zip_whose_code_predicts_something_else_is_not_left(outputs, private, monkeypatch):
    monkeypatch.setattr(handin, "AGAIN", handin.AGAIN.replace("softmax(1)", "softmax(0)"))
    with pytest.raises(InputError, match="other predictions"):
        handin.hand_in("First_Last", "run7", private, output_folder=outputs)
    monkeypatch.setattr(handin, "AGAIN", "raise ValueError('no such thing')")
    with pytest.raises(InputError, match="could not predict again: ValueError: no such thing"):
        handin.hand_in("First_Last", "run7", private, output_folder=outputs)
    assert not list((outputs / "handin").glob("*.zip"))
    assert [p.name for p in (outputs / "handin").iterdir()] == ["First_Last"]


def test_what_is_missing_is_said_before_anything_is_built(outputs, private, tmp_path):
    (outputs / "handin" / "First_Last" / "report.pdf").unlink()
    (outputs / "handin" / "First_Last" / "report.html").unlink()
    with pytest.raises(InputError, match=r"missing: .*report\.pdf, .*report\.html"):
        handin.hand_in("First_Last", "run7", private, output_folder=outputs)
    assert handin.hand_in("First_Last", "run7", private, output_folder=outputs, check=True) is None
    for name in ("", "A B", "../x", "Ümit'"):
        with pytest.raises(InputError, match="letters, digits"):
            handin.hand_in(name, "run7", output_folder=outputs)
    with pytest.raises(InputError, match="run = run6 is not done: `make train RUN=6`"):
        handin.hand_in("A", "run6", output_folder=outputs)
    with pytest.raises(
        InputError, match="run = run7, seed = 3 is not done: `make train RUN=7 SEED=3`"
    ):
        handin.hand_in("A", "run7", output_folder=outputs, seed=3)
    with pytest.raises(InputError, match="there is no such file"):
        handin.hand_in("A", "run7", tmp_path / "none.npy", output_folder=outputs, check=True)
    next(outputs.glob("run7/*/train.ipynb")).unlink()
    with pytest.raises(
        InputError,
        match=r"no weights or no executed notebook .*: `make train RUN=7 SEED=0 EPOCHS=\d+`",
    ):
        handin.hand_in("A", "run7", output_folder=outputs)


def test_of_several_records_the_longest_is_taken(outputs):
    run = next(outputs.glob("run7/*"))
    record = records.read_record(run)
    for seed, trained in ((1, 5), (0, 5), (2, 3)):
        folder = shutil.copytree(run, run.with_name(f"seed{seed}-other"))
        text = (folder / "record.json").read_text()
        text = text.replace(
            f'"epochs_trained": {record["epochs_trained"]}', f'"epochs_trained": {trained}'
        )
        (folder / "record.json").write_text(text.replace('"seed": 0', f'"seed": {seed}', 1))
    assert handin.find_run("run7", outputs).name == "seed0-other"
    assert handin.find_run("run7", outputs, seed=2, epochs=None).name == "seed2-other"
