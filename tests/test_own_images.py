import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from cifarlib import InputError, own_images, predict


def hwc(images):
    return images.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    ("layout", "arranged"),
    [
        ("chw", lambda x: x.numpy().reshape(-1, 3072)),
        ("hwc", lambda x: hwc(x).reshape(-1, 3072)),
        ("auto", lambda x: x.numpy().reshape(-1, 3072)),
        ("auto", lambda x: hwc(x).reshape(-1, 3072)),
        ("chw", hwc),
        ("hwc", lambda x: x.numpy()),
        ("chw", lambda x: x.numpy().astype(np.float32).reshape(-1, 3072)),
        ("chw", lambda x: np.asfortranarray(hwc(x).astype(">i8"))),
        ("auto", lambda x: x.numpy().reshape(-1, 3072) * 1.00000004),  # up to 255.00001
        ("auto", lambda x: (hwc(x) / 255).astype(np.float32)),
        ("auto", lambda x: (x.numpy() / 255).astype(np.float16).reshape(-1, 3072)),
    ],
    ids=[
        "rows",
        "rows by pixel",
        "told rows",
        "told rows by pixel",
        "NHWC",
        "NCHW",
        "float rows",
        "big-endian, by columns",
        "above 255",
        "0 to 1",
        "0 to 1 by half",
    ],
)
def test_every_accepted_array_gives_the_same_images(small, tmp_path, layout, arranged):
    np.save(tmp_path / "my.npy", arranged(small.test.images[:9]))
    own = own_images.read_images(tmp_path / "my.npy", layout)
    assert own.images.dtype == torch.uint8
    assert torch.equal(own.images, small.test.images[:9])
    assert own.names == [str(i) for i in range(9)]
    assert own.ids == [str(i + 1) for i in range(9)]
    assert own.labels is None


