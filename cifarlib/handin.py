"""One zip to hand in: predictions, code, networks, report, notebooks; and the proof that it works.

``outputs/handin/First_Last.zip`` is written only once the code unpacked from it has made the same
predictions again, in a process of its own."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cifarlib import InputError, outputs_folder, project_root
from cifarlib.data import load_cifar10
from cifarlib.images import existing_path, read_images
from cifarlib.predict import accuracies, find_models, predict_file

CODE = ("cifarlib", "notebooks", "params", "slurm", "tests", "docs", "Makefile", "README.md")
CODE += ("CONTRIBUTING.md", "LICENSE", "CITATION.cff", "environment.yml", "pyproject.toml")
REPORT = ("report.pdf", "report.html", "report.ipynb", "tex/report.tex")
DERIVED = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "unfinished")


def hand_in(
    name: str,
    run: int | str = 7,
    seeds: int | Sequence[int] | None = None,
    images: str | Path | None = None,
    layout: str = "auto",
    *,
    views: bool = True,
    output_folder: str | Path | None = None,
    data_folder: str | Path | None = None,
    check: bool = False,
) -> Path | None:
    """Make ``handin/<name>.zip`` below the outputs, of the report in ``handin/<name>/``.

    It predicts ``images`` (None: CIFAR-10's test images) by the mean over the runs of
    ``find_models``. check: only look whether all is there but the report. Returns the zip. Raises
    InputError that names what is missing, before any work, and where the proof fails."""
    if not re.fullmatch(r"[\w-]+", str(name)):
        raise InputError(f"name = {name!r}: give letters, digits, - and _ alone, as in First_Last")
    folders = find_models(run, seeds, output_folder=output_folder)
    shown = f"`{Path(images).name}`" if images else "CIFAR-10's test images"
    if images:
        images = existing_path("images", images).resolve()
        read_images(images, layout)
    if check:
        return None
    report = outputs_folder(output_folder).resolve() / "handin" / str(name)
    missing = [file for file in REPORT if not (report / file).is_file()]
    if missing:
        raise InputError(f"no {', '.join(missing)} in {report}: `make handin` makes them")
    with tempfile.TemporaryDirectory(dir=report.parent, prefix=".") as temporary:
        root = Path(temporary) / report.name
        if not images:
            images = Path(temporary) / "test_images.npy"
            np.save(images, load_cifar10(data_folder).test.images.numpy())
        models = _lay_out(root, folders, report)
        target = root / "predictions.npy"
        answers = predict_file(images, models, target, layout=layout, views=views, device="cpu")
        options = ["--layout", layout]
        for model in models:
            options += ["--model", f"../saved_models/{model.name}"]
        if views:
            options.append("--views")
        parts = {"name": name, "images": shown, "predictions": answers.text}
        parts |= {
            "accuracies": accuracies(folders).to_string(index=False),
            "options": " ".join(options),
        }
        readme = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
        (root / "README.md").write_text(readme.format(**parts), encoding="utf-8")
        archive = root.with_suffix(".zip")
        # of a file dated before 1980, which a zip cannot say, it says 1980
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as packed:
            for path in sorted(root.rglob("*")):
                packed.write(path, path.relative_to(root.parent))
        _predict_again(archive, images, options)
        return archive.replace(report.with_name(archive.name))


def _lay_out(root: Path, folders: Sequence[Path], report: Path) -> list[Path]:
    """Copy all but the predictions into what becomes the zip; return its networks' folders."""
    shutil.copytree(report, root)
    (root / "notebooks").mkdir()
    (root / "report.ipynb").rename(root / "notebooks" / "report.ipynb")
    for part in CODE:
        source = project_root() / part
        if source.is_dir():
            shutil.copytree(source, root / "code" / part, ignore=DERIVED)
        elif source.is_file():
            shutil.copy(source, root / "code" / part)
    models = []
    for folder in folders:
        model = root / "saved_models" / f"{folder.parent.name}-{folder.name}"
        shutil.copytree(folder, model, ignore=DERIVED)
        if (model / "train.ipynb").is_file():
            (model / "train.ipynb").rename(root / "notebooks" / f"train-{model.name}.ipynb")
        models.append(model)
    return models


def _predict_again(archive: Path, images: Path, options: Sequence[str]) -> None:
    """Have the code and networks in the zip, unpacked into an empty folder, predict the same."""
    with tempfile.TemporaryDirectory() as empty:
        shutil.unpack_archive(archive, empty)
        root = Path(empty) / archive.stem
        again = Path(empty) / "again.npy"
        command = [sys.executable, "-m", "cifarlib", "predict", "--device", "cpu", *options]
        done = subprocess.run(
            [*command, "--images", str(images), "--predictions", str(again)],
            cwd=root / "code",
            env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            reason = (done.stderr.splitlines() or [f"it ended with {done.returncode}"])[-1]
            raise InputError(f"the code in the zip could not predict again: {reason}")
        if not np.array_equal(np.load(again), np.load(root / "predictions.npy")):
            raise InputError("the code in the zip makes other predictions than those beside it")
