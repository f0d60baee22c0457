"""Tensors in a file that nobody has to trust: safetensors, with a description and a digest of the
content."""

import hashlib
import json
from pathlib import Path

import safetensors.torch
from torch import Tensor

from cifarlib import InputError
from cifarlib.records import write_atomically


def _digest_of(tensors: dict[str, Tensor], description: str) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].numpy().tobytes())
    return digest.hexdigest()


def save_tensors(path: Path, tensors: dict[str, Tensor], description: dict) -> None:
    """A safetensors file: tensors, with ``description`` as JSON and a digest of the tensors in its
    header."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    header = {"about": json.dumps(description)}
    header["sha256"] = _digest_of(tensors, header["about"])
    write_atomically(
        path, lambda file: file.write(safetensors.torch.save(tensors, metadata=header))
    )


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors (on the CPU) and ``description`` of save_tensors. Nothing in the file is
    executed. Raises InputError where it is damaged or not such a file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
        description, digest = json.loads(header["about"]), _digest_of(tensors, header["about"])
    except FileNotFoundError:
        raise InputError(f"no file {path}") from None
    # the library raises its own and several built-in kinds for a damaged file
    except Exception as error:
        raise InputError(f"{path} is damaged, or no file of this project: {error!r}") from None
    if header.get("sha256") != digest:
        raise InputError(f"{path} is damaged: its content does not match its SHA-256")
    return tensors, description
