import numpy as np
import pytest
import torch

from cifarlib.evaluate import (
    calibration_curve,
    confusion_matrix,
    most_confident,
    most_confident_mistakes,
    smoothing_floor,
)
from cifarlib.loop import accuracy, mean_loss, predict_logits
from cifarlib.model import build_model
from cifarlib.preprocess import normalization
from cifarlib.stats import binomial_interval

LOGITS = np.array([[5.0, 0, 0], [0, 1, 0], [9, 0, 0], [0, 0, 2]], np.float32)
LOGITS = np.pad(LOGITS, ((0, 0), (0, 7)), constant_values=-50)
LABELS = np.array([0, 2, 1, 2])


def test_accuracy_and_confusion_count_the_same():
    matrix = confusion_matrix(LOGITS, LABELS)
    assert accuracy(LOGITS, LABELS) == 0.5 == np.trace(matrix) / matrix.sum()
    assert matrix[1, 0] == matrix[2, 1] == 1


def test_the_most_confident_mistake_comes_first_and_right_answers_never():
    assert [(i, c) for i, c, _ in most_confident_mistakes(LOGITS, LABELS, 10)] == [(2, 0), (1, 1)]


def test_prediction_depends_on_no_batch_and_leaves_the_mode(device):
    model = build_model(0).to(device).train()
    x = torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8, device=device)
    scale = normalization(x, "length", (torch.zeros(3), torch.ones(3)))
    one, other = (predict_logits(model, x, *scale, batch=batch) for batch in (7, 30))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert model.training


def test_the_floor_of_smoothed_labels_is_the_least_loss():
    assert smoothing_floor(0.0) == 0
    assert smoothing_floor(0.2) == pytest.approx(0.8669, abs=1e-4)  # design: 0.867
    # the logits that give the smoothed label itself reach it
    target = torch.full((1, 10), 0.02)
    target[0, 4] = 0.82
    assert mean_loss(target.log(), torch.tensor([4]), 0.2) == pytest.approx(smoothing_floor(0.2), abs=1e-6)


def test_wilson_interval_of_a_worked_example():
    # Newcombe 1998, table I: 81 of 263
    low, high = binomial_interval(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)


def test_right_answers_come_in_the_order_of_their_probability():
    assert [(i, c) for i, c, _ in most_confident(LOGITS, LABELS, 10, right=True)] == [(0, 0), (3, 2)]


def test_calibration_of_a_worked_example():
    """Ten answers of 0.65, seven of them right, and five of 0.95, four of them right."""
    probability = np.array([0.65] * 10 + [0.95] * 5)
    logits = np.log(np.column_stack([probability, *[(1 - probability) / 9] * 9]))
    labels = np.array([0] * 7 + [1] * 3 + [0] * 4 + [1])
    confidence, right, counts, error = calibration_curve(logits, labels)
    np.testing.assert_allclose([confidence, right], [[0.65, 0.95], [0.7, 0.8]], atol=1e-6)
    assert counts.tolist() == [10, 5]
    assert error == pytest.approx((10 * 0.05 + 5 * 0.15) / 15, abs=1e-6)