GREY = np.full((4, 3072), 100, np.uint8)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (
            GREY[:, :100],
            r"uint8 \(4, 100\): expected \(N, 32, 32, 3\), .* or \(N, 3072\), values 0 to 255",
        ),
        (GREY[0], r"\(3072,\): expected"),
        (GREY[:0], "no images"),
        (GREY.astype(str), "expected numbers"),
        (GREY > 0, "bool .* expected numbers"),
        (GREY // 100, "values from 1 to 1: expected 0 to 255; multiply by 255 if 1 is white"),
        (GREY / 60, "values from .* to 1.6.*: expected 0 to 255; multiply"),
        (GREY - 101.0, "values from -1 to -1: expected 0 to 255; undo its normalisation first"),
        (GREY.astype(int) - 101, "values from -1 to -1: expected 0 to 255$"),
        (GREY * 3.0, "to 300: expected 0 to 255"),
        (np.where(np.arange(3072), GREY, np.nan), "some of its values are nan or infinite"),
        (
            np.array([{}, 3], dtype=object),
            "is no array file or picture that can be read: .*Python objects",
        ),
    ],
    ids=[
        "shape",
        "one row",
        "empty",
        "text",
        "bool",
        "bits",
        "to 2",
        "normalised",
        "negative",
        "above",
        "nan",
        "objects",
    ],
)
def test_a_wrong_array_is_one_clear_error(array, says, tmp_path):
    np.save(tmp_path / "my.npy", array)
    with pytest.raises(InputError, match=says) as caught:
        own_images.read_images(tmp_path / "my.npy")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("my.npy", b"", "is no array file"),
        ("my.npy", b"image,1,2,3", "is no array file"),
        (
            "my.txt",
            b"a cat",
            r"my\.txt' is no array file or picture .*: of no kind that Pillow reads",
        ),
        ("my.png", b"", r"my\.png' is no array file or picture"),
        ("my.pkl", b"a cat", r"my\.pkl' is no array file or picture"),
        ("my.pkl", b"\x80\x04", "Ran out of input"),
        ("my.npz", b"PK\x03\x04", "not a zip file"),
        (
            "my.dds",
            b"DDS \x7c" + bytes(123),
            r"my\.dds' is no array file or picture that can be read: Unknown pixel format",
        ),
        (
            "folder/a.heic",
            b"a cat",
            r"no pictures that can be read in this folder: `a\.heic` \(of no kind",
        ),
        ("folder/._a.png", b"a cat", "no pictures that can be read in this folder$"),
    ],
)
def test_a_file_of_another_kind_is_one_clear_error(name, content, says, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        own_images.read_images(path.parent if "folder" in name else path)


def test_a_truncated_file_is_one_clear_error(tmp_path):
    np.save(tmp_path / "my.npy", GREY)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), np.uint8)).save(
        tmp_path / "my.png"
    )
    for name in ("my.npy", "my.png"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(InputError, match=name):
            own_images.read_images(tmp_path / name)


def test_pictures_of_any_size_become_what_they_show(small, tmp_path):
    """An image enlarged, its background grown to the left and right, comes back nearly as it
    was."""
    image = Image.fromarray(hwc(small.test.images[1:2])[0])
    wide = Image.new("RGB", (640, 413), "red")
    wide.paste(image.resize((413, 413), Image.Resampling.BICUBIC), (113, 0))
    wide.save(tmp_path / "b.png")
    image.convert("L").resize((7, 7)).save(tmp_path / "a.jpg")
    Image.new("RGBA", (50, 90), (0, 0, 0, 0)).save(tmp_path / "c.png")  # transparent: white
    images, names, ids, labels, notes = own_images.read_images(tmp_path)
    assert names == ["a.jpg", "b.png", "c.png"]
    assert ids == ["a", "b", "c"]
    assert labels is None
    assert not notes
    assert images.shape == (3, 3, 32, 32)
    # grey levels; another image: 60
    assert (images[1].float() - small.test.images[1].float()).abs().mean() < 8
    assert (images[2] == 255).all()


def test_pictures_of_sixteen_bits_and_of_floating_point_numbers(tmp_path):
    ramp = np.tile(np.linspace(0, 65535, 32).astype(np.uint16), (32, 1))
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    images = own_images.read_images(tmp_path / "deep.png").images
    assert (images[0].float() - torch.from_numpy(ramp / 257.0)).abs().max() <= 0.5
    Image.fromarray(ramp.astype(np.float32) / 65535).save(tmp_path / "float.tiff")
    with pytest.raises(
        InputError, match=r"float\.tiff' .*32 bits, save it with 8 or 16 bits a channel"
    ):
        own_images.read_images(tmp_path / "float.tiff")


def test_what_is_said_of_the_layout_of_rows(small, tmp_path):
    rows = hwc(small.test.images[:5]).reshape(-1, 3072)
    np.save(tmp_path / "told.npy", rows)
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).integers(0, 256, (5, 3072), np.uint8))
    assert (
        "pixel by pixel (hwc), as their neighbouring values tell"
        in own_images.read_images(tmp_path / "told.npy").notes[0]
    )
    assert own_images.read_images(tmp_path / "told.npy", "hwc").notes == ()
    given = own_images.read_images(tmp_path / "told.npy", "chw")
    assert torch.equal(given.images, torch.from_numpy(rows).reshape(-1, 3, 32, 32))
    assert given.notes == (
        "**Warning: `layout` is chw, but neighbouring values tell that it is hwc.**",
    )
    assert (
        "Warning: the values do not tell" in own_images.read_images(tmp_path / "noise.npy").notes[0]
    )
    assert own_images.read_images(tmp_path / "noise.npy", "hwc").notes == ()


def test_the_layout_of_nearly_every_single_image_is_told_and_none_wrongly(cifar10):
    """In colour and in grey, where a pixel's three values are equal and neighbours in one of the
    layouts."""
    colour = cifar10.validation.images[::50]
    for images in (
        colour,
        colour.float().mean(1, keepdim=True).round().byte().expand(-1, 3, -1, -1),
    ):
        for layout, rows in (
            ("chw", images.reshape(-1, 3072).numpy()),
            ("hwc", hwc(images).reshape(-1, 3072)),
        ):
            told = [own_images._tell_layout(row[None]) for row in rows]
            assert set(told) <= {layout, None}
            assert told.count(None) <= 2


def test_black_images_are_images(tmp_path):
    for dtype in (np.uint8, np.float64):
        np.save(tmp_path / "black.npy", np.zeros((2, 32, 32, 3), dtype))
        assert (own_images.read_images(tmp_path / "black.npy").images == 0).all()


