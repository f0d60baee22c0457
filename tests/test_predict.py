import json
import shutil

import numpy as np
import pytest
import torch

from cifarlib import InputError, own_images, predict, records


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(InputError, match=r"images = 'nothing\.npy': there is no such file"):
        own_images.read_images("nothing.npy")
    (tmp_path / "outputs" / "run7" / "seed0-stop95").mkdir(parents=True)
    with pytest.raises(InputError, match=r"looked for \S+/seed0; beside it there is seed0-stop95$"):
        own_images.existing_path("model", tmp_path / "outputs" / "run7" / "seed0")
    with pytest.raises(InputError, match="of the committed runs only run 7 has its network"):
        predict.find_model(tmp_path / "outputs" / "run7" / "seed0-stop95")
    with pytest.raises(InputError, match="layout = 'hwx': choose auto, chw"):
        own_images.read_images("nothing.npy", "hwx")
    with pytest.raises(InputError, match=r"ends in \.npy"):
        predict.output_path("predictions.csv", None)
    assert predict.output_path(tmp_path / "nowhere" / "p.npy", None)  # nothing will be written
    (tmp_path / "my.npy").touch()
    with pytest.raises(InputError, match="is missing or cannot be written"):
        predict.output_path(tmp_path / "nowhere" / "p.npy", tmp_path / "my.npy")


def test_predictions_overwrite_predictions_alone(tmp_path):
    for name in ("my.npy", "labels.csv"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"would overwrite .*my\.npy: give another name"):
        predict.output_path(tmp_path / "my.npy", tmp_path / "my.npy")
    with pytest.raises(InputError, match=r"would overwrite .*labels\.csv"):
        predict.output_path(tmp_path / "labels.npy", tmp_path / "my.npy")
    (tmp_path / "labels.npy").touch()  # the table beside it is of an earlier call
    assert (
        predict.output_path(tmp_path / "labels.npy", tmp_path / "my.npy") == tmp_path / "labels.npy"
    )


def test_a_file_of_test_images_gets_the_answers_of_the_record(cifar10, tiny_run):
    precision = records.read_record(tiny_run)["precision"]
    model, description = predict.load_model(tiny_run, precision=precision)
    logits = predict.logits_of(model, description, cifar10.test.images[:1000], precision)
    saved = records.read_predictions(tiny_run)["test"]
    assert (logits.numpy().argmax(1) != saved.argmax(1)).sum() <= 2
    np.testing.assert_allclose(logits, saved, atol=0.02, rtol=1e-3)  # saved as float16


def test_block_outputs_lead_to_the_logits(cifar10, tiny_run):
    model, description = predict.load_model(tiny_run)
    image = cifar10.test.images[3]
    outputs = predict.block_outputs(model, description, image)
    shapes = {
        "whitening": (24, 31, 31),
        "block 1": (64, 15, 15),
        "block 2": (256, 7, 7),
        "block 3": (256, 3, 3),
    }
    assert {name: tuple(output.shape) for name, output in outputs.items()} == shapes
    logits = (
        model.net[5:](outputs["block 3"][None].to(next(model.parameters()).device)).detach().cpu()
    )
    torch.testing.assert_close(
        logits, predict.logits_of(model, description, image[None]), atol=1e-4, rtol=1e-4
    )


def test_the_default_model_is_the_longest_with_weights(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(own_images, "project_root", lambda: tmp_path)
    monkeypatch.setattr("cifarlib.project_root", lambda: tmp_path)
    with pytest.raises(
        InputError, match=r"no run 7 with its weights .*: `make train RUN=7 EPOCHS=10` makes one"
    ):
        predict.find_model()
    for name, epochs, accuracy in (
        ("seed0", 9, 0.9),
        ("seed0-epochs10", 10, 0.4),
        ("seed1", 20, 0.9),
        ("seed2-epochs3", 3, 0.95),
    ):
        folder = tmp_path / "outputs" / "run7" / name
        shutil.copytree(tiny_run, folder)
        record = json.loads((folder / "record.json").read_text())
        record |= {"epochs_trained": epochs, "validation_accuracy": accuracy}
        (folder / "record.json").write_text(json.dumps(record))
    (tmp_path / "outputs/run7/seed1/model.safetensors").unlink()  # a record alone predicts nothing
    assert predict.find_model().name == "seed0-epochs10"
    # below the project, wherever the kernel runs
    assert predict.find_model("outputs/run7/seed0").name == "seed0"
    with pytest.raises(InputError, match=r"model = 'outputs/run7/seed1': no model\.safetensors"):
        predict.find_model("outputs/run7/seed1")


def test_predictions_are_written_with_their_table(tmp_path):
    probabilities = torch.eye(10)[[3, 9]] * 0.5 + 0.05
    own = own_images.OwnImages(torch.zeros(2, 3, 32, 32), ["a.png", "b.png"], ["a", "b"])
    assert predict.write_predictions(tmp_path / "p.npy", probabilities, own) == [
        tmp_path / "p.npy",
        tmp_path / "p.csv",
    ]
    read = np.load(tmp_path / "p.npy")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, probabilities)
    text = "image,label,class,probability\na.png,3,cat,0.5500\nb.png,9,truck,0.5500\n"
    assert (tmp_path / "p.csv").read_text() == text
    assert not (tmp_path / "submission.csv").exists()
    predict.write_predictions(tmp_path / "p.npy", probabilities, own, submission=True)
    assert (tmp_path / "submission.csv").read_text() == "id,label\na,cat\nb,truck\n"


def test_a_submission_is_asked_for_plainly_and_overwrites_nothing(tmp_path):
    for name in ("my.npy", "submission.csv"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="submission = 'yes': choose True or False"):
        predict.output_path(tmp_path / "p.npy", tmp_path / "my.npy", "yes")
    with pytest.raises(InputError, match=r"would overwrite .*submission\.csv"):
        predict.output_path(tmp_path / "p.npy", tmp_path / "my.npy", True)
    assert predict.output_path(tmp_path / "p.npy", tmp_path / "my.npy")
    (tmp_path / "submission.npy").touch()  # its table would be submission.csv as well
    with pytest.raises(InputError, match=r"would overwrite .*submission\.csv"):
        predict.output_path(tmp_path / "submission.npy", tmp_path / "my.npy", True)
