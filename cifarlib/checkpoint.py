"""A run under way: its folder, and ``unfinished/checkpoint.safetensors`` there, from which it can
go on."""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cifarlib import InputError, outputs_folder, records, tensor_files
from cifarlib.loop import Training
from cifarlib.params import RunParams

FREE_BYTES = 100_000_000  # what a run may need: checkpoint and record, each twice for a moment


def open_folder(params: RunParams, output_folder: str | Path | None = None) -> Path:
    """The run's folder, made and known to be writable with room for a run; below outputs/ unless
    given.

    Raises InputError before anything expensive.
    """
    output_folder = outputs_folder(output_folder)
    folder = output_folder / params.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"can this be written?")
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(
            f"output_folder = {str(output_folder)!r} cannot be written: {error}"
        ) from None
    if free < FREE_BYTES:
        raise InputError(
            f"{folder} has {free / 1e6:.0f} MB free, a run needs {FREE_BYTES / 1e6:.0f} MB"
        )
    return folder


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after an epoch."""

    tensors: dict[str, Tensor]  # model.*, optimizer.<parameter>.*, lookahead.*
    identity: dict  # settings, device, precision ...: a run that goes on from it must have the same
    sessions: list[dict]
    history: list[dict]

    def restore(self, training: Training) -> None:
        """Puts the state into model and optimizer."""
        model = {
            k.removeprefix("model."): v for k, v in self.tensors.items() if k.startswith("model.")
        }
        training.model.load_state_dict(model)
        optimizer, state = training.optimizer, {}
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        for name, tensor in self.tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                # in the parameter's own memory format: fused kernels walk both side by side
                if tensor.dim():
                    tensor = torch.empty_like(trained[int(index)]).copy_(tensor)
                state.setdefault(int(index), {})[key] = tensor
        if training.lookahead:
            for name, average in training.lookahead.averages.items():
                average.copy_(self.tensors[f"lookahead.{name}"])
        optimizer.load_state_dict(
            {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
        )


def save(
    folder: Path, training: Training, identity: dict, sessions: list[dict], history: list[dict]
) -> None:
    """Writes the checkpoint, and history and log so far beside it. Raises OSError that says what is
    kept."""
    tensors = {f"model.{k}": v for k, v in training.model.state_dict().items()}
    for index, state in training.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items() if isinstance(v, Tensor)}
    if training.lookahead:
        tensors |= {f"lookahead.{k}": v for k, v in training.lookahead.averages.items()}
    description = {"identity": identity, "history": history, "sessions": sessions}
    try:
        tensor_files.save_tensors(
            folder / "unfinished" / "checkpoint.safetensors", tensors, description
        )
        records.write_text(folder / "unfinished" / "history.csv", records.history_csv(history))
        records.write_text(folder / "unfinished" / "log.txt", records.log_epochs(history))
    except OSError as error:
        raise OSError(
            f"epoch {len(history)} could not be saved in {folder}: {error}. The checkpoint before it is intact: make "
            "room, and the same command goes on from there."
        ) from None


def read(folder: Path, params: RunParams, identity: dict) -> Checkpoint | None:
    """The folder's checkpoint, None where there is none. Raises InputError where it is damaged, or
    of a run of another identity; a precision of "auto" takes any."""
    path = folder / "unfinished" / "checkpoint.safetensors"
    if not path.exists():
        return None
    way_out = "Give resume = False to start afresh, or move it away."
    try:
        tensors, description = tensor_files.load_tensors(path)
    except InputError as error:
        raise InputError(f"{error}. {way_out}") from None
    theirs = description.get("identity", {})
    others = {k: v for k, v in identity.items() if k not in params.settings() and v != "auto"}
    different = params.changes_since(theirs)
    different += [
        f"{name} {theirs.get(name)!r}, now {v!r}"
        for name, v in others.items()
        if theirs.get(name) != v
    ]
    if different:
        raise InputError(
            f"{path} belongs to a run of other parameters ({'; '.join(different)}). {way_out}"
        )
    return Checkpoint(tensors, theirs, description["sessions"], description["history"])
