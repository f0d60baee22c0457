"""The training loop: optimizer, one step, one epoch. It runs on any device."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlib import PlainMessage, preprocess
from cifarlib.model import BatchNorm, forward
from cifarlib.params import TRAIN_IMAGES, RunParams
from cifarlib.preprocess import Normalizer


class Diverged(PlainMessage, ArithmeticError):
    """The loss is no longer finite."""


@dataclass
class Training:
    """What an epoch works on, all on one device."""

    params: RunParams
    model: nn.Module
    optimizer: torch.optim.Optimizer
    images: Tensor  # uint8 (N, 3, 32, 32), channels_last
    labels: Tensor  # int64 (N,)
    normalizer: Normalizer  # of the images
    dtype: torch.dtype  # of autocast; float32: none
    lookahead: "Lookahead | None" = None
    convolutions: str = "PyTorch"  # which kind the model has, as convolutions.use_fast names it

    def __post_init__(self) -> None:
        # float16 has no numbers below 6e-8: unscaled, up to 41 % of a layer's gradients would be
        # zero. The scale is fixed, so that nothing has to be saved; a step whose gradients are not
        # all finite is left out.
        batch = self.params.batch_size if self.params.loss_reduction == "mean" else 1
        self.scale = 128.0 * batch
        is_float16 = self.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.images.device.type, self.scale, enabled=is_float16)

    def state_dict(self) -> dict:
        """Return all that training changes, for a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lookahead": self.lookahead.averages if self.lookahead else None,
        }

    def load_state_dict(self, state: dict) -> None:
        """Take a checkpoint's state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.lookahead:
            for name, average in self.lookahead.averages.items():
                average.copy_(state["lookahead"][name])


class Lookahead:
    """airbench94's running average of a network's weights and statistics. After every ``IMAGES``
    training images it moves towards the weights, each time by less, and the weights are set to it;
    after the last step the average is the network."""

    IMAGES = 5120  # five of its steps

    def __init__(self, params: RunParams, model: nn.Module):
        self.model = model
        self.total = params.epochs * params.steps_per_epoch
        self.interval = max(1, self.IMAGES // params.batch_size)
        state = model.state_dict()
        self.averages = {k: v.clone() for k, v in state.items() if v.is_floating_point()}

    @torch.no_grad()
    def after(self, step: int) -> None:
        """Update after ``step`` steps of the schedule."""
        if step % self.interval == 0 or step == self.total:
            keep = 1.0 if step == self.total else 0.95**5 * (step / self.total) ** 3
            state = self.model.state_dict()
            for name, average in self.averages.items():
                average.lerp_(state[name], 1 - keep)
                state[name].copy_(average)


def make_optimizer(params: RunParams, model: nn.Module) -> torch.optim.Optimizer:
    """Make SGD, SGD with Nesterov momentum (coupled weight decay) or AdamW (decoupled), over what
    is trained.

    A group learns at ``times_rate`` times the step's rate: 1, or ``bias_rate`` for BatchNorm's
    biases, whose weight decay is divided by it, so that the product is the same."""
    biases = []
    if params.bias_rate != 1:
        biases = [m.bias for m in model.modules() if isinstance(m, BatchNorm)]
    trained = [p for p in model.parameters() if p.requires_grad]
    others = [p for p in trained if not any(p is bias for bias in biases)]  # `in` compares values
    groups = [{"params": others, "times_rate": 1.0}]
    if biases:
        decay = params.weight_decay / params.bias_rate
        groups.append({"params": biases, "times_rate": params.bias_rate, "weight_decay": decay})
    sgd = partial(torch.optim.SGD, momentum=params.momentum)
    classes = {"sgd": sgd, "sgd-nesterov": partial(sgd, nesterov=True), "adamw": torch.optim.AdamW}
    optimizer = classes[params.optimizer](
        groups,
        lr=params.learning_rate,
        weight_decay=params.weight_decay,
        fused=trained[0].device.type in ("cpu", "cuda"),
    )
    if params.optimizer != "adamw":
        # PyTorch 2.15 leaves a new buffer unwritten where the first float16 step overflows
        optimizer.state.update({p: {"momentum_buffer": torch.zeros_like(p)} for p in trained})
    return optimizer


def train_step(training: Training, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Update once from images (B, 3, 32, 32) and labels (B,).

    Returns the loss in the run's reduction and the logits (B, 10) from before the update, both
    still on the device."""
    params = training.params
    logits = forward(training.model, x, training.dtype)
    loss = F.cross_entropy(
        logits, y, label_smoothing=params.label_smoothing, reduction=params.loss_reduction
    )
    training.optimizer.zero_grad(set_to_none=True)
    training.scaler.scale(loss).backward()
    training.scaler.step(training.optimizer)
    training.scaler.update(training.scale)  # it stays as it is
    return loss.detach(), logits.detach()


