"""What a trained network says: logits, accuracy, loss, confusion, per-class accuracy, most confident mistakes."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlib.data import normalize
from cifarlib.model import CLASSES


@torch.no_grad()
def predict_logits(
    model: nn.Module, images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype = torch.float32, batch: int = 250
) -> Tensor:
    """Logits (N, 10), float32 on the images' device, of uint8 images (N, 3, 32, 32), in evaluation mode; mean and std
    from ``data.normalization`` of these images."""
    was_training = model.training
    model.eval()
    logits = []
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        x = normalize(images[part], *(s[part] if len(s) > 1 else s for s in (mean, std)))
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits.append(model(x))
    model.train(was_training)
    return torch.cat(logits).float()


def accuracy(logits: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> float:
    """Share of images whose largest logit, of equal ones the first, is their label's."""
    logits, labels = (x.cpu().numpy() if isinstance(x, Tensor) else x for x in (logits, labels))
    return int((logits.argmax(1) == labels).sum()) / len(labels)


def mean_loss(logits: Tensor, labels: Tensor, label_smoothing: float) -> float:
    """Cross-entropy per image, with the smoothing that the run trained with."""
    return float(F.cross_entropy(logits, labels, label_smoothing=label_smoothing))


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts (10, 10): row the true class, column the predicted one."""
    matrix = np.zeros((CLASSES, CLASSES), int)
    np.add.at(matrix, (np.asarray(labels), np.asarray(logits).argmax(1)), 1)
    return matrix


def most_confident_mistakes(logits: np.ndarray, labels: np.ndarray, n: int) -> list[tuple[int, int, float]]:
    """(index, predicted class, its probability) of the n wrong answers given with the highest probability."""
    probabilities = torch.as_tensor(np.asarray(logits, np.float32)).softmax(1).numpy()
    predicted = probabilities.argmax(1)
    confidence = np.where(predicted != np.asarray(labels), probabilities.max(1), -1.0)
    order = np.argsort(-confidence, kind="stable")[:n]
    return [(int(i), int(predicted[i]), float(confidence[i])) for i in order if confidence[i] >= 0]


def smoothing_floor(label_smoothing: float) -> float:
    """The least cross-entropy per image (nats) that smoothed labels allow: their own entropy; 0 without smoothing."""
    share = np.full(CLASSES, label_smoothing / CLASSES)
    share[0] += 1 - label_smoothing
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())
