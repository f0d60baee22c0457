"""Data flows one way, through five levels, and what need not know torch does not load it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cifarlib

PACKAGE = Path(cifarlib.__file__).parent
# A module imports modules of earlier levels and, without a cycle, of its own.
LEVELS = (
    "__init__ params records provenance data preprocess whitening model device.choice",
    "loop evaluate checkpoint device",
    "train train_notebook images predict status benchmark",
    "report handin",
    "cli __main__",
)
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms.split()}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """The modules that a file imports anywhere, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("cifarlib.") for name in names}


FILES = {name_of(path): path for path in PACKAGE.rglob("*.py")}
LEVEL_OF = {name: LEVEL.get(name, LEVEL.get(name.partition(".")[0])) for name in FILES}
IMPORTS = {name: (imports_of(path) & set(FILES)) - {name} for name, path in FILES.items()}


def test_no_arrow_points_upwards_and_there_is_no_cycle():
    assert {"loop", "records", "device.cuda_graph"} <= IMPORTS["train"]  # the walk sees imports
    assert [name for name, level in LEVEL_OF.items() if level is None] == []
    arrows = [(a, b) for a, names in IMPORTS.items() for b in names]
    assert [(a, b) for a, b in arrows if LEVEL_OF[a] < LEVEL_OF[b]] == []
    left = dict(IMPORTS)
    while ready := {name for name, names in left.items() if not names & set(left)}:
        left = {name: names for name, names in left.items() if name not in ready}
    assert left == {}
    assert IMPORTS["report.export"] == set()


@pytest.mark.parametrize(
    "command",
    ["-m cifarlib --help", "-c import\tcifarlib.report.results,cifarlib.report.claims"],
)
def test_torch_is_loaded_only_where_it_is_needed(command):
    command = [sys.executable, "-X", "importtime", *command.split(" ")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "cifarlib" in done.stderr
    assert "torch" not in done.stderr
