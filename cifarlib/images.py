"""Images that someone wants predicted: an array file, a picture, a folder of pictures."""

import logging
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from cifarlib import InputError, plural, project_root, user_path

log = logging.getLogger(__name__)

SHAPES = ((32, 32, 3), (3, 32, 32), (3072,))
ACCEPTED = "expected one array of 0 to 255, (N, 32, 32, 3), (N, 3, 32, 32) or (N, 3072)"


def existing_path(name: str, value: str | Path) -> Path:
    """Find a path, a relative one from the working directory (JupyterLab's is notebooks/), else
    from the project."""
    path = user_path(name, value)
    for place in (path, project_root() / path) if path else ():
        if place.exists():
            return place
    raise InputError(f"{name} = {str(value)!r}: there is no such file or folder")


def read_images(path: str | Path) -> tuple[Tensor, list[str]]:
    """Read an array file, a picture or a folder of pictures; log which files are left out.

    An array file, .npy or .npz, holds (N, 32, 32, 3), (N, 3, 32, 32) or rows (N, 3072), numbers
    from 0 to 255 or fractions from 0 to 1; the values of rows tell how they are laid out. A picture
    is cut to its central square and resized. A folder is read with its subfolders, in natural order
    (2.png before 10.png). Returns uint8 (N, 3, 32, 32) and files' names below the folder or "0",
    "1", ... Raises InputError."""
    path = existing_path("images", path)
    try:
        if path.suffix.lower() in (".npy", ".npz"):
            pixels = _read_array(path)
            names = [str(row) for row in range(len(pixels))]
        else:
            pictures = _read_pictures(path)
            names = list(pictures)
            pixels = np.stack(list(pictures.values()))
    except Exception as error:  # a damaged file fails in any way
        raise InputError(f"images = {str(path)!r}: {error}") from None
    if pixels.shape[-1] == 3:
        pixels = pixels.transpose(0, 3, 1, 2)
    return torch.from_numpy(pixels), names


def _natural(path: Path) -> str:
    return re.sub(r"\d+", lambda number: number[0].zfill(20), str(path).lower())


def _read_pictures(path: Path) -> dict[str, np.ndarray]:
    """Read a picture, or those below a folder but hidden ones, by name."""
    folder = path if path.is_dir() else path.parent
    pictures = {}
    left_out = []
    for file in sorted(path.rglob("*"), key=_natural) if path.is_dir() else [path]:
        name = file.relative_to(folder).as_posix()
        # a linked folder, which rglob does not enter, is left out
        if not re.search(r"(^|/)\.", name) and (file.is_file() or file.is_symlink()):
            try:
                pictures[name] = _read_picture(file)
            except Exception:  # a decoder fails in any way
                left_out.append(name)
    text = f"damaged, or no picture of 8 bits a channel: {', '.join(left_out[:20])}"
    if not pictures:
        raise ValueError(text if left_out else "there is no picture in it")
    if left_out:
        log.warning("%s left out, %s", plural(len(left_out), "file"), text)
    return pictures


def _read_picture(file: Path) -> np.ndarray:
    """Read a picture as uint8 (32, 32, 3), upright, its transparent parts white."""
    with Image.open(file) as picture:
        if np.asarray(picture).itemsize > 1:
            raise ValueError("Pillow would cut off its values at 255")
        rgba = ImageOps.exif_transpose(picture).convert("RGBA")
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return np.asarray(ImageOps.fit(flat, (32, 32)))


def _read_array(file: Path) -> np.ndarray:
    """Read uint8 images, (N, 3, 32, 32) or (N, 32, 32, 3)."""
    content = np.load(file, allow_pickle=False)
    arrays = {"": content} if isinstance(content, np.ndarray) else dict(content)
    fitting = [array for array in arrays.values() if array.shape[1:] in SHAPES and len(array)]
    if len(fitting) != 1 or fitting[0].dtype.kind not in "uif":
        held = ", ".join(f"{k} {a.shape} {a.dtype}".strip() for k, a in arrays.items())
        raise ValueError(f"it holds {held or 'nothing'}: {ACCEPTED}")
    values = fitting[0]
    low = values.min()
    high = values.max()
    if low >= 0 and high <= 1.0001 and (np.rint(values) != values).any():
        values = values * 255
    elif not np.isfinite(values).all() or low < -0.01 or high > 255.01 or 0 < high <= 2:
        advice = "undo a normalisation first, multiply by 255 if 1 is white"
        raise ValueError(f"its values go from {low:g} to {high:g}: {ACCEPTED}; {advice}")
    pixels = np.rint(values).astype(np.uint8, order="C")
    if pixels.ndim == 2:
        pixels = pixels.reshape(-1, *_layout(pixels))
    return pixels


def _layout(rows: np.ndarray) -> tuple[int, int, int]:
    """Tell which shape the images in uint8 rows (N, 3072) have, as pixels differ least from their
    neighbours: the pixel below is 32 values on in (3, 32, 32), 96 in (32, 32, 3)."""
    some = rows[:: max(len(rows) // 1000, 1)].astype(np.float32)
    chw, hwc = (np.abs(some[:, step:] - some[:, :-step]).mean() for step in (32, 96))
    if max(chw, hwc) <= 1.2 * min(chw, hwc):
        raise ValueError("its rows could be in two orders: give (N, 32, 32, 3) or (N, 3, 32, 32)")
    return (3, 32, 32) if chw < hwc else (32, 32, 3)
