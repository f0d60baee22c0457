"""Images that someone brings: array files, pictures and folders of pictures, told by their content
and checked."""

import os
import re
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from cifarlib import InputError, project_root, user_path
from cifarlib.data import CLASSES
from cifarlib.pickled_arrays import read_pickled_arrays

ACCEPTED = "(N, 32, 32, 3), (N, 3, 32, 32) or (N, 3072), values 0 to 255"
SHAPES = (32, 32, 3), (3, 32, 32), (3072,)
# of flat rows
LAYOUTS = {"chw": "channel by channel (chw, as CIFAR's files)", "hwc": "pixel by pixel (hwc)"}


def existing_path(name: str, path: str | Path) -> Path:
    """JupyterLab starts a notebook in its folder, papermill where it was called: both may mean the
    project's root."""
    path = user_path(name, path)
    for candidate in (path, project_root() / path):
        if candidate.exists():
            return candidate
    places = dict.fromkeys((path.absolute(), project_root() / path))
    near = [
        p.name
        for place in places
        if place.parent.is_dir()
        for p in sorted(place.parent.iterdir())[:5]
    ]
    beside = f"; beside it there is {', '.join(near)}" if near and path.parent.name else ""
    places = " and ".join(map(str, places))
    raise InputError(
        f"{name} = {str(path)!r}: there is no such file or folder, looked for {places}{beside}"
    )


class OwnImages(NamedTuple):
    """What someone brought to be predicted: see ``read_images``."""

    images: Tensor  # uint8 (N, 3, 32, 32)
    # of the files, below the folder that was given; of the rows of an array "0", "1", ...
    names: list[str]
    # Kaggle's: "7" of 7.png, the name where that would not be unique; rows of an array count from 1
    ids: list[str]
    # int64 (N,), -1 where an image has none; None where no image has one
    labels: Tensor | None = None
    # Markdown, to be said beside the images: how they were read, what was left out
    notes: tuple[str, ...] = ()


def read_images(path: str | Path, layout: str = "auto") -> OwnImages:
    """The images of an array file, a picture or a folder of pictures, told by their content.

    An array file is .npy, .npz or a pickle of NumPy arrays (CIFAR's own batches too; nothing in it
    is executed) with one array of images: (N, 32, 32, 3), (N, 3, 32, 32) or rows (N, 3072),
    integers or floats, 0 to 255, or floats from 0 to 1. Rows are channel by channel (layout "chw",
    as in CIFAR) or pixel by pixel ("hwc"); "auto" tells it from the values. An array named labels
    or y gives the labels.

    A picture of any size is cut to its central square and resized; transparent parts become white.
    A folder is read with its subfolders, in natural order (2.png before 10.png); subfolders named
    after a class of CIFAR-10 give the labels. Files in it that are no pictures are named in the
    notes. Raises InputError where nothing can be read."""
    if layout not in ("auto", *LAYOUTS):
        raise InputError(
            f"layout = {layout!r}: choose auto, chw (channel by channel, as CIFAR) or hwc (pixel by pixel)"
        )
    path = existing_path("images", path)
    if path.is_dir():
        return _read_folder(path)
    try:
        arrays = _arrays_in(path)
        if arrays is None:
            return OwnImages(_channels_first(_read_picture(path)[None]), [path.name], [path.stem])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"images = {str(path)!r} is no array file or picture that can be read: {error}"
        ) from None
    return _read_arrays(arrays, f"images = {str(path)!r}", layout)


def _channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def _natural(name: str) -> str:
    return re.sub(r"[0-9]+", lambda number: number.group().zfill(20), name.lower())


def _listed(texts: list[str]) -> str:
    return ", ".join(texts[:20]) + (f" and {len(texts) - 20:,} more" if len(texts) > 20 else "")


