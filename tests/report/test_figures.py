"""The figures: alternative text, and colours that hold up, with a second cue, in simulated colour
blindness."""

import itertools

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from cifarlib import whitening
from cifarlib.model import Network, build_model
from cifarlib.params import RunParams
from cifarlib.preprocess import channel_statistics, make_normalizer
from cifarlib.report import figures, figures_explore

# Machado, Oliveira, Fernandes, A Physiologically-based Model for Simulation of Color Vision
# Deficiency, 2009, table 1, severity 1.0; to linear RGB
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
# sRGB, D65
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def seen(colour, blindness):
    """CIELAB of a colour as seen; distances of 10 and more are plain to see."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = (np.array(BLINDNESS[blindness]) @ linear).clip(0, 1)
    x = XYZ @ linear / XYZ.sum(1)
    f = np.where(x > 216 / 24389, np.cbrt(x), (24389 / 27 * x + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def closest(colours, blindness):
    return min(
        np.linalg.norm(seen(a, blindness) - seen(b, blindness))
        for a, b in itertools.combinations(colours, 2)
    )


@pytest.fixture(scope="module")
def drawn(cifar10):
    """Every figure, by the name of its function."""
    images, labels = cifar10.train.images[:300], cifar10.train.labels[:300].numpy()
    statistics = channel_statistics(images)
    x = make_normalizer(images, "channel", statistics).apply(images)
    covariance = whitening.patch_covariance((x,))
    values, vectors = whitening.eigenpatches(covariance)
    filters = whitening.whitening_filters(covariance)
    logits = torch.randn(300, 10, generator=torch.Generator().manual_seed(0)).numpy()
    patches = torch.randn(50, 12)
    maps = {"block 1": torch.rand(64, 15, 15)}
    row = {
        "epoch": 1,
        **{f"{p}_{m}": 0.5 for p in ("train", "validation") for m in ("loss", "accuracy")},
    }
    history = [row, {**row, "epoch": 2}]
    conclusions = (
        "reproduced",
        "contradicted",
        "not resolved",
        "too few seeds",
        "above zero",
        "below zero",
    )
    return {
        "training_curves": figures.training_curves(history, 2, 0.2),
        "architecture": figures.architecture(figures.layer_table(build_model(0))),
        "loss_curves": figures.loss_curves(
            {run: [history] for run in figures.RUN_LOOKS}, dict.fromkeys(figures.RUN_LOOKS, 0.0)
        ),
        "run_accuracies": figures.run_accuracies(
            {"run6": [92.0, 92.2], "run7": [93.0, 93.2]},
            {"run6": (91, 93), "run7": (92, 94)},
            {"run6": 92.03},
            "run6",
        ),
        "contrasts": figures.contrasts(
            [figures.Contrast(f"claim: {c}", 1.0, (0.5, 1.5), 0.8, c) for c in conclusions]
        ),
        "benchmark_bars": figures.benchmark_bars({"ours": [1.0, 1.1], "plain": [2.0, 2.2]}, "ours"),
        "stacked_shares": figures.stacked_shares(
            {"ours": dict(zip("abcdefg", range(1, 8), strict=True))}, "s"
        ),
        "growth": figures.growth(
            {
                "by_batch_size": [{"batch_size": 128, "images_per_second": [900, 910]}],
                "by_images": [{"images": 128, "seconds": [1.0, 1.1]}],
                "by_epochs": [{"epochs": 1, "images": 128, "seconds": [1.0, 1.1]}],
            }
        ),
        "confusion": figures.confusion(logits, labels),
        "per_class_accuracy": figures.per_class_accuracy(logits, labels),
        "mistakes": figures.mistakes(images, logits, labels),
        "preprocessing": figures.preprocessing(images[0], "frog", statistics, 0),
        "eigenvalue_spectrum": figures.eigenvalue_spectrum(
            {"a": values, "b": 2 * values, "c": 3 * values}
        ),
        "eigenpatches": figures.eigenpatches(values, vectors),
        "covariances": figures.covariances(covariance, covariance),
        "calibration": figures.calibration(logits, labels),
        "class_balance": figures_explore.class_balance(
            dict.fromkeys(("train", "test"), torch.from_numpy(labels))
        ),
        "class_samples": figures_explore.class_samples(images, torch.from_numpy(labels), 0, 2),
        "value_histograms": figures_explore.value_histograms(images, statistics),
        "as_seen": figures_explore.as_seen(images[0], "frog", statistics, "length", "constant", 0),
        "patch_scatter": figures_explore.patch_scatter(patches, patches),
        "first_layers": figures_explore.first_layers({"whitening": filters}),
        "responses": figures_explore.responses(x[0], filters),
        "lines": figures.lines(
            {"a": ([1, 2], [3, 4]), "b": ([1, 2], [4, 3])}, "Two lines that cross, " * 2, "legend"
        ),
        "feature_maps": figures_explore.feature_maps(images[0], "frog", maps),
        "answers": figures_explore.answers(images[:8], logits[:8], [str(i) for i in range(8)]),
    }


def test_every_figure_says_in_words_what_it_shows(drawn):
    public = {
        name
        for module in (figures, figures_explore)
        for name, f in vars(module).items()
        if getattr(f, "__annotations__", {}).get("return") is figures.Figure
    }
    assert public - {"gallery"} == set(drawn)
    assert {name: figure.alt for name, figure in drawn.items() if len(figure.alt) < 40} == {}


def test_every_figure_names_the_function_that_drew_it(drawn):
    assert {
        name: figure.source for name, figure in drawn.items() if figure.source.split(".")[1] != name
    } == {}
    assert drawn["confusion"].source == "figures.confusion"
    assert drawn["answers"].source == "figures_explore.answers"


def test_a_figure_leaves_the_users_style_alone():
    before = dict(matplotlib.rcParams)
    figure = figures.eigenvalue_spectrum(torch.tensor([1.0, 0.1]))
    assert not figure.axes[0].spines["top"].get_visible()
    assert dict(matplotlib.rcParams) == before


def test_the_same_figure_gives_the_same_svg():
    one, other = (
        figures.as_svg(figures.eigenvalue_spectrum(torch.tensor([1.0, 0.1]))) for _ in range(2)
    )
    assert one == other


def test_a_run_keeps_its_look_where_others_are_missing():
    row = {"epoch": 1, "train_loss": 1.0, "validation_accuracy": 0.5}
    runs = {"run3": [[row]], "run7": [[row]]}
    alone = figures.loss_curves(runs, {"run3": 0.0, "run7": 0.2}).axes[1].lines
    looks = [{"color": line.get_color(), "marker": line.get_marker()} for line in alone]
    assert [
        look.items() <= figures.LOOKS[i].items() for look, i in zip(looks, (2, 6), strict=True)
    ] == [True, True]


def series(axes):
    """The lines of which a reader tells one from another; those of one name are one series."""
    return [
        *{
            line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")
        }.values()
    ]


def test_colours_hold_up_in_colour_blindness(drawn):
    assert (
        closest(["#FF0000", "#B07000"], "deuteranopia")
        < 10
        < closest(["#FF0000", "#B07000"], "none")
    )  # the check can fail
    for name, figure in drawn.items():
        for axes in figure.axes:
            colours = {line.get_color() for line in series(axes)}
            for blindness in BLINDNESS if len(colours) > 1 else ():
                assert closest(colours, blindness) > 10, (name, blindness, colours)


def test_series_differ_by_more_than_colour(drawn):
    compared = 0
    for name, figure in drawn.items():
        for axes in figure.axes:
            cues = [
                (str(line._dash_pattern), line.get_marker(), line.get_linewidth())
                for line in series(axes)
            ]
            compared += len(cues) > 1
            assert len(set(cues)) == len(cues), (name, cues)
    assert compared >= 10


def test_whitening_by_the_same_images_has_no_error_and_by_few_has_one(cifar10):
    images = cifar10.train.images[:300].float() / 64
    covariance = whitening.patch_covariance((images,))
    assert figures_explore.whitening_error(covariance, covariance, 5e-4) == 0
    assert (
        figures_explore.whitening_error(
            covariance, whitening.patch_covariance((images[:10],)), 5e-4
        )
        > 0.05
    )


def test_mid_grey_is_zero_and_the_default_epsilon_is_drawn():
    _, axes = figures.new_figure(1, 1, "")
    figures.picture(axes, torch.zeros(3, 2, 2))
    assert (axes.images[0].get_array() == 0.5).all()
    spectrum = figures.eigenvalue_spectrum(torch.tensor([1.0, 0.1]))
    assert RunParams.whitening_eps in [line.get_ydata()[0] for line in spectrum.axes[0].lines]


def test_the_layer_table_counts_every_parameter_in_the_order_of_execution():
    """352 and so on: Appendix A.1; frozen are the whitening filters and the scales of BatchNorm."""
    model = Network(torch.zeros(24, 3, 2, 2)).train()
    rows = figures.layer_table(model)
    assert (
        sum(row["parameters"] for row in rows)
        == sum(p.numel() for p in model.parameters())
        == 1_972_792
    )
    assert sum(row["trained"] for row in rows) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    assert [row["kind"] for row in rows[2:9]] == [
        "Conv2d",
        "MaxPool2d",
        "BatchNorm",
        "GELU",
        "Conv2d",
        "BatchNorm",
        "GELU",
    ]
    assert {row["layer"]: row["output"] for row in rows}["4.pool"] == (256, 3, 3)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_curves_without_validation_show_training_alone():
    row = {
        "epoch": 1,
        "train_loss": 1.0,
        "train_accuracy": 0.5,
        "validation_loss": np.nan,
        "validation_accuracy": np.nan,
    }
    figure = figures.training_curves([row, row | {"epoch": 2}], 2, 0.2)
    assert [line.get_label() for line in figure.axes[1].lines] == ["training"]
    assert "nan" not in figure.alt
    assert "validation" not in figure.alt


def test_the_arms_stand_below_their_base_from_the_best_to_the_worst():
    values = {"better": [93.9], "base": [93.3, 93.5], "worse": [92.0], "middle": [93.0]}
    figure = figures.run_accuracies(values, dict.fromkeys(values, (92, 94)), {}, "base")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "base",
        "better",
        "middle",
        "worse",
    ]
