"""Networks that answer images, and what their answers are worth."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import special
from torch import Tensor, nn

from cifarlib.data import CLASSES
from cifarlib.model import forward


@dataclass(frozen=True)
class Predictor:
    """A network with what it needs to answer about images."""

    model: nn.Module
    normalize: Callable[[Tensor], Tensor]  # of uint8 images: see preprocess.normalize
    dtype: torch.dtype = torch.float32  # of autocast; float16 is replaced by float32

    @torch.no_grad()
    def logits(self, images: Tensor, *, views: bool = False) -> Tensor:
        """Compute logits (N, 10), float32 on the model's device; the model is set to evaluation.

        images: uint8 (N, 3, 32, 32). views: with test-time augmentation, the weighted mean over
        ``weighted_views`` of each image."""
        dtype = torch.float32 if self.dtype == torch.float16 else self.dtype
        images = images.to(next(self.model.parameters()).device)
        self.model.eval()
        logits = []
        for part in images.split(250 if images.device.type == "cpu" else 2000):
            x = self.normalize(part)
            weighted = weighted_views(x) if views else [(1, x)]
            logits.append(sum(w * forward(self.model, view, dtype) for w, view in weighted))
        return torch.cat(logits)


def weighted_views(x: Tensor) -> list[tuple[float, Tensor]]:
    """Make airbench94's six views of images (B, 3, H, W), each with its weight: the images (1/4),
    and shifted by one pixel up-left and down-right, the rim mirrored (1/8 each); and the mirror
    image of each with the same weight."""
    height, width = x.shape[2:]
    padded = F.pad(x, (1, 1, 1, 1), "reflect")
    shifted = [padded[:, :, i : i + height, i : i + width] for i in (0, 2)]
    upright = [(1 / 4, x), *((1 / 8, view) for view in shifted)]
    return [*upright, *((weight, view.flip(3)) for weight, view in upright)]


def rounded(logits: Tensor) -> Tensor:
    """Round logits to float16, as predictions.npz holds them, so that every number can be computed
    again from there. Soon after the start they can lie beyond its range: there they are cut off."""
    largest = torch.finfo(torch.float16).max
    return logits.clamp(-largest, largest).half().float()


def right_answers(logits: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> np.ndarray:
    """Tell for each image whether its largest logit (ties: the first) is its label's: (N,) bool."""
    answers = torch.as_tensor(logits).cpu().argmax(1)
    return (answers == torch.as_tensor(labels).cpu()).numpy()


def accuracy(logits: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> float:
    """Compute the share of right answers; nan of none."""
    return float(right_answers(logits, labels).mean()) if len(labels) else math.nan


def mean_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> float:
    """Compute the cross-entropy per image, with the smoothing that the run trained with."""
    return float(F.cross_entropy(logits, labels, label_smoothing=label_smoothing))


def smoothing_floor(label_smoothing: float) -> float:
    """Compute the least loss per image (nats) that smoothed labels allow: their own entropy."""
    shares = np.full(len(CLASSES), label_smoothing / len(CLASSES))
    shares[0] += 1 - label_smoothing
    return float(special.entr(shares).sum())


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count answers, (10, 10): row the true class, column the predicted one."""
    pairs = len(CLASSES) * np.asarray(labels, int) + np.asarray(logits).argmax(1)
    return np.bincount(pairs, minlength=len(CLASSES) ** 2).reshape(len(CLASSES), -1)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Compute the probability (N, 10) of each class."""
    return special.softmax(np.asarray(logits, np.float64), axis=1)


def most_confident(logits: np.ndarray, labels: np.ndarray, n: int, right: bool) -> np.ndarray:
    """Find the n right or wrong answers of highest probability: indices, highest first."""
    wanted = np.flatnonzero(right_answers(logits, labels) == right)
    order = np.argsort(-probabilities(logits)[wanted].max(1), kind="stable")
    return wanted[order[:n]]


def calibration_curve(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """Bin answers by probability: their mean, share of right ones and count (Guo et al., 2017)."""
    probability = probabilities(logits).max(1)
    answers = pd.DataFrame({"probability": probability, "right": right_answers(logits, labels)})
    groups = answers.groupby((probability * bins).astype(int).clip(max=bins - 1))
    return groups.mean().assign(count=groups.size())


def calibration_error(curve: pd.DataFrame) -> float:
    """Average the distance between an answer's probability and the share of right ones."""
    return float(np.average((curve["probability"] - curve["right"]).abs(), weights=curve["count"]))