def _files_in(folder: Path) -> list[tuple[str, Path]]:
    """Names below the folder, and paths, in natural order: all but hidden files, which are not the
    user's (macOS leaves a companion beside a picture on some disks). Links to folders and folders
    without access count as files, to be named."""
    files = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        countable = path.is_file() or path.is_symlink() or not os.access(path, os.R_OK)
        if countable and not any(part.startswith(".") for part in parts):
            # a name in another encoding than UTF-8 could not be written
            files.append(
                ("/".join(os.fsencode(part).decode(errors="replace") for part in parts), path)
            )
    return sorted(files, key=lambda file: _natural(file[0]))


def _read_folder(folder: Path) -> OwnImages:
    files, pictures, names, left_out = _files_in(folder), [], [], []
    for name, path in files:
        try:
            pictures.append(_read_picture(path))
            names.append(name)
        except (OSError, ValueError) as error:
            left_out.append(f"`{name}` ({error})")
    if not pictures:
        reasons = f": {_listed(left_out)}" if left_out else ""
        raise InputError(
            f"images = {str(folder)!r}: no pictures that can be read in this folder{reasons}"
        )
    notes = []
    if left_out:
        counts = f"**Warning: predictions for {len(pictures):,} of {len(files):,} files.**"
        notes.append(f"{counts} Left out: {_listed(left_out)}.")
    folders = [Path(name).parent.name for name in names]
    labels = [CLASSES.index(name.lower()) if name.lower() in CLASSES else -1 for name in folders]
    if any(folders) and -1 in labels:
        others = {
            f"`{name or '.'}`" for name, label in zip(folders, labels, strict=True) if label < 0
        }
        others = _listed(sorted(others, key=_natural))
        without = f"{labels.count(-1):,} of {len(names):,} pictures have no label"
        notes.append(f"{without}, for their folder is no class of CIFAR-10: {others}.")
    stems = [Path(name).stem for name in names]
    return OwnImages(
        _channels_first(np.stack(pictures)),
        names,
        stems if len(set(stems)) == len(stems) else names,
        torch.tensor(labels) if max(labels) >= 0 else None,
        tuple(notes),
    )


