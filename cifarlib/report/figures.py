"""The figures of notebooks and report, one function each: plain data in, a matplotlib Figure out,
as wide as the report's text, with one sentence in ``alt`` that says what it shows."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from scipy import stats
from torch import Tensor, nn
from torchvision.utils import make_grid

from cifarlib import evaluate
from cifarlib.data import CLASSES
from cifarlib.params import RunParams
from cifarlib.preprocess import crop_and_flip, draw_crops, make_normalizer
from cifarlib.report.claims import LEVEL, MARGIN, points

WIDTH = 6.3  # inches: the text of the PDF, so that type has its printed size
# the colours of Okabe and Ito, 2008, and a grey
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#BBBBBB"
# series that share axes are told apart by colour, dash and marker
SERIES = {"color": [BLUE, VERMILION, GREEN, BLACK, PURPLE], "markersize": 4}
SERIES["style"] = ["o-", "s--", "^-.", "D:", "v-"]
MODES = ("channel", "image-channel", "length")  # of normalisation
STYLE = sns.axes_style("whitegrid") | sns.plotting_context("paper", font_scale=0.83)  # 7.3-8 pt
STYLE |= {"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "cifarlib"}
styled = matplotlib.rc_context(STYLE)  # as a decorator: for the figure, not for the user's session


def new_figure(height: float, alt: str) -> Figure:
    """Make a figure outside pyplot: nothing shows it twice, nothing has to be closed."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    figure.alt = alt
    return figure


