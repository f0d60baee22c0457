"""What defines a run: RunParams, and load_params(run, **overrides), which reads params/*.yaml."""

import dataclasses
import difflib
import math
import sys
import typing
from dataclasses import dataclass
from pathlib import Path

import yaml

from cifarlib import InputError, project_root

PAPER_EPOCHS, DECAY_EPOCHS = 200, 30  # section 3: the rate falls to a tenth every 30 of 200 epochs
TRAIN_IMAGES = 40_000  # images 0..39,999 of the training file; the last 10,000 validate

_CHOICES = {
    "padding": ("reflect", "constant"),
    "optimizer": ("sgd", "sgd-nesterov", "adamw"),
    "normalization": ("channel", "length", "image-channel"),
    "loss_reduction": ("mean", "sum"),
    "augmentation": ("per_epoch", "once", "none"),
}
_RANGES = {  # smallest and largest value, both allowed
    "seed": (0, 2**32 - 1),
    "epochs": (1, 100_000),
    "stop_epoch": (1, 100_000),
    "train_images": (1, TRAIN_IMAGES),
    "batch_size": (1, TRAIN_IMAGES),
    "label_smoothing": (0.0, 1.0),
    "learning_rate": (0.0, 1e3),
    "weight_decay": (0.0, 1e3),
    "momentum": (0.0, 1.0),
    "whitening_eps": (0.0, 1e3),
}


@dataclass(frozen=True)
class RunParams:
    """One training run. The defaults are the paper's settings of run 6; params/*.yaml say what a run has instead.

    Raises InputError naming the field, its value and what is allowed.
    """

    run: str  # name of its file in params/, without .yaml
    question: str = ""  # the file's first comment line: what the run asks
    seed: int = 0
    epochs: int = PAPER_EPOCHS  # length of the schedule; any other number squeezes it, keeping its shape
    stop_epoch: int | None = None  # stop the schedule after this many epochs
    train_images: int = TRAIN_IMAGES  # the first so many images of the training split

    batch_size: int = 128  # an epoch drops its incomplete last batch
    whitening: bool = True  # first layer: frozen whitening filters, or default initialisation and trained
    padding: str = "reflect"  # of 4 pixels before the random crop
    optimizer: str = "sgd-nesterov"
    normalization: str = "channel"
    label_smoothing: float = 0.0

    loss_reduction: str = "mean"  # over the batch
    augmentation: str = "per_epoch"  # crop and flip drawn anew, drawn once before epoch 1, or none
    learning_rate: float | None = None  # at the start; None: the paper's 0.08 for SGD, 0.001 for AdamW
    weight_decay: float = 0.02  # of every trained parameter; AdamW's is decoupled
    momentum: float = 0.9
    whitening_eps: float = 5e-4  # added to each eigenvalue; reference [1]

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            value = getattr(self, name)
            allowed = typing.get_args(hint) or (hint,)
            if value is None and type(None) in allowed:
                continue
            if float in allowed and type(value) is int:
                value = float(value)
                object.__setattr__(self, name, value)
            if type(value) not in allowed:  # not isinstance: True is no number of epochs
                kind = " or ".join(t.__name__ for t in allowed if t is not type(None))
                note = ""
                if float in allowed and isinstance(value, str):
                    note = " (YAML reads 1e-3 as text: write 0.001)"
                raise InputError(f"{name} = {value!r}: give a value of type {kind}{note}")
            if name in _CHOICES and value not in _CHOICES[name]:
                raise InputError(f"{name} = {value!r}: choose one of {', '.join(_CHOICES[name])}")
            if name in _RANGES:
                low, high = _RANGES[name]
                if not (low <= value <= high) or not math.isfinite(value):
                    raise InputError(f"{name} = {value!r}: give a number from {low} to {high}")
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", 0.001 if self.optimizer == "adamw" else 0.08)
        if self.batch_size > self.train_images:
            raise InputError(
                f"train_images = {self.train_images} is less than one batch of {self.batch_size}: "
                f"give at least {self.batch_size}"
            )
        if self.optimizer == "sgd-nesterov" and self.momentum == 0:
            raise InputError("momentum = 0.0: Nesterov needs momentum; choose optimizer = sgd")
        if self.stop_epoch is not None and self.stop_epoch > self.epochs:
            raise InputError(f"stop_epoch = {self.stop_epoch} lies beyond epochs = {self.epochs}")

    @property
    def last_epoch(self) -> int:
        """The epoch after which training ends."""
        return self.stop_epoch or self.epochs

    @property
    def steps_per_epoch(self) -> int:
        return self.train_images // self.batch_size

    def learning_rate_at(self, step: int) -> float:
        """The rate of step 0, 1, 2 ...: x 0.1 every 30/200 of the schedule's steps."""
        return self.learning_rate / 10 ** (PAPER_EPOCHS * step // (DECAY_EPOCHS * self.epochs * self.steps_per_epoch))

    def settings(self) -> dict:
        """All that decides the outcome, as plain data; a checkpoint is resumed only where these are the same."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "question"}

    @property
    def folder(self) -> str:
        """Where the record goes below outputs/: ``run7/seed0`` for the params file's own schedule on the full
        training split; any override shows, as in ``run7/seed0-epochs10``, so that a short run cannot pass for a full
        one."""
        own = load_params(self.run, seed=self.seed).settings()
        short = {"stop_epoch": "stop", "train_images": "images"}
        changed = [f"-{short.get(k, k)}{v}" for k, v in self.settings().items() if v != own[k]]
        return f"{self.run}/seed{self.seed}" + "".join(changed)


def run_names() -> list[str]:
    """The runs that exist: names of the files in params/."""
    return sorted(path.stem for path in (project_root() / "params").glob("*.yaml"))


def did_you_mean(name: str, known: typing.Iterable[str]) -> str:
    """``'epoch' is unknown, did you mean 'epochs'?`` or, where nothing is close, all known names."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"{name!r} is unknown: " + (f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}")