def _read_picture(file: Path) -> np.ndarray:
    """uint8 (32, 32, 3); raises OSError or ValueError."""
    try:
        with Image.open(file) as picture:
            upright = ImageOps.exif_transpose(picture)
            if upright.mode.startswith("I;16"):  # Pillow would cut off at 255
                upright = Image.fromarray(np.rint(np.asarray(upright) / 257).astype(np.uint8))
            elif upright.mode in ("I", "F"):
                raise ValueError("its pixels have 32 bits, save it with 8 or 16 bits a channel")
            rgba = upright.convert("RGBA")
    except UnidentifiedImageError:
        raise ValueError("of no kind that Pillow reads, as PNG and JPEG are") from None
    # further ways of Pillow to say it
    except (SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
        raise ValueError(error) from None
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return np.array(ImageOps.fit(flat, (32, 32), Image.Resampling.BICUBIC))


def _arrays_in(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an array file by name, whatever the file's ending; None of any other file."""
    with open(file, "rb") as opened:
        start = opened.read(4)
    if start == b"PK\x03\x04":  # a zip, as .npz is
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("a zip without arrays; give pictures as a folder, tensors as .npy")
        return arrays
    if start[:1] == b"\x80" or file.suffix.lower() in (".pkl", ".pickle"):
        return read_pickled_arrays(file)
    if start == b"\x93NUM" or file.suffix.lower() in (".npy", ".npz"):
        return {"array": np.load(file, mmap_mode="r", allow_pickle=False)}
    return None


def _read_arrays(arrays: dict[str, np.ndarray], source: str, layout: str) -> OwnImages:
    fitting = [name for name, array in arrays.items() if array.shape[1:] in SHAPES] or list(arrays)
    if len(fitting) != 1:
        held = _listed([f"{name} {array.shape}" for name, array in arrays.items()])
        raise InputError(
            f"{source} holds {held or 'no array'}: expected one array of images, {ACCEPTED}"
        )
    array, notes = arrays[fitting[0]], []
    pixels = _pixels(array, f"{source} holds {array.dtype} {array.shape}", notes)
    labels_name = next(
        (name for name in ("labels", "y") if _are_labels(arrays.get(name), len(array))), None
    )
    unused = [f"`{name}`" for name in arrays if name not in (fitting[0], labels_name)]
    if unused:
        notes.append(f"The images are the array `{fitting[0]}`; not used: {_listed(unused)}.")
    if pixels.ndim == 2:
        layout = _choose_layout(pixels, layout, notes)
        pixels = pixels.reshape(-1, *((32, 32, 3) if layout == "hwc" else (3, 32, 32)))
    images = (
        _channels_first(pixels) if pixels.shape[1:] == (32, 32, 3) else torch.from_numpy(pixels)
    )
    return OwnImages(
        images,
        [str(i) for i in range(len(images))],
        [str(i + 1) for i in range(len(images))],
        torch.from_numpy(arrays[labels_name].astype(np.int64).reshape(-1)) if labels_name else None,
        tuple(notes),
    )


def _are_labels(array: np.ndarray | None, count: int) -> bool:
    return (
        array is not None
        and array.shape in ((count,), (count, 1))
        and array.dtype.kind in "ui"
        and bool(((array >= 0) & (array < 10)).all())
    )


def _pixels(array: np.ndarray, content: str, notes: list[str]) -> np.ndarray:
    """The array's values as uint8, in its shape; content says in errors what the array is."""
    if array.dtype.kind not in "uif":
        raise InputError(f"{content}: expected numbers, {ACCEPTED}")
    if array.shape[1:] not in SHAPES:
        raise InputError(f"{content}: expected {ACCEPTED}")
    if not len(array):
        raise InputError(f"{content}: no images in it")
    if not np.isfinite(array).all():
        raise InputError(f"{content}: some of its values are nan or infinite")
    low, high = float(array.min()), float(array.max())
    rounded = np.rint(array)
    # nothing but fractions of a 255th is no image
    if low >= 0 and high <= 1.0001 and (rounded != array).any():
        notes.append("The values, from 0 to 1, were multiplied by 255.")
        return np.rint(np.minimum(array, 1) * 255).astype(np.uint8)
    if low < -0.01 or high > 255.01 or 0 < high <= 2:
        normalised = "; undo its normalisation first" if low < 0 and array.dtype.kind == "f" else ""
        hint = "; multiply by 255 if 1 is white" if low >= 0 and high <= 2 else normalised
        raise InputError(f"{content} with values from {low:g} to {high:g}: expected 0 to 255{hint}")
    return rounded.astype(np.uint8)


def _choose_layout(rows: np.ndarray, layout: str, notes: list[str]) -> str:
    """The layout that was given or, for "auto", that of the values; what there is to say of it goes
    to the notes."""
    told = _tell_layout(rows)
    if layout == "auto" and told:
        notes.append(f"The rows are read {LAYOUTS[told]}, as their neighbouring values tell.")
    elif layout == "auto":
        notes.append(
            f"**Warning: the values do not tell how the rows are laid out.** They are read {LAYOUTS['chw']}; if the images "
            "look scrambled, give `layout` hwc."
        )
    elif told and told != layout:
        notes.append(
            f"**Warning: `layout` is {layout}, but neighbouring values tell that it is {told}.**"
        )
    return (told or "chw") if layout == "auto" else layout


def _tell_layout(rows: np.ndarray) -> str | None:
    """ "chw" or "hwc", or None where it cannot be told, of uint8 (N, 3072).

    32 values on is the pixel below in the one, 96 values on in the other; pixels differ least from
    their neighbours. Of CIFAR-10's test images, taken one by one, in colour and in grey and in both
    layouts, 99.9 % are told, and all rightly."""
    some = rows[:: max(len(rows) // 1000, 1)].astype(np.int16)
    by_32, by_96 = (np.abs(some[:, step:] - some[:, :-step]).mean() for step in (32, 96))
    if by_96 > 1.2 * by_32:
        return "chw"
    return "hwc" if by_32 > 1.2 * by_96 else None
