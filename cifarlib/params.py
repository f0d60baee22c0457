"""What defines a run: RunParams, and load_params(run, **overrides), which reads params/*.yaml."""

import dataclasses
import difflib
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from cifarlib import InputError, project_root

# Raised by hand when the same parameters and seed would train to another result; records of another
# version are stale. tests/test_golden.py notices such a change.
TRAINING_VERSION = 1
PAPER_EPOCHS, DECAY_EPOCHS = 200, 30  # section 3: the rate falls to a tenth every 30 of 200 epochs
# rate at the start, when it is full, rate at the end [1]
TRIANGLE_START, TRIANGLE_PEAK, TRIANGLE_END = 0.2, 0.23, 0.07
# Images 0..39,999 of the training file train, the last 10,000 validate, unless all of them train
TRAIN_IMAGES, ALL_IMAGES = 40_000, 50_000


def _one_of(default: str, *others: str) -> typing.Any:
    return dataclasses.field(default=default, metadata={"choices": (default, *others)})


def _between(low: float, high: float, default: float | None) -> typing.Any:
    """A number; both ends are allowed."""
    return dataclasses.field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True)
class RunParams:
    """One training run. The defaults are the paper's settings of run 6; params/*.yaml say what a
    run has instead.

    Raises InputError that names the field, its value and what is allowed.
    """

    run: str  # name of its file in params/, without .yaml
    question: str = ""  # the file's first comment line: what the run asks
    # as the file has them
    file_settings: dict = dataclasses.field(default_factory=dict, compare=False, repr=False)

    seed: int = _between(0, 2**32 - 1, 0)
    # length of the schedule; fewer squeeze it, keeping its shape
    epochs: int = _between(1, 100_000, PAPER_EPOCHS)
    stop_epoch: int | None = _between(1, 100_000, None)  # stop the schedule after this many epochs
    # so many; above 40,000 nothing is left to validate on
    train_images: int = _between(1, ALL_IMAGES, TRAIN_IMAGES)

    batch_size: int = _between(1, ALL_IMAGES, 128)  # an epoch drops its incomplete last batch
    # first layer: frozen whitening filters, or default initialisation and trained
    whitening: bool = True
    dirac: bool = True  # 3x3 convolutions: begin as the identity, or default initialisation
    padding: str = _one_of("reflect", "constant")  # before the random crop
    crop: int = _between(0, 31, 4)  # pixels of padding on each side
    # left to right: anew, or drawn once and then every other epoch
    flip: str = _one_of("random", "alternating")
    optimizer: str = _one_of("sgd-nesterov", "sgd", "adamw")
    # see preprocess.make_normalizer
    normalization: str = _one_of("channel", "length", "image-channel")
    label_smoothing: float = _between(0.0, 1.0, 0.0)

    loss_reduction: str = _one_of("mean", "sum")  # over the batch
    # crop and flip drawn anew, once before epoch 1, or not
    augmentation: str = _one_of("per_epoch", "once", "none")
    # None: the paper's 0.08 for SGD, 0.001 for AdamW
    learning_rate: float | None = _between(0.0, 1e3, None)
    schedule: str = _one_of("step", "triangle")  # of the rate: see learning_rate_at
    # how many times the rate BatchNorm's biases learn with
    bias_rate: float = _between(1e-3, 1e3, 1.0)
    # every few steps the weights return to their running average: see loop.Lookahead
    lookahead: bool = False
    # of every trained parameter; AdamW's is decoupled
    weight_decay: float = _between(0.0, 1e3, 0.02)
    momentum: float = _between(0.0, 1.0, 0.9)
    # added to each eigenvalue; reference [1] of the paper
    whitening_eps: float = _between(0.0, 1e3, 5e-4)

    def __post_init__(self) -> None:
        types = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _checked(field, types[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)
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
            raise InputError(
                f"stop_epoch = {self.stop_epoch} lies beyond epochs = {self.epochs}: give at most that"
            )

    @property
    def last_epoch(self) -> int:
        """The epoch after which training ends."""
        return self.stop_epoch or self.epochs

    @property
    def steps_per_epoch(self) -> int:
        return self.train_images // self.batch_size

    def learning_rate_at(self, step: int) -> float:
        """The rate of step 0, 1, 2 ... "step": x 0.1 every 30/200 of the schedule's steps.
        "triangle": x 0.2, rising to x 1 over the first 23 % of them, then falling to x 0.07."""
        steps = self.epochs * self.steps_per_epoch
        if self.schedule == "step":
            return self.learning_rate / 10 ** (PAPER_EPOCHS * step // (DECAY_EPOCHS * steps))
        if step < TRIANGLE_PEAK * steps:
            return self.learning_rate * (
                TRIANGLE_START + (1 - TRIANGLE_START) * step / (TRIANGLE_PEAK * steps)
            )
        return self.learning_rate * (
            1 - (1 - TRIANGLE_END) * (step / steps - TRIANGLE_PEAK) / (1 - TRIANGLE_PEAK)
        )

    def settings(self) -> dict:
        """All that decides the outcome, as plain data; a checkpoint is resumed only where these are
        the same."""
        values = {k: v for k, v in vars(self).items() if k not in ("question", "file_settings")}
        return {"training_version": TRAINING_VERSION, **values}

    def changes_since(self, recorded: dict) -> list[str]:
        """How these settings differ from recorded ones, as ``momentum 0.8, now 0.9``. A parameter
        that did not exist when the record was made had its default, so a new parameter makes no
        record stale."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)} | {
            "training_version": 1
        }
        then = defaults | recorded
        return [
            f"{name} {then[name]!r}, now {value!r}"
            for name, value in self.settings().items()
            if then[name] != value
        ]

    @property
    def folder(self) -> str:
        """Where the record goes below outputs/: ``run7/seed0`` with the params file's own settings;
        any override shows, as in ``run7/seed0-epochs10``, so that a short run cannot pass for a
        full one."""
        own = RunParams(self.run, seed=self.seed, **self.file_settings).settings()
        short = {"stop_epoch": "stop", "train_images": "images"}
        changed = [f"-{short.get(k, k)}{v}" for k, v in self.settings().items() if v != own[k]]
        return f"{self.run}/seed{self.seed}" + "".join(changed)


def _checked(field: dataclasses.Field, hint: type, value: object) -> object:
    """The value as its field has it; raises InputError where type, choice or range do not allow
    it."""
    allowed = typing.get_args(hint) or (hint,)
    if value is None and type(None) in allowed:
        return None
    if float in allowed and type(value) is int:
        value = float(value)
    if type(value) not in allowed:  # not isinstance: True is no number of epochs
        kind = " or ".join(t.__name__ for t in allowed if t is not type(None))
        note = (
            " (YAML reads 1e-3 as text: write 0.001)"
            if float in allowed and isinstance(value, str)
            else ""
        )
        raise InputError(f"{field.name} = {value!r}: give a value of type {kind}{note}")
    choices = field.metadata.get("choices", (value,))
    if value not in choices:
        raise InputError(f"{field.name} = {value!r}: choose one of {', '.join(choices)}")
    if "range" in field.metadata:
        low, high = field.metadata["range"]
        if not math.isfinite(value) or not low <= value <= high:
            raise InputError(f"{field.name} = {value!r}: give a number from {low} to {high}")
    return value


def run_names() -> list[str]:
    """The runs that exist: names of the files in params/."""
    return sorted(path.stem for path in (project_root() / "params").glob("*.yaml"))


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """``'epoch' is unknown: did you mean 'epochs'?`` or, where nothing is close, all known
    names."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"{name!r} is unknown: " + (
        f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    )


def load_params(run: int | str, **overrides) -> RunParams:
    """The parameters of params/<run>.yaml. run: 1 to 7, or the name of a file there. An override of
    None is none.

    Raises InputError for an unknown run or key and for a value of the wrong type or out of range.
    """
    name = f"run{int(run)}" if str(run).isdecimal() else str(run).removesuffix(".yaml")
    if name not in run_names():
        raise InputError(
            f"run = {run!r}: no file params/{name}.yaml; there are {', '.join(run_names())}"
        )
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
    known = [
        f.name
        for f in dataclasses.fields(RunParams)
        if f.name not in ("run", "question", "file_settings")
    ]
    for key in (*values, *overrides):
        if key not in known:
            raise InputError(
                f"{f'{path}: ' if key in values else ''}{did_you_mean(str(key), known)}"
            )
    try:
        RunParams(name, **values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    overrides = {k: v for k, v in overrides.items() if v is not None}
    return RunParams(name, question, values, **{**values, **overrides})
