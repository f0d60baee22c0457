import numpy as np
import pytest
import torch

from cifarlib.loop import accuracy, mean_loss, predict_logits, right_answers
from cifarlib.model import build_model
from cifarlib.preprocess import make_normalizer

LOGITS = np.array([[5.0, 0, 0], [0, 1, 0], [9, 0, 0], [0, 0, 2]], np.float32)
LABELS = np.array([0, 2, 1, 2])


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["arrays", "tensors"])
def test_right_answers_have_their_label_on_the_largest_logit(kind):
    logits, labels = kind(LOGITS), kind(LABELS)
    assert right_answers(logits, labels).tolist() == [True, False, False, True]
    assert accuracy(logits, labels) == 0.5


def test_of_equal_logits_the_first_is_the_answer():
    assert right_answers(np.zeros((2, 3)), np.array([0, 1])).tolist() == [True, False]


def test_prediction_depends_on_no_batch_and_leaves_the_mode(device):
    model = build_model(0).to(device).train()
    x = torch.randint(0, 256, (30, 3, 32, 32), dtype=torch.uint8, device=device)
    normalizer = make_normalizer(x, "length", (torch.zeros(3), torch.ones(3)))
    one, other = (predict_logits(model, x, normalizer, batch_size=size) for size in (7, 30))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert model.training


def test_the_mean_loss_is_per_image_and_smoothed_as_in_training():
    logits, labels = torch.log_softmax(torch.tensor([[1.0, 2, 3], [3, 0, 1]]), 1), torch.tensor([2, 1])
    plain = -(logits[0, 2] + logits[1, 1]) / 2
    assert mean_loss(logits, labels, 0.0) == pytest.approx(float(plain))
    assert mean_loss(logits, labels, 0.3) == pytest.approx(float(0.7 * plain - 0.3 * logits.mean()))
