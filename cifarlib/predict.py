"""A finished run at work on one's own images: which model, array files and pictures read and checked, answers written."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from cifarlib import InputError, outputs_folder, project_root, records, tensor_files, user_path
from cifarlib.data import CLASSES
from cifarlib.device.choice import pick_device
from cifarlib.device.convolutions import use_fast
from cifarlib.loop import predict_logits
from cifarlib.model import Network
from cifarlib.preprocess import Normalizer, make_normalizer

ACCEPTED = "(N, 32, 32, 3), (N, 3, 32, 32) or (N, 3072), values 0 to 255"
MAKE_ONE = "`make train RUN=7 EPOCHS=10` makes one"


def find_model(model: str | Path | None = None, output_folder: str | Path | None = None) -> Path:
    """The folder of a finished run with its weights: ``model``, below the working directory or else the project, or the
    run 7 below ``output_folder`` (None: the project's outputs/) with the best validation accuracy."""
    if model:
        folder = _find("model", model)
        if not (folder / "model.safetensors").is_file():
            raise InputError(f"model = {str(model)!r}: no model.safetensors in {folder}; {MAKE_ONE}")
        return folder
    outputs = outputs_folder(output_folder)
    folders = [path.parent for path in sorted(outputs.glob("run7/seed*/model.safetensors"))]
    folders = [folder for folder in folders if (folder / "record.json").is_file()]
    if not folders:
        raise InputError(f"no run 7 with its weights below {outputs}: {MAKE_ONE}")
    return max(folders, key=lambda folder: records.read_record(folder, verify=False)["validation_accuracy"] or 0)


def load_model(folder: str | Path, device: str = "auto", precision: str = "float32") -> tuple[Network, dict]:
    """The trained network of a run's folder, in evaluation mode, ready for this precision, and what its file says of it
    (parameters, channel_mean and channel_std, classes, accuracies). Nothing in the file is executed."""
    tensors, description = tensor_files.load_tensors(Path(folder) / "model.safetensors")
    model = Network()
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{folder}/model.safetensors is of another network: {error}") from None
    model = model.to(pick_device(device)).eval()
    use_fast(model, precision)
    return model, description


def _find(name: str, path: str | Path) -> Path:
    """JupyterLab starts a notebook in its folder, papermill where it was called: both may mean the project's root."""
    path = user_path(name, path)
    for candidate in (path, project_root() / path):
        if candidate.exists():
            return candidate
    raise InputError(f"{name} = {str(path)!r}: there is no such file or folder in {Path.cwd()} or {project_root()}")


def read_images(path: str | Path, layout: str = "chw") -> tuple[Tensor, list[str]]:
    """uint8 images (N, 3, 32, 32) and a name for each, of an array file (.npy), a picture or a folder of pictures.

    Flat rows (N, 3072) are channel by channel ("chw", as in CIFAR) or pixel by pixel ("hwc"). A picture of any size is
    cut to its central square and resized; transparent parts become white. Raises InputError for anything else.
    """
    if layout not in ("chw", "hwc"):
        raise InputError(f"layout = {layout!r}: choose chw (channel by channel, as CIFAR) or hwc (pixel by pixel)")
    path = _find("images", path)
    if path.suffix == ".npy":
        images = _read_array(path, layout)
        return images, [str(i) for i in range(len(images))]
    files = _pictures_in(path) if path.is_dir() else [path]
    pictures = [torch.from_numpy(_read_picture(file)) for file in files]
    return torch.stack(pictures).permute(0, 3, 1, 2), [file.name for file in files]


def _pictures_in(folder: Path) -> list[Path]:
    known = {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    # macOS leaves a hidden companion beside a picture on some disks
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name[0] != ".")
    pictures = [p for p in files if p.suffix.lower() in known]
    if not pictures:
        only = ", ".join(sorted({p.suffix for p in files}))
        hint = f" (only {only}: save them as PNG or JPEG)" if only else ""
        raise InputError(f"images = {str(folder)!r}: no pictures in this folder{hint}")
    return pictures


def _read_picture(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as picture:
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I;16"):  # Pillow would cut off at 255
                upright = Image.fromarray(np.rint(np.asarray(upright) / 257).astype(np.uint8))
            elif upright.mode in ("I", "F"):
                raise ValueError("its pixels have 32 bits, save it with 8 or 16 bits a channel")
            rgba = upright.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's ways to say it
        raise InputError(f"images: {file} is no picture (or .npy file) that can be read: {error}") from None
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return np.array(ImageOps.fit(flat, (32, 32), Image.Resampling.BICUBIC))


def _read_array(file: Path, layout: str) -> Tensor:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"images = {str(file)!r} is no array file: {error}") from None
    shape, content = array.shape, f"images = {str(file)!r} holds {array.dtype} {array.shape}"
    if array.dtype.kind not in "uif":
        raise InputError(f"{content}: expected numbers, {ACCEPTED}")
    if shape[1:] not in ((32, 32, 3), (3, 32, 32), (3072,)):
        raise InputError(f"{content}: expected {ACCEPTED}")
    if not len(array):
        raise InputError(f"{content}: no images in it")
    low, high = float(array.min()), float(array.max())
    if not (low >= 0 and 1 < high <= 255):  # false for NaN, too
        hint = "; multiply by 255" if low >= 0 and high <= 1 else ""
        raise InputError(f"{content} with values from {low:g} to {high:g}: expected 0 to 255{hint}")
    pixels = torch.from_numpy(np.rint(array).astype(np.uint8))
    if shape[1:] == (32, 32, 3) or (shape[1:] == (3072,) and layout == "hwc"):
        return pixels.reshape(-1, 32, 32, 3).permute(0, 3, 1, 2)
    return pixels.reshape(-1, 3, 32, 32)


def _normalizer(images: Tensor, description: dict) -> Normalizer:
    statistics = torch.tensor(description["channel_mean"]), torch.tensor(description["channel_std"])
    return make_normalizer(images, description["parameters"]["normalization"], statistics)


def logits_of(model: nn.Module, description: dict, images: Tensor, precision: str = "float32") -> Tensor:
    """Logits (N, 10), on the CPU, of uint8 images (N, 3, 32, 32); model and description: see ``load_model``."""
    images = images.to(next(model.parameters()).device)
    return predict_logits(model, images, _normalizer(images, description), getattr(torch, precision)).cpu()


@torch.no_grad()
def block_outputs(model: Network, description: dict, image: Tensor) -> dict[str, Tensor]:
    """What the first layer and each block make of an image, uint8 (3, 32, 32): outputs (C, H, W), on the CPU."""
    images = image[None].to(next(model.parameters()).device)
    x = model.net[0](_normalizer(images, description).apply(images))
    outputs = {}
    for name, layer in zip(("whitening", "block 1", "block 2", "block 3"), model.net[1:5], strict=True):
        x = layer(x)
        outputs[name] = x[0].cpu()
    return outputs


def output_path(predictions: str | Path, images: str | Path | None) -> Path:
    """Where ``write_predictions`` will write, if images were given; raises InputError before any work where it cannot,
    or would overwrite the images, or a table without predictions beside it, which is another's."""
    path = user_path("predictions", predictions)
    if path is None or path.suffix != ".npy":
        raise InputError(f"predictions = {predictions!r}: give a file name that ends in .npy")
    path = path.resolve()
    if not images:
        return path
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"predictions = {str(predictions)!r}: {path.parent} is missing or cannot be written")
    table = path.with_suffix(".csv")
    for lost, when in (
        (path, path == _find("images", images).resolve()),
        (table, table.exists() and not path.exists()),
    ):
        if when:
            raise InputError(f"predictions = {str(predictions)!r} would overwrite {lost}: give another name")
    return path


def answer_rows(probabilities: Tensor, names: list[str]) -> list[dict]:
    """The most probable class of each image and its probability, from (N, 10)."""
    shares, labels = (x.tolist() for x in probabilities.max(1))
    return [
        {"image": name, "label": label, "class": CLASSES[label], "probability": f"{share:.4f}"}
        for name, label, share in zip(names, labels, shares, strict=True)
    ]


def write_predictions(path: Path, probabilities: Tensor, rows: list[dict]) -> None:
    """Class probabilities (N, 10), float32, to ``path`` (.npy), and the table of ``answer_rows`` beside it (.csv)."""
    records.write_atomically(path, lambda file: np.save(file, probabilities.numpy()))
    records.write_text(path.with_suffix(".csv"), pd.DataFrame(rows).to_csv(index=False))