@styled
def as_svg(figure: Figure) -> str:
    """Write a figure so that the same one gives the same text: no date, fixed ids."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _curves(axes: Axes, history: Sequence[dict], measure: str, factor: float = 1) -> None:
    """Draw training and, where images validate, validation over the epochs."""
    names = {f"train_{measure}": "training", f"validation_{measure}": "validation"}
    frame = pd.DataFrame(history).set_index("epoch")[[*names]].rename(columns=names)
    (factor * frame).dropna(axis=1).plot(ax=axes, **SERIES, markevery=max(1, len(frame) // 10))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper right" if measure == "loss" else "lower right")


@styled
def training_curves(history: Sequence[dict], epochs: int, label_smoothing: float) -> Figure:
    """Draw loss per image and accuracy over epochs 1 to ``epochs``, and the loss's floor."""
    end = 100 * history[-1]["train_accuracy"]
    figure = new_figure(2.4, f"Loss and accuracy by epoch; training ends at {end:.1f} %.")
    left, right = figure.subplots(1, 2, sharex=True)
    floor = evaluate.smoothing_floor(label_smoothing)
    left.axhline(floor, color=BLACK, linestyle=":", linewidth=1, label=f"floor {floor:.3f}")
    _curves(left, history, "loss")
    _curves(right, history, "accuracy", 100)
    left.set(ylabel="cross-entropy per image (nats)")
    right.set(ylabel="accuracy (%)", xlim=(1 - 0.03 * epochs, 1.03 * max(epochs, 2)))
    right.set_ylim(10 * (right.dataLim.ymin // 10), 100)
    return figure


@styled
def loss_curves(histories: pd.DataFrame) -> Figure:
    """Draw training loss, validation accuracy and its last third, a column a run: the mean of its
    seeds, where it ends, and in grey the others. histories: of all records, with run and
    label_smoothing."""
    histories = histories.assign(validation_accuracy=100 * histories["validation_accuracy"])
    measures = ["train_loss", "validation_accuracy"]
    means = histories.groupby(["run", "epoch"])[measures].mean().unstack("run")
    last = means.loc[means.index.max() * 2 // 3 :]
    rows = [means["train_loss"], means["validation_accuracy"], last["validation_accuracy"]]
    floors = histories.groupby("run")["label_smoothing"].first().map(evaluate.smoothing_floor)
    figure = new_figure(3.2, f"Loss and accuracy by epoch, of {', '.join(floors.index)}.")
    grid = figure.subplots(3, len(floors), sharex="row", sharey="row", squeeze=False)
    for panels, (run, floor) in zip(grid.T, floors.items(), strict=True):
        for axes, curves in zip(panels, rows, strict=True):
            axes.plot(curves, color=GREY, linewidth=0.6)
            axes.plot(curves[run], color=BLUE)
        for axes, curves, height in zip(panels, rows, (0.85, 0.06), strict=False):
            end = curves[run].dropna().iloc[-1]
            axes.text(0.95, height, f"{end:.2f}", ha="right", transform=axes.transAxes)
        panels[0].axhline(floor, color=BLACK, linestyle=":", linewidth=1)
        panels[0].set(title=run, ylim=(0, None), xticks=(30, 60, 90), xticklabels=())
        panels[1].set(xticks=(30, 60, 90))
    for row, name in enumerate(("loss (nats)", "accuracy (%)", "last third (%)")):
        grid[row, 0].set_ylabel(name)
    figure.supxlabel("epoch", fontsize=8)
    return figure


@styled
def claims(judged: pd.DataFrame) -> Figure:
    """Draw each claim's difference with its interval, the paper's, and the verdict to the right; a
    band is where differences count as alike. judged: what ``claims.judge`` gives."""
    rows = judged.dropna(subset="estimate")
    y = np.arange(len(rows))
    half = (rows["high"] - rows["low"]) / 2
    alt = "; ".join(f"{row.says} {row.estimate:+.2f}" for row in rows.itertuples())
    figure = new_figure(0.8 + 0.17 * len(rows), f"Differences in points of accuracy: {alt}.")
    axes = figure.subplots()
    alike = y[rows["sign"] == 0]
    axes.barh(alike, 2 * MARGIN, left=-MARGIN, color=GREY, label=f"alike: ±{MARGIN:g} points")
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.axhline((~rows["ours"]).sum() - 0.5, color=BLACK, linestyle=":", linewidth=0.8)
    axes.plot(rows["paper"], y, "|", color=ORANGE, ms=11, mew=2.5, label="paper")
    axes.errorbar(rows["estimate"], y, xerr=half, fmt="o", color=BLUE, ms=5, label="ours")
    axes.set_xscale("symlog", linthresh=1, linscale=0.8)  # most are within a point, two far out
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="points of accuracy", xticks=(-1, -0.5, 0, 0.5, 1, 2, 4))
    axes.set(yticks=y, yticklabels=rows["says"])
    right = axes.secondary_yaxis("right")
    right.set_yticks(y, rows["estimate"].map(points).astype(str) + "  " + rows["verdict"])
    right.tick_params(length=0)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _share_bars(shares: pd.Series, counts: pd.Series) -> np.ndarray:
    """Compute the lengths (2, N) of error bars, per cent: binomial 95 % intervals (Wilson's)."""
    tests = [stats.binomtest(round(s * n), int(n)) for s, n in zip(shares, counts, strict=True)]
    ends = [test.proportion_ci(LEVEL, "wilson") for test in tests]
    return 100 * np.abs([[end.low, end.high] for end in ends] - shares.to_numpy()[:, None]).T


def _confusion(axes: Axes, logits: np.ndarray, labels: np.ndarray) -> None:
    """Draw counts; the colour is the share of the true class that is mistaken for the other."""
    matrix = evaluate.confusion_matrix(logits, labels)
    mistaken = (matrix - np.diag(np.diag(matrix))) / matrix.sum(1, keepdims=True).clip(1)
    look = {"cmap": "Blues", "cbar": False, "linewidths": 0.5, "annot_kws": {"size": 7}}
    look |= {"vmin": 0, "fmt": "d", "xticklabels": CLASSES, "yticklabels": CLASSES}
    sns.heatmap(mistaken, annot=matrix, **look, ax=axes)
    axes.set_title("True class (row), predicted (column)")
    axes.tick_params(axis="x", rotation=90)


def _class_accuracy(axes: Axes, logits: np.ndarray, labels: np.ndarray) -> None:
    """Draw the accuracy of each class that occurs, lowest first, with its 95 % interval."""
    right = pd.Series(evaluate.right_answers(logits, labels)).groupby([CLASSES[c] for c in labels])
    rows = right.agg(["mean", "size"]).sort_values("mean")
    bars = _share_bars(rows["mean"], rows["size"])
    axes.errorbar(100 * rows["mean"], rows.index, xerr=bars, color=BLUE, fmt="o", markersize=4)
    axes.set(xlabel="accuracy (%)", title="Accuracy of each class")


def _calibration(axes: Axes, logits: np.ndarray, labels: np.ndarray) -> None:
    """Draw how often answers of a given probability are right, with 95 % intervals."""
    curve = evaluate.calibration_curve(logits, labels)
    axes.plot([0, 100], [0, 100], color=BLACK, linestyle=":", label="perfect calibration")
    shown = curve[curve["count"] >= 20]  # the interval of fewer says nothing
    look = {"yerr": _share_bars(shown["right"], shown["count"]), "fmt": "o", "markersize": 4}
    axes.errorbar(100 * shown["probability"], 100 * shown["right"], color=BLUE, **look)
    axes.set(xlabel="probability of the prediction (%)", ylabel="correct predictions (%)")
    error = f"Calibration (mean error {100 * evaluate.calibration_error(curve):.1f} points)"
    axes.set(title=error, xlim=(0, 101), ylim=(0, 105))
    axes.legend(loc="lower right")


@styled
def run_panels(logits: np.ndarray, labels: np.ndarray, layout: str = "AB;AC") -> Figure:
    """Draw answers' confusion (A), accuracy of each class (B) and calibration (C). layout: a mosaic
    of these letters, rows apart by ";"."""
    right = evaluate.right_answers(logits, labels)
    alt = f"Confusion, accuracy, calibration of {len(right):,} answers, {right.sum():,} correct."
    figure = new_figure(0.4 + 1.95 * len(layout.split(";")), alt)
    panels = figure.subplot_mosaic(layout)
    for letter, draw in {"A": _confusion, "B": _class_accuracy, "C": _calibration}.items():
        if letter in panels:
            draw(panels[letter], logits, labels)
    return figure


@styled
def architecture(model: nn.Module) -> Figure:
    """Draw the network's stages: boxes as high as the picture, as wide as the channels' log."""
    names = {"Identity": "image", "Conv2d": "conv 2×2\n+ GELU", "Block": "block"}
    names |= {"MaxPool2d": "3×3\npool", "Linear": "linear,\n/ 9"}
    output = torch.zeros(1, 3, 32, 32)
    stages = []  # name, shape, number of parameters
    for stage in (nn.Identity(), *model.net):
        output = stage(output).detach()
        if type(stage).__name__ in names:
            count = sum(p.numel() for p in stage.parameters())
            stages.append((names[type(stage).__name__], output.shape[1:], count))
    alt = "The network's layers from left to right, from the image to ten logits."
    figure = new_figure(1.3, alt)
    axes = figure.subplots()
    for x, (name, shape, count) in enumerate(stages):
        width = 0.25 + 0.06 * np.log2(shape[0])
        height = 0.35 + 2.4 * [*shape, 1][1] / 32
        axes.bar(x, height, width, -height / 2, color=SKY if count else "white", edgecolor=BLACK)
        axes.text(x, 1.5, name, ha="center", va="bottom", weight="bold")
        axes.text(x, -1.5, f"{'×'.join(map(str, shape))}\n{count:,}", ha="center", va="top")
    axes.axhline(0, color=BLACK, linewidth=0.8, zorder=0)
    axes.set_axis_off()
    axes.set_ylim(-2.3, 2.3)
    return figure


@styled
def gallery(
    images: Sequence[Tensor], titles: Sequence[str], columns: int, alt: str, limit: float = 1.0
) -> Figure:
    """Show images with a title each, row by row: uint8 (3, H, W) as they are; normalised from -2.5,
    black, to 2.5, white; maps (H, W) from -limit (purple) over zero (white) to limit (brown)."""
    starts = range(0, len(images), columns)
    title_lines = sum(max(t.count("\n") + bool(t) for t in titles[i : i + columns]) for i in starts)
    figure = new_figure(len(starts) * WIDTH / columns + 0.14 * title_lines, alt)
    bare = {"xticks": [], "yticks": [], "frame_on": False}
    grid = figure.subplots(len(starts), columns, squeeze=False, subplot_kw=bare).ravel()
    for axes, image, title in zip(grid, images, titles, strict=False):
        if image.is_floating_point() and image.dim() == 3:
            image = (image / 5 + 0.5).clamp(0, 1)
        image = image.permute(1, 2, 0) if image.dim() == 3 else image
        axes.imshow(image.numpy(), interpolation="nearest", cmap="PuOr_r", vmin=-limit, vmax=limit)
        axes.set_frame_on(bool(image.isfinite().all()))  # white on white would be lost
        axes.spines[:].set_visible(True)
        axes.set_title(title, fontsize=7, parse_math=False)  # a file's name may hold dollars
    return figure


def answers(images: Tensor, logits: np.ndarray, names: Sequence[str]) -> Figure:
    """Show images, uint8, with their names and what the network says of them."""
    titles = []
    for name, shares in zip(names, evaluate.probabilities(logits), strict=True):
        short = name if len(name) <= 20 else f"{name[:6]}…{name[-10:]}"  # above a picture
        titles.append(f"{short}\n{CLASSES[shares.argmax()]}\n{100 * shares.max():.0f} %")
    alt = f"{len(images)} pictures with answers, the first: {titles[0]}."
    return gallery(images, titles, 6, alt.replace("\n", " "))


def mistakes(images: Tensor, logits: np.ndarray, labels: np.ndarray, n: int = 12) -> Figure:
    """Show the n wrong answers of the highest probability; images: uint8 (N, 3, 32, 32)."""
    chosen = evaluate.most_confident(logits, labels, n, right=False)
    names = [f"{CLASSES[label]} taken for" for label in labels[chosen]]
    return answers(images[chosen], logits[chosen], names)


def crop_name(crop: Tensor) -> str:
    """Say how a crop (3,), see ``draw_crops``, moves the image: "up 2, left 4, flipped"."""
    dy, dx, flip = crop.tolist()
    moves = [(dy, "up"), (-dy, "down"), (dx, "left"), (-dx, "right")]
    text = ", ".join(f"{word} {by}" for by, word in moves if by > 0) or "not moved"
    return f"{text}\nflipped" if flip else text


@styled
def preprocessing(image: Tensor, name: str, statistics: tuple, seed: int) -> Figure:
    """Show an image, uint8, under each normalisation and padding and three draws of crops."""
    rim = RunParams.crop
    crops = draw_crops(seed, 1, 3, rim)
    index = torch.zeros(3, dtype=torch.int64)
    normalizers = [make_normalizer(image[None], mode, statistics) for mode in MODES]
    images = [image, *(normalizer.apply(image[None])[0] for normalizer in normalizers)]
    images += [F.pad(images[1][None], [rim] * 4, mode=m)[0] for m in ("reflect", "constant")]
    titles = ["as it is", *(f"by {mode}" for mode in MODES), "padded: reflect", "padded: constant"]
    for padding in ("reflect", "constant"):
        images += crop_and_flip(image[None], normalizers[0], index, crops, padding)
        titles += map(crop_name, crops)
    alt = f"A picture ({name}) as it is, under three normalisations, two paddings and three crops."
    figure = gallery(images, titles, 6, alt)
    for axes in figure.axes[4:6]:  # where the image lies in the padded one
        axes.add_patch(Rectangle([rim - 0.5] * 2, 32, 32, fill=False, linestyle="--"))
    return figure


@styled
def whitening_strip(values: Tensor, vectors: Tensor, eps: float) -> Figure:
    """Show eigenvalues (12,), eigenvectors (12, 12), one a row, and covariances."""
    alt = f"Eigenvalues from {values[0]:.3g} to {values[-1]:.2g}, the eigenvectors as patches, and "
    figure = new_figure(1.8, alt + "a covariance that whitening makes diagonal.")
    spectrum, patches, left, right = figure.subplots(1, 4)
    spectrum.semilogy(range(1, 13), values, color=BLUE, marker="o", markersize=3)
    spectrum.axhline(eps, color=ORANGE, label=f"ε = {eps:g}")
    spectrum.set(xticks=(1, 6, 12), xlabel="eigenvector", title="eigenvalues")
    spectrum.legend()
    tiles = F.interpolate(vectors.view(12, 3, 2, 2) / vectors.abs().max() / 2 + 0.5, scale_factor=5)
    patches.imshow(make_grid(tiles, nrow=3, pad_value=1).permute(1, 2, 0).numpy())
    patches.set_axis_off()
    patches.set_title("eigenvectors")
    before = vectors.T @ values.diag() @ vectors
    after = (values / (values + eps)).diag()
    limit = float(max(before.abs().max(), after.abs().max()))
    look = {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit, "square": True}
    sns.heatmap(before, **look, cbar=False, ax=left)
    sns.heatmap(after, **look, cbar_kws={"shrink": 0.7, "label": "both covariances"}, ax=right)
    left.set(title="covariance", xticks=(2, 6, 10), xticklabels=("red", "green", "blue"), yticks=())
    right.set(title="whitened", xticks=(), yticks=())
    return figure
