"""NumPy arrays and plain containers in a pickle, such as CIFAR's own batches, read without running
what it asks for.

A pickle names functions that its reader calls. Here harmless classes stand in for the few names
that an array needs, and any other name is an error. Not even NumPy's own functions serve: they
trust the memory layout in the file."""

import pickle
import re
from pathlib import Path

import numpy as np


class _Dtype:
    """Stands in for numpy.dtype, for numbers and text alone."""

    def __init__(self, code: str | bytes, *_):
        self.code, self.order = _text(code), "|"

    def __setstate__(self, state: tuple) -> None:
        self.order = _text(state[1])

    def numpy(self) -> np.dtype:
        if not re.fullmatch(r"[<>=|]([bui][1248]|f[248]|[SU]\d+)", self.order + self.code):
            raise ValueError(
                f"an array of {self.code}: only numbers and text are read from a pickle"
            )
        return np.dtype(self.order + self.code)


class _Array:
    """Stands in for an array; ``numpy.asarray`` makes one of it."""

    def __init__(self, *_):
        self.array = np.empty(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_columns, content = state
        self.array = np.frombuffer(content, dtype.numpy()).reshape(
            shape, order="F" if by_columns else "C"
        )

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.array, dtype)


class _ArrayOfBuffer(_Array):
    """The same, as pickle protocol 5 writes it."""

    def __init__(self, content: bytes, dtype: _Dtype, shape: tuple, order: str):
        self.__setstate__((1, shape, dtype, order == "F", content))


class _Scalar:
    """Stands in for numpy.generic: becomes the number at once."""

    def __new__(cls, dtype: _Dtype, content: bytes) -> np.generic:
        return np.frombuffer(content, dtype.numpy())[0]


def _text(value: str | bytes) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


class _Unpickler(pickle.Unpickler):
    STAND_INS = {  # noqa: RUF012
        "numpy.dtype": _Dtype,
        "numpy.ndarray": _Array,
        "numpy.core.multiarray._reconstruct": _Array,
        "numpy.core.numeric._frombuffer": _ArrayOfBuffer,
        "numpy.core.multiarray.scalar": _Scalar,
        "_codecs.encode": str.encode,  # bytes in protocol 2
    }

    def find_class(self, module: str, name: str) -> object:
        full_name = f"{module}.{name}"
        try:
            return self.STAND_INS[full_name.replace("numpy._core", "numpy.core")]
        except KeyError:
            raise ValueError(
                f"it asks for {full_name}, and only NumPy arrays are read from a pickle"
            ) from None


def read_pickled_arrays(file: Path) -> dict[str, np.ndarray]:
    """The arrays by name: of a dict its keys, of a list or tuple of different arrays "0", "1", ...,
    of one array (or a list of equal shapes) "array". Raises ValueError where the file is damaged or
    holds anything else."""
    with open(file, "rb") as opened:
        try:
            # Python 2's str, as in CIFAR's batches, are bytes
            content = _Unpickler(opened, encoding="bytes").load()
            if isinstance(content, dict):
                return {_text(name): np.asarray(value) for name, value in content.items()}
            if (
                isinstance(content, (list, tuple))
                and len({np.shape(value) for value in content}) > 1
            ):
                return {str(i): np.asarray(value) for i, value in enumerate(content)}
            return {"array": np.asarray(content)}
        except Exception as error:  # a damaged pickle fails in any way
            raise ValueError(f"{error}" or type(error).__name__) from None
