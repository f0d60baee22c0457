"""The predict notebook, executed by papermill on images that someone brings."""

import numpy as np
import pandas as pd
from PIL import Image
from test_notebooks import execute, forms, outputs

from cifarlib.data import CLASSES


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


def test_bad_input_is_one_clear_error_before_any_work(tmp_path):
    np.save(tmp_path / "small.npy", np.full((2, 3072), -0.5))
    done = execute("predict", tmp_path, data_folder="none", images="small.npy")
    assert done.returncode == 1
    says = "InputError: images = 'small.npy': its values go from -0.5 to -0.5: expected"
    assert says in done.stdout
    # no data fetched, either
    assert sorted(p.name for p in tmp_path.iterdir()) == ["predict.ipynb", "small.npy"]
