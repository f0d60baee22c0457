"""One zip to hand in: predictions, code, the trained network, report and executed notebooks; and
the proof that it works.

``outputs/handin/First_Last.zip`` is written only once the code unpacked from it has made the same
predictions again."""

import hashlib
import logging
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from cifarlib import (
    InputError,
    outputs_folder,
    own_images,
    predict,
    project_root,
    records,
    user_path,
)
from cifarlib.data import load_cifar10

log = logging.getLogger(__name__)

CODE = (
    "cifarlib",
    "notebooks",
    "params",
    "slurm",
    "tests",
    "docs",
    "Makefile",
    "README.md",
    "LICENSE",
    "CITATION.cff",
    "environment.yml",
    "pyproject.toml",
)
DERIVED = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info")
AGAIN = """
import sys
import numpy as np
import torch
from cifarlib import data, own_images, predict, records
folder, images, layout, data_folder, threads, target = sys.argv[1:]
torch.set_num_threads(int(threads))
precision = records.read_record(folder)["precision"]
network, description = predict.load_model(folder, "cpu", precision)
images = own_images.read_images(images, layout).images if images else data.load_cifar10(data_folder).test.images
np.save(target, predict.logits_of(network, description, images, precision).softmax(1).numpy())
"""
README = """# {name}: what is where

- `report.pdf`: the report; `report.html` is the same for a browser, `tex/` its source in LaTeX
- `predictions.npy`: class probabilities, shape {shape}, of {images}
- `saved_models/{run}/`: the trained network (`model.safetensors`) with its record, history and log
- `notebooks/`: the notebooks as they were executed
- `code/`: all of the code; `code/README.md` says how to run it
- `SHA256SUMS`: of every file, for `sha256sum --check SHA256SUMS`

The predictions can be made again, in an environment with the packages of `code/environment.yml`:

```
cd code && pip install -e .
papermill notebooks/predict.ipynb out.ipynb -p model ../saved_models/{run} -p images YOUR_IMAGES
```

They were, from this archive, before it was handed over: with equal results.
"""


def find_run(run: str, output_folder: str | Path | None = None, **asked) -> Path:
    """The folder of a finished run with weights and executed notebook: of those of ``run`` that
    have the values asked for (seed, epochs, stop_epoch; None: any), the ``predict.longest``."""
    asked = {name: value for name, value in asked.items() if value is not None}
    fitting = [
        r for r in records.finished(output_folder) if r["run"] == run and asked.items() <= r.items()
    ]
    complete = [
        r
        for r in fitting
        if all((r["folder"] / name).is_file() for name in ("model.safetensors", "train.ipynb"))
    ]
    if not complete:
        wanted = ", ".join(f"{name} = {value}" for name, value in {"run": run, **asked}.items())
        lacks = (
            "has no weights or no executed notebook beside its record (they are not committed)"
            if fitting
            else "is not done"
        )
        record, names = (
            (fitting or [asked])[0],
            {"seed": "SEED", "epochs": "EPOCHS", "stop_epoch": "STOP"},
        )
        options = "".join(
            f" {names[name]}={record[name]}" for name in names if record.get(name) is not None
        )
        raise InputError(
            f"{wanted} {lacks}: `make train RUN={run.removeprefix('run')}{options}` makes all of it"
        )
    return predict.longest(complete)


