"""The figures: alternative text, type that can be read in print, and a second cue beside Okabe and
Ito's colours; and the small computations that they draw."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.text import Text

from cifarlib import whitening
from cifarlib.model import build_model
from cifarlib.preprocess import channel_statistics, make_normalizer
from cifarlib.report import figures


def history(epochs=2, validation=0.5):
    row = {"train_loss": 0.5, "train_accuracy": 0.5, "label_smoothing": 0.2, "seed": 0}
    row |= {"validation_loss": validation, "validation_accuracy": validation}
    return [row | {"epoch": epoch} for epoch in range(1, epochs + 1)]


def judged():
    """Claims, as ``claims.judge`` gives them."""
    words = ["reproduced", "contradicted", "not resolved", "open", "below zero"]
    frame = pd.DataFrame({"says": words, "verdict": words, "paper": 0.8})
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
        "run_panels": figures.run_panels(logits, labels),
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
    assert compared == 2


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
    shown = [label.get_text() for label in verdicts]
    assert shown[:2] == ["+1.00  reproduced", "+1.00  contradicted"]
    band = axes.patches[0].get_bbox()
    assert (band.x0, band.x1) == (-0.5, 0.5)
    assert band.y0 < 2 < band.y1


def test_curves_without_validation_show_training_alone():
    figure = figures.training_curves(history(validation=np.nan), 2, 0.2)
    assert [line.get_label() for line in figure.axes[1].lines] == ["training"]


def test_a_crop_is_named_by_where_the_image_goes():
    assert figures.crop_name(torch.tensor([2, -1, 1])) == "up 2, right 1\nflipped"
    assert figures.crop_name(torch.tensor([0, 0, 0])) == "not moved"
