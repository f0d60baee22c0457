"""The figures: alternative text, type that can be read in print, and a second cue beside Okabe and
Ito's colours; and the small computations that they draw."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text

from cifarlib import whitening
from cifarlib.loop import accuracy, mean_loss
from cifarlib.model import build_model
from cifarlib.preprocess import channel_statistics, make_normalizer
from cifarlib.report import figures

LOGITS = np.array([[5.0, 0, 0], [0, 1, 0], [9, 0, 0], [0, 0, 2]], np.float32)
LOGITS = np.pad(LOGITS, ((0, 0), (0, 7)), constant_values=-50)
LABELS = np.array([0, 2, 1, 2])


def history(epochs=2, validation=0.5):
    row = {"train_loss": 0.5, "train_accuracy": 0.5, "label_smoothing": 0.2, "seed": 0}
    row |= {"validation_loss": validation, "validation_accuracy": validation}
    return [row | {"epoch": epoch} for epoch in range(1, epochs + 1)]


def judged():
    """Claims, as ``claims.judge`` gives them."""
    words = ["reproduced", "contradicted", "not resolved", "open", "below zero"]
    frame = pd.DataFrame({"says": words, "verdict": words, "paper": 0.8, "provisional": True})
    frame = frame.assign(estimate=1.0, low=0.5, high=1.5, sign=[1, 1, 0, 1, 1])
    return frame.assign(ours=frame["verdict"] == "below zero")


@pytest.fixture(scope="module")
def drawn(cifar10):
    """Every figure, by the name of its function."""
    images, labels = cifar10.train.images[:300], cifar10.train.labels[:300].numpy()
    statistics = channel_statistics(images)
    x = make_normalizer(images, "channel", statistics).apply(images)
    covariance = whitening.patch_covariance((x,))
    logits = torch.randn(300, 10, generator=torch.Generator().manual_seed(0)).numpy()
    runs = [pd.DataFrame(history()).assign(run=f"run{n}") for n in range(1, 8)]
    return {
        "training_curves": figures.training_curves(history(), 2, 0.2),
        "loss_curves": figures.loss_curves(pd.concat(runs)),
        "claims": figures.claims(judged()),
        "run_panels": figures.run_panels(logits, labels, history(), "AB;CD"),
        "architecture": figures.architecture(build_model(0)),
        "gallery": figures.gallery(images[:2], ["a", "b"], 2, "Two pictures of frogs and cars."),
        "answers": figures.answers(images[:8], logits[:8], [str(i) for i in range(8)]),
        "mistakes": figures.mistakes(images, logits, labels),
        "preprocessing": figures.preprocessing(images[0], "frog", statistics, 0),
        "whitening_strip": figures.whitening_strip(*whitening.eigenpatches(covariance), 5e-4),
    }


def test_every_figure_says_in_one_sentence_what_it_shows(drawn):
    functions = {k: getattr(f, "__annotations__", {}) for k, f in vars(figures).items()}
    public = {name for name, types in functions.items() if types.get("return") is figures.Figure}
    assert public - {"new_figure"} == set(drawn)
    assert {name: f.alt for name, f in drawn.items() if len(f.alt) < 30 or "nan" in f.alt} == {}


def test_type_is_at_least_seven_points_at_the_printed_width(drawn):
    for name, figure in drawn.items():
        assert figure.get_figwidth() == 6.3
        small = [t for t in figure.findobj(Text) if t.get_text() and t.get_fontsize() < 7]
        assert small == [], name


def series(axes):
    """The lines of which a reader tells one from another; those of one name are one series."""
    named = [line for line in axes.lines if not line.get_label().startswith("_")]
    return list({line.get_label(): line for line in named}.values())


def test_series_differ_by_more_than_colour(drawn):
    compared = 0
    for name, figure in drawn.items():
        for axes in figure.axes:
            lines = series(axes)
            cues = {(str(x._dash_pattern), x.get_marker(), x.get_linewidth()) for x in lines}
            compared += len(lines) > 1
            assert len(cues) == len(lines), name
    assert compared >= 3


def test_a_figure_leaves_the_users_style_alone_and_repeats_byte_for_byte():
    before = dict(matplotlib.rcParams)
    one, other = (figures.as_svg(figures.training_curves(history(), 2, 0.2)) for _ in range(2))
    assert one == other
    assert dict(matplotlib.rcParams) == before


def test_the_claims_have_their_verdicts_and_the_band_is_of_what_is_said_to_be_alike():
    figure = figures.claims(judged())
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(judged()["says"])
    verdicts = axes.child_axes[0].get_yticklabels()
    assert [label.get_text() for label in verdicts][:2] == [
        "+1.00  reproduced*",
        "+1.00  contradicted*",
    ]
    band = axes.patches[0].get_bbox()
    assert (band.x0, band.x1) == (-0.5, 0.5)
    assert band.y0 < 2 < band.y1


def test_curves_without_validation_show_training_alone():
    figure = figures.training_curves(history(validation=np.nan), 2, 0.2)
    assert [line.get_label() for line in figure.axes[1].lines] == ["training"]


def test_a_crop_is_named_by_where_the_image_goes():
    assert figures.crop_name(torch.tensor([2, -1, 1])) == "up 2, right 1\nflipped"
    assert figures.crop_name(torch.tensor([0, 0, 0])) == "not moved"


def test_accuracy_and_confusion_count_the_same():
    matrix = figures.confusion_matrix(LOGITS, LABELS)
    assert accuracy(LOGITS, LABELS) == 0.5 == np.trace(matrix) / matrix.sum()
    assert matrix[1, 0] == matrix[2, 1] == 1


def test_the_most_confident_answers_come_first():
    assert figures.most_confident(LOGITS, LABELS, 10, right=False).tolist() == [2, 1]
    assert figures.most_confident(LOGITS, LABELS, 10, right=True).tolist() == [0, 3]
    assert figures.most_confident(LOGITS, LABELS, 1, right=True).tolist() == [0]


def test_the_floor_of_smoothed_labels_is_the_least_loss():
    assert figures.smoothing_floor(0.0) == 0
    target = torch.full((1, 10), 0.02)
    target[0, 4] = 0.82  # the logits that give the smoothed label itself reach it
    least = mean_loss(target.log(), torch.tensor([4]), 0.2)
    assert figures.smoothing_floor(0.2) == pytest.approx(least, abs=1e-6)


def test_calibration_of_a_worked_example():
    """Ten answers of 0.65, seven of them right, and five of 0.95, four of them right."""
    probability = np.array([0.65] * 10 + [0.95] * 5)
    logits = np.log(np.column_stack([probability, *[(1 - probability) / 9] * 9]))
    labels = np.array([0] * 7 + [1] * 3 + [0] * 4 + [1])
    curve = figures.calibration_curve(logits, labels)
    expected = [[0.65, 0.7, 10], [0.95, 0.8, 5]]
    np.testing.assert_allclose(curve.to_numpy(), expected, atol=1e-6)
    error = figures.calibration_error(curve)
    assert error == pytest.approx((10 * 0.05 + 5 * 0.15) / 15, abs=1e-6)
