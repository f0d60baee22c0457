"""Who takes part. All train run 7's network, its loss averaged, with the same optimizer, step and
batch size."""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Contestant:
    name: str = field(compare=False)
    description: str = field(compare=False)
    # made by "course", "loader" or "ready" (see batches.py), or as train.py does: "ours"
    batches: str
    precision: str | None = None  # None: what our training takes on the device
    channels_last: bool = True  # ours: as train.py decides
    fast_convolutions: bool = False  # on a CPU
    captured: bool = False  # each step in a CUDA graph
    augmentation: str = "per_epoch"


_COURSE, _LOADER = (
    "each image parsed, cropped, flipped, normalised in NumPy",
    "torchvision's transforms in a DataLoader",
)
_READY, _LOOP = "a DataLoader of images cropped and flipped once, before", "this project's loop"
_OURS = Contestant("ours", _LOOP, "ours", fast_convolutions=True)
_CAPTURED = replace(
    _OURS, name="ours, captured", description=f"{_LOOP}, each step a CUDA graph", captured=True
)
_ALL = (
    Contestant("course", _COURSE, "course", "float32", channels_last=False),
    Contestant("loader, float32", _LOADER, "loader", "float32", channels_last=False),
    Contestant("loader, float32, channels_last", f"{_LOADER}, channels_last", "loader", "float32"),
    Contestant(
        "loader, bfloat16", f"{_LOADER}, autocast", "loader", "bfloat16", channels_last=False
    ),
    Contestant(
        "loader, bfloat16, channels_last",
        f"{_LOADER}, autocast, channels_last",
        "loader",
        "bfloat16",
    ),
    Contestant("ready, float32", _READY, "ready", "float32", channels_last=False),
    Contestant("ready, our precision", f"{_READY}; our precision, channels_last", "ready"),
    _OURS,
    Contestant("ours, PyTorch's convolutions", f"{_LOOP} with PyTorch's own convolutions", "ours"),
    replace(
        _OURS, name="ours, once", description=f"{_LOOP}, augmentation: once", augmentation="once"
    ),
    _CAPTURED,
    replace(
        _CAPTURED,
        name="ours, captured, once",
        description="the same, augmentation: once",
        augmentation="once",
    ),
)
CONTESTANTS = {contestant.name: contestant for contestant in _ALL}


def twin(name: str, **different) -> str | None:
    """The contestant that differs from this one in these fields alone; None: there is none."""
    wanted = replace(CONTESTANTS[name], **different)
    return next((contestant.name for contestant in _ALL if contestant == wanted), None)
