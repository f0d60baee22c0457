"""What defines a run: RunParams, and load_params(run, **overrides), which reads params/*.yaml."""

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from cifarlib import InputError, project_root

# Raised by hand when the same parameters and seed would train to another result; records of another
# version are stale. tests/test_golden.py notices such a change.
TRAINING_VERSION = 1
PAPER_EPOCHS = 200
DECAY_EPOCHS = 30  # paper, section 3: the rate falls to a tenth every 30 of 200 epochs
PAPER_RATES = {"sgd-nesterov": 0.08, "sgd": 0.08, "adamw": 0.001}  # section 3, too
# airbench94: the rate begins at 0.2, is full after 23 % of the steps, and ends at 0.07 of its peak
TRIANGLE_START = 0.2
TRIANGLE_PEAK = 0.23
TRIANGLE_END = 0.07
# images 0 to 39,999 of the training file train, the last 10,000 validate, unless all of them train
TRAIN_IMAGES = 40_000
ALL_IMAGES = 50_000
SHORT_NAMES = {"stop_epoch": "stop", "train_images": "images"}  # in the names of folders


def _one_of(default: str, *others: str) -> typing.Any:
    return dataclasses.field(default=default, metadata={"choices": (default, *others)})


def _between(low: float, high: float, default: float | None) -> typing.Any:
    """Declare a number; both ends are allowed."""
    return dataclasses.field(default=default, metadata={"range": (low, high)})


