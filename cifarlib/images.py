"""Images that someone wants predicted: an array file, a picture, a folder of pictures."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cifarlib import InputError, project_root, user_path
from cifarlib.data import CLASSES

ACCEPTED = "expected numbers from 0 to 255, (N, 32, 32, 3), (N, 3, 32, 32) or (N, 3072)"
LAYOUTS = {"chw": "channel by channel (chw, as CIFAR-10's files)", "hwc": "pixel by pixel (hwc)"}
ORIENTATION = 0x0112  # a tag of EXIF; the turns that undo its values 2 to 8
TURNS = dict(enumerate(map(Image.Transpose, (0, 3, 1, 5, 4, 6, 2)), start=2))


class NamedImages(NamedTuple):
    """Images to be predicted, with what is known of each."""

    images: Tensor  # uint8 (N, 3, 32, 32)
    names: list[str]  # of the files, below the folder given; of an array's rows "0", "1", ...
    labels: Tensor  # int64 (N,), -1 where an image has none
    notes: list[str]  # sentences: how they were read, what was left out


def existing_path(name: str, value: str | Path) -> Path:
    """Find a path below the working directory (JupyterLab's is notebooks/), else the project."""
    path = user_path(name, value)
    for place in (path, project_root() / path):
        if place.exists():
            return place
    raise InputError(f"{name} = {str(value)!r}: there is no such file or folder")


def read_images(path: str | Path, layout: str = "auto") -> NamedImages:
    """Read an array file, a picture or a folder of pictures, told apart by their content.

    An array file, .npy or .npz, holds (N, 32, 32, 3), (N, 3, 32, 32) or rows (N, 3072), numbers
    from 0 to 255 or fractions from 0 to 1; rows are channel by channel (layout "chw") or pixel by
    pixel ("hwc"), "auto" tells which from their values. A picture is cut to its central square and
    resized. A folder is read with its subfolders, in natural order (2.png before 10.png); those
    named after a class of CIFAR-10 give the labels. Raises InputError that says what is wrong."""
    if layout not in ("auto", *LAYOUTS):
        raise InputError(f"layout = {layout!r}: choose auto, {' or '.join(LAYOUTS.values())}")
    path = existing_path("images", path)
    try:
        if path.is_dir():
            return _read_pictures(_files_in(path))
        with open(path, "rb") as file:
            is_array = file.read(4).startswith((b"\x93NUM", b"PK\x03\x04"))  # .npz is a zip
        return _read_array(path, layout) if is_array else _read_pictures({path.name: path})
    except Exception as error:  # a damaged file fails in any way
        raise InputError(f"images = {str(path)!r}: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _files_in(folder: Path) -> dict[str, Path]:
    """List the files below a folder, but hidden ones, by name in natural order."""
    files = {}
    for path in sorted(folder.rglob("*"), key=_natural):
        # a name in another encoding than UTF-8 could not be written
        name = os.fsencode(path.relative_to(folder)).decode(errors="replace")
        # a folder that is not entered, as a link could go round, is to be named as left out
        entered = path.is_dir() and not path.is_symlink() and os.access(path, os.R_OK)
        if not entered and not re.search(r"(^|/)\.", name):
            files[name] = path
    return files


def _natural(path: Path) -> str:
    return re.sub(r"\d+", lambda number: number[0].zfill(20), str(path).lower())


def _read_pictures(files: dict[str, Path]) -> NamedImages:
    pictures = {}
    left_out = []
    for name, path in files.items():
        try:
            pictures[name] = _read_picture(path)
        except UnidentifiedImageError:
            left_out.append(f"`{name}` (no picture)")
        except Exception as error:  # a decoder fails in any way
            left_out.append(f"`{name}` ({_one_line(error)})")
    others = f"{', '.join(left_out[:20])}{' and more' if len(left_out) > 20 else ''}"
    if not pictures:
        raise ValueError(f"no picture or array (.npy, .npz) to be read: {others or 'no file'}")
    notes = []
    if left_out:
        counts = f"predictions for {len(pictures):,} of {len(files):,} files"
        notes.append(f"Warning: {counts}. Left out: {others}.")
    folders = [Path(name).parent.name.lower() for name in pictures]
    labels = [CLASSES.index(folder) if folder in CLASSES else -1 for folder in folders]
    images = torch.from_numpy(np.stack(list(pictures.values()))).permute(0, 3, 1, 2)
    return NamedImages(images, list(pictures), torch.tensor(labels), notes)


def _read_picture(file: Path) -> np.ndarray:
    """Read a picture as uint8 (32, 32, 3), upright, its transparent parts white."""
    with Image.open(file) as picture:
        # ImageOps.exif_transpose also writes the other tags anew, and fails at an odd one
        turn = TURNS.get(picture.getexif().get(ORIENTATION))
        if picture.mode in ("I", "F"):
            raise ValueError("its pixels have 32 bits, save it with 8 or 16 bits a channel")
        if picture.mode.startswith("I;16"):  # Pillow would cut off at 255
            picture = Image.fromarray(np.rint(np.asarray(picture) / 257).astype(np.uint8))
        rgba = picture.convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    upright = flat if turn is None else flat.transpose(turn)
    return np.array(ImageOps.fit(upright, (32, 32), Image.Resampling.BICUBIC))


def _read_array(file: Path, layout: str) -> NamedImages:
    content = np.load(file, allow_pickle=False)
    arrays = {"": content} if isinstance(content, np.ndarray) else dict(content)
    shapes = {name: np.shape(array) for name, array in arrays.items()}
    fitting = [n for n, s in shapes.items() if s[1:] in ((32, 32, 3), (3, 32, 32), (3072,))]
    if len(fitting) != 1 or arrays[fitting[0]].dtype.kind not in "uif" or not shapes[fitting[0]][0]:
        held = ", ".join(f"{name} {shape}".strip() for name, shape in shapes.items())
        raise ValueError(f"it holds {held or 'nothing'}: {ACCEPTED}")
    notes = []
    pixels = _as_bytes(arrays[fitting[0]], notes)
    if pixels.ndim == 2:
        layout = _choose_layout(pixels, layout, notes)
        pixels = pixels.reshape(-1, *((32, 32, 3) if layout == "hwc" else (3, 32, 32)))
    if pixels.shape[1:] == (32, 32, 3):
        pixels = pixels.transpose(0, 3, 1, 2)
    names = [str(row) for row in range(len(pixels))]
    return NamedImages(torch.from_numpy(pixels), names, torch.full((len(pixels),), -1), notes)


def _as_bytes(values: np.ndarray, notes: list[str]) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError(f"some of its values are nan or infinite: {ACCEPTED}")
    low = float(values.min())
    high = float(values.max())
    if low >= 0 and high <= 1.0001 and (np.rint(values) != values).any():
        notes.append("The values, from 0 to 1, were multiplied by 255.")
        values = values * 255
    elif low < -0.01 or high > 255.01 or 0 < high <= 2:
        advice = "undo a normalisation first, multiply by 255 if 1 is white"
        raise ValueError(f"its values go from {low:g} to {high:g}: {ACCEPTED}; {advice}")
    return np.rint(values).clip(0, 255).astype(np.uint8)


def _choose_layout(rows: np.ndarray, layout: str, notes: list[str]) -> str:
    """Return the layout given or, for "auto", the one that the values of uint8 rows (N, 3072) tell.

    32 values on is the pixel below in chw, 96 values on in hwc; pixels differ least from their
    neighbours. Of CIFAR-10's test images, taken one by one, in colour and in grey and in both
    layouts, 99.9 % are told, and all rightly."""
    some = rows[:: max(len(rows) // 1000, 1)].astype(np.int16)
    chw, hwc = (np.abs(some[:, step:] - some[:, :-step]).mean() for step in (32, 96))
    told = layout
    if max(chw, hwc) > 1.2 * min(chw, hwc):
        told = "chw" if chw < hwc else "hwc"
    if told == "auto":
        choice = " or ".join(LAYOUTS.values())
        raise ValueError(f"its values do not tell how rows are laid out: give layout, {choice}")
    if layout == "auto":
        notes.append(f"The rows are read {LAYOUTS[told]}, as their neighbouring values tell.")
        return told
    if told != layout:
        notes.append(f"Warning: layout is {layout}, but the values tell that it is {told}.")
    return layout
