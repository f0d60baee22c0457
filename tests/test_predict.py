import io
import shutil
import struct

import numpy as np
import pandas as pd
import pytest
import torch
from made_up import make_record
from PIL import Image

from cifarlib import InputError, images, predict
from cifarlib.data import CLASSES

GREY = np.full((4, 3072), 100, np.uint8)


def hwc(pictures):
    return pictures.permute(0, 2, 3, 1).numpy()


def rows(pictures):
    return pictures.numpy().reshape(-1, 3072)


def read(folder, array, layout="auto"):
    np.save(folder / "my.npy", array)
    return images.read_images(folder / "my.npy", layout)


@pytest.mark.parametrize(
    ("layout", "arranged"),
    [
        ("chw", rows),
        ("hwc", lambda x: hwc(x).reshape(-1, 3072)),
        ("auto", rows),
        ("auto", lambda x: hwc(x).reshape(-1, 3072)),
        ("chw", hwc),
        ("hwc", lambda x: x.numpy()),
        ("auto", lambda x: np.asfortranarray(hwc(x).astype(">i8"))),
        ("auto", lambda x: rows(x) * 1.00000004),  # up to 255.00001
        ("auto", lambda x: (hwc(x) / 255).astype(np.float32)),
        ("auto", lambda x: (rows(x) / 255).astype(np.float16)),
    ],
)
def test_every_accepted_array_gives_the_same_images(small, tmp_path, layout, arranged):
    given = read(tmp_path, arranged(small.test.images[:9]), layout)
    assert given.images.dtype == torch.uint8
    assert torch.equal(given.images, small.test.images[:9])
    assert given.names == [str(i) for i in range(9)]
    assert given.labels.tolist() == [-1] * 9


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (GREY[:, :100], r"\(4, 100\): expected .* \(N, 32, 32, 3\), \(N, 3, 32, 32\) or"),
        (GREY[0], r"\(3072,\): expected"),
        (GREY[:0], r"\(0, 3072\): expected"),
        (GREY.astype(str), "expected numbers"),
        (GREY > 0, "expected numbers"),
        (GREY // 100, "values go from 1 to 1: .* multiply by 255 if 1 is white"),
        (GREY - 101.0, "values go from -1 to -1: .* undo a normalisation"),
        (GREY * 3.0, "to 300: expected numbers from 0 to 255"),
        (np.where(np.arange(3072), GREY, np.nan), "some of its values are nan or infinite"),
        (np.array([{}, 3], dtype=object), "allow_pickle=False"),
        (GREY, "do not tell how rows are laid out: give layout, channel by channel .chw"),
    ],
)
def test_a_wrong_array_is_one_clear_error(array, says, tmp_path):
    with pytest.raises(InputError, match=f"^images = .*my.npy': .*{says}") as caught:
        read(tmp_path, array)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("my.npy", b""),
        ("my.npy", b"\x93NUMPY\x01"),
        ("my.npz", b"PK\x03\x04"),
        ("my.txt", b"a cat"),
        ("my.pkl", b"\x80\x04"),
        ("my.dds", b"DDS \x7c" + bytes(123)),
        ("folder/a.heic", b"a cat"),
        ("folder/._a.png", b"a cat"),
    ],
)
def test_a_file_of_another_kind_is_one_clear_error(name, content, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^images = .*: [^\n]{9,}$"):
        images.read_images(path.parent if "folder" in name else path)


def test_what_was_mistyped_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match=r"images = 'nothing\.npy': there is no such file"):
        images.read_images("nothing.npy")
    with pytest.raises(InputError, match="layout = 'hwx': choose auto, channel by channel"):
        images.read_images("nothing.npy", "hwx")


def test_what_is_said_of_the_layout_of_rows(small, tmp_path):
    flat = hwc(small.test.images[:5]).reshape(-1, 3072)
    told = "The rows are read pixel by pixel (hwc), as their neighbouring values tell."
    assert read(tmp_path, flat).notes == [told]
    assert read(tmp_path, flat, "hwc").notes == []
    wrong = read(tmp_path, flat, "chw")
    assert torch.equal(wrong.images, torch.from_numpy(flat).reshape(-1, 3, 32, 32))
    assert wrong.notes == ["Warning: layout is chw, but the values tell that it is hwc."]
    assert read(tmp_path, GREY, "hwc").notes == []
    assert (read(tmp_path, GREY * 0.0, "chw").images == 0).all()  # black images are images