@dataclass(frozen=True)
class RunParams:
    """One training run. The defaults are the paper's settings of run 6; params/*.yaml say what a
    run has instead, or what it changes of another one (base: fast).

    Raises InputError that names the field, its value and what is allowed."""

    run: str  # name of its file in params/, without .yaml
    question: str = ""  # the file's first comment line: what the run asks
    file_settings: dict = dataclasses.field(default_factory=dict, compare=False, repr=False)

    seed: int = _between(0, 2**32 - 1, 0)
    epochs: int = _between(1, 100_000, PAPER_EPOCHS)  # the schedule's length; fewer squeeze it
    stop_epoch: int | None = _between(1, 100_000, None)  # end after so many epochs of the schedule
    train_images: int = _between(1, ALL_IMAGES, TRAIN_IMAGES)  # above 40,000 none validates

    batch_size: int = _between(1, ALL_IMAGES, 128)  # an epoch drops its incomplete last batch
    whitening: bool = True  # first layer: frozen whitening filters, or default init and trained
    dirac: bool = True  # 3x3 convolutions: begin as the identity, or default initialisation
    padding: str = _one_of("reflect", "constant")  # before the random crop
    crop: int = _between(0, 31, 4)  # largest shift in pixels; each side is padded by as many
    flip: str = _one_of("random", "alternating")  # drawn anew, or once and turned every epoch
    cutout: int = _between(0, 31, 0)  # pixels a side of the square that becomes zero
    optimizer: str = _one_of(*PAPER_RATES)
    normalization: str = _one_of("channel", "length", "image-channel")  # see make_normalizer
    label_smoothing: float = _between(0.0, 1.0, 0.0)

    loss_reduction: str = _one_of("mean", "sum")  # over the batch
    augmentation: str = _one_of("per_epoch", "once", "none")  # crop and flip: see loop.epoch_plan
    learning_rate: float | None = _between(0.0, 1e3, None)  # None: the optimizer's, PAPER_RATES
    schedule: str = _one_of("step", "triangle")  # of the rate: see learning_rate_at
    bias_rate: float = _between(1e-3, 1e3, 1.0)  # factor on the rate of BatchNorm's biases
    lookahead: bool = False  # weights return to their running average: see loop.Lookahead
    weight_decay: float = _between(0.0, 1e3, 0.02)  # of every trained parameter; AdamW: decoupled
    momentum: float = _between(0.0, 1.0, 0.9)
    whitening_eps: float = _between(0.0, 1e3, 5e-4)  # added to each eigenvalue (airbench94)

    def __post_init__(self) -> None:
        types = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = _checked(field, types[field.name], getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", PAPER_RATES[self.optimizer])
        if self.batch_size > self.train_images:
            raise InputError(
                f"train_images = {self.train_images} is less than one batch of {self.batch_size}: "
                f"give at least {self.batch_size}"
            )
        if self.optimizer == "sgd-nesterov" and self.momentum == 0:
            raise InputError("momentum = 0.0: Nesterov needs momentum; choose optimizer = sgd")
        if self.cutout and self.augmentation == "none":
            raise InputError(f"cutout = {self.cutout}: with augmentation = none nothing is cut out")
        if self.stop_epoch is not None and self.stop_epoch >= self.epochs:
            raise InputError(
                f"stop_epoch = {self.stop_epoch}: give less than epochs = {self.epochs}"
            )

    @property
    def last_epoch(self) -> int:
        """The epoch after which training ends."""
        return self.stop_epoch or self.epochs

    @property
    def steps_per_epoch(self) -> int:
        return self.train_images // self.batch_size

    def learning_rate_at(self, step: int) -> float:
        """Return the rate of step 0, 1, 2 ... of the schedule.

        "step": x 0.1 every 30/200 of the steps. "triangle": x 0.2, rising to x 1 over the first
        23 % of them, then falling to x 0.07."""
        steps = self.epochs * self.steps_per_epoch
        if self.schedule == "step":
            falls = PAPER_EPOCHS * step // (DECAY_EPOCHS * steps)
            return self.learning_rate / 10**falls
        if step < TRIANGLE_PEAK * steps:
            rise = (1 - TRIANGLE_START) * step / (TRIANGLE_PEAK * steps)
            return self.learning_rate * (TRIANGLE_START + rise)
        fall = (1 - TRIANGLE_END) * (step / steps - TRIANGLE_PEAK) / (1 - TRIANGLE_PEAK)
        return self.learning_rate * (1 - fall)

    def settings(self) -> dict:
        """Return all that decides the outcome, as plain data; a checkpoint is resumed only where
        these are the same."""
        values = {k: v for k, v in vars(self).items() if k not in ("question", "file_settings")}
        return {"training_version": TRAINING_VERSION, **values}

    def changes_since(self, recorded: dict) -> list[str]:
        """Name how these settings differ from recorded ones, as "momentum 0.8, now 0.9".

        A parameter that did not exist when the record was made had its default, so a new parameter
        makes no record stale."""
        then = DEFAULTS | recorded
        now = self.settings()
        changed = [f"{k} {then[k]!r}, now {v!r}" for k, v in now.items() if then[k] != v]
        return changed + unknown_settings(recorded)

    @property
    def folder(self) -> str:
        """Where the record goes below outputs/: ``run7/seed0`` with the params file's own settings;
        any override shows, as in ``run7/seed0-epochs10``, so that a short run cannot pass for a
        full one."""
        own = RunParams(self.run, seed=self.seed, **self.file_settings).settings()
        changed = {k: v for k, v in self.settings().items() if v != own[k]}
        suffixes = [f"-{SHORT_NAMES.get(name, name)}{value}" for name, value in changed.items()]
        return f"{self.run}/seed{self.seed}" + "".join(suffixes)


def unknown_settings(recorded: dict) -> list[str]:
    """Name what a record was trained with and this code does not have: "cutout 8, unknown here"."""
    return [f"{k} {v!r}, unknown here" for k, v in recorded.items() if k not in DEFAULTS]


def _checked(field: dataclasses.Field, hint: type, value: object) -> object:
    """Return the value as its field has it; raise InputError where type, choice or range do not
    allow it."""
    allowed = typing.get_args(hint) or (hint,)
    if value is None and type(None) in allowed:
        return None
    if float in allowed and type(value) is int:
        value = float(value)
    if type(value) not in allowed:  # not isinstance: True is no number of epochs
        kind = " or ".join(t.__name__ for t in allowed if t is not type(None))
        is_text = float in allowed and isinstance(value, str)
        note = " (YAML reads 1e-3 as text: write 0.001)" if is_text else ""
        raise InputError(f"{field.name} = {value!r}: give a value of type {kind}{note}")
    choices = field.metadata.get("choices")
    if choices and value not in choices:
        raise InputError(f"{field.name} = {value!r}: choose one of {', '.join(choices)}")
    if "range" in field.metadata:
        low, high = field.metadata["range"]
        if not low <= value <= high:  # nan is in no range
            raise InputError(f"{field.name} = {value!r}: give a number from {low} to {high}")
    return value


# what a record has that names none, as it is older than the parameter
DEFAULTS = RunParams("").settings() | {"training_version": 1}


def check_switches(**switches: object) -> None:
    """Raise InputError for what is not True or False: papermill reads -p views false as a text."""
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise InputError(f"{name} = {value!r}: give True or False")


def run_names() -> list[str]:
    """Return the runs that exist: names of the files in params/."""
    return sorted(path.stem for path in (project_root() / "params").glob("*.yaml"))


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Suggest the known name that is closest, else list all of them."""
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"


def _read_yaml(text: str) -> dict:
    """Read flat YAML in which a key stands once."""
    values = yaml.safe_load(text) or {}
    if not isinstance(values, dict):
        raise InputError("write one `name: value` a line")
    keys = [key.value for key, _ in yaml.compose(text).value] if values else []
    if len(set(keys)) < len(keys):
        raise InputError(f"{max(keys, key=keys.count)!r} stands twice")
    return values


def _file_name(run: int | str) -> str:
    """Return the name, without .yaml, of the file that ``run`` means: 7 is run7, unless there is a
    file 7.yaml. Raises InputError where there is no such file."""
    name = str(run).removesuffix(".yaml")
    known = run_names()
    if name.isdecimal() and name not in known:
        name = f"run{int(name)}"
    if name not in known:
        hint = did_you_mean(name, known)
        raise InputError(f"run = {run!r}: there is no params/{name}.yaml; {hint}")
    if name.replace(",", " ").split() != [name]:
        raise InputError(f"params/{name}.yaml: give the file a name without blanks and commas")
    return name


def load_params(run: int | str, **overrides) -> RunParams:
    """Return the parameters of params/<run>.yaml. run: 1 to 7, or the name of a file there. An
    override of None changes nothing.

    Raises InputError for an unknown run or key and for a value of the wrong type or out of range.
    """
    name = _file_name(run)
    path = project_root() / "params" / f"{name}.yaml"
    _refuse_unknown(overrides)
    try:
        text = path.read_text(encoding="utf-8")
        values = _read_yaml(text)
        bases = [name]
        while "base" in values:
            bases.append(_file_name(values.pop("base")))
            if bases.count(bases[-1]) > 1:
                raise InputError(f"base: {' is based on '.join(bases)}")
            base = path.with_name(f"{bases[-1]}.yaml")
            values = _read_yaml(base.read_text(encoding="utf-8")) | values
        if "seed" in values:
            raise InputError("a file holds no seed; it is given when a run is trained: seed = 3")
        _refuse_unknown(values)
        RunParams(name, **values)  # its checks: their message then names the file
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not YAML, or not saved as UTF-8: {reason}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    first = text.partition("\n")[0]
    question = first.lstrip("# ").strip() if first.startswith("#") else ""
    given = {k: v for k, v in overrides.items() if v is not None}
    return RunParams(name, question, values, **{**values, **given})


def _refuse_unknown(values: dict) -> None:
    known = [name for name in DEFAULTS if name not in ("training_version", "run")]
    for key in values:
        if key not in known:
            raise InputError(f"{key!r} is unknown: {did_you_mean(str(key), known)}")
