"""Every figure, one function each, one style: Okabe-Ito colours, and a marker or dash beside the colour."""

import contextlib
import io
from collections.abc import Iterator, Sequence

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from cifarlib.data import CLASSES
from cifarlib.evaluate import confusion_matrix, most_confident_mistakes, smoothing_floor
from cifarlib.stats import binomial_interval

BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILION, PURPLE = [
    "#000000",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#F0E442",
    "#0072B2",
    "#D55E00",
    "#CC79A7",
]  # Okabe and Ito, 2008


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The one style, set for the figure being made and not for the user's session."""
    ours = {"svg.hashsalt": "cifarlib", "axes.spines.top": False, "axes.spines.right": False}
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.85), matplotlib.rc_context(ours):
        yield


def new_figure(width: float, height: float, alt: str) -> Figure:
    """A figure outside pyplot: nothing shows it twice, nothing has to be closed. width, height: inches; ``alt`` says
    in words what it shows and becomes the figure's attribute of that name."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.alt = alt
    return figure


def as_svg(figure: Figure) -> str:
    """The same figure gives the same text: no date, fixed ids."""
    file = io.StringIO()
    with style():
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def training_curves(history: Sequence[dict], epochs: int, label_smoothing: float) -> Figure:
    """Loss per image and accuracy over epochs 1 to ``epochs``, training and validation, with the loss's floor."""
    last = history[-1]
    alt = (
        f"Two line charts over {last['epoch']} epochs. Training loss ends at {last['train_loss']:.3f}, validation loss at "
        f"{last['validation_loss']:.3f}; training accuracy ends at {100 * last['train_accuracy']:.1f} per cent, "
        f"validation accuracy at {100 * last['validation_accuracy']:.1f} per cent."
    )
    with style():
        figure = new_figure(9.5, 3.6, alt)
        left, right = figure.subplots(1, 2)
        x = [row["epoch"] for row in history]
        every = max(1, len(x) // 10)
        for part, colour, dash, marker in (("train", BLUE, "-", "o"), ("validation", VERMILION, "--", "s")):
            look = {"color": colour, "linestyle": dash, "marker": marker, "markersize": 4, "markevery": every}
            name = {"train": "training", "validation": "validation"}[part]
            left.plot(x, [row[f"{part}_loss"] for row in history], label=name, **look)
            right.plot(x, [100 * row[f"{part}_accuracy"] for row in history], label=name, **look)
        floor = smoothing_floor(label_smoothing)
        if floor:
            left.axhline(
                floor, color=BLACK, linestyle=":", linewidth=1.2, label=f"floor of smoothed labels {floor:.3f}"
            )
        else:
            left.set_ylim(bottom=0)
        if max(row["validation_loss"] for row in history) > 8 * history[0]["train_loss"]:
            left.set_yscale("log")
        left.set(xlabel="epoch", ylabel="cross-entropy per image (nats)", title="Loss")
        right.set(xlabel="epoch", ylabel="accuracy (%)", title="Accuracy", ylim=(0, 100))
        for axes in (left, right):
            axes.set_xlim(1 - 0.03 * epochs, 1.03 * max(epochs, 2))
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.legend(frameon=True)
    return figure


def confusion(logits: np.ndarray, labels: np.ndarray) -> Figure:
    """Counts of true class (row) against predicted class (column); the colour is the share of the row."""
    matrix = confusion_matrix(logits, labels)
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    off = share - np.diag(np.diag(share))
    true, predicted = np.unravel_index(off.argmax(), off.shape)
    alt = (
        f"Table of ten true by ten predicted classes. {np.trace(matrix):,} of {matrix.sum():,} images are right; the most "
        f"frequent mistake is {CLASSES[true]} taken for {CLASSES[predicted]}, {matrix[true, predicted]} times."
    )
    with style():
        figure = new_figure(7, 5.6, alt)
        axes = figure.subplots()
        sns.heatmap(
            off, annot=matrix, fmt="d", cmap="Blues", ax=axes, xticklabels=CLASSES, yticklabels=CLASSES, vmin=0,
            vmax=max(off.max(), 1), linewidths=0.5, cbar_kws={"label": "mistakes, % of the true class"}, annot_kws={"size": 8},
        )  # fmt: skip
        axes.set(xlabel="predicted", ylabel="true")
        axes.tick_params(axis="x", rotation=45)
    return figure


def per_class_accuracy(logits: np.ndarray, labels: np.ndarray) -> Figure:
    """Accuracy of each class, lowest first, with its binomial 95 % interval."""
    labels = np.asarray(labels)
    right = logits.argmax(1) == labels
    counts = np.bincount(labels, minlength=len(CLASSES))
    share = np.bincount(labels, weights=right, minlength=len(CLASSES)) / np.maximum(counts, 1)
    order = np.argsort(share)
    alt = "Accuracy of each class, lowest first: " + ", ".join(f"{CLASSES[c]} {100 * share[c]:.1f} %" for c in order)
    with style():
        figure = new_figure(7, 3.6, alt)
        axes = figure.subplots()
        for row, c in enumerate(order):
            if counts[c]:
                low, high = binomial_interval(share[c], counts[c])
                axes.plot([100 * low, 100 * high], [row, row], color=BLUE, linewidth=2)
                axes.plot(100 * share[c], row, "o", color=BLUE)
        axes.axvline(100 * right.mean(), color=BLACK, linestyle=":", label=f"all classes {100 * right.mean():.2f} %")
        axes.set(yticks=range(len(order)), yticklabels=[CLASSES[c] for c in order], xlabel="accuracy (%)")
        axes.legend(loc="lower right", frameon=True)
    return figure


def mistakes(images: Tensor, logits: np.ndarray, labels: np.ndarray, n: int = 12) -> Figure:
    """The n wrong answers given with the highest probability, as pictures; images: uint8 (N, 3, 32, 32)."""
    chosen = most_confident_mistakes(logits, labels, n)
    alt = "Pictures of confident mistakes: " + ", ".join(
        f"a {CLASSES[int(labels[index])]} taken for {CLASSES[predicted]}" for index, predicted, _ in chosen
    )
    with style():
        figure = new_figure(9.5, 1.95 * -(-n // 6), alt)
        grid = figure.subplots(-(-n // 6), 6).flatten()
        for axes in grid:
            axes.set_axis_off()
        for axes, (index, predicted, confidence) in zip(grid, chosen, strict=False):
            axes.imshow(images[index].permute(1, 2, 0).numpy(), interpolation="nearest")
            title = f"says {CLASSES[predicted]}, {100 * confidence:.0f} %\nis {CLASSES[int(labels[index])]}"
            axes.set_title(title, fontsize=9)
    return figure
