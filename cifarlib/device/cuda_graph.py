"""A training step on CUDA captured in a graph: batch, forward, loss, backward, optimizer.

At batch 128 the arithmetic of a step takes less time than Python needs to launch its kernels, some
two hundred; a graph is launched at once."""

import gc
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from cifarlib.loop import Training, batch_step, epoch_plan

# ordinary steps before: a first call loads libraries and makes buffers, which a capture forbids
WARM_UP = 3


class CapturedStep:
    """Called like ``loop.batch_step`` with indices and crops; ``training`` is fixed, as the graph
    reads its tensors by address. What it returns is overwritten by the next call."""

    def __init__(self, training: Training):
        self.training = training
        device = training.images.device
        size = training.params.batch_size
        plan = epoch_plan(training.params, 1, size)  # for its shapes
        self.index, self.crops = (part.to(device) for part in plan)
        self.groups = training.optimizer.param_groups
        self.rates = [torch.zeros((), device=device) for _ in self.groups]
        for group, rate in zip(self.groups, self.rates, strict=True):
            group["lr"] = rate
            if "capturable" in group:  # AdamW; the fused SGD reads a rate on the device as it is
                group["capturable"] = True
        training.model.train()
        before = {tensor: tensor.detach().clone() for tensor in _state(training)}
        self.replay = capture(self._step, device)
        # undone in place; what the optimizer keeps begins at zero
        with torch.no_grad():
            for tensor in _state(training):
                tensor.copy_(before.get(tensor, torch.zeros_like(tensor)))

    def _step(self) -> None:
        self.loss, self.right = batch_step(self.training, self.index, self.crops)

    def __call__(self, index: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
        self.index.copy_(index)
        self.crops.copy_(crops)
        for group, rate in zip(self.groups, self.rates, strict=True):
            rate.fill_(group["lr"])  # which train_epoch sets; the graph reads the tensor
        self.replay()
        return self.loss, self.right


def _state(training: Training) -> list[Tensor]:
    """Gather all that a step changes."""
    momentum = [t for state in training.optimizer.state.values() for t in state.values()]
    tensors = [*training.model.state_dict(keep_vars=True).values(), *momentum]
    return [t for t in tensors if isinstance(t, Tensor)]


def capture(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Make ``function`` one launch, after a few ordinary calls."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            # AdamW warns that it is not captured yet, as is meant for these steps
            warnings.filterwarnings("ignore", message=".*capturable=True")
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        gc.collect()  # another graph that is destroyed during the capture would break it
        with torch.cuda.graph(graph, stream=stream):
            function()
    return graph.replay
