import os

import pytest
import torch

from cifarlib.data import Cifar10, load_cifar10

DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


@pytest.fixture(scope="session")
def cifar10() -> Cifar10:
    """The real data set, fetched into data/ once."""
    return load_cifar10()


@pytest.fixture(scope="session")
def small(cifar10: Cifar10) -> Cifar10:
    return cifar10.head(512, 100, 100)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI nothing may be skipped: CIFARLIB_NO_SKIPS=1 turns a skip into a failure."""
    skipped = session.config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])
    if skipped and os.environ.get("CIFARLIB_NO_SKIPS"):
        print(f"\nerror: {len(skipped)} skipped, and CIFARLIB_NO_SKIPS is set")
        session.exitstatus = 1
