"""Every figure, one function each, one style: Okabe-Ito colours, and a marker or dash beside the colour."""

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence

import matplotlib
import matplotlib.ticker
import numpy as np
import seaborn as sns
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from cifarlib.data import CLASSES
from cifarlib.evaluate import calibration_curve, confusion_matrix, most_confident_mistakes, smoothing_floor
from cifarlib.params import RunParams
from cifarlib.preprocess import PADDING, crop_and_flip, draw, normalization, normalize
from cifarlib.stats import binomial_interval

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"  # Okabe and Ito, 2008
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
WHITE = "#FFFFFF"
LOOKS = tuple(
    {"color": colour, "linestyle": dash, "marker": marker}
    for colour, dash, marker in zip(
        (BLUE, VERMILION, GREEN, BLACK, PURPLE, ORANGE, SKY),
        ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (5, 3)), (0, (1, 1))),
        "os^DvPX",
        strict=True,
    )
)  # of series that share axes: told apart by colour, dash and marker


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The one style, set for the figure being made and not for the user's session."""
    ours = {"svg.hashsalt": "cifarlib", "axes.spines.top": False, "axes.spines.right": False}
    with sns.axes_style("whitegrid"), sns.plotting_context("notebook", font_scale=0.85), matplotlib.rc_context(ours):
        yield


def new_figure(width: float, height: float, alt: str) -> Figure:
    """A figure outside pyplot: nothing shows it twice, nothing has to be closed. width, height: inches; ``alt`` says
    in words what it shows and becomes the figure's attribute of that name, beside ``source``, the function that asks."""
    figure, asking = Figure(figsize=(width, height), layout="constrained"), sys._getframe(1)
    while asking.f_back.f_globals["__name__"] in ("cifarlib.plots", "cifarlib.figures_explore"):  # past lines, gallery
        asking = asking.f_back
    figure.alt = alt
    figure.source = f"{asking.f_globals['__name__'].removeprefix('cifarlib.')}.{asking.f_code.co_name}"
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
    titles = [
        f"says {CLASSES[predicted]}, {100 * confidence:.0f} %\nis {CLASSES[int(labels[index])]}"
        for index, predicted, confidence in chosen
    ]
    return gallery([images[index] for index, _, _ in chosen], titles, 6, alt)


def architecture(layers: list[dict]) -> Figure:
    """The network's blocks in the order of execution, from ``model.layer_table``: a box as high as the picture is wide
    and as wide as its channels (on a log scale), with its shape and parameters; below, what a block does."""
    stages: dict[str, list[dict]] = {}
    for row in layers:
        stages.setdefault(row["layer"].split()[0].partition(".")[0], []).append(row)
    blocks = next(rows for rows in stages.values() if len(rows) > 1)
    boxes = [("image", "3x32x32", 0, WHITE)]
    for rows in stages.values():
        kind = "Block" if len(rows) > 1 else rows[0]["layer"].split()[1]
        parameters = sum(row["parameters"] for row in rows)
        if parameters or "Pool" in kind:
            name = {"Conv": "conv 2x2\n+ GELU", "MaxPool2d": "3x3\nmax-pool", "Linear": "linear, / 9"}.get(
                kind, kind.lower()
            )
            boxes.append(
                (name, rows[-1]["output"], parameters, SKY if kind == "Block" else YELLOW if parameters else WHITE)
            )
    total = sum(row["parameters"] for row in layers)
    inside = " → ".join(row["layer"].partition(".")[2].split()[0].replace("activ", "GELU") for row in blocks)
    alt = f"The network from left to right: {', '.join(f'{n} to {s}'.replace(chr(10), ' ') for n, s, *_ in boxes)}; {total:,} parameters."
    with style():
        figure = new_figure(9.5, 3.0, alt)
        axes = figure.subplots()
        axes.set_axis_off()
        x = 0.0
        for i, (name, shape, parameters, colour) in enumerate(boxes):
            channels, size = int(shape.split("x")[0]), int(shape.split("x")[-1]) if "x" in shape else 1
            width, height = 0.35 + 0.22 * np.log2(channels), 0.35 + 2.4 * size / 32
            axes.add_patch(Rectangle((x, -height / 2), width, height, facecolor=colour, edgecolor=BLACK))
            middle = x + width / 2
            axes.text(middle, 1.5, name, ha="center", va="bottom", weight="bold")
            count = f"{parameters:,}" if parameters else ""
            axes.text(middle, -1.5, f"{shape.replace('x', '×')}\n{count}", ha="center", va="top")
            if i + 1 < len(boxes):
                axes.annotate(
                    "", (x + width + 0.55, 0), (x + width + 0.05, 0), arrowprops={"arrowstyle": "->", "color": BLACK}
                )
            x += width + 0.6
        axes.text(x / 2, -2.75, f"block: {inside}; {total:,} parameters in all", ha="center")
        axes.set(xlim=(-0.2, x), ylim=(-3, 2.4))
    return figure


