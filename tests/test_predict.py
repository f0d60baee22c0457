import io
import shutil
import struct

import numpy as np
import pytest
import torch
from made_up import make_record
from PIL import Image

from cifarlib import InputError, images, predict, records
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
        ("auto", lambda x: hwc(x).reshape(-1, 3072)),
        ("chw", hwc),
        ("auto", lambda x: np.asfortranarray(hwc(x).astype(">i8"))),
        ("auto", lambda x: rows(x) * 1.00000004),  # up to 255.00001
        ("auto", lambda x: (hwc(x) / 255).astype(np.float32)),
        ("auto", lambda x: (rows(x) / 255).astype(np.float16)),
    ],
)
def test_every_accepted_array_gives_the_same_images(small, tmp_path, layout, arranged):
    read_back, names = read(tmp_path, arranged(small.test.images[:9]), layout)
    assert read_back.dtype == torch.uint8
    assert torch.equal(read_back, small.test.images[:9])
    assert names == [str(i) for i in range(9)]


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (GREY[:, :100], r"\(4, 100\): expected .* \(N, 32, 32, 3\), \(N, 3, 32, 32\) or"),
        (GREY[:0], r"\(0, 3072\): expected"),
        (GREY > 0, "expected numbers"),
        (GREY // 100, "values go from 1 to 1: .* multiply by 255 if 1 is white"),
        (GREY - 101.0, "values go from -1 to -1: .* undo a normalisation"),
        (GREY * 3.0, "to 300: expected numbers from 0 to 255"),
        (np.where(np.arange(3072), GREY, np.nan), "values go from nan to nan"),
        (np.array([{}, 3], dtype=object), "allow_pickle=False"),
        (GREY, "do not tell how rows are laid out: give layout, chw .channel by"),
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
        ("my.dds", b"DDS \x7c" + bytes(123)),
    ],
)
def test_a_file_of_another_kind_is_one_clear_error(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path / name, tmp_path):  # by itself and in a folder
        with pytest.raises(InputError, match=r"^images = .*: [^\n]{9,}$"):
            images.read_images(path)


def test_what_was_mistyped_is_one_clear_error(tmp_path):
    with pytest.raises(InputError, match=r"images = 'nothing\.npy': there is no such file"):
        images.read_images("nothing.npy")
    with pytest.raises(InputError, match="layout = 'hwx': choose auto, chw"):
        images.read_images("nothing.npy", "hwx")


def test_a_layout_given_is_kept_and_black_images_are_images(tmp_path):
    assert (read(tmp_path, GREY * 0.0, "chw")[0] == 0).all()


def test_the_layout_of_a_single_image_is_told(cifar10):
    """In colour and in grey, where a pixel's three values are equal, so neighbours in hwc."""
    colour = cifar10.validation.images[:50]
    for pictures in (colour, colour[:, :1].expand(-1, 3, -1, -1)):
        for layout, arranged in (("chw", pictures), ("hwc", pictures.permute(0, 2, 3, 1))):
            assert {images._tell_layout(row[None]) for row in arranged.reshape(-1, 3072)} == {
                layout
            }


def test_array_files_are_told_by_their_content(small, tmp_path):
    array = hwc(small.test.images[:9])
    np.savez(tmp_path / "one.npz", array)
    shutil.copy(tmp_path / "one.npz", tmp_path / "renamed.npy")
    np.savez_compressed(tmp_path / "more.npz", x=array, y=small.test.labels[:9], names=["a"] * 9)
    for name in ("one.npz", "renamed.npy", "more.npz"):
        assert torch.equal(images.read_images(tmp_path / name)[0], small.test.images[:9])
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
    pictures, names = images.read_images(tmp_path)
    assert names == ["a.jpg", "b.png", "c.png"]
    # grey levels; another image: 60
    assert (pictures[1].float() - small.test.images[1].float()).abs().mean() < 8
    assert (pictures[2] == 255).all()


def jpeg(*entries):
    """A JPEG, red above and blue below, with entries of EXIF."""
    picture = Image.new("RGB", (64, 64), "blue")
    picture.paste("red", (0, 0, 64, 32))
    picture.save(file := io.BytesIO(), "JPEG")
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + struct.pack("<I", 0)
    body = b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory
    header = b"\xff\xd8\xff\xe1" + struct.pack(">H", len(body) + 2)
    return header + body + file.getvalue()[2:]


@pytest.mark.parametrize(("orientation", "top_row_is"), [(1, "red"), (3, "blue")])
def test_a_picture_with_an_odd_tag_is_turned_by_its_orientation(orientation, top_row_is, tmp_path):
    turned = struct.pack("<HHI", 0x0112, 3, 1) + struct.pack("<HH", orientation, 0)
    odd = struct.pack("<HHI", 0x011A, 2, 3) + b"72\0\0"  # a resolution as text
    (tmp_path / "a.jpg").write_bytes(jpeg(turned, odd))
    red, _, blue = images.read_images(tmp_path / "a.jpg")[0][0, :, 0].float().mean(1)
    assert (red > blue) == (top_row_is == "red")


