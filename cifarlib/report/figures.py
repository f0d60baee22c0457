"""The figures that notebooks and report share, one function each, in one style: Okabe-Ito colours,
and a marker or dash beside the colour."""

import copy
import functools
import io
import itertools
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import seaborn as sns
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatter, LogLocator, NullLocator
from torch import Tensor, nn

from cifarlib.data import CLASSES
from cifarlib.loop import right_answers
from cifarlib.model import Network
from cifarlib.params import RunParams
from cifarlib.preprocess import crop_and_flip, draw_crops, make_normalizer
from cifarlib.report.claims import binomial_interval
from cifarlib.report.evaluation import (
    calibration_curve,
    confusion_matrix,
    most_confident,
    smoothing_floor,
)

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"  # Okabe and Ito, 2008
YELLOW, BLUE, VERMILION, PURPLE, WHITE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#FFFFFF"
COLOURS = (BLUE, VERMILION, GREEN, BLACK, PURPLE, ORANGE, SKY)
DASHES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 3)), (0, (1, 1)))
# of series that share axes: told apart by colour, dash and marker
LOOKS = [
    {"color": c, "linestyle": d, "marker": m}
    for c, d, m in zip(COLOURS, DASHES, "os^DvPX", strict=True)
]
# kept where other runs are missing
RUN_LOOKS = {f"run{number}": look for number, look in enumerate(LOOKS, 1)}
MODES = ("channel", "image-channel", "length")  # of normalisation


def style() -> AbstractContextManager:
    """The one style, for the figure being made and not for the user's session."""
    ours = {"svg.hashsalt": "cifarlib", "axes.spines.top": False, "axes.spines.right": False}
    return matplotlib.rc_context(
        {**sns.axes_style("whitegrid"), **sns.plotting_context(font_scale=0.85), **ours}
    )


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Marks a function that draws a figure: in the one style, with the function's name as
    ``source`` for the caption."""

    @functools.wraps(draw)
    def drawn(*arguments, **options) -> Figure:
        with style():
            figure = draw(*arguments, **options)
        figure.source = f"{draw.__module__.rpartition('.')[2]}.{draw.__name__}"
        return figure

    return drawn


def new_figure(width: float, height: float, alt: str, *grid, **options) -> tuple[Figure, Any]:
    """A figure of so many inches and its axes: one, or rows and columns, or a mosaic. It lies
    outside pyplot: nothing shows it twice, nothing has to be closed. ``alt`` says in words what it
    shows."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.alt = alt
    mosaic = grid and isinstance(grid[0], str)
    return figure, (figure.subplot_mosaic if mosaic else figure.subplots)(*grid, **options)


def as_svg(figure: Figure) -> str:
    """The same figure gives the same text: no date, fixed ids."""
    file = io.StringIO()
    with style():
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def named_rows(height: float, alt: str, names: Collection[str], xlabel: str) -> tuple[Figure, Axes]:
    """A figure with named rows, at y = 0, 1, ... downwards."""
    figure, axes = new_figure(9.5, height, alt)
    axes.set(yticks=range(len(names)), yticklabels=list(names), xlabel=xlabel)
    axes.invert_yaxis()
    return figure, axes


