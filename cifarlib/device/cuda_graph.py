"""An epoch on CUDA with the whole step captured in a graph: batch, forward, loss, backward, optimizer, sums.

At batch 128 the arithmetic of a step takes less time than Python needs to launch its 100 kernels; a graph is launched
at once. Its input for the whole epoch (order, crops, learning rates) lies on the device, and a counter there says which
step comes next, so that nothing passes between host and device inside an epoch. ``loop.train_epoch`` is the reference.
"""

import gc
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from cifarlib.loop import Training, epoch_plan, epoch_row, train_step
from cifarlib.preprocess import crop_and_flip

WARM_UP = 3  # steps before the capture, which must not meet a first call: libraries load, buffers are made


class CapturedEpoch:
    """Called like ``loop.train_epoch`` with an epoch's number; ``training`` is fixed, as its tensors are captured."""

    def __init__(self, training: Training):
        self.training = training  # the graph reads its tensors by address
        params, images, device = training.params, training.images, training.images.device
        steps, size = params.steps_per_epoch, params.batch_size
        order, crops = epoch_plan(params, 1, len(images))
        self.order = torch.empty(steps, size, dtype=order.dtype, device=device)
        self.crops = None if crops is None else torch.empty(steps, size, 3, dtype=crops.dtype, device=device)
        self.rates = torch.empty(steps, device=device)
        self.step = torch.empty(1, dtype=torch.int64, device=device)
        self.loss_sum, self.last_loss = torch.empty(2, device=device).unbind()
        self.right = torch.empty((), dtype=torch.int64, device=device)
        groups = training.optimizer.param_groups
        for group in groups:
            group["lr"] = torch.zeros((), device=device)
            if "capturable" in group:  # AdamW; the fused SGD reads a rate on the device as it is
                group["capturable"] = True

        def one_step() -> None:
            index = self.order.index_select(0, self.step)[0]
            crops = None if self.crops is None else self.crops.index_select(0, self.step)[0]
            rate = self.rates.index_select(0, self.step)[0]
            for group in groups:
                torch.mul(rate, group["times_rate"], out=group["lr"])
            x = crop_and_flip(images, training.normalizer, index, crops, params.padding)
            loss, correct = train_step(training, x, training.labels.index_select(0, index))
            self.last_loss.copy_(loss)
            self.loss_sum += loss
            self.right += correct
            self.step += 1

        training.model.train()
        self._lay_out(1)
        before = {tensor: tensor.detach().clone() for tensor in _state(training)}
        self.replay = capture(one_step, self.step.zero_, device)
        with torch.no_grad():  # undone in place, as the graph knows tensors by address; momentum begins at zero
            for tensor in _state(training):
                tensor.copy_(before.get(tensor, torch.zeros_like(tensor)))

    def _lay_out(self, epoch: int) -> None:
        """Puts an epoch's plan where the graph reads it, and the counters to zero."""
        steps, size = self.order.shape
        params = self.training.params
        order, crops = epoch_plan(params, epoch, len(self.training.images))
        self.order.copy_(order[: steps * size].view(steps, size))
        if crops is not None:
            self.crops.copy_(crops[: steps * size].view(steps, size, 3))
        rates = [params.learning_rate_at((epoch - 1) * steps + step) for step in range(steps)]
        self.rates.copy_(torch.tensor(rates))
        for counter in (self.step, self.loss_sum, self.right):
            counter.zero_()

    def __call__(self, epoch: int, on_step: Callable[[int], object] = lambda step: None) -> dict:
        self._lay_out(epoch)
        for step in range(len(self.order)):
            self.replay()
            if self.training.lookahead:
                self.training.lookahead.after((epoch - 1) * len(self.order) + step + 1)
            on_step(step + 1)
        return epoch_row(self.training.params, epoch, self.loss_sum, self.right, self.last_loss)


def _state(training: Training) -> list[Tensor]:
    """All that a step changes."""
    momentum = [t for state in training.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    return [*training.model.state_dict(keep_vars=True).values(), *momentum]


def capture(function: Callable[[], None], reset: Callable[[], object], device: torch.device) -> Callable[[], None]:
    """``function`` as one launch on a CUDA device, after a few ordinary calls; ``reset()`` before each."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*capturable=True")  # AdamW: these steps alone run uncaptured
            for _ in range(WARM_UP):
                reset()
                function()
        torch.cuda.current_stream().wait_stream(stream)
        reset()
        graph = torch.cuda.CUDAGraph()
        gc.collect()
        collects = gc.isenabled()
        gc.disable()  # another graph that is destroyed now would break the capture
        try:
            with torch.cuda.graph(graph, stream=stream):  # its default one belongs to the device of the first capture
                function()
        finally:
            if collects:
                gc.enable()
    return graph.replay
