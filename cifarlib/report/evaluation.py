"""What logits say of a network: confusion, its surest answers, how far its probabilities hold, the
floor of its loss."""

from typing import NamedTuple

import numpy as np
import torch

from cifarlib.loop import right_answers
from cifarlib.model import CLASSES


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts (10, 10): row the true class, column the predicted one."""
    matrix = np.zeros((CLASSES, CLASSES), int)
    np.add.at(matrix, (np.asarray(labels), np.asarray(logits).argmax(1)), 1)
    return matrix


def _answer_probabilities(logits: np.ndarray) -> np.ndarray:
    """The probability (N,) of each image's most probable class."""
    return torch.as_tensor(np.asarray(logits, np.float32)).softmax(1).amax(1).numpy()


def most_confident(
    logits: np.ndarray, labels: np.ndarray, n: int, right: bool
) -> list[tuple[int, int, float]]:
    """(index, predicted class, its probability) of the n right or wrong answers of the highest
    probability."""
    wanted = np.flatnonzero(right_answers(logits, labels) == right)
    probability = _answer_probabilities(logits)
    wanted = wanted[np.argsort(-probability[wanted], kind="stable")][:n]
    return [(int(i), int(logits[i].argmax()), float(probability[i])) for i in wanted]


class Calibration(NamedTuple):
    """Of each bin of answers: their mean probability, the share that is right, their number; and
    over all answers, the expected calibration error, the mean distance of the first two."""

    probability: np.ndarray
    share: np.ndarray
    counts: np.ndarray
    error: float


def calibration_curve(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> Calibration:
    """Bins of equal width that hold an answer, after Guo et al., On Calibration of Modern Neural
    Networks, 2017."""
    probability = _answer_probabilities(logits).astype(float)
    which = np.minimum((probability * bins).astype(int), bins - 1)
    counts = np.bincount(which, minlength=bins)
    filled, counts = counts > 0, counts[counts > 0]
    right = right_answers(logits, labels)
    mean, share = (
        np.bincount(which, values, bins)[filled] / counts for values in (probability, right)
    )
    return Calibration(
        mean, share, counts, float((counts * np.abs(mean - share)).sum() / counts.sum())
    )


def smoothing_floor(label_smoothing: float) -> float:
    """The least cross-entropy per image (nats) that smoothed labels allow: their own entropy; 0
    without smoothing."""
    share = np.full(CLASSES, label_smoothing / CLASSES)
    share[0] += 1 - label_smoothing
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())