def test_the_layout_of_nearly_every_single_image_is_told_and_none_wrongly(cifar10):
    """In colour and in grey, where a pixel's three values are equal, so neighbours in hwc."""
    colour = cifar10.validation.images[::50]
    grey = colour.float().mean(1, keepdim=True).round().byte().expand(-1, 3, -1, -1)
    for pictures in (colour, grey):
        for layout, arranged in (("chw", pictures), ("hwc", pictures.permute(0, 2, 3, 1))):
            told = [told_layout(row[None].numpy()) for row in arranged.reshape(-1, 3072)]
            assert set(told) <= {layout, None}
            assert told.count(None) <= 2


def told_layout(flat):
    try:
        return images._choose_layout(flat, "auto", [])
    except ValueError:
        return None


def test_array_files_are_told_by_their_content(small, tmp_path):
    array = hwc(small.test.images[:9])
    np.savez(tmp_path / "one.npz", array)
    shutil.copy(tmp_path / "one.npz", tmp_path / "renamed.npy")
    np.savez_compressed(tmp_path / "more.npz", x=array, y=small.test.labels[:9], names=["a"] * 9)
    for name in ("one.npz", "renamed.npy", "more.npz"):
        assert torch.equal(images.read_images(tmp_path / name).images, small.test.images[:9])
    np.savez(tmp_path / "two.npz", train=array, test=array)
    with pytest.raises(InputError, match=r"holds train \(9, 32, 32, 3\), test .*: expected"):
        images.read_images(tmp_path / "two.npz")


def test_pictures_of_any_size_become_what_they_show(small, tmp_path):
    """An image enlarged, its background grown to both sides, comes back nearly as it was."""
    picture = Image.fromarray(hwc(small.test.images[1:2])[0])
    wide = Image.new("RGB", (640, 413), "red")
    wide.paste(picture.resize((413, 413), Image.Resampling.BICUBIC), (113, 0))
    wide.save(tmp_path / "b.png")
    picture.convert("L").resize((7, 7)).save(tmp_path / "a.jpg")
    Image.new("RGBA", (50, 90), (0, 0, 0, 0)).save(tmp_path / "c.png")  # transparent: white
    ramp = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (32, 1))
    Image.fromarray(ramp).save(tmp_path / "d.png")
    given = images.read_images(tmp_path)
    assert given.names == ["a.jpg", "b.png", "c.png", "d.png"]
    assert not given.notes
    # grey levels; another image: 60
    assert (given.images[1].float() - small.test.images[1].float()).abs().mean() < 8
    assert (given.images[2] == 255).all()
    assert (given.images[3].float() - torch.from_numpy(ramp / 257.0)).abs().max() <= 0.5


def jpeg(*entries):
    """A JPEG, red above and blue below, with entries of EXIF."""
    picture = Image.new("RGB", (64, 64), "blue")
    picture.paste("red", (0, 0, 64, 32))
    picture.save(file := io.BytesIO(), "JPEG")
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    body = b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory
    header = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(body) + 2)
    return header + body + file.getvalue()[2:]


@pytest.mark.parametrize(
    ("orientation", "reddest"), [(1, "top"), (3, "bottom"), (6, "right"), (8, "left")]
)
def test_a_picture_with_an_odd_tag_is_turned_by_its_orientation(orientation, reddest, tmp_path):
    turned = struct.pack("<HHI", 0x0112, 3, 1) + struct.pack("<HH", orientation, 0)
    odd = struct.pack("<HHI", 0x011A, 2, 3) + b"72\0\0"  # a resolution as text
    (tmp_path / "a.jpg").write_bytes(jpeg(turned, odd))
    red = images.read_images(tmp_path / "a.jpg").images[0, 0].float()
    sides = {"top": red[:8], "bottom": red[-8:], "left": red[:, :8], "right": red[:, -8:]}
    assert max(sides, key=lambda side: sides[side].mean()) == reddest


