import numpy as np
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


def read(folder, array):
    np.save(folder / "my.npy", array)
    return images.read_images(folder / "my.npy")


@pytest.mark.parametrize(
    "arranged",
    [
        rows,
        lambda x: hwc(x).reshape(-1, 3072),
        hwc,
        lambda x: x.numpy(),
        lambda x: np.asfortranarray(hwc(x).astype(">i8")),
        lambda x: rows(x) * 1.00000004,  # up to 255.00001
        lambda x: (hwc(x) / 255).astype(np.float32),
        lambda x: (rows(x) / 255).astype(np.float16),
    ],
)
def test_every_accepted_array_gives_the_same_images(small, tmp_path, arranged):
    read_back, names = read(tmp_path, arranged(small.test.images[:9]))
    assert torch.equal(read_back, small.test.images[:9])
    assert names == [str(i) for i in range(9)]


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (GREY[:, :100], r"\(4, 100\) uint8: expected .* \(N, 32, 32, 3\), \(N, 3, 32, 32\) or"),
        (GREY[:0], r"\(0, 3072\) uint8: expected"),
        (GREY > 0, "bool: expected one array"),
        (GREY // 100, "values go from 1 to 1: .* multiply by 255 if 1 is white"),
        (GREY - 101.0, "values go from -1 to -1: .* undo a normalisation"),
        (np.where(np.arange(3072), GREY, np.nan), "values go from nan to nan"),
        (GREY, r"could be in two orders: give \(N, 32, 32, 3\) or"),
    ],
)
def test_a_wrong_array_is_one_clear_error(array, says, tmp_path):
    with pytest.raises(InputError, match=f"^images = .*my.npy': .*{says}") as caught:
        read(tmp_path, array)
    assert "\n" not in str(caught.value)


def test_a_damaged_or_another_file_is_one_clear_error(tmp_path):
    damaged = {"a.npy": b"\x93NUMPY\x01", "a.npz": b"PK\x03\x04", "a.dds": b"DDS |" + bytes(123)}
    for name, content in {**damaged, "b.npy": b"", "a.txt": b"a cat"}.items():
        (tmp_path / name).write_bytes(content)
        for path in (tmp_path / name, tmp_path):  # by itself and in a folder
            with pytest.raises(InputError, match=r"^images = .*: [^\n]{9,}$"):
                images.read_images(path)


def test_how_a_single_row_is_laid_out_is_told(cifar10, tmp_path):
    """In colour and in grey, where a pixel's three values are equal, so neighbours in hwc."""
    colour = cifar10.validation.images[:50]
    for pictures in (colour, colour[:, :1].expand(-1, 3, -1, -1)):
        for arranged in (rows, lambda x: hwc(x).reshape(-1, 3072)):
            for picture, row in zip(pictures, arranged(pictures), strict=True):
                assert read(tmp_path, row[None])[0][0].equal(picture)
    assert (read(tmp_path, np.zeros((1, 3, 32, 32)))[0] == 0).all()  # black images are images


def test_an_archive_holds_one_array_of_images(small, tmp_path):
    array = hwc(small.test.images[:9])
    np.savez(tmp_path / "one.npz", x=array, y=small.test.labels[:9], names=["a"] * 9)
    assert torch.equal(images.read_images(tmp_path / "one.npz")[0], small.test.images[:9])
    np.savez(tmp_path / "two.npz", train=array, test=array)
    with pytest.raises(InputError, match=r"holds train \(9, 32, 32, 3\) uint8, test .*: expected"):
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
    assert (pictures[1].float() - small.test.images[1].float()).abs().mean() < 8  # another: 60
    assert (pictures[2] == 255).all()


def test_a_picture_is_turned_as_its_camera_was(tmp_path):
    picture = Image.new("RGB", (64, 64), "blue")
    picture.paste("red", (0, 0, 64, 32))
    turned = Image.Exif()
    turned[0x0112] = 3  # orientation: upside down
    picture.save(tmp_path / "a.jpg", exif=turned)
    red, _, blue = images.read_images(tmp_path / "a.jpg")[0][0, :, 0].float().mean(1)
    assert red < blue


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
    assert caplog.messages[0].startswith("4 files left out, damaged, or no picture of 8 bits")
    assert caplog.messages[0].endswith(": 3.png, 4.png, 7.heic, more")