def hand_in(
    name: str,
    run: str,
    images: str | Path | None = None,
    layout: str = "auto",
    output_folder: str | Path | None = None,
    data_folder: str | Path | None = None,
    check: bool = False,
    **asked,
) -> Path | None:
    """Makes ``handin/<name>.zip`` below ``output_folder`` and returns its path; the report has to
    lie in ``handin/<name>/``. images: what is to be predicted, as own_images.read_images takes it;
    None: CIFAR-10's test images. check: only look whether all is there but the report.

    Raises InputError that names what is missing, before anything is built, and where the proof
    fails."""
    if not re.fullmatch(r"[\w-]+", name):
        raise InputError(f"NAME = {name!r}: give letters, digits, - and _ alone, as in First_Last")
    outputs, folder = outputs_folder(output_folder), find_run(run, output_folder, **asked)
    images = own_images.existing_path("images", images).resolve() if images else None
    data_folder = (user_path("data_folder", data_folder) or project_root() / "data").resolve()
    own = own_images.read_images(images, layout) if images else None
    if check:
        return None
    for note in own.notes if own else ():
        log.warning(note.replace("**", ""))
    reports = [outputs / "handin" / name / f"report.{kind}" for kind in ("pdf", "html", "ipynb")]
    needed = [*reports, reports[0].parent / "tex" / "report.tex"]
    if missing := [str(path) for path in needed if not path.is_file()]:
        raise InputError(f"missing: {', '.join(missing)}; `make handin` makes them")
    precision = records.read_record(folder)["precision"]
    network, description = predict.load_model(folder, "cpu", precision)
    pixels = own.images if own else load_cifar10(data_folder).test.images
    probabilities = predict.logits_of(network, description, pixels, precision).softmax(1)
    target = outputs / "handin" / f"{name}.zip"
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
        root, model_name = Path(temporary) / name, f"{folder.parent.name}-{folder.name}"
        _lay_out(root, folder, model_name, reports)
        names = own or own_images.OwnImages(pixels, [f"test {i}" for i in range(len(pixels))], [])
        predict.write_predictions(root / "predictions.npy", probabilities, names)
        shown = f"the images in `{images.name}`" if images else "CIFAR-10's test images"
        text = README.format(
            name=name, shape=tuple(probabilities.shape), images=shown, run=model_name
        )
        (root / "README.md").write_text(text, encoding="utf-8")
        _write_sums(root)
        archive = Path(shutil.make_archive(str(root), "zip", temporary, name))
        _predict_again(archive, name, model_name, images, layout, data_folder)
        archive.replace(target)
    return target


def _lay_out(root: Path, folder: Path, model_name: str, reports: list[Path]) -> None:
    """Everything but the predictions, in the folder that becomes the archive."""
    for part in CODE:
        source = project_root() / part
        if source.is_dir():
            shutil.copytree(source, root / "code" / part, ignore=DERIVED)
        elif source.is_file():
            shutil.copy(source, root / "code" / part)
    shutil.copytree(
        folder,
        root / "saved_models" / model_name,
        ignore=shutil.ignore_patterns(".*", "train.ipynb"),
    )
    (root / "notebooks").mkdir()
    shutil.copy(folder / "train.ipynb", root / "notebooks" / f"train-{model_name}.ipynb")
    for path in reports:
        shutil.copy(path, root / "notebooks" if path.suffix == ".ipynb" else root)
    shutil.copytree(reports[0].parent / "tex", root / "tex")


def _write_sums(root: Path) -> None:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n"
        for path in files
    ]
    (root / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def _predict_again(
    archive: Path, name: str, model_name: str, images: Path | None, layout: str, data_folder: Path
) -> None:
    """The archive's code and network, unpacked into an empty folder, have to make equal
    predictions."""
    with tempfile.TemporaryDirectory() as empty:
        shutil.unpack_archive(archive, empty)
        root = Path(empty) / name
        arguments = [
            root / "saved_models" / model_name,
            images or "",
            layout,
            data_folder,
            torch.get_num_threads(),
            root / "again.npy",
        ]
        command = [sys.executable, "-c", AGAIN, *map(str, arguments)]
        done = subprocess.run(command, cwd=root / "code", capture_output=True, text=True)
        if done.returncode:
            raise InputError(
                f"the code in the archive could not predict again: {done.stderr.strip().splitlines()[-1]}"
            )
        if not np.array_equal(np.load(root / "again.npy"), np.load(root / "predictions.npy")):
            raise InputError(
                "the code in the archive makes other predictions than those beside it: is cifarlib imported from "
                f"{project_root()}?"
            )