def test_a_folder_is_read_in_natural_order_and_what_is_left_out_is_named(tmp_path):
    for number in (10, 2, 1):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    Image.fromarray(np.zeros((9, 9), np.float32)).save(tmp_path / "4.tiff")
    (tmp_path / "7.heic").write_bytes(b"a cat")
    (tmp_path / "more").symlink_to(tmp_path)  # followed, it would never end
    (tmp_path / ".hidden.png").write_bytes(b"")
    given = images.read_images(tmp_path)
    assert given.names == ["1.png", "2.png", "10.png"]
    assert given.images[:, 0, 0, 0].tolist() == [1, 2, 10]
    (note,) = given.notes
    assert note.startswith("Warning: predictions for 3 of 7 files. Left out: `3.png` (")
    assert "`4.tiff` (its pixels have 32 bits, save it" in note
    assert note.index("`7.heic` (") < note.index("`more` (")


def test_subfolders_named_after_classes_give_the_labels(tmp_path):
    for name in ("cat/2.png", "cat/10.png", "Dog/2.png", "wolf/1.png", "8.png", ".x/8.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 32)).save(tmp_path / name)
    given = images.read_images(tmp_path)
    assert sorted(zip(given.names, given.labels.tolist(), strict=True)) == [
        ("8.png", -1),
        ("Dog/2.png", 5),
        ("cat/10.png", 3),
        ("cat/2.png", 3),
        ("wolf/1.png", -1),
    ]


def test_test_images_get_the_answers_of_the_record(cifar10, tiny_run):
    logits = predict.load_model(tiny_run).logits(cifar10.test.images[:1000])
    saved, labels = predict.saved_logits([tiny_run])
    assert (logits.numpy().argmax(1) != saved.argmax(1)).sum() <= 2
    # saved in float16
    np.testing.assert_allclose(logits.log_softmax(1), saved, atol=0.03, rtol=1e-3)
    assert torch.equal(torch.from_numpy(labels), cifar10.test.labels[:1000])


def test_block_outputs_lead_to_the_logits(cifar10, tiny_run):
    trained = predict.load_model(tiny_run, "cpu")
    outputs = trained.block_outputs(cifar10.test.images[3])
    assert [tuple(output.shape) for output in outputs.values()] == [
        (24, 31, 31),
        (64, 15, 15),
        (256, 7, 7),
        (256, 3, 3),
    ]
    logits = trained.network.net[5:](outputs["block 3"][None]).detach()
    expected = trained.logits(cifar10.test.images[3:4])
    torch.testing.assert_close(logits, expected, atol=0.05, rtol=0.01)  # that one in bfloat16


def test_several_networks_average_their_probabilities(small, two_runs):
    folders = predict.find_models(7, [1, 0], output_folder=two_runs)
    assert [folder.name[:5] for folder in folders] == ["seed1", "seed0"]
    given = images.NamedImages(small.test.images, list("a" * 100), small.test.labels, [])
    singles = [predict.predict(given, [folder], views=True) for folder in folders]
    both = predict.predict(given, folders, views=True)
    expected = (singles[0].probabilities + singles[1].probabilities) / 2
    torch.testing.assert_close(both.probabilities, expected)
    assert not torch.equal(both.probabilities, predict.predict(given, folders).probabilities)
    names = f"run7/{folders[0].name}, run7/{folders[1].name}"
    whose, accuracy = both.text.splitlines()
    assert (
        whose == f"Class probabilities averaged over {names}, by six test-time views of each image."
    )
    right = int((both.probabilities.argmax(1) == small.test.labels).sum())
    assert accuracy == f"Of 100 images with a label, {right} are answered right: {right:.2f} %."
    logits, labels = predict.saved_logits(folders)
    saved = torch.stack([torch.from_numpy(predict.saved_logits([f])[0]) for f in folders])
    np.testing.assert_allclose(np.exp(logits), saved.exp().mean(0), atol=1e-6)
    assert len(labels) == 1000


def test_the_network_taken_is_the_longest_of_its_seed(tmp_path):
    with pytest.raises(
        InputError, match=r"no finished run7 .* seed 0 in .*make train RUN=7 SEED=0"
    ):
        predict.find_models(output_folder=tmp_path)
    for seed, epochs, accuracy in (
        (0, 9, 0.9),
        (0, 10, 0.4),
        (1, 20, 0.9),
        (2, 3, 0.95),
        (3, 10, 1),
    ):
        folder = make_record(tmp_path, "run7", seed, accuracy, epochs=epochs)
        if seed != 1:  # a record alone predicts nothing
            (folder / "model.safetensors").touch()
    assert [f.name for f in predict.find_models(output_folder=tmp_path)] == ["seed0-epochs10"]
    found = predict.find_models("run7", [3, 0, 0], output_folder=tmp_path)
    assert [folder.name for folder in found] == ["seed3-epochs10", "seed0-epochs10"]
    with pytest.raises(
        InputError, match=r"seed 1, 5 in .*RUN=7 SEED=1 && make .*; one took \d+ min"
    ):
        predict.find_models(7, [0, 1, 5], output_folder=tmp_path)
    with pytest.raises(InputError, match=r"seeds = 'x': give a list of numbers"):
        predict.find_models(7, "x", output_folder=tmp_path)


def test_a_model_is_a_folder_or_its_file_wherever_the_kernel_runs(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "outputs" / "run7").mkdir(parents=True)
    (tmp_path / "outputs" / "run7" / "seed0").symlink_to(tiny_run)
    monkeypatch.setattr(images, "project_root", lambda: tmp_path)
    expected = [tmp_path / "outputs" / "run7" / "seed0"]
    for model in ("outputs/run7/seed0", "outputs/run7/seed0/model.safetensors"):
        assert predict.find_models(model=model) == expected
        assert predict.find_models(model=[model, expected[0]]) == expected * 2
    with pytest.raises(InputError, match=r"no model\.safetensors in .*run7: train this run again"):
        predict.find_models(model="outputs/run7")
    with pytest.raises(InputError, match=r"model = 'outputs/run9': there is no such"):
        predict.find_models(model="outputs/run9")


def test_predictions_are_written_with_table_text_and_submission(small, tiny_run, tmp_path):
    for number, name in enumerate(("b10.png", "b9.png", "a.png")):
        Image.fromarray(hwc(small.test.images[number : number + 1])[0]).save(tmp_path / name)
    (tmp_path / "c.png").touch()
    path = tmp_path / "p.npy"
    answers = predict.predict_file(tmp_path, [tiny_run], path)
    assert answers.written == [path, tmp_path / "p.csv", tmp_path / "p.txt"]
    written = np.load(path)
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written, answers.probabilities)
    np.testing.assert_allclose(written.sum(1), 1, atol=1e-5)
    table = pd.read_csv(tmp_path / "p.csv")
    assert table["image"].tolist() == ["a.png", "b9.png", "b10.png"]
    assert table["label"].tolist() == written.argmax(1).tolist()
    assert table["class"].tolist() == [CLASSES[label] for label in table["label"]]
    np.testing.assert_allclose(table["probability"], written.max(1), atol=1e-4)
    text = (tmp_path / "p.txt").read_text()
    assert "predictions for 3 of 4 files" in text
    assert f"run7/{tiny_run.name}, without test-time views" in text
    predict.predict_file(tmp_path / "a.png", [tiny_run], path, submission=True)
    assert (tmp_path / "submission.csv").read_text() == f"id,label\na,{table['class'][0]}\n"


def test_nothing_of_someone_elses_is_overwritten(tmp_path):
    for name in ("my.npy", "labels.csv", "submission.csv"):
        (tmp_path / name).touch()
    for name, options, says in (
        ("my.npy", {}, r"would overwrite .*my\.npy"),
        ("labels.npy", {}, r"would overwrite .*labels\.csv"),
        ("p.npy", {"submission": True}, r"would overwrite .*submission\.csv"),
        ("p.npy", {"submission": "yes"}, "submission = 'yes': choose True or False"),
        ("p.npy", {"views": 6}, "views = 6: choose True or False"),
        ("p.csv", {}, r"predictions = .* ends in \.npy"),
        ("nowhere/p.npy", {}, "its folder is missing"),
    ):
        with pytest.raises(InputError, match=says):
            predict.predict_file(tmp_path / "my.npy", [], tmp_path / name, **options)
