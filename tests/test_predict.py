import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from cifarlib import InputError, predict, records


def hwc(images):
    return images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("layout", "arranged"),
    [
        ("chw", lambda x: x.numpy().reshape(-1, 3072)),
        ("hwc", lambda x: hwc(x).reshape(-1, 3072)),
        ("chw", hwc),
        ("hwc", lambda x: x.numpy()),
        ("chw", lambda x: x.numpy().astype(np.float32).reshape(-1, 3072)),
        ("chw", lambda x: np.asfortranarray(hwc(x).astype(">i8"))),
    ],
    ids=["rows", "rows by pixel", "NHWC", "NCHW", "float rows", "big-endian, by columns"],
)
def test_every_accepted_array_gives_the_same_images(small, tmp_path, layout, arranged):
    np.save(tmp_path / "my.npy", arranged(small.test_images[:9]))
    images, names = predict.read_images(tmp_path / "my.npy", layout)
    assert images.dtype == torch.uint8
    assert torch.equal(images, small.test_images[:9])
    assert names == [str(i) for i in range(9)]


GREY = np.full((4, 3072), 100, np.uint8)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (GREY[:, :100], r"uint8 \(4, 100\): expected \(N, 32, 32, 3\), .* or \(N, 3072\), values 0 to 255"),
        (GREY[0], r"\(3072,\): expected"),
        (GREY[:0], "no images"),
        (GREY.astype(str), "expected numbers"),
        (GREY > 0, "bool .* expected numbers"),
        (GREY / 255, "values from .* to .*: expected 0 to 255; multiply by 255"),
        (GREY - 101.0, "values from -1 to -1: expected 0 to 255"),
        (GREY * 3.0, "to 300: expected 0 to 255"),
        (np.where(np.arange(3072), GREY, np.nan), "nan"),
        (np.array([{}, 3], dtype=object), "is no array file: .*Python objects"),
    ],
    ids=["shape", "one row", "empty", "text", "bool", "scaled", "negative", "above", "nan", "objects"],
)
def test_a_wrong_array_is_one_clear_error(array, says, tmp_path):
    np.save(tmp_path / "my.npy", array)
    with pytest.raises(InputError, match=says) as caught:
        predict.read_images(tmp_path / "my.npy")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("my.npy", b"", "is no array file"),
        ("my.npy", b"image,1,2,3", "is no array file"),
        ("my.txt", b"a cat", "my.txt is no picture"),
        ("my.png", b"", "my.png is no picture"),
        ("folder/readme.txt", b"a cat", r"no pictures in this folder \(only \.txt: save them as PNG or JPEG\)"),
        ("folder/._a.png", b"a cat", "no pictures in this folder$"),
    ],
)
def test_a_file_of_another_kind_is_one_clear_error(name, content, says, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        predict.read_images(path.parent if "folder" in name else path)


def test_a_truncated_file_is_one_clear_error(tmp_path):
    np.save(tmp_path / "my.npy", GREY)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)).save(tmp_path / "my.png")
    for name in ("my.npy", "my.png"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=name):
            predict.read_images(tmp_path / name)


def test_names_that_lead_nowhere(tmp_path):
    with pytest.raises(InputError, match=r"images = 'nothing\.npy': there is no such file"):
        predict.read_images("nothing.npy")
    with pytest.raises(InputError, match="layout = 'hwx': choose chw"):
        predict.read_images("nothing.npy", "hwx")
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
    assert predict.output_path(tmp_path / "labels.npy", tmp_path / "my.npy") == tmp_path / "labels.npy"


def test_pictures_of_any_size_become_what_they_show(small, tmp_path):
    """An image enlarged, its background grown to the left and right, comes back nearly as it was."""
    image = Image.fromarray(hwc(small.test_images[1:2])[0])
    wide = Image.new("RGB", (640, 413), "red")
    wide.paste(image.resize((413, 413), Image.Resampling.BICUBIC), (113, 0))
    wide.save(tmp_path / "b.png")
    image.convert("L").resize((7, 7)).save(tmp_path / "a.jpg")
    Image.new("RGBA", (50, 90), (0, 0, 0, 0)).save(tmp_path / "c.png")  # transparent: white
    images, names = predict.read_images(tmp_path)
    assert names == ["a.jpg", "b.png", "c.png"]
    assert images.shape == (3, 3, 32, 32)
    assert (images[1].float() - small.test_images[1].float()).abs().mean() < 8  # grey levels; another image: 60
    assert (images[2] == 255).all()