def legend_of_names(axes: Axes) -> None:
    """Each name once, however many rows have it."""
    handles = {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    handles = dict(sorted(handles.items(), key=lambda item: item[0] == "paper"))  # ours first
    axes.figure.legend(
        handles.values(), handles.keys(), loc="outside upper right", ncols=len(handles), fontsize=8
    )


def interval_bars(shares: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Lengths (2, N) of the error bars of N shares: their binomial 95 % intervals, per cent."""
    low, high = np.transpose(
        [binomial_interval(share, int(n)) for share, n in zip(shares, counts, strict=True)]
    )
    return 100 * np.array([shares - low, high - shares]).clip(0)


def loss_and_accuracy(height: float, alt: str) -> tuple[Figure, Axes, Axes]:
    """Two panels over the epochs."""
    figure, (left, right) = new_figure(9.5, height, alt, 1, 2)
    left.set(xlabel="epoch", ylabel="cross-entropy per image (nats)", title="Loss")
    right.set(xlabel="epoch", ylabel="accuracy (%)", title="Accuracy")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
    return figure, left, right


@styled
def training_curves(history: Sequence[dict], epochs: int, label_smoothing: float) -> Figure:
    """Loss per image and accuracy over epochs 1 to ``epochs``, training and validation, with the
    loss's floor."""
    last, validates = history[-1], not np.isnan(history[-1]["validation_accuracy"])
    alt = f"Two line charts over {last['epoch']} epoch{'s' * (last['epoch'] > 1)}. Training ends at loss {last['train_loss']:.3f} and accuracy "
    alt += f"{last['train_accuracy']:.1%}"
    alt += (
        f", validation at {last['validation_loss']:.3f} and {last['validation_accuracy']:.1%}."
        if validates
        else "."
    )
    figure, left, right = loss_and_accuracy(3.6, alt)
    x = [row["epoch"] for row in history]
    names = {"train": "training"} | ({"validation": "validation"} if validates else {})
    for (part, name), look in zip(names.items(), LOOKS, strict=False):
        look = look | {"markersize": 4, "markevery": max(1, len(x) // 10), "label": name}
        left.plot(x, [row[f"{part}_loss"] for row in history], **look)
        right.plot(x, [100 * row[f"{part}_accuracy"] for row in history], **look)
    if floor := smoothing_floor(label_smoothing):
        left.axhline(
            floor,
            color=BLACK,
            linestyle=":",
            linewidth=1.2,
            label=f"floor of smoothed labels {floor:.3f}",
        )
    else:
        left.set_ylim(bottom=0)
    if max(row["validation_loss"] for row in history) > 8 * history[0]["train_loss"]:
        left.set_yscale("log")
    right.set_ylim(0, 100)
    for axes in (left, right):
        axes.set_xlim(1 - 0.03 * epochs, 1.03 * max(epochs, 2))
        axes.legend(frameon=True)
    return figure


@styled
def confusion(logits: np.ndarray, labels: np.ndarray) -> Figure:
    """Counts of true class (row) against predicted class (column); the colour is the share of the
    row."""
    matrix = confusion_matrix(logits, labels)
    mistaken = (
        100 * (matrix - np.diag(np.diag(matrix))) / np.maximum(matrix.sum(1, keepdims=True), 1)
    )
    true, predicted = np.unravel_index(mistaken.argmax(), mistaken.shape)
    alt = (
        f"Table of ten true by ten predicted classes. {np.trace(matrix):,} of {matrix.sum():,} images are right; the most "
        f"frequent mistake is {CLASSES[true]} taken for {CLASSES[predicted]}, {matrix[true, predicted]} times."
    )
    figure, axes = new_figure(7, 4.8, alt)
    sns.heatmap(
        mistaken,
        annot=matrix,
        fmt="d",
        cmap="Blues",
        ax=axes,
        xticklabels=CLASSES,
        yticklabels=CLASSES,
        vmin=0,
        vmax=max(mistaken.max(), 1),
        linewidths=0.5,
        cbar_kws={"label": "mistakes, % of the true class"},
        annot_kws={"size": 8},
    )
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(axis="x", rotation=45)
    return figure


@styled
def per_class_accuracy(logits: np.ndarray, labels: np.ndarray) -> Figure:
    """Accuracy of each class that occurs, lowest first, with its binomial 95 % interval."""
    right, classes = right_answers(logits, labels), np.unique(labels)
    shares, counts = np.transpose(
        [(right[labels == c].mean(), (labels == c).sum()) for c in classes]
    )
    order = shares.argsort()
    names = [CLASSES[c] for c in classes[order]]
    words = ", ".join(
        f"{name} {share:.1%}" for name, share in zip(names, shares[order], strict=True)
    )
    figure, axes = new_figure(7, 2.7, f"Accuracy of each class, lowest first: {words}.")
    bars = interval_bars(shares, counts)[:, order]
    axes.errorbar(
        100 * shares[order], names, xerr=bars, color=BLUE, marker="o", linestyle="", elinewidth=2
    )
    axes.axvline(
        100 * right.mean(),
        color=BLACK,
        linestyle=":",
        label=f"all classes {100 * right.mean():.2f} %",
    )
    axes.set_xlabel("accuracy (%)")
    axes.legend(loc="lower right", frameon=True)
    return figure


@styled
def mistakes(images: Tensor, logits: np.ndarray, labels: np.ndarray, n: int = 12) -> Figure:
    """The n wrong answers of the highest probability, as pictures; images: uint8 (N, 3, 32, 32)."""
    chosen, words, titles = most_confident(logits, labels, n, right=False), [], []
    for index, predicted, probability in chosen:
        answer, true = CLASSES[predicted], CLASSES[int(labels[index])]
        words.append(f"{true} taken for {answer}")
        titles.append(f"says {answer}, {100 * probability:.0f} %\nis {true}")
    return gallery(
        [images[i] for i, *_ in chosen],
        titles,
        6,
        f"Pictures of confident mistakes: {', '.join(words)}.",
    )


@styled
def calibration(logits: np.ndarray, labels: np.ndarray) -> Figure:
    """How often answers of a given probability are right, with binomial 95 % intervals, and how
    many there are."""
    probability, right, counts, error = calibration_curve(logits, labels)
    pairs = ", ".join(
        f"{100 * p:.0f} %, {100 * r:.0f} %" for p, r in zip(probability, right, strict=True)
    )
    label = f"calibration error {100 * error:.1f} %"
    alt = f"Expected {label}. Probability of answers, share of right ones: {pairs}."
    figure, (top, bottom) = new_figure(6, 3.7, alt, 2, 1, sharex=True, height_ratios=(3, 1))
    top.plot([0, 100], [0, 100], color=BLACK, linestyle=":", label="perfectly calibrated")
    bars = interval_bars(right, counts)
    top.errorbar(
        100 * probability,
        100 * right,
        bars,
        color=BLUE,
        marker="o",
        capsize=3,
        label=f"answers, {label}",
    )
    top.set(ylabel="right answers (%)", xlim=(0, 100), ylim=(0, 102))
    top.legend(frameon=True)
    bottom.bar(100 * probability, counts, width=4, color=SKY, edgecolor=BLACK)
    bottom.set(xlabel="probability of the answer (%)", ylabel="answers")
    return figure


@styled
def loss_curves(histories: dict[str, list[list[dict]]], smoothing: dict[str, float]) -> Figure:
    """Training loss per image and validation accuracy of runs of Table 1 on common axes: the mean
    over a run's seeds, each seed thin behind it, and the floor that a run's smoothed labels set.
    histories: run to one history a seed."""
    ends = [
        f"{run} {np.mean([h[-1]['train_loss'] for h in seeds]):.3f}"
        for run, seeds in histories.items()
    ]
    alt = f"Training loss and validation accuracy over the epochs. The loss ends at: {', '.join(ends)}."
    figure, left, right = loss_and_accuracy(3.6, alt)
    for axes, key, factor in ((left, "train_loss", 1), (right, "validation_accuracy", 100)):
        for run, seeds in histories.items():
            n, colour = min(map(len, seeds)), RUN_LOOKS[run]["color"]
            curves = factor * np.transpose([[row[key] for row in history[:n]] for history in seeds])
            if len(seeds) > 1:
                axes.plot(range(1, n + 1), curves, color=colour, linewidth=0.5, alpha=0.5)
            look = RUN_LOOKS[run] | {"markersize": 4, "markevery": max(1, n // 10), "label": run}
            axes.plot(range(1, n + 1), curves.mean(1), **look)
            if axes is left and (floor := smoothing_floor(smoothing[run])):
                line = axes.axhline(floor, color=BLACK, linestyle=":", linewidth=1)
                axes.legend(
                    [line], [f"floor of {run}: {floor:.3f}"], loc="upper right", frameon=True
                )
    left.set(title="Training loss", ylim=(0, None))
    # the first epochs would press the last ones, which count, into a few pixels
    later = [
        100 * row["validation_accuracy"]
        for seeds in histories.values()
        for h in seeds
        for row in h[len(h) // 3 :]
    ]
    right.set(title="Validation accuracy", ylim=(min(later) - 2, max(later) + 2))
    figure.legend(
        *right.get_legend_handles_labels(), loc="outside lower center", ncols=len(histories)
    )
    return figure


@styled
def run_accuracies(
    values: dict[str, list[float]],
    intervals: dict[str, tuple[float, float]],
    published: dict[str, float],
    base: str = "",
) -> Figure:
    """Validation accuracy (%) of each run: mean and interval, below them its seeds, and the paper's
    as a cross; the mean of the run ``base`` as a line, below it the others from the best to the
    worst."""
    if base in values:
        values = dict(sorted(values.items(), key=lambda run: (run[0] != base, -np.mean(run[1]))))
    means = ", ".join(f"{run} {np.mean(seeds):.2f}" for run, seeds in values.items())
    alt = f"Validation accuracy in per cent, mean of the seeds: {means}."
    figure, axes = named_rows(1.0 + 0.28 * len(values), alt, values, "validation accuracy (%)")
    for y, (run, seeds) in enumerate(values.items()):
        axes.plot(intervals[run], [y, y], color=BLUE, linewidth=2)
        # the seeds beside the mean: under it they could not be seen
        axes.plot(
            seeds, [y + 0.3] * len(seeds), "o", color=SKY, markersize=4, alpha=0.8, label="a seed"
        )
        axes.plot(np.mean(seeds), y, "D", color=BLUE, markersize=6, label="mean, 95 % interval")
        if run in published:
            axes.plot(
                published[run],
                y,
                "x",
                color=VERMILION,
                markersize=7,
                markeredgewidth=2,
                label="paper",
            )
    if base in values:
        axes.axvline(
            np.mean(values[base]),
            color=BLACK,
            linestyle=":",
            linewidth=1.2,
            label=f"mean of {base}",
        )
    legend_of_names(axes)
    return figure


class Contrast(NamedTuple):
    """An estimated difference with its interval, the paper's (nan: none) and what is concluded."""

    name: str
    estimate: float
    interval: tuple[float, float]
    paper: float
    conclusion: str


@styled
def contrasts(rows: Sequence[Contrast]) -> Figure:
    """Each estimate with its interval beside zero and the paper's value; the conclusion shows in
    marker and colour."""
    looks = {
        "reproduced": (GREEN, "o"),
        "contradicted": (VERMILION, "X"),
        "not resolved": (BLUE, "s"),
        "too few seeds": (BLACK, "d"),
        "above zero": (PURPLE, "^"),
        "below zero": (PURPLE, "v"),
    }
    words = "; ".join(f"{row.name} {row.estimate:+.2f} {row.conclusion}".strip() for row in rows)
    alt, names = (
        f"Differences in points of validation accuracy: {words}.",
        [row.name for row in rows],
    )
    figure, axes = named_rows(0.8 + 0.32 * len(rows), alt, names, "points of validation accuracy")
    axes.axvline(0, color=BLACK, linewidth=1)
    for y, (_, value, interval, paper, concluded) in enumerate(rows):
        colour, marker = looks[concluded]
        axes.plot(interval, [y, y], color=colour, linewidth=2)
        axes.plot(value, y, marker, color=colour, markersize=8, label=concluded)
        if not np.isnan(paper):
            axes.plot(paper, y, "|", color=ORANGE, markersize=14, markeredgewidth=3, label="paper")
    legend_of_names(axes)
    return figure


def layer_table(model: Network) -> list[dict]:
    """One row a layer in the order of execution: its path in the network, kind, output (C, H, W),
    parameters, and how many of them are trained."""
    rows: list[dict] = []

    def note(path: str, layer: nn.Module, _, output: Tensor) -> None:
        own = list(layer.parameters(recurse=False))
        count, trained = sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad)
        row = {
            "layer": path.removeprefix("net."),
            "kind": type(layer).__name__,
            "output": tuple(output.shape[1:]),
        }
        rows.append(row | {"parameters": count, "trained": trained})

    model = copy.deepcopy(model).cpu().eval()  # the model itself keeps its mode and gets no hooks
    for path, layer in model.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(functools.partial(note, path))
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    return rows


@styled
def architecture(layers: list[dict]) -> Figure:
    """The network's blocks in the order of execution, from ``layer_table``: a box as high as the
    picture is wide and as wide as its channels (on a log scale), with its shape and parameters;
    below, what a block does."""
    stages = [
        list(rows)
        for _, rows in itertools.groupby(layers, lambda row: row["layer"].partition(".")[0])
    ]
    names = {"Conv2d": "conv 2x2\n+ GELU", "MaxPool2d": "3x3\nmax-pool", "Linear": "linear, / 9"}
    boxes, inside = [("image", (3, 32, 32), 0, WHITE)], []
    for rows in stages:
        parameters, kind, shape = (
            sum(row["parameters"] for row in rows),
            rows[0]["kind"],
            rows[-1]["output"],
        )
        if len(rows) > 1:
            boxes.append(("block", shape, parameters, SKY))
            inside = [
                "GELU" if row["kind"] == "GELU" else row["layer"].partition(".")[2] for row in rows
            ]
        elif kind in names:
            boxes.append((names[kind], shape, parameters, YELLOW if parameters else WHITE))
    total = sum(row["parameters"] for row in layers)
    path = ", ".join(
        f"{name} to {'x'.join(map(str, shape))}".replace("\n", " ") for name, shape, *_ in boxes
    )
    figure, axes = new_figure(
        9.5, 3.0, f"The network from left to right: {path}; {total:,} parameters."
    )
    axes.set_axis_off()
    x, gap = 0.0, 0.6
    for name, shape, parameters, colour in boxes:
        width, height = (
            0.35 + 0.22 * np.log2(shape[0]),
            0.35 + 2.4 * (shape[-1] if len(shape) == 3 else 1) / 32,
        )
        if x:
            axes.annotate(
                "",
                (x - 0.05, 0),
                (x - gap + 0.05, 0),
                arrowprops={"arrowstyle": "->", "color": BLACK},
            )
        axes.add_patch(
            Rectangle((x, -height / 2), width, height, facecolor=colour, edgecolor=BLACK)
        )
        axes.text(x + width / 2, 1.5, name, ha="center", va="bottom", weight="bold")
        below = "×".join(map(str, shape)) + (f"\n{parameters:,}" if parameters else "\n")
        axes.text(x + width / 2, -1.5, below, ha="center", va="top")
        x += width + gap
    axes.text(
        x / 2, -2.75, f"block: {' → '.join(inside)}; {total:,} parameters in all", ha="center"
    )
    axes.set(xlim=(-0.2, x), ylim=(-3, 2.4))
    return figure


def picture(axes: Axes, image: Tensor, title: str = "", limit: float | None = None) -> None:
    """An image without axes: uint8 (3, H, W) as it is; normalised, float, with zero as mid-grey and
    -2.5 and 2.5 as the darkest and brightest; a map (H, W) from -limit (purple) over zero (white)
    to limit (brown)."""
    if image.dim() == 3:
        image = (image if image.dtype == torch.uint8 else (image / 5 + 0.5).clamp(0, 1)).permute(
            1, 2, 0
        )
    limits = {} if limit is None else {"vmin": -limit, "vmax": limit}  # of a map
    axes.imshow(image.numpy(), interpolation="nearest", cmap="PuOr_r", **limits)
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def gallery(
    images: Sequence[Tensor], titles: Sequence[str], columns: int, alt: str, limit: float = 1.0
) -> Figure:
    """Images, see ``picture``, with a title each, row by row."""
    starts = range(0, len(images), columns)
    title_lines = sum(max(t.count("\n") + bool(t) for t in titles[i : i + columns]) for i in starts)
    height = len(starts) * 9.5 / columns + 0.2 * title_lines
    figure, grid = new_figure(9.5, height, alt, len(starts), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        picture(axes, image, title, limit)
    return figure


def crop_names(crops: Tensor) -> list[str]:
    """Of crops (n, 3), see ``draw_crops``: how far the window moves down and right, and whether the
    crop is flipped."""
    return [f"{dy:+d}, {dx:+d}{', flipped' * flip}" for dy, dx, flip in crops.tolist()]


@styled
def preprocessing(
    image: Tensor, label_name: str, statistics: tuple[Tensor, Tensor], seed: int
) -> Figure:
    """One image, uint8 (3, 32, 32), through each normalisation, each padding and six draws of crop
    and flip."""
    crops, paddings, index = (
        draw_crops(seed, 1, 6),
        ("reflect", "constant"),
        torch.zeros(6, dtype=torch.int64),
    )
    alt = (
        f"One picture ({label_name}) as it is, under three normalisations and two paddings of {RunParams.crop} pixels, and "
        f"cropped and flipped six times under each padding, the window moved down and right by: {'; '.join(crop_names(crops))}."
    )
    by_mode = {mode: make_normalizer(image[None], mode, statistics) for mode in MODES}
    images = [image, *(normalizer.apply(image[None])[0] for normalizer in by_mode.values())]
    images += [
        F.pad(images[1][None], [RunParams.crop] * 4, mode=padding)[0] for padding in paddings
    ]
    titles = [
        label_name,
        *(f"by {mode}" for mode in MODES),
        *(f"padded: {padding}" for padding in paddings),
    ]
    for padding in paddings:
        images += crop_and_flip(image[None], by_mode["channel"], index, crops, padding)
        titles += [f"{padding}\n{name}" for name in crop_names(crops)]
    figure = gallery(images, titles, 6, alt)
    for axes in figure.axes[4:6]:  # where the image lies in the padded one
        axes.add_patch(
            Rectangle(
                [RunParams.crop - 0.5] * 2, 32, 32, fill=False, linestyle="--", edgecolor=BLACK
            )
        )
    return figure


@styled
def lines(
    series: dict[str, tuple[Sequence, Sequence]], alt: str, legend: str | None = None, **settings
) -> Figure:
    """One line (x, y) a name; ``settings`` of the axes."""
    figure, axes = new_figure(7, 3.4, alt)
    for (name, (x, y)), look in zip(series.items(), LOOKS, strict=False):
        axes.plot(x, y, **look, markersize=5, label=name)
    axes.set(**settings)
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        # too few powers of ten to read a value between them
        if axis.get_scale() == "log" and high < 1000 * low:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
    axes.legend(frameon=True, title=legend)
    return figure


@styled
def eigenvalue_spectrum(values: Tensor | dict[str, Tensor]) -> Figure:
    """Eigenvalues (D,) of the patch covariance, largest first, beside the default epsilon; a dict:
    one line a name."""
    several = values if isinstance(values, dict) else {"eigenvalue": values}
    eps = RunParams.whitening_eps
    alt = "Eigenvalues of the patch covariance, largest first, on a logarithmic scale. " + " ".join(
        f"{name}: from {v[0]:.3g} to {v[-1]:.2g}; the first holds {100 * v[0] / v.sum():.1f} % of the variance, "
        f"{int((v > eps).sum())} of {len(v)} lie above epsilon."
        for name, v in several.items()
    )
    series = {name: (range(1, len(v) + 1), v) for name, v in several.items()}
    figure = lines(
        series, alt, yscale="log", xlabel="eigenvector, in order", ylabel="variance along it"
    )
    axes = figure.axes[0]
    axes.axhline(eps, color=ORANGE, linewidth=2.5, zorder=1, label=f"epsilon {eps:g}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=True)
    return figure


@styled
def eigenpatches(values: Tensor, vectors: Tensor, size: int = 2) -> Figure:
    """Eigenvectors (D, D), one a row, as patches of size x size pixels on one scale, with their
    eigenvalues (D,)."""
    patches = vectors.view(-1, 3, size, size)
    share = 100 * values / values.sum()
    alt = (
        f"{len(patches)} colour patches of {size} by {size} pixels in the order of their eigenvalues. The first, of nearly "
        f"one grey, holds {share[0]:.1f} % of the variance, the first three together {share[:3].sum():.1f} %."
    )
    titles = [f"{i}: {value:.2g}" for i, value in enumerate(values, 1)]
    return gallery(2.5 * patches / patches.abs().max(), titles, 6 if size == 2 else 9, alt)


@styled
def covariances(before: Tensor, after: Tensor) -> Figure:
    """The covariance (12, 12) of 2x2x3 patches, and that of the whitened ones (12, 12)."""
    words = "variances of {:.2f} to {:.2f} and covariances up to {:.2g}"
    texts = [
        words.format(*m.diag().aminmax(), (m - m.diag().diag()).abs().max())
        for m in (before, after)
    ]
    alt = f"Two matrices of 12 by 12. Before whitening, {texts[0]}; after it, {texts[1]}."
    figure, (left, right) = new_figure(9.5, 4.3, alt, 1, 2)
    values = [f"{c}{y}{x}" for c in "RGB" for y in "01" for x in "01"]
    for axes, matrix, names in ((left, before, values), (right, after, range(1, 13))):
        limit, look = (
            matrix.abs().max(),
            {"cmap": "PuOr_r", "square": True, "cbar_kws": {"label": "covariance"}},
        )
        sns.heatmap(
            matrix, vmin=-limit, vmax=limit, xticklabels=names, yticklabels=names, ax=axes, **look
        )
        axes.tick_params(axis="y", rotation=0)
    left.set(title="Patches as they are", xlabel="value of the patch: channel, row, column")
    right.set(title="Whitened", xlabel="eigenvector, in order")
    return figure


@styled
def benchmark_bars(
    seconds: dict[str, Sequence[float]],
    base: str,
    ours: Collection[str] = (),
) -> Figure:
    """Median seconds of an epoch of each contestant with smallest and largest repeat, on a log
    axis; on the bars, how many times as fast ``base`` is; hatched: ``base`` and those of
    ``ours``."""
    seconds = {name: np.array(values) for name, values in seconds.items()}
    faster = {name: np.median(values / seconds[base]) for name, values in seconds.items()}
    low, medians, high = np.transpose([(min(s), np.median(s), max(s)) for s in seconds.values()])
    words = [f"{median:,.{0 if median >= 100 else 2}f} s" for median in medians]
    alt = f"Bars of seconds an epoch: {', '.join(map(' '.join, zip(seconds, words, strict=True)))}."
    figure, axes = named_rows(0.31 * len(seconds) + 0.8, alt, seconds, "seconds an epoch (log)")
    own = [name == base or name in ours for name in seconds]
    looks = {
        "color": [BLUE if o else SKY for o in own],
        "hatch": ["//" if o else "" for o in own],
        "edgecolor": WHITE,
    }
    bars = axes.barh(
        range(len(own)), medians, xerr=[medians - low, high - medians], ecolor=BLACK, **looks
    )
    texts = [f", {base} {faster[name]:.2f} x as fast" if name != base else "" for name in seconds]
    axes.bar_label(bars, map("".join, zip(words, texts, strict=True)), padding=4)
    axes.set(xscale="log", xlim=(low.min() / 2, high.max() * (high.max() / low.min()) ** 0.3 * 3))
    for set_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        set_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.grid(axis="y", visible=False)
    return figure


@styled
def stacked_shares(parts: dict[str, dict[str, float]], xlabel: str) -> Figure:
    """A bar for each name, made of its kinds' values; a kind's share is written where there is
    room."""
    totals = np.array([sum(kinds.values()) for kinds in parts.values()])
    texts = [
        f"{name}: " + ", ".join(f"{kind} {v:.2g}" for kind, v in kinds.items())
        for name, kinds in parts.items()
    ]
    figure, axes = named_rows(
        0.6 * len(parts) + 1.6, f"Bars of {xlabel}. {'; '.join(texts)}.", parts, xlabel
    )
    left, colours = np.zeros(len(parts)), (BLUE, SKY, GREEN, YELLOW, PURPLE, ORANGE, VERMILION)
    for kind, colour in zip(next(iter(parts.values())), colours, strict=True):
        values = np.array([kinds[kind] for kinds in parts.values()])
        bars = axes.barh(
            range(len(parts)), values, left=left, color=colour, edgecolor=WHITE, label=kind
        )
        room, shares = (
            values > 0.05 * totals.max(),
            [f"{share:.0f} %" for share in 100 * values / totals],
        )
        axes.bar_label(
            bars,
            np.where(room, shares, ""),
            label_type="center",
            color=WHITE if colour == BLUE else BLACK,
        )
        left += values
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


@styled
def growth(record: dict) -> Figure:
    """A benchmark record's rate over batch size, and time over images and epochs: repeats as
    points, medians as lines."""
    figure, grid = new_figure(9.5, 3, "Medians:", 1, 3)
    rates = {"batch_size": "images_per_second", "images": "seconds", "epochs": "seconds"}
    for axes, (x, y) in zip(grid, rates.items(), strict=True):
        points = {row[x]: row[y] for row in record[f"by_{x}"]}
        medians = [np.median(repeats) for repeats in points.values()]
        figure.alt += f" {y} {', '.join(f'{median:.3g}' for median in medians)} at {x} {', '.join(map(str, points))}."
        axes.plot(list(points), medians, color=BLUE, marker="o")
        axes.plot(list(points), list(points.values()), ".", color=BLACK, markersize=4)
        axes.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "), ylim=(0, None))
        axes.set_xscale("log" if x == "batch_size" else "linear")
        axes.set_xticks(list(points), [f"{n:,}" for n in points])
        axes.minorticks_off()
    grid[1].set_ylabel("seconds an epoch")
    grid[2].set_xlabel(f"epochs of {record['by_epochs'][0]['images']:,} images")
    return figure