def load_params(run: int | str, **overrides) -> RunParams:
    """The parameters of params/<run>.yaml. run: 1 to 7, or the name of a file there. An override of None is none.

    Raises InputError for an unknown run or key and for a value of the wrong type or out of range.
    """
    name = f"run{run}" if str(run).isdigit() else str(run).removesuffix(".yaml")
    if name not in run_names():
        raise InputError(f"run = {run!r}: no file params/{name}.yaml; there are {', '.join(run_names())}")
    path = project_root() / "params" / f"{name}.yaml"
    text = path.read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: write one `name: value` a line")
    first = text.partition("\n")[0]
    question = first.lstrip("# ").strip() if first.startswith("#") else ""
    known = [f.name for f in dataclasses.fields(RunParams) if f.name not in ("run", "question")]
    for key in (*values, *overrides):
        if key not in known:
            raise InputError(f"{f'{path}: ' if key in values else ''}{did_you_mean(str(key), known)}")
    try:
        RunParams(run=name, question=question, **values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    overrides = {k: v for k, v in overrides.items() if v is not None}
    return RunParams(run=name, question=question, **{**values, **overrides})


def load_published(folder: Path | None = None) -> dict:
    """The paper's own numbers, params/published/table1.yaml."""
    return yaml.safe_load(((folder or project_root() / "params") / "published" / "table1.yaml").read_text("utf-8"))


if __name__ == "__main__":  # for the Makefile: `python -m cifarlib.params 7 epochs=10` prints the record's folder
    try:
        given = dict(pair.split("=", 1) for pair in sys.argv[2:])
        print(load_params(sys.argv[1], **{k: yaml.safe_load(v) for k, v in given.items()}).folder)
    except InputError as error:
        sys.exit(f"error: {error}")