def test_pictures_of_sixteen_bits_and_of_floating_point_numbers(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (32, 1))
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    images, _ = predict.read_images(tmp_path / "deep.png")
    assert (images[0].float() - torch.from_numpy(ramp / 257.0)).abs().max() <= 0.5
    Image.fromarray(ramp.astype(np.float32) / 65535).save(tmp_path / "float.tiff")
    with pytest.raises(InputError, match=r"float\.tiff .*32 bits, save it with 8 or 16 bits a channel"):
        predict.read_images(tmp_path / "float.tiff")


def test_a_file_of_test_images_gets_the_answers_of_the_record(cifar10, tiny_run):
    precision = records.read_record(tiny_run)["precision"]
    model, description = predict.load_model(tiny_run, precision=precision)
    logits = predict.logits_of(model, description, cifar10.test_images[:1000], precision)
    saved = records.read_predictions(tiny_run)["test"]
    assert (logits.numpy().argmax(1) != saved.argmax(1)).sum() <= 2
    np.testing.assert_allclose(logits, saved, atol=0.02, rtol=1e-3)  # saved as float16


def test_block_outputs_lead_to_the_logits(cifar10, tiny_run):
    model, description = predict.load_model(tiny_run)
    image = cifar10.test_images[3]
    outputs = predict.block_outputs(model, description, image)
    shapes = {"whitening": (24, 31, 31), "block 1": (64, 15, 15), "block 2": (256, 7, 7), "block 3": (256, 3, 3)}
    assert {name: tuple(output.shape) for name, output in outputs.items()} == shapes
    logits = model.net[5:](outputs["block 3"][None].to(next(model.parameters()).device)).detach().cpu()
    torch.testing.assert_close(logits, predict.logits_of(model, description, image[None]), atol=1e-4, rtol=1e-4)


def test_the_default_model_is_the_best_with_weights(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "project_root", lambda: tmp_path)
    monkeypatch.setattr("cifarlib.project_root", lambda: tmp_path)
    with pytest.raises(InputError, match=r"no run 7 with its weights .*: `make train RUN=7 EPOCHS=10` makes one"):
        predict.find_model()
    for name, accuracy in (("seed0", 0.2), ("seed0-epochs10", 0.4), ("seed1", 0.9), ("seed2-epochs3", 0.3)):
        folder = tmp_path / "outputs" / "run7" / name
        shutil.copytree(tiny_run, folder)
        text = (folder / "record.json").read_text()
        ours = f'"validation_accuracy": {records.read_record(tiny_run)["validation_accuracy"]}'
        assert ours in text
        (folder / "record.json").write_text(text.replace(ours, f'"validation_accuracy": {accuracy}'))
    (tmp_path / "outputs/run7/seed1/model.safetensors").unlink()  # a record alone predicts nothing
    assert predict.find_model().name == "seed0-epochs10"
    assert predict.find_model("outputs/run7/seed0").name == "seed0"  # below the project, wherever the kernel runs
    with pytest.raises(InputError, match=r"model = 'outputs/run7/seed1': no model\.safetensors"):
        predict.find_model("outputs/run7/seed1")


def test_predictions_are_written_with_their_table(tmp_path):
    probabilities = torch.eye(10)[[3, 9]] * 0.5 + 0.05
    rows = predict.answer_rows(probabilities, ["a.png", "b.png"])
    predict.write_predictions(tmp_path / "p.npy", probabilities, rows)
    read = np.load(tmp_path / "p.npy")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, probabilities)
    text = "image,label,class,probability\na.png,3,cat,0.5500\nb.png,9,truck,0.5500\n"
    assert (tmp_path / "p.csv").read_text() == text
