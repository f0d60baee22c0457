"""environment.yml, pyproject.toml and what is installed belong together."""

import importlib.metadata
import sys

import pytest
import yaml
from packaging.requirements import Requirement

from cifarlib import project_root

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")


def test_the_environment_pins_what_pyproject_asks_for_and_is_what_is_installed():
    project = tomllib.loads((project_root() / "pyproject.toml").read_text("utf-8"))["project"]
    asked = project["dependencies"] + project["optional-dependencies"]["test"]
    environment = yaml.safe_load((project_root() / "environment.yml").read_text("utf-8"))
    *pins, ours = environment["dependencies"][-1]["pip"]
    assert ours == "-e ."
    pinned = {pin.name: str(pin.specifier).removeprefix("==") for pin in map(Requirement, pins)}
    assert set(pinned) == {requirement.name for requirement in map(Requirement, asked)}
    for requirement in map(Requirement, asked):
        installed = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(pinned[requirement.name]), requirement
        assert requirement.specifier.contains(installed), requirement
