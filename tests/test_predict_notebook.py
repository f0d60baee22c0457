"""The predict notebook, executed by papermill on images that someone brings."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_notebooks import execute, forms

from cifarlib import records
from cifarlib.data import CLASSES


def test_a_file_of_images_becomes_a_file_of_probabilities(cifar10, tiny_run, tmp_path):
    """Pixel by pixel, which nobody said."""
    np.save(tmp_path / "my.npy", cifar10.test.images[:500].permute(0, 2, 3, 1).reshape(-1, 3072))
    done = execute("predict", tmp_path, images="my.npy", model=tiny_run, submission=True)
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
    assert "The rows are read pixel by pixel (hwc)" in forms(
        tmp_path / "predict.ipynb", "text/markdown"
    )


def test_a_folder_of_pictures_is_said_as_it_was_read(cifar10, tiny_run, tmp_path):
    for i, label in enumerate(cifar10.test.labels[:12].tolist()):
        folder = tmp_path / "mine" / CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(cifar10.test.images[i].permute(1, 2, 0).numpy()).save(
            folder / f"{i + 1}.png"
        )
    (tmp_path / "mine" / "14.heic").write_bytes(b"a cat")
    done = execute("predict", tmp_path, images="mine", model=tiny_run)
    assert done.returncode == 0, done.stdout
    text = forms(tmp_path / "predict.ipynb", "text/markdown")
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
    done = execute("predict", tmp_path, **{"data_folder": "none", **parameters})
    assert done.returncode == 1
    assert f"InputError: {says}" in done.stdout
    # no data fetched, either
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predict.ipynb", "small.npy"]
