"""environment.yml, pyproject.toml and the installed packages belong together."""

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


def lines():
    environment = yaml.safe_load((project_root() / "environment.yml").read_text())
    return next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))


def needed():
    project = tomllib.loads((project_root() / "pyproject.toml").read_text())["project"]
    return [
        Requirement(r) for r in project["dependencies"] + project["optional-dependencies"]["test"]
    ]


def test_the_conda_environment_pins_what_pyproject_asks_for():
    assert lines()[-1] == "-e ."
    pins = {r.name: r for r in map(Requirement, lines()[:-1])}
    assert set(pins) == {r.name for r in needed()}
    for requirement in needed():
        version = str(pins[requirement.name].specifier).removeprefix("==")
        assert requirement.specifier.contains(version), requirement


def test_what_is_installed_is_in_the_ranges():
    for requirement in needed():
        assert requirement.specifier.contains(importlib.metadata.version(requirement.name)), (
            requirement
        )