def test_array_files_are_told_by_their_content(small, tmp_path):
    array = hwc(small.test.images[:9])
    np.savez(tmp_path / "one.npz", array)
    shutil.copy(tmp_path / "one.npz", tmp_path / "renamed.npy")
    np.save(tmp_path / "lower.npy", array)
    shutil.move(tmp_path / "lower.npy", tmp_path / "UPPER.NPY")
    np.savez_compressed(
        tmp_path / "labelled.npz", x=array, y=small.test.labels[:9, None], names=["a"] * 9
    )
    for name in ("one.npz", "renamed.npy", "UPPER.NPY", "labelled.npz"):
        assert torch.equal(own_images.read_images(tmp_path / name).images, small.test.images[:9])
    own = own_images.read_images(tmp_path / "labelled.npz")
    assert torch.equal(own.labels, small.test.labels[:9])
    assert own.notes == ("The images are the array `x`; not used: `names`.",)
    np.savez(tmp_path / "two.npz", x_train=array, x_test=array[:2])
    with pytest.raises(
        InputError, match=r"holds x_train \(9, 32, 32, 3\), x_test .*: expected one array of images"
    ):
        own_images.read_images(tmp_path / "two.npz")
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("a.png", b"a cat")
    with pytest.raises(InputError, match="a zip without arrays; give pictures as a folder"):
        own_images.read_images(tmp_path / "pictures.zip")


def test_a_folder_is_read_in_natural_order_and_what_is_left_out_is_named(tmp_path):
    for number in (1, 2, 10, 11, 12):
        Image.new("RGB", (32, 32), (number,) * 3).save(tmp_path / f"{number}.png")
    Image.new("RGB", (32, 32), (3, 3, 3)).save(tmp_path / "3", "png")  # told by its content
    (tmp_path / "7.heic").write_bytes(b"a cat")
    (tmp_path / "notes.txt").write_text("a cat")
    (tmp_path / "more").symlink_to(tmp_path)  # followed, it would never end
    (tmp_path / "13.png").write_bytes((tmp_path / "12.png").read_bytes()[:60])
    own = own_images.read_images(tmp_path)
    assert own.names == ["1.png", "2.png", "3", "10.png", "11.png", "12.png"]
    assert own.ids == ["1", "2", "3", "10", "11", "12"]
    assert own.images[:, 0, 0, 0].tolist() == [1, 2, 3, 10, 11, 12]
    (note,) = own.notes
    assert note.startswith(
        "**Warning: predictions for 6 of 10 files.** Left out: `7.heic` (of no kind "
    )
    assert "`13.png` (" in note
    assert "`more` (" in note
    assert "`notes.txt` (" in note


def test_a_folder_without_end_of_other_files_is_one_line(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for number in range(25):
        (tmp_path / f"{number}.txt").touch()
    assert (
        own_images.read_images(tmp_path)
        .notes[0]
        .endswith("`19.txt` (of no kind that Pillow reads, as PNG and JPEG are) and 5 more.")
    )


def test_subfolders_named_after_classes_give_the_labels(tmp_path):
    for name in (
        "cat/2.png",
        "cat/10.png",
        "Dog/2.png",
        "wolf/1.png",
        "8.png",
        ".ipynb_checkpoints/8.png",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 32)).save(tmp_path / name)
    own = own_images.read_images(tmp_path)
    assert own.names == ["8.png", "cat/2.png", "cat/10.png", "Dog/2.png", "wolf/1.png"]
    assert own.ids == own.names  # 2.png is there twice
    assert own.labels.tolist() == [-1, 3, 3, 5, -1]
    assert own.notes == (
        "2 of 5 pictures have no label, for their folder is no class of CIFAR-10: `.`, `wolf`.",
    )
    logits = torch.eye(10)[[0, 3, 5, 5, 5]]
    note = predict.accuracy_note(logits, own.labels)
    assert note == "Of 3 images with a label, 2 are answered right: accuracy **66.67 %**."
    shutil.rmtree(tmp_path / "cat")
    shutil.rmtree(tmp_path / "Dog")
    assert own_images.read_images(tmp_path).labels is None
    assert "no accuracy" in predict.accuracy_note(logits[:2], None)
