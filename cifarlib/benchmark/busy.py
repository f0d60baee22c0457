"""What a busy neighbour costs training: ``python -m cifarlib.benchmark.busy`` on an otherwise idle
machine, two minutes.

Seconds an epoch on all threads and on one fewer, alone and beside a process that keeps one core
busy."""

import os
import subprocess
import sys
from statistics import median

import torch

ESTIMATE = """
import torch
from cifarlib.train import estimate_epoch_seconds
from cifarlib.params import load_params
print(estimate_epoch_seconds(load_params(7), torch.device("cpu")))
"""
REPEATS = 5


def epoch_seconds(threads: int) -> float:
    """The median of several starts, each a process of its own, as training is."""
    command = [sys.executable, "-c", ESTIMATE]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    runs = [
        subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        for _ in range(REPEATS)
    ]
    return median(float(run.stdout) for run in runs)


def main() -> None:
    counts = sorted({torch.get_num_threads(), max(1, torch.get_num_threads() - 1)}, reverse=True)
    alone = {threads: epoch_seconds(threads) for threads in counts}
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            beside = {threads: epoch_seconds(threads) for threads in counts}
        finally:
            neighbour.kill()
    for threads in counts:
        ratio = beside[threads] / alone[counts[0]]
        print(
            f"threads {threads}: alone {alone[threads]:.0f} s an epoch, beside a busy process {beside[threads]:.0f} s, "
            f"{ratio:.2f} times the {alone[counts[0]]:.0f} s"
        )


if __name__ == "__main__":
    main()
