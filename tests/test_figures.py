"""The figures: alternative text, and colours that hold up, with a second cue, in simulated colour blindness."""

import itertools

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from cifarlib import figures_explore, plots, preprocess, whitening
from cifarlib.model import build_model, layer_table
from cifarlib.params import RunParams

# Machado, Oliveira, Fernandes, A Physiologically-based Model for Simulation of Color Vision Deficiency, 2009, table 1,
# severity 1.0; to linear RGB
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # sRGB, D65


def seen(colour, blindness):
    """CIELAB of a colour as seen; distances of 10 and more are plain to see."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = (np.array(BLINDNESS[blindness]) @ linear).clip(0, 1)
    x = XYZ @ linear / XYZ.sum(1)
    f = np.where(x > 216 / 24389, np.cbrt(x), (24389 / 27 * x + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def closest(colours, blindness):
    return min(np.linalg.norm(seen(a, blindness) - seen(b, blindness)) for a, b in itertools.combinations(colours, 2))


@pytest.fixture(scope="module")
def figures(cifar10):
    images, labels = cifar10.train_images[:300], cifar10.train_labels[:300]
    statistics = preprocess.channel_statistics(images)
    x = preprocess.normalize(images, *preprocess.normalization(images, "channel", statistics))
    covariance = whitening.patch_covariance((x,))
    values, vectors = whitening.eigenpatches(covariance)
    filters = whitening.whitening_filters(covariance)
    logits = torch.randn(300, 10, generator=torch.Generator().manual_seed(0)).numpy()
    patches = torch.randn(50, 12)
    maps = {"block 1": torch.rand(64, 15, 15)}
    row = {"epoch": 1, **{f"{p}_{m}": 0.5 for p in ("train", "validation") for m in ("loss", "accuracy")}}
    return {
        "training_curves": plots.training_curves([row, {**row, "epoch": 2}], 2, 0.2),
        "architecture": plots.architecture(layer_table(build_model(0))),
        "loss_curves": plots.loss_curves(
            {f"run{i}": [[row, {**row, "epoch": 2}]] for i in range(1, 8)},
            dict.fromkeys([f"run{i}" for i in range(1, 8)], 0.0),
        ),
        "run_accuracies": plots.run_accuracies(
            {"run6": [92.0, 92.2], "run7": [93.0, 93.2]}, {"run6": (91, 93), "run7": (92, 94)}, {"run6": 92.03}
        ),
        "contrasts": plots.contrasts(
            [(f"claim {v}", 1.0, (0.5, 1.5), 0.8, v) for v in ("reproduced", "contradicted", "not resolved", "")]
        ),
        "benchmark_bars": plots.benchmark_bars({"ours": [1.0, 1.1], "plain": [2.0, 2.2]}, "ours", {"plain": 2.0}),
        "stacked_shares": plots.stacked_shares({"ours": dict(zip("abcdefg", range(1, 8), strict=True))}, "s"),
        "growth": plots.growth(
            {
                "by_batch_size": [{"batch_size": 128, "images_per_second": [900, 910]}],
                "by_images": [{"images": 128, "seconds": [1.0, 1.1]}],
                "by_epochs": [{"epochs": 1, "images": 128, "seconds": [1.0, 1.1]}],
            }
        ),
        "confusion": plots.confusion(logits, labels),
        "per_class_accuracy": plots.per_class_accuracy(logits, labels),
        "mistakes": plots.mistakes(images, logits, labels),
        "preprocessing": plots.preprocessing(images[0], "frog", statistics, 0),
        "eigenvalue_spectrum": plots.eigenvalue_spectrum({"a": values, "b": 2 * values, "c": 3 * values}),
        "eigenpatches": plots.eigenpatches(values, vectors),
        "covariances": plots.covariances(covariance, covariance),
        "calibration": plots.calibration(logits, labels),
        "class_balance": figures_explore.class_balance({"train": labels, "test": labels}),
        "class_samples": figures_explore.class_samples(images, labels, 0, 2),
        "value_histograms": figures_explore.value_histograms(images, statistics),
        "as_seen": figures_explore.as_seen(images[0], "frog", statistics, "length", "constant", 0),
        "patch_scatter": figures_explore.patch_scatter(patches, patches),
        "first_layers": figures_explore.first_layers({"whitening": filters}),
        "responses": figures_explore.responses(x[0], filters),
        "epsilon_effect": figures_explore.epsilon_effect(values, [0.0, 5e-4, 5e-3, 5e-2, 0.5]),
        "subset_errors": figures_explore.subset_errors({50: [0.1, 0.2], 100: [0.05, 0.1]}),
        "feature_maps": figures_explore.feature_maps(images[0], "frog", maps),
        "answers": figures_explore.answers(images[:8], logits[:8], [str(i) for i in range(8)]),
    }


def test_every_figure_says_in_words_what_it_shows(figures):
    public = {
        name for module in (plots, figures_explore) for name, f in vars(module).items()
        if getattr(f, "__annotations__", {}).get("return") is plots.Figure and not name.startswith("_")
    }  # fmt: skip
    assert public - {"new_figure", "gallery", "lines"} <= set(figures)
    assert {name: figure.alt for name, figure in figures.items() if len(figure.alt) < 40} == {}


def test_every_figure_names_the_function_that_drew_it(figures):
    assert {name: figure.source for name, figure in figures.items() if figure.source.split(".")[1] != name} == {}
    assert figures["answers"].source == "figures_explore.answers"


def series(axes):
    """The lines of which a reader tells one from another; those of one name are one series."""
    return [*{line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}.values()]


def test_colours_hold_up_in_colour_blindness(figures):
    assert (
        closest(["#FF0000", "#B07000"], "deuteranopia") < 10 < closest(["#FF0000", "#B07000"], "none")
    )  # the check can fail
    for name, figure in figures.items():
        for axes in figure.axes:
            colours = {line.get_color() for line in series(axes)}
            for blindness in BLINDNESS if len(colours) > 1 else ():
                assert closest(colours, blindness) > 10, (name, blindness, colours)


def test_series_differ_by_more_than_colour(figures):
    found = 0
    for name, figure in figures.items():
        for axes in figure.axes:
            cues = [(str(line._dash_pattern), line.get_marker(), line.get_linewidth()) for line in series(axes)]
            found += len(cues) > 1
            assert len(set(cues)) == len(cues), (name, cues)
    assert found >= 10


def test_whitening_by_the_same_images_has_no_error_and_by_few_has_some(cifar10):
    images = cifar10.train_images[:300].float() / 64
    covariance = whitening.patch_covariance((images,))
    assert figures_explore.whitening_error(covariance, covariance, 5e-4) == 0
    assert figures_explore.whitening_error(covariance, whitening.patch_covariance((images[:10],)), 5e-4) > 0.05


def test_mid_grey_is_zero_and_the_default_epsilon_is_drawn():
    axes = plots.new_figure(1, 1, "").subplots()
    plots.picture(axes, torch.zeros(3, 2, 2))
    assert (axes.images[0].get_array() == 0.5).all()
    spectrum = plots.eigenvalue_spectrum(torch.tensor([1.0, 0.1]))
    assert RunParams.whitening_eps in [line.get_ydata()[0] for line in spectrum.axes[0].lines]