def batch_step(training: Training, index: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
    """Update once from the images at ``index``, augmented as ``crops`` say. Returns the loss and
    how many of the batch were right before the update, both still on the device."""
    p = training.params
    where = {"padding": p.padding, "cutout": p.cutout}
    x = preprocess.crop_and_flip(training.images, training.normalizer, index, crops, **where)
    y = training.labels[index]
    loss, logits = train_step(training, x, y)
    return loss, (logits.argmax(1) == y).sum()


def epoch_plan(params: RunParams, epoch: int, n: int) -> tuple[Tensor, Tensor]:
    """Plan what epoch 1, 2, ... does with n images, on the CPU: their order (n,) and in that order
    what ``draw_crops`` says of them, zeros without augmentation."""
    order = preprocess.draw_order(params.seed, epoch, n)
    if params.augmentation == "none":
        return order, torch.zeros(n, 3, dtype=torch.int64)
    drawn = {"once": preprocess.BEFORE_TRAINING, "per_epoch": epoch}[params.augmentation]
    crops = preprocess.draw_crops(params.seed, drawn, n, params.crop, params.cutout)
    if params.augmentation == "once":
        crops = crops[order]  # each image's one crop and flip, in this epoch's order
    if params.flip == "alternating":
        crops[:, 2] = preprocess.alternating_flips(params.seed, drawn, n)[order]
    return order, crops


def epoch_row(
    params: RunParams, epoch: int, loss_sum: Tensor, right: Tensor, last_loss: Tensor
) -> dict:
    """Make an epoch's line of the history from the sums of its steps' losses and right answers;
    waits for the device."""
    steps = params.steps_per_epoch
    images = steps * params.batch_size
    divisor = images if params.loss_reduction == "sum" else steps
    return {
        "epoch": epoch,
        "learning_rate": params.learning_rate_at(epoch * steps - 1),
        "train_loss": loss_sum.item() / divisor,
        "train_accuracy": right.item() / images,
        "last_batch_loss": last_loss.item(),
    }


def train_epoch(
    training: Training,
    epoch: int,
    on_step: Callable[[float], object] = lambda epochs: None,
    update: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None,
) -> dict:
    """Train epoch 1, 2, ...; the device is read once, at the end. Returns the epoch's line of the
    history. ``on_step(epochs done, a fraction)`` is called after every step; ``update`` is a
    captured ``batch_step``."""
    update = update or partial(batch_step, training)
    params = training.params
    steps = params.steps_per_epoch
    size = params.batch_size
    device = training.images.device
    order, crops = (part.to(device) for part in epoch_plan(params, epoch, len(training.images)))
    loss_sum = torch.zeros((), device=device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    training.model.train()
    for step in range(steps):
        rate = params.learning_rate_at((epoch - 1) * steps + step)
        for group in training.optimizer.param_groups:
            group["lr"] = group["times_rate"] * rate
        batch = slice(step * size, (step + 1) * size)
        loss, correct = update(order[batch], crops[batch])
        loss_sum += loss
        right += correct
        if training.lookahead:
            training.lookahead.after((epoch - 1) * steps + step + 1)
        on_step(epoch - 1 + (step + 1) / steps)
    return epoch_row(params, epoch, loss_sum, right, loss)


def raise_if_diverged(params: RunParams, row: dict) -> None:
    """Raise Diverged where a loss in an epoch's line of the history is not finite."""
    losses = [row["train_loss"], row["validation_loss"]]
    if params.train_images > TRAIN_IMAGES:  # no image validates
        losses.pop()
    if not all(map(math.isfinite, losses)):
        loss = " and ".join(map(str, losses))
        advice = f"give a learning_rate below {params.learning_rate:g}"
        if params.weight_decay:
            advice += f", or weight_decay below {params.weight_decay:g}"
        raise Diverged(f"the loss of {params.run} is {loss} in epoch {row['epoch']}: {advice}")
