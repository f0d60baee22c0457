"""One zip to hand in: predictions, code, networks, report, notebooks. It is written only once the
code unpacked from it has made the same predictions again, in a process of its own."""

import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from cifarlib import InputError, outputs_folder, plural, project_root
from cifarlib.images import existing_path, read_images
from cifarlib.predict import find_models, predict

CODE = ("cifarlib", "notebooks", "params", "slurm", "tests", "docs", "Makefile", "README.md")
CODE += ("CONTRIBUTING.md", "LICENSE", "CITATION.cff", "environment.yml", "pyproject.toml")
DERIVED = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "unfinished")
# dated now: reproducible builds may date a file before 1980, which a zip cannot say
copy_folder = partial(shutil.copytree, ignore=DERIVED, copy_function=shutil.copy)


def hand_in(
    name: str,
    run: int | str,
    seeds: int | list[int] | None,
    images: str | Path,
    *,
    output_folder: str | Path | None = None,
    check: bool = False,
) -> str:
    """Make ``handin/<name>.zip`` below the outputs, of the report in ``handin/<name>/``.

    It predicts ``images`` by the mean over the runs of ``find_models``, with views. check: only
    look whether all is there but the report. Returns what came of it, or what will be done.
    Raises InputError for what is missing, before any work, and where the proof fails."""
    if not re.fullmatch(r"[\w-]+", str(name)):
        raise InputError(f"name = {name!r}: give letters, digits, - and _ alone, as in First_Last")
    folders = find_models(run, seeds, output_folder=output_folder)
    images = existing_path("images", images).resolve()
    pixels, names = read_images(images)
    if check:
        asked = f"{plural(len(pixels), 'image')}, {plural(len(folders), 'network')}"
        return f"{asked}: this takes some minutes, one of them for the report"
    report = outputs_folder(output_folder).resolve() / "handin" / str(name)
    if not (report / "tex" / "report.tex").is_file():  # which make makes last
        raise InputError(f"the report is missing in {report}: `make handin` makes it")
    with tempfile.TemporaryDirectory(dir=report.parent, prefix=".") as temporary:
        root = Path(temporary) / report.name
        options = [*_lay_out(root, folders, report), "--views=1"]
        answers = predict(pixels, names, folders, True, "cpu")
        answers.write(root / "predictions.npy")
        readme = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
        told = {"name": name, "images": images.name, "predictions": answers.text}
        (root / "README.md").write_text(readme.format(**told, options=" ".join(options)), "utf-8")
        archive = Path(shutil.make_archive(root, "zip", temporary, root.name))
        _predict_again(archive, images, options)
        archive = archive.replace(report.with_name(archive.name))
    return f"{answers.text}\n{archive}: unpacked, it made the same predictions again"


def _lay_out(root: Path, folders: list[Path], report: Path) -> list[str]:
    """Copy all but the predictions and return the options that name the networks."""
    copy_folder(report, root)
    for part in CODE:
        source = project_root() / part
        copy = copy_folder if source.is_dir() else shutil.copy
        copy(source, root / "code" / part)
    models = [f"saved_models/{folder.parent.name}-{folder.name}" for folder in folders]
    for folder, model in zip(folders, models, strict=True):
        copy_folder(folder, root / model)
    return [f"--model=../{model}" for model in models]


def _predict_again(archive: Path, images: Path, options: list[str]) -> None:
    """Have the code and networks in the zip, unpacked into an empty folder, predict the same."""
    with tempfile.TemporaryDirectory() as empty:
        shutil.unpack_archive(archive, empty)
        root = Path(empty) / archive.stem
        again = Path(empty) / "again.npy"
        command = [sys.executable, "-m", "cifarlib", "predict", "--device=cpu", *options]
        command += [f"--images={images}", f"--predictions={again}"]
        done = subprocess.run(command, cwd=root / "code", capture_output=True, text=True)
        if done.returncode or not np.array_equal(np.load(again), np.load(root / "predictions.npy")):
            reason = f"exit code {done.returncode}, {done.stderr[-200:]!r}"
            raise InputError(f"the code in the zip does not make the same predictions: {reason}")
