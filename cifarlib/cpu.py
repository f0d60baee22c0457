"""What a CPU needs apart: freed memory kept, and times that tell of nothing else that runs on the machine."""

import ctypes
import functools
import os
import time
from collections.abc import Callable, Sequence


@functools.cache
def keep_freed_memory() -> None:
    """Has glibc keep freed memory for the next step. By default it returns every large tensor to the system, which
    then zeroes the pages of the next one: at batch 1024 that was half of a CPU step's time. Elsewhere: no effect."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: no private mapping for tensors below 1 GiB
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap's top is not given back


def fastest_seconds(functions: Sequence[Callable[[], object]], rounds: int = 6) -> list[float]:
    """The shortest time of each function. They take turns and only what this thread computes counts, so that what else
    runs on the machine decides nothing."""
    trials = []
    for _ in range(rounds):
        for function in functions:
            start = time.thread_time()
            function()
            trials.append(time.thread_time() - start)
    return [min(trials[i :: len(functions)]) for i in range(len(functions))]
