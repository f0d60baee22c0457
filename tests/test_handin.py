import os
import shutil

import numpy as np
import pytest

from cifarlib import InputError, handin, predict

REPORT = ("report.pdf", "report.html", "report.ipynb", "tex/report.tex")


@pytest.fixture
def outputs(two_runs, tmp_path):
    """Two finished runs, one with its executed notebook, and the report of First_Last."""
    folder = tmp_path / "outputs"
    shutil.copytree(two_runs, folder)
    (next(folder.glob("run7/seed0*")) / "train.ipynb").write_text("{}")
    report = folder / "handin" / "First_Last"
    (report / "tex").mkdir(parents=True)
    for file in REPORT:
        (report / file).write_text("a report")
        os.utime(report / file, (0, 0))  # dated 1970, as reproducible builds do
    return folder


@pytest.fixture
def private(small, tmp_path):
    """Rows pixel by pixel, as courses hand out images without labels."""
    np.save(tmp_path / "private.npy", small.test.images[:50].permute(0, 2, 3, 1).flatten(1))
    return tmp_path / "private.npy"


def test_the_zip_holds_all_and_the_mean_over_the_seeds_by_views(outputs, private, small):
    asked = {"run": 7, "seeds": [0, 1], "images": private, "output_folder": outputs}
    plan = handin.hand_in("First_Last", **asked, check=True)
    assert plan.startswith("50 images, 2 networks: ")
    text = handin.hand_in("First_Last", **asked)
    shutil.unpack_archive(outputs / "handin" / "First_Last.zip", outputs / "unpacked")
    root = outputs / "unpacked" / "First_Last"
    names = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    folders = predict.find_models(7, [0, 1], output_folder=outputs)
    models = [f"run7-{folder.name}" for folder in folders]
    code = ("code/README.md", "code/Makefile", "code/cifarlib/train.py", "code/params/run7.yaml")
    results = ("predictions.npy", "predictions.csv", "README.md", *REPORT)
    assert names >= {*code, *results, f"saved_models/{models[0]}/train.ipynb"}
    for model in models:
        assert names >= {f"saved_models/{model}/{file}" for file in ("record.json", predict.MODEL)}
    assert not any("__pycache__" in name or "/." in name for name in names)
    asked = (small.test.images[:50], [""] * 50, folders, True)
    answers = predict.predict(*asked).probabilities
    np.testing.assert_allclose(np.load(root / "predictions.npy"), answers, atol=1e-6)
    readme = (root / "README.md").read_text()
    assert f"--model=../saved_models/{models[1]} --views=1" in readme
    assert text.splitlines()[0] in readme
    both = ", ".join(f"run7/{folder.name}" for folder in folders)
    assert f"Class probabilities by {both}, averaged" in readme


def test_a_zip_that_fails_its_proof_is_not_left(outputs, private, monkeypatch):
    def other(*asked):
        answers = predict.predict(*asked)
        return answers._replace(probabilities=answers.probabilities.flip(1))

    monkeypatch.setattr(handin, "predict", other)
    with pytest.raises(InputError, match="does not make the same predictions: exit code 0"):
        handin.hand_in("First_Last", 7, None, private, output_folder=outputs)
    assert [path.name for path in (outputs / "handin").iterdir()] == ["First_Last"]


def test_what_is_missing_is_said_before_anything_is_built(outputs, private, tmp_path):
    (outputs / "handin" / "First_Last" / "tex" / "report.tex").unlink()
    with pytest.raises(InputError, match=r"report is missing in .*First_Last: `make handin` makes"):
        handin.hand_in("First_Last", 7, None, private, output_folder=outputs)
    handin.hand_in("First_Last", 7, None, private, output_folder=outputs, check=True)
    for name in ("", "A B", "../x"):
        with pytest.raises(InputError, match="letters, digits"):
            handin.hand_in(name, 7, None, private, output_folder=outputs)
    with pytest.raises(InputError, match="there is no such file"):
        handin.hand_in("A", 7, None, tmp_path / "none.npy", output_folder=outputs, check=True)
