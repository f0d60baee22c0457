"""Who may import whom: data flows one way, and a room beside the core is entered from above
alone."""

import ast
from pathlib import Path

import cifarlib

PACKAGE = Path(cifarlib.__file__).parent
# a module may import modules of earlier lines, and of its own line as long as there is no cycle
LEVELS = (
    ("",),
    ("params", "records", "tensor_files", "pickled_arrays", "fetch", "provenance", "model"),
    ("data", "preprocess", "whitening"),
    ("own_images",),
    ("loop",),
    ("checkpoint", "device"),
    ("train", "predict", "grid", "execute"),
    ("handin",),
    ("benchmark",),
    ("gpu_session",),
    ("report",),
    ("__main__",),
)


def modules() -> dict[str, Path]:
    """ "device.choice" and so on to its file; "" is the package itself."""
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(part for part in parts if part != "__init__")] = path
    return names


def imports_of(path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of this package that a file imports anywhere, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.partition(".")[0] == "cifarlib"
        ):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [
                alias.name for alias in node.names if alias.name.partition(".")[0] == "cifarlib"
            ]
        found |= {name.removeprefix("cifarlib").removeprefix(".") for name in names} & set(known)
    return found


KNOWN = modules()
IMPORTS = {name: imports_of(path, KNOWN) - {name} for name, path in KNOWN.items()}


def level(name: str) -> int:
    room = name.partition(".")[0]
    return next(number for number, rooms in enumerate(LEVELS) if room in rooms)


def test_no_arrow_points_upwards():
    upwards = [(a, b) for a, names in IMPORTS.items() for b in names if level(a) < level(b)]
    assert upwards == []


def test_there_is_no_cycle():
    left = {name: set(names) for name, names in IMPORTS.items()}
    while ready := [name for name, names in left.items() if not names & set(left)]:
        for name in ready:
            del left[name]
    assert left == {}


def test_the_walk_sees_imports():
    """Or the two tests above would pass on nothing."""
    assert {"loop", "records", "device.choice", "device.cuda_graph"} <= IMPORTS["train"]
    assert "report.export" in IMPORTS["__main__"]
