"""What a trained network says: confusion, most confident mistakes, the floor of its loss; and how to load one."""

from pathlib import Path

import numpy as np
import torch

from cifarlib import InputError, records
from cifarlib.loop import pick_device
from cifarlib.model import CLASSES, Network


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts (10, 10): row the true class, column the predicted one."""
    matrix = np.zeros((CLASSES, CLASSES), int)
    np.add.at(matrix, (np.asarray(labels), np.asarray(logits).argmax(1)), 1)
    return matrix


def most_confident(logits: np.ndarray, labels: np.ndarray, n: int, right: bool) -> list[tuple[int, int, float]]:
    """(index, predicted class, its probability) of the n right or wrong answers given with the highest probability."""
    probabilities = torch.as_tensor(np.asarray(logits, np.float32)).softmax(1).numpy()
    predicted = probabilities.argmax(1)
    confidence = np.where((predicted == np.asarray(labels)) == right, probabilities.max(1), -1.0)
    order = np.argsort(-confidence, kind="stable")[:n]
    return [(int(i), int(predicted[i]), float(confidence[i])) for i in order if confidence[i] >= 0]


def most_confident_mistakes(logits: np.ndarray, labels: np.ndarray, n: int) -> list[tuple[int, int, float]]:
    """``most_confident`` of the wrong answers."""
    return most_confident(logits, labels, n, right=False)


def calibration_curve(
    logits: np.ndarray, labels: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean probability of the answer, share of right answers and number of answers in each bin that is not empty, and
    the expected calibration error: the mean over the answers of how far the first two lie apart. Bins of equal width,
    after Guo et al., On Calibration of Modern Neural Networks, 2017."""
    probabilities = torch.as_tensor(np.asarray(logits, np.float32)).softmax(1).numpy()
    confidence, right = probabilities.max(1).astype(float), probabilities.argmax(1) == np.asarray(labels)
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    counts = np.bincount(which, minlength=bins)
    some = counts > 0
    mean, share = (np.bincount(which, w, bins)[some] / counts[some] for w in (confidence, right))
    return mean, share, counts[some], float((counts[some] * np.abs(mean - share)).sum() / len(right))


def smoothing_floor(label_smoothing: float) -> float:
    """The least cross-entropy per image (nats) that smoothed labels allow: their own entropy; 0 without smoothing."""
    share = np.full(CLASSES, label_smoothing / CLASSES)
    share[0] += 1 - label_smoothing
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def load_model(folder: str | Path, device: str = "auto") -> tuple[Network, dict]:
    """The trained network of a run's folder, in evaluation mode, and what its file says of it (normalisation,
    channel_mean and channel_std, classes, accuracies). Nothing in the file is executed."""
    tensors, about = records.load_model_file(Path(folder))
    model = Network()
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{folder}/model.safetensors is of another network: {error}") from None
    return model.to(pick_device(device)).eval(), about
