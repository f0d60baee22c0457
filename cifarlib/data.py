"""CIFAR-10 as verified tensors, split 40,000 / 10,000 / 10,000.

The data are the six batches of the binary layout (10,000 records of a label byte and 3,072 bytes,
channel by channel), one after the other in one file, whose SHA-256 is checked on every load.
fetch.py gets them where they are missing."""

import hashlib
import logging
import os
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from cifarlib import InputError, fetch, project_root, user_path
from cifarlib.params import ALL_IMAGES, TRAIN_IMAGES
from cifarlib.records import write_atomically

log = logging.getLogger(__name__)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# of the six batches in one file
DATA_SHA256 = "013ba16d14ecc4829da62bf2af648ca30f600491ecb3e7f329c827db0dd17522"
FILE = "cifar10.bin"


@dataclass(frozen=True)
class Cifar10:
    """The images as uint8 (N, 3, 32, 32), the labels as int64 (N,), N = 40,000 / 10,000 /
    10,000."""

    train_images: Tensor
    train_labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    test_images: Tensor  # the public test set: read once, after the last epoch
    test_labels: Tensor
    sha256: str = DATA_SHA256

    def head(self, train: int, validation: int, test: int) -> "Cifar10":
        """The first images of each part, for tests and tours."""
        tensors = [getattr(self, field.name) for field in fields(self)[:6]]
        counts = (train, train, validation, validation, test, test)
        parts = (tensor[:n] for tensor, n in zip(tensors, counts, strict=True))
        return Cifar10(*parts, sha256=f"{self.sha256}, first {train}/{validation}/{test}")

    def all_for_training(self) -> "Cifar10":
        """The validation images train as well, so that nothing is left to validate on."""
        images = torch.cat([self.train_images, self.validation_images])
        labels = torch.cat([self.train_labels, self.validation_labels])
        return Cifar10(
            images, labels, images[:0], labels[:0], self.test_images, self.test_labels, self.sha256
        )


def load_cifar10(folder: str | Path | None = None) -> Cifar10:
    """CIFAR-10 from ``folder`` (default: data/ of the project), fetched into it where it is not
    there yet.

    What was put into it by hand serves as well: see fetch.BROUGHT. Raises InputError where the data
    are neither there nor to be had."""
    folder = user_path("data_folder", folder) or project_root() / "data"
    folder = folder.parent if fetch.is_brought(folder) else folder
    content = _read_file(folder)
    if content is None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # of two processes, one fetches and the other then finds the file
            with FileLock(folder / ".lock"):
                content = _read_file(folder)
                if content is None:
                    content = fetch.fetch_batches(folder)
                    write_atomically(folder / FILE, lambda file: file.write(content))
        except OSError as error:
            content = content or fetch.read_brought(folder, failures := [])
            problem = f"data_folder = {str(folder)!r} cannot be written: {error}"
            if content is None:
                raise InputError(
                    "; ".join([f"{problem}, and holds no CIFAR-10", *failures])
                ) from None
            log.warning("%s. What is there is read anew each time", problem)
    records = torch.from_numpy(np.frombuffer(content, np.uint8).reshape(-1, fetch.RECORD_BYTES))
    labels = records[:, 0].long()
    images = records[:, 1:].unflatten(1, (3, 32, 32))  # a view: the bytes are in memory once
    parts = slice(0, TRAIN_IMAGES), slice(TRAIN_IMAGES, ALL_IMAGES), slice(ALL_IMAGES, None)
    return Cifar10(*(tensor[part] for part in parts for tensor in (images, labels)))


def _read_file(folder: Path) -> bytearray | None:
    """The verified content of the file; None where it is missing or damaged (then it is made
    anew)."""
    try:
        with open(folder / FILE, "rb") as file:
            content = bytearray(os.fstat(file.fileno()).st_size)
            file.readinto(content)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{folder / FILE} cannot be read: {error}") from None
    if hashlib.sha256(content).hexdigest() != DATA_SHA256:
        log.warning("%s is damaged: it does not match its SHA-256 and is made anew", folder / FILE)
        return None
    return content