def test_a_folder_is_read_in_natural_order_and_what_is_left_out_is_named(tmp_path, caplog):
    for name in ("10.png", "2.png", "1.png", "Dog/1.png", ".x/8.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), (len(name), 0, 0)).save(tmp_path / name)
    (tmp_path / "3.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "4.png")  # 16 bits
    (tmp_path / "7.heic").write_bytes(b"a cat")
    (tmp_path / "more").symlink_to(tmp_path)  # followed, it would never end
    pictures, names = images.read_images(tmp_path)
    assert names == ["1.png", "2.png", "10.png", "Dog/1.png"]
    assert pictures[:, 0, 0, 0].tolist() == [5, 5, 6, 9]
    assert caplog.messages[0].startswith("4 files left out, damaged, or no PNG or JPEG of 8 bits")
    assert caplog.messages[0].endswith(": 3.png, 4.png, 7.heic, more")


def test_test_images_get_the_answers_of_the_record(cifar10, tiny_run):
    logits = predict.load_model(tiny_run).logits(cifar10.test.images[:1000])
    saved = records.read_predictions(tiny_run)["test"]
    assert (logits.numpy().argmax(1) != saved.argmax(1)).sum() <= 2
    np.testing.assert_allclose(logits, saved, atol=0.03, rtol=1e-3)  # saved in float16


def test_several_networks_average_their_probabilities(small, two_runs):
    folders = predict.find_models(7, [1, 0], output_folder=two_runs)
    assert [folder.name[:5] for folder in folders] == ["seed0", "seed1"]
    names = [f"{CLASSES[label]}/1.png" for label in small.test.labels]
    asked = (small.test.images, names)
    singles = [predict.predict(*asked, [folder], views=True) for folder in folders]
    both = predict.predict(*asked, folders, views=True)
    expected = (singles[0].probabilities + singles[1].probabilities) / 2
    torch.testing.assert_close(both.probabilities, expected)
    assert not torch.equal(both.probabilities, predict.predict(*asked, folders).probabilities)
    whose = f"the mean over run7/{folders[0].name}, run7/{folders[1].name}, with views = True"
    right = int((both.probabilities.argmax(1) == small.test.labels).sum())
    accuracy = f"Of 100 images with a label, {right}.00% are answered right."
    assert both.text == f"Class probabilities, {whose}. {accuracy}"


def test_the_network_taken_is_the_longest_of_its_seed(tmp_path):
    with pytest.raises(InputError, match=r"no finished run7 .* seed 0: .*make train RUN=run7 SEED"):
        predict.find_models(output_folder=tmp_path)
    lengths = ((0, 9, 0.9), (0, 10, 0.4), (1, 20, 0.9), (2, 3, 0.95), (3, 10, 1))
    for seed, epochs, accuracy in lengths:
        folder = make_record(tmp_path, "run7", seed, accuracy, epochs=epochs)
        if seed != 1:  # a record alone predicts nothing
            (folder / "model.safetensors").touch()
    for seeds in (None, [], 0):
        found = predict.find_models(seeds=seeds, output_folder=tmp_path)
        assert [folder.name for folder in found] == ["seed0-epochs10"]
    found = predict.find_models("run7", [3, 0, 0], output_folder=tmp_path)
    assert [folder.name for folder in found] == ["seed0-epochs10", "seed3-epochs10"]
    for seeds, missing in (([0, 1, 5], "1"), ("x", "x")):
        with pytest.raises(InputError, match=f"of seed {missing}: .*SEED={missing}` makes one"):
            predict.find_models(7, seeds, output_folder=tmp_path)


def test_a_model_is_a_folder_or_its_file_wherever_the_kernel_runs(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "outputs" / "run7").mkdir(parents=True)
    (tmp_path / "outputs" / "run7" / "seed0").symlink_to(tiny_run)
    monkeypatch.setattr(images, "project_root", lambda: tmp_path)
    expected = [tmp_path / "outputs" / "run7" / "seed0"]
    for model in ("outputs/run7/seed0", "outputs/run7/seed0/model.safetensors"):
        assert predict.find_models(model=model) == expected
        assert predict.find_models(model=[model, expected[0]]) == expected * 2
    with pytest.raises(InputError, match=r"model = 'outputs/run7/model.safetensors': there is no"):
        predict.find_models(model="outputs/run7")


def test_predictions_are_written_with_a_table_and_a_submission(tmp_path):
    probabilities = torch.eye(10)[:2] * 0.5 + 0.05
    answers = predict.Answers(["a.png", "b10.png"], probabilities, "")
    path = tmp_path / "new" / "p.npy"
    for name in ("p.npy", "p.npy", "p.csv"):  # again, and under the name of the table
        assert answers.write(path.with_name(name), submission=True) == path
    written = np.load(path)
    assert written.dtype == np.float32
    np.testing.assert_array_equal(written, probabilities)
    rows = ["image,label,class,probability", "a.png,0,airplane,0.55", "b10.png,1,automobile,0.55"]
    assert (tmp_path / "new" / "p.csv").read_text().splitlines() == rows
    lines = (tmp_path / "new" / "submission.csv").read_text().splitlines()
    assert lines == ["id,label", "a,airplane", "b10,automobile"]


def test_the_images_are_not_overwritten(tmp_path):
    np.save(tmp_path / "my.npy", GREY)
    answers = predict.Answers(["0"], torch.ones(1, 10), "")
    with pytest.raises(InputError, match=r"my\.npy' holds something else: give another name"):
        answers.write(tmp_path / "my.npy")
    assert np.load(tmp_path / "my.npy").shape == GREY.shape