def loss_curves(histories: dict[str, list[list[dict]]], smoothing: dict[str, float]) -> Figure:
    """Training loss per image and validation accuracy of several runs on common axes: the mean over a run's seeds, each
    seed thin behind it, and the floor that a run's smoothed labels set. histories: run to one history a seed."""
    ends = ", ".join(f"{run} {np.mean([h[-1]['train_loss'] for h in some]):.3f}" for run, some in histories.items())
    with style():
        figure = new_figure(
            9.5, 4.2, f"Training loss and validation accuracy over the epochs. The loss ends at: {ends}."
        )
        for axes, (key, factor) in zip(
            figure.subplots(1, 2), (("train_loss", 1), ("validation_accuracy", 100)), strict=True
        ):
            for run, some in histories.items():
                look = LOOKS[int(run[3]) - 1]  # a run of Table 1 keeps its look where others are missing
                colour = look["color"]
                curves = [[factor * row[key] for row in history] for history in some]
                x = range(1, min(map(len, curves)) + 1)
                for curve in curves if len(curves) > 1 else ():
                    axes.plot(x, curve[: len(x)], color=colour, linewidth=0.5, alpha=0.5)
                mean = np.mean([curve[: len(x)] for curve in curves], axis=0)
                axes.plot(x, mean, **look, markersize=4, markevery=max(1, len(x) // 10), label=run)
                floor = smoothing_floor(smoothing[run])
                if floor and key == "train_loss":
                    line = axes.axhline(floor, color=colour, linestyle=":", linewidth=1)
                    axes.legend([line], [f"floor of {run}: {floor:.3f}"], loc="upper right", frameon=True)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
        left, right = figure.axes
        left.set(ylabel="cross-entropy per image (nats)", title="Training loss", ylim=(0, None))
        right.set(ylabel="accuracy (%)", title="Validation accuracy")
        right.legend(loc="lower right", frameon=True, ncols=2)
    return figure


def run_accuracies(
    values: dict[str, list[float]], intervals: dict[str, tuple[float, float]], published: dict[str, float]
) -> Figure:
    """Validation accuracy (%) of each run: mean and interval, below them its seeds as small circles, the paper's as a
    cross."""
    means = ", ".join(f"{run} {np.mean(some):.2f}" for run, some in values.items())
    looks = {
        "a seed": {"marker": "o", "color": SKY, "markersize": 4, "alpha": 0.8},
        "mean, 95 % interval": {"marker": "D", "color": BLUE, "markersize": 6},
        "paper": {"marker": "x", "color": VERMILION, "markersize": 7, "markeredgewidth": 2},
    }
    with style():
        figure = new_figure(
            9.5, 1.2 + 0.34 * len(values), f"Validation accuracy in per cent, mean of the seeds: {means}."
        )
        axes = figure.subplots()
        for y, (run, some) in enumerate(values.items()):
            axes.plot(intervals[run], [y, y], color=BLUE, linewidth=2)
            points = (some, [np.mean(some)], [published[run]] if run in published else [])
            for (name, look), x in zip(looks.items(), points, strict=True):
                at = y + 0.3 if name == "a seed" else y  # beside the mean: under it they could not be seen
                axes.plot(x, [at] * len(x), linestyle="", **look, label=name if y == 0 and x else None)
        axes.set(yticks=range(len(values)), yticklabels=list(values), xlabel="validation accuracy (%)")
        axes.invert_yaxis()
        axes.legend(frameon=True, fontsize=8)
    return figure


def contrasts(rows: list[tuple[str, float, tuple[float, float], float, str]]) -> Figure:
    """Each claim's estimate with its interval beside zero and the paper's value. rows: (name, estimate, interval, paper
    or nan, verdict); the verdict shows in marker and colour."""
    looks = {
        "reproduced": (GREEN, "o"),
        "contradicted": (VERMILION, "X"),
        "not resolved": (BLUE, "s"),
        "": (BLACK, "d"),
    }
    words = "; ".join(f"{name} {value:+.2f}{', ' + verdict if verdict else ''}" for name, value, _, _, verdict in rows)
    with style():
        figure = new_figure(9.5, 0.8 + 0.32 * len(rows), f"Differences in points of validation accuracy: {words}.")
        axes = figure.subplots()
        axes.axvline(0, color=BLACK, linewidth=1)
        for y, (_, value, interval, paper, verdict) in enumerate(rows):
            colour, marker = looks[verdict]
            axes.plot(interval, [y, y], color=colour, linewidth=2)
            axes.plot(value, y, marker, color=colour, markersize=8, label=verdict or "one seed: images only")
            axes.plot(
                paper, y, "|", color=ORANGE, markersize=14, markeredgewidth=3, label="" if np.isnan(paper) else "paper"
            )
        axes.set(yticks=range(len(rows)), yticklabels=[row[0] for row in rows], xlabel="points of validation accuracy")
        axes.invert_yaxis()
        once = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        axes.legend(once.values(), once.keys(), frameon=True, fontsize=8)
    return figure


def picture(axes: matplotlib.axes.Axes, image: Tensor, title: str = "", limit: float | None = None) -> None:
    """An image without axes: uint8 (3, H, W) as it is; normalised, float, with zero as mid-grey and -2.5 and 2.5 as the
    darkest and brightest; a map (H, W) from -limit (purple) over zero (white) to limit (brown)."""
    if image.dim() == 2:
        axes.imshow(image.numpy(), interpolation="nearest", cmap="PuOr_r", vmin=-limit, vmax=limit)
    else:
        pixels = image if image.dtype == torch.uint8 else (image / 5 + 0.5).clamp(0, 1)
        axes.imshow(pixels.permute(1, 2, 0).numpy(), interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def gallery(images: Sequence[Tensor], titles: Sequence[str], columns: int, alt: str, limit: float = 1.0) -> Figure:
    """Images, see ``picture``, with a title each, row by row."""
    rows = -(-len(images) // columns)
    above = [
        max(t.count("\n") + bool(t) for t in titles[i * columns : (i + 1) * columns]) for i in range(rows)
    ]  # lines
    with style():
        figure = new_figure(9.5, rows * 9.5 / columns + 0.2 * sum(above), alt)
        grid = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in grid:
            axes.set_axis_off()
        for axes, image, title in zip(grid, images, titles, strict=False):
            picture(axes, image, title, limit)
    return figure


def preprocessing(image: Tensor, label_name: str, statistics: tuple[Tensor, Tensor], seed: int) -> Figure:
    """One image, uint8 (3, 32, 32), through each normalisation, each padding and six draws of crop and flip;
    statistics: see ``channel_statistics``."""
    draws = draw(seed, 1, 6)
    how = [f"{dy:+d}, {dx:+d}{', flipped' if flip else ''}" for dy, dx, flip in draws.tolist()]
    alt = (
        f"One picture ({label_name}) as it is, under three normalisations and two paddings of {PADDING} pixels, and "
        f"cropped and flipped six times under each padding, shifted down and right by: {'; '.join(how)}."
    )
    scale = normalization(image[None], "channel", statistics)
    plain = normalize(image[None], *scale)
    modes = ("channel", "image-channel", "length")
    shown = [image, *(normalize(image[None], *normalization(image[None], mode, statistics))[0] for mode in modes)]
    shown += [F.pad(plain, [PADDING] * 4, mode=padding)[0] for padding in ("reflect", "constant")]
    titles = [label_name, *(f"by {mode}" for mode in modes), "padded: reflect", "padded: constant"]
    for padding in ("reflect", "constant"):
        shown += crop_and_flip(image[None], *scale, torch.zeros(6, dtype=torch.int64), draws, padding)
        titles += [f"{padding}\n{shift}" for shift in how]
    figure = gallery(shown, titles, 6, alt)
    for axes in figure.axes[4:6]:  # where the image lies in the padded one
        axes.add_patch(matplotlib.patches.Rectangle([PADDING - 0.5] * 2, 32, 32, fill=False, linestyle="--"))
    return figure


def lines(series: dict[str, tuple[Sequence, Sequence]], alt: str, legend: str | None = None, **settings) -> Figure:
    """One line (x, y) a name; ``settings`` of the axes."""
    with style():
        figure = new_figure(7, 3.4, alt)
        axes = figure.subplots()
        for (name, (x, y)), look in zip(series.items(), LOOKS, strict=False):
            axes.plot(x, y, **look, markersize=5, label=name)
        axes.set(**settings)
        axes.legend(frameon=True, title=legend)
    return figure


def eigenvalue_spectrum(values: Tensor | dict[str, Tensor]) -> Figure:
    """Eigenvalues (D,) of the patch covariance, largest first, beside the default epsilon; a dict: one line a name."""
    several = values if isinstance(values, dict) else {"": values}
    eps = RunParams.whitening_eps
    alt = "Eigenvalues of the patch covariance, largest first, on a logarithmic scale. " + " ".join(
        f"{name + ':' if name else 'They go'} from {v[0]:.3g} to {v[-1]:.2g}; the first holds {100 * v[0] / v.sum():.1f} % of the variance, "
        f"{int((v > eps).sum())} of {len(v)} lie above epsilon."
        for name, v in several.items()
    )
    series = {name or "eigenvalue": (range(1, len(v) + 1), v) for name, v in several.items()}
    figure = lines(series, alt, yscale="log", xlabel="eigenvector, in order", ylabel="variance along it")
    axes = figure.axes[0]
    axes.axhline(eps, color=ORANGE, linewidth=2.5, zorder=1, label=f"epsilon {eps:g}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=True)
    return figure


def eigenpatches(values: Tensor, vectors: Tensor, size: int = 2) -> Figure:
    """Eigenvectors (D, D), one a row, as patches of size x size pixels, all on one scale, with their eigenvalues (D,);
    zero is mid-grey."""
    patches = vectors.view(-1, 3, size, size)
    share = 100 * values / values.sum()
    alt = (
        f"{len(patches)} colour patches of {size} by {size} pixels in the order of their eigenvalues. The first, of nearly "
        f"one grey, holds {share[0]:.1f} % of the variance, the first three together {share[:3].sum():.1f} %."
    )
    titles = [f"{i + 1}: {value:.2g}" for i, value in enumerate(values)]
    return gallery(2.5 * patches / patches.abs().max(), titles, 6 if size == 2 else 9, alt)


def covariances(before: Tensor, after: Tensor) -> Figure:
    """The covariance (12, 12) of 2x2x3 patches, and that of the whitened ones (12, 12)."""

    def outside(matrix: Tensor) -> float:
        return float((matrix - matrix.diag().diag()).abs().max())

    alt = (
        f"Two matrices of 12 by 12. Before whitening, the variances are {before.diag().min():.2f} to "
        f"{before.diag().max():.2f} and the covariances reach {outside(before):.2f}; after it, the variances are "
        f"{after.diag().min():.2f} to {after.diag().max():.2f} and the covariances reach {outside(after):.1g}."
    )
    with style():
        figure = new_figure(9.5, 4.3, alt)
        for axes, matrix, title in zip(
            figure.subplots(1, 2), (before, after), ("Patches as they are", "Whitened"), strict=True
        ):
            limit = float(matrix.abs().max())
            drawn = axes.imshow(matrix.numpy(), cmap="PuOr_r", vmin=-limit, vmax=limit)
            axes.grid(False)
            axes.set_title(title)
            figure.colorbar(drawn, ax=axes, label="covariance")
        names = [f"{c}{y}{x}" for c in "RGB" for y in "01" for x in "01"]  # channel, row, column
        figure.axes[0].set(xticks=range(12), yticks=range(12), xlabel="value of the patch: channel, row, column")
        figure.axes[0].set_xticklabels(names, rotation=90)
        figure.axes[0].set_yticklabels(names)
        figure.axes[1].set(xticks=range(12), yticks=range(12), xlabel="eigenvector, in order")
        for axis in (figure.axes[1].xaxis, figure.axes[1].yaxis):
            axis.set_ticklabels(range(1, 13))
    return figure


def calibration(logits: np.ndarray, labels: np.ndarray) -> Figure:
    """How often answers of a given probability are right, with binomial 95 % intervals, and how many there are."""
    confidence, right, counts, error = calibration_curve(logits, labels)
    alt = f"Expected calibration error {100 * error:.1f} %. Given probability, share of right answers: " + ", ".join(
        f"{100 * c:.0f} %, {100 * r:.0f} %" for c, r in zip(confidence, right, strict=True)
    )
    low, high = np.transpose([binomial_interval(r, n) for r, n in zip(right, counts, strict=True)])
    with style():
        figure = new_figure(6, 5, alt)
        top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        top.plot([0, 100], [0, 100], color=BLACK, linestyle=":", label="perfectly calibrated")
        bars = 100 * np.array([right - low, high - right]).clip(0)
        label = f"answers, calibration error {100 * error:.1f} %"
        top.errorbar(100 * confidence, 100 * right, bars, color=BLUE, marker="o", capsize=3, label=label)
        top.set(ylabel="right answers (%)", xlim=(0, 100), ylim=(0, 102))
        top.legend(frameon=True)
        bottom.bar(100 * confidence, counts, width=4, color=SKY, edgecolor=BLACK)
        bottom.set(xlabel="probability of the answer (%)", ylabel="answers")
    return figure


def benchmark_bars(seconds: dict[str, Sequence[float]], base: str, faster: dict[str, float]) -> Figure:
    """Median seconds of an epoch of each contestant with smallest and largest repeat, on a log axis; on the bars, how
    many times as fast ``base`` is."""
    middle = {name: float(np.median(values)) for name, values in seconds.items()}
    alt = "Bars of seconds an epoch: " + ", ".join(f"{name} {value:.3g} s" for name, value in middle.items())
    with style():
        figure = new_figure(9, 0.42 * len(seconds) + 1, alt)
        axes = figure.subplots()
        for row, (name, values) in enumerate(seconds.items()):
            look = {"color": BLUE, "hatch": "//"} if name.startswith("ours") else {"color": SKY}
            axes.barh(row, middle[name], edgecolor="white", **look)
            axes.plot([min(values), max(values)], [row, row], color=BLACK, linewidth=1.5)
            text = f" {middle[name]:,.{0 if middle[name] >= 100 else 2}f} s"
            text += f", {base} {faster[name]:.2f} x as fast" if name != base else ""
            axes.text(max(values), row, text, va="center")
        low, high = min(map(min, seconds.values())), max(map(max, seconds.values()))
        axes.set(xscale="log", yticks=range(len(seconds)), yticklabels=list(seconds), xlabel="seconds an epoch (log)")
        axes.set_xlim(low / 2, high * (high / low) ** 0.3 * 3)
        for which in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            which(matplotlib.ticker.LogFormatter(minor_thresholds=(2, 0.5)))
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
    return figure


def stacked_shares(parts: dict[str, dict[str, float]], xlabel: str) -> Figure:
    """A bar for each name, made of its kinds' values; a kind's share is written where there is room."""
    total = {name: sum(kinds.values()) for name, kinds in parts.items()}
    alt = "; ".join(
        f"{name}: " + ", ".join(f"{kind} {100 * v / total[name]:.0f} %" for kind, v in kinds.items())
        for name, kinds in parts.items()
    )
    colours = (BLUE, SKY, GREEN, YELLOW, PURPLE, ORANGE, VERMILION)
    with style():
        figure = new_figure(9, 0.6 * len(parts) + 1.6, alt)
        axes = figure.subplots()
        for row, (name, kinds) in enumerate(parts.items()):
            left = 0.0
            for (kind, v), colour in zip(kinds.items(), colours, strict=True):
                axes.barh(row, v, left=left, color=colour, edgecolor="white", label=None if row else kind)
                if v > 0.05 * max(total.values()):
                    ink, text = WHITE if colour == BLUE else BLACK, f"{100 * v / total[name]:.0f} %"
                    axes.text(left + v / 2, row, text, ha="center", va="center", color=ink)
                left += v
        axes.set(yticks=range(len(parts)), yticklabels=list(parts), xlabel=xlabel)
        axes.invert_yaxis()
        figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


def growth(record: dict) -> Figure:
    """A benchmark record's rate over batch size, and time over images and epochs: repeats as points, medians as lines."""
    panels = [
        ("batch size", "images per second", [(r["batch_size"], r["images_per_second"]) for r in record["by_batch_size"]]),
        ("images", "seconds an epoch", [(r["images"], r["seconds"]) for r in record["by_images"]]),
        (f"epochs of {record['by_epochs'][0]['images']:,} images", "seconds",
         [(r["epochs"], r["seconds"]) for r in record["by_epochs"]]),
    ]  # fmt: skip
    alt = "; ".join(
        f"{y} over {x}: " + ", ".join(f"{np.median(v):.3g} at {a}" for a, v in rows) for x, y, rows in panels
    )
    with style():
        figure = new_figure(9.5, 3, alt)
        for axes, (x, y, rows) in zip(figure.subplots(1, 3), panels, strict=True):
            at = [a for a, _ in rows]
            axes.plot(at, [np.median(v) for _, v in rows], color=BLUE, marker="o")
            for a, v in rows:
                axes.plot([a] * len(v), v, ".", color=BLACK, markersize=4)
            axes.set(xlabel=x, ylabel=y, ylim=(0, None), xscale="log" if x == "batch size" else "linear")
            axes.set_xticks(at, [f"{a:,}" for a in at])
            axes.minorticks_off()
    return figure
