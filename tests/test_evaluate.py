from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cifarlib import evaluate
from cifarlib.model import build_model
from cifarlib.preprocess import normalize

LOGITS = np.array([[5.0, 0, 0], [0, 1, 0], [9, 0, 0], [0, 2, 2]], np.float32)
LOGITS = np.pad(LOGITS, ((0, 0), (0, 7)), constant_values=-50)
LABELS = np.array([0, 2, 1, 1])
BY_LENGTH = partial(normalize, mode="length", statistics=())


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["arrays", "tensors"])
def test_right_answers_have_their_label_on_the_first_of_the_largest_logits(kind):
    logits, labels = kind(LOGITS), kind(LABELS)
    assert evaluate.right_answers(logits, labels).tolist() == [True, False, False, True]
    assert evaluate.accuracy(logits, labels) == 0.5
    pairs = np.argwhere(evaluate.confusion_matrix(logits, labels))  # of true and predicted class
    assert pairs.tolist() == [[0, 0], [1, 0], [1, 1], [2, 1]]


def test_the_mean_loss_is_per_image_and_smoothed_as_in_training():
    logits = torch.log_softmax(torch.tensor([[1.0, 2, 3], [3, 0, 1]]), 1)
    labels = torch.tensor([2, 1])
    plain = -(logits[0, 2] + logits[1, 1]) / 2
    assert evaluate.mean_loss(logits, labels, 0.0) == pytest.approx(float(plain))
    smoothed = float(0.7 * plain - 0.3 * logits.mean())
    assert evaluate.mean_loss(logits, labels, 0.3) == pytest.approx(smoothed)


def test_views_are_the_weighted_mean_of_six_predictions(device):
    """Centre 1/2, the two shifts 1/4 each, and of each of them the mean of the image and its mirror
    image; in parts."""
    model = build_model(0).to(device).train()
    images = torch.randint(0, 256, (252, 3, 32, 32), dtype=torch.uint8, device=device)
    ours = evaluate.Predictor(model, BY_LENGTH).logits(images, views=True)
    padded = F.pad(BY_LENGTH(images), (1, 1, 1, 1), "reflect")
    expected = 0
    with torch.no_grad():
        for weight, dy, dx in ((0.5, 1, 1), (0.25, 0, 0), (0.25, 2, 2)):
            x = padded[:, :, dy : dy + 32, dx : dx + 32]
            expected = expected + weight * (model(x) + model(x.flip(3))) / 2
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_the_most_confident_answers_come_first():
    assert evaluate.most_confident(LOGITS, LABELS, 10, right=False).tolist() == [2, 1]
    assert evaluate.most_confident(LOGITS, LABELS, 10, right=True).tolist() == [0, 3]
    assert evaluate.most_confident(LOGITS, LABELS, 1, right=True).tolist() == [0]


def test_the_floor_of_smoothed_labels_is_the_least_loss():
    assert evaluate.smoothing_floor(0.0) == 0
    target = torch.full((1, 10), 0.02)
    target[0, 4] = 0.82  # the logits that give the smoothed label itself reach it
    least = evaluate.mean_loss(target.log(), torch.tensor([4]), 0.2)
    assert evaluate.smoothing_floor(0.2) == pytest.approx(least, abs=1e-6)


def test_calibration_of_a_worked_example():
    """Ten answers of 0.65, seven of them right, and five of 0.95, four of them right."""
    probability = np.array([0.65] * 10 + [0.95] * 5)
    logits = np.log(np.column_stack([probability, *[(1 - probability) / 9] * 9]))
    labels = np.array([0] * 7 + [1] * 3 + [0] * 4 + [1])
    curve = evaluate.calibration_curve(logits, labels)
    expected = [[0.65, 0.7, 10], [0.95, 0.8, 5]]
    np.testing.assert_allclose(curve.to_numpy(), expected, atol=1e-6)
    error = evaluate.calibration_error(curve)
    assert error == pytest.approx((10 * 0.05 + 5 * 0.15) / 15, abs=1e-6)
