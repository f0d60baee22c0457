"""An epoch on CUDA with the whole step captured in a graph: forward, loss, backward, optimizer.

At batch 128 the arithmetic of a step takes less time than Python needs to launch its kernels, about
a hundred; a graph is launched at once. What an epoch's steps read lies on the device before the
first, what they leave is read after the last, and a counter on the device says which comes next, so
that nothing passes between host and device in between. ``loop.train_epoch`` is the reference."""

import gc
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from cifarlib.loop import Training, epoch_plan, epoch_row, train_step
from cifarlib.model import OUTPUTS

# steps before the capture, which must not meet a first call: libraries load, buffers are made
WARM_UP = 3


class CapturedEpoch:
    """``loop.train_epoch`` of one ``training``, whose tensors are captured."""

    def __init__(self, training: Training):
        self.training = training  # the graph reads its tensors by address
        params = training.params
        groups = training.optimizer.param_groups
        device = training.images.device
        steps = (params.steps_per_epoch, params.batch_size)
        _, c, height, width = training.images.shape
        # in the type that autocast would convert them to; a batch is channels_last
        self.batches = torch.empty(*steps, height, width, c, dtype=training.dtype, device=device)
        self.labels = torch.empty(steps, dtype=training.labels.dtype, device=device)
        self.rates = torch.empty(steps[0], len(groups), device=device)
        self.losses = torch.empty(steps[0], device=device)
        self.logits = torch.empty(*steps, OUTPUTS, device=device)
        self.step = torch.empty(1, dtype=torch.int64, device=device)
        self.rate = torch.empty(1, len(groups), device=device)  # of this step
        for group, rate in zip(groups, self.rate[0], strict=True):
            group["lr"] = rate
            if "capturable" in group:  # AdamW; the fused SGD reads a rate on the device as it is
                group["capturable"] = True

        training.model.train()
        self._lay_out(1)
        before = {tensor: tensor.detach().clone() for tensor in _state(training)}
        self.replay = capture(self._one_step, self.step.zero_, device)
        # undone in place, as the graph knows tensors by address; momentum begins at zero
        with torch.no_grad():
            for tensor in _state(training):
                tensor.copy_(before.get(tensor, torch.zeros_like(tensor)))

    def _one_step(self) -> None:
        torch.index_select(self.rates, 0, self.step, out=self.rate)
        x, y = (t.index_select(0, self.step)[0] for t in (self.batches, self.labels))
        loss, logits = train_step(self.training, x.permute(0, 3, 1, 2), y)
        self.losses.index_copy_(0, self.step, loss[None])
        self.logits.index_copy_(0, self.step, logits[None])
        self.step += 1

    def _lay_out(self, epoch: int) -> None:
        """Put what the epoch's steps read where the graph reads it, and the counter to zero."""
        training = self.training
        params = training.params
        plan = epoch_plan(params, epoch, len(training.images))
        order, crops = (part[: self.labels.numel()].to(self.step.device) for part in plan)
        torch.index_select(training.labels, 0, order, out=self.labels.view(-1))
        images = training.batch(order, crops)  # for a moment some 40 kB each
        self.batches.copy_(images.permute(0, 2, 3, 1).reshape(self.batches.shape))
        steps = range((epoch - 1) * len(self.rates), epoch * len(self.rates))
        rates = [params.learning_rate_at(step) for step in steps]
        times = [group["times_rate"] for group in training.optimizer.param_groups]
        self.rates.copy_(torch.tensor([[t * rate for t in times] for rate in rates]))
        self.step.zero_()

    def __call__(self, epoch: int, on_step: Callable[[int], object] = lambda step: None) -> dict:
        self._lay_out(epoch)
        steps = len(self.losses)
        for step in range(steps):
            self.replay()
            if self.training.lookahead:
                self.training.lookahead.after((epoch - 1) * steps + step + 1)
            on_step(step + 1)
        right = (self.logits.argmax(2) == self.labels).sum()
        return epoch_row(self.training.params, epoch, self.losses.sum(), right, self.losses[-1])


def _state(training: Training) -> list[Tensor]:
    """Gather all that a step changes."""
    momentum = [t for state in training.optimizer.state.values() for t in state.values()]
    tensors = [*training.model.state_dict(keep_vars=True).values(), *momentum]
    return [t for t in tensors if isinstance(t, Tensor)]


def capture(
    function: Callable[[], None], reset: Callable[[], object], device: torch.device
) -> Callable[[], None]:
    """Make ``function`` one launch, after a few ordinary calls; ``reset()`` before each."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            # AdamW: these steps alone run uncaptured
            warnings.filterwarnings("ignore", message=".*capturable=True")
            for _ in range(WARM_UP):
                reset()
                function()
        torch.cuda.current_stream().wait_stream(stream)
        reset()
        graph = torch.cuda.CUDAGraph()
        gc.collect()  # another graph that is destroyed during the capture would break it
        with torch.cuda.graph(graph, stream=stream):
            function()
    return graph.replay
