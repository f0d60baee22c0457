import os

# before torch: tests run two at a time, and their threads would wait
os.environ.setdefault("OMP_NUM_THREADS", "1")

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_up import few

from cifarlib import project_root
from cifarlib.data import Cifar10, load_cifar10
from cifarlib.params import load_params
from cifarlib.train import train

for name in [name for name in os.environ if name.startswith("MAKE")]:
    # pytest may run under make itself, and a make that a test calls would say so in every line
    del os.environ[name]

SLOW = ["slurm", "browser", "makefile", "cli", "notebooks", "train", "benchmark", "loop", "export"]
collect_ignore = []
if not torch.__version__.startswith(("2.11.", "2.15.")):
    # it replaces PyTorch's inside, tried in these versions; on a GPU others test the same
    collect_ignore.append("device/test_fake_cuda.py")
GPUS = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
DEVICES = ["cpu", *(name for name, is_there in GPUS.items() if is_there())]


@pytest.fixture(scope="session")
def cifar10() -> Cifar10:
    """The real data set, fetched into data/ once."""
    return load_cifar10()


@pytest.fixture(scope="session")
def small(cifar10: Cifar10) -> Cifar10:
    return few(cifar10, 512, 100, 100)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, cifar10: Cifar10) -> Path:
    """The folder of a run 7 on 256 images, which knows little, and is tested on 1,000."""
    params = load_params(7, epochs=2, train_images=256)
    return train(params, few(cifar10, 256, 200, 1000), tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def two_runs(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory, cifar10: Cifar10) -> Path:
    """An output folder with ``tiny_run`` and the same of seed 1."""
    outputs = tmp_path_factory.mktemp("two") / "outputs"
    shutil.copytree(tiny_run.parents[1], outputs)
    train(load_params(7, seed=1, epochs=2, train_images=256), few(cifar10, 256, 200, 1000), outputs)
    return outputs


@pytest.fixture(scope="session")
def copy_of_project() -> Callable[[Path], Path]:
    """Makes a copy of what a clone holds, with the data, that a test may change."""

    def copy(folder: Path) -> Path:
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        for name in ("cifarlib", "notebooks", "params"):
            shutil.copytree(project_root() / name, folder / name, ignore=ignored)
        for name in ("Makefile", "pyproject.toml"):
            shutil.copy(project_root() / name, folder)
        (folder / "data").symlink_to((project_root() / "data").resolve())
        return folder

    return copy


@pytest.fixture
def exact_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TF32, which rounds a GPU's float32 to ten bits, and the search for kernels, which may
    find another one."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, exact_convolutions: None) -> str:
    return request.param


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow files first, so that of two workers none is left with a long one at the end."""
    items.sort(key=lambda item: [*SLOW, item.path.stem[5:]].index(item.path.stem[5:]))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI nothing may be skipped: CIFARLIB_NO_SKIPS=1 turns a skip into a failure."""
    # one of several workers, which does not see what the others skipped
    if hasattr(session.config, "workerinput"):
        return
    skipped = session.config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])
    if skipped and os.environ.get("CIFARLIB_NO_SKIPS"):
        print(f"\nerror: {len(skipped)} skipped, and CIFARLIB_NO_SKIPS is set")
        session.exitstatus = 1
