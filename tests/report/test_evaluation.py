import numpy as np
import pytest
import torch

from cifarlib.loop import accuracy, mean_loss
from cifarlib.report.evaluation import (
    calibration_curve,
    confusion_matrix,
    most_confident,
    smoothing_floor,
)

LOGITS = np.array([[5.0, 0, 0], [0, 1, 0], [9, 0, 0], [0, 0, 2]], np.float32)
LOGITS = np.pad(LOGITS, ((0, 0), (0, 7)), constant_values=-50)
LABELS = np.array([0, 2, 1, 2])


def test_accuracy_and_confusion_count_the_same():
    matrix = confusion_matrix(LOGITS, LABELS)
    assert accuracy(LOGITS, LABELS) == 0.5 == np.trace(matrix) / matrix.sum()
    assert matrix[1, 0] == matrix[2, 1] == 1


def test_the_most_confident_mistake_comes_first_and_right_answers_never():
    assert [(i, c) for i, c, _ in most_confident(LOGITS, LABELS, 10, right=False)] == [
        (2, 0),
        (1, 1),
    ]


def test_right_answers_come_in_the_order_of_their_probability():
    answers = most_confident(LOGITS, LABELS, 10, right=True)
    assert [(i, c) for i, c, _ in answers] == [(0, 0), (3, 2)]
    assert answers[0][2] == pytest.approx(np.exp(5) / (np.exp(5) + 2), rel=1e-4)
    assert most_confident(LOGITS, LABELS, 1, right=True) == answers[:1]


def test_the_floor_of_smoothed_labels_is_the_least_loss():
    assert smoothing_floor(0.0) == 0
    assert smoothing_floor(0.2) == pytest.approx(0.8669, abs=1e-4)
    # the logits that give the smoothed label itself reach it
    target = torch.full((1, 10), 0.02)
    target[0, 4] = 0.82
    assert mean_loss(target.log(), torch.tensor([4]), 0.2) == pytest.approx(
        smoothing_floor(0.2), abs=1e-6
    )


def test_calibration_of_a_worked_example():
    """Ten answers of 0.65, seven of them right, and five of 0.95, four of them right."""
    probability = np.array([0.65] * 10 + [0.95] * 5)
    logits = np.log(np.column_stack([probability, *[(1 - probability) / 9] * 9]))
    labels = np.array([0] * 7 + [1] * 3 + [0] * 4 + [1])
    curve = calibration_curve(logits, labels)
    np.testing.assert_allclose(
        [curve.probability, curve.share], [[0.65, 0.95], [0.7, 0.8]], atol=1e-6
    )
    assert curve.counts.tolist() == [10, 5]
    assert curve.error == pytest.approx((10 * 0.05 + 5 * 0.15) / 15, abs=1e-6)