def test_several_networks_average_their_probabilities(small, two_runs):
    folders = predict.find_models(7, [1, 0], output_folder=two_runs)
    images = small.test.images
    names = [f"{CLASSES[label]}/1.png" for label in small.test.labels]
    each = [predict.load_model(folder).logits(images, views=True).softmax(1) for folder in folders]
    both = predict.predict(images, names, folders, views=True)
    torch.testing.assert_close(both.probabilities, sum(each) / 2)
    assert not torch.equal(
        both.probabilities, predict.predict(images, names, folders).probabilities
    )
    one, two, mean = (
        f"{(answers.argmax(1) == small.test.labels).sum()}.00% by"
        for answers in (*each, both.probabilities)
    )
    whose = [f"run7/{folder.name}" for folder in folders]
    assert f"{one} {whose[0]}, {two} {whose[1]}, {mean} their average." in both.text


def test_the_network_taken_is_the_longest_of_its_seed(tmp_path):
    lengths = ((0, 9, 0.9), (0, 10, 0.4), (1, 20, 0.9), (2, 3, 0.95), (3, 10, 1))
    for seed, epochs, accuracy in lengths:
        folder = make_record(tmp_path, "run7", seed, accuracy, epochs=epochs)
        if seed != 1:  # a record alone predicts nothing
            (folder / "model.safetensors").touch()
    one = make_record(tmp_path, "run7", 0, epochs=1, train_images=50000)
    (one / "model.safetensors").touch()
    for seeds in (None, [], 0):
        found = predict.find_models(7, seeds, output_folder=tmp_path)
        assert [folder.name for folder in found] == ["seed0-epochs10"]
    found = predict.find_models("run7", [3, 0, 0], output_folder=tmp_path)
    assert [folder.name for folder in found] == ["seed0-epochs10", "seed3-epochs10"]
    with pytest.raises(InputError, match=r"of seed 1, 5: `make train RUN=run7 SEED=1` makes one"):
        predict.find_models(7, [0, 1, 5], output_folder=tmp_path)


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
    with pytest.raises(InputError, match="model = '': there is no"):
        predict.find_models(model=[""])


def test_predictions_are_written_with_a_table_and_a_submission(tmp_path):
    answers = predict.Answers(["a.png", "b10.png"], torch.eye(10)[:2] * 0.5 + 0.05, "")
    path = tmp_path / "p.npy"
    for name in ("p.npy", "p", "p.csv"):  # again, and under the name of the table
        assert answers.write(path.with_name(name), submission=True) == path
    np.testing.assert_array_equal(np.load(path), answers.probabilities)
    rows = ["image,label,class,probability", "a.png,0,airplane,0.55", "b10.png,1,automobile,0.55"]
    assert path.with_suffix(".csv").read_text().splitlines() == rows
    submission = path.with_name("p-submission.csv").read_text()
    assert submission.splitlines() == ["id,label", "a,airplane", "b10,automobile"]
    (tmp_path / "mine.csv").write_text("id,label\n1,cat\n")
    with pytest.raises(InputError, match=r"its table, mine.csv, holds something else"):
        answers.write(tmp_path / "mine.npy")
    (tmp_path / "my-submission.csv").write_text("a,b\n")
    for names, says in ((["1.png"], "my-submission.csv, holds"), (["1.png", "a/1.jpg"], "two ima")):
        with pytest.raises(InputError, match=says):
            predict.output_path(tmp_path / "my.npy", names)
    np.save(path, GREY)  # the images themselves
    for bad, says in (
        (path, "holds something else"),
        ("/proc/no/p.npy", "writable"),
        (tmp_path, "name a file"),
    ):
        with pytest.raises(InputError, match=says):
            answers.write(bad)
