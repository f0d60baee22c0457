"""The figures of notebooks and report, one function each: plain data in, a matplotlib Figure out,
as wide as the report's text, with one sentence in ``alt`` that says what it shows."""

import io
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatter, MaxNLocator
from torch import Tensor, nn
from torchvision.utils import make_grid

from cifarlib.data import CLASSES
from cifarlib.loop import right_answers
from cifarlib.params import RunParams
from cifarlib.preprocess import crop_and_flip, draw_crops, make_normalizer
from cifarlib.report.claims import binomial_interval

WIDTH = 6.3  # inches: the text of the PDF, so that type has its printed size
# the colours of Okabe and Ito, 2008, and a grey
HEX = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#BBBBBB")
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE, GREY = HEX
# series that share axes are told apart by colour, dash and marker
CUES = {"o": (BLUE, "-"), "s": (VERMILION, "--"), "^": (GREEN, "-."), "D": (BLACK, ":")}
CUES["v"] = (PURPLE, (0, (5, 3)))
LOOKS = [{"color": c, "linestyle": d, "marker": m, "markersize": 4} for m, (c, d) in CUES.items()]
VERDICTS = {  # of a claim, or, below three seeds, its mark: colour and marker
    ("reproduced", "agrees"): (GREEN, "o"),
    ("contradicted", "disagrees"): (VERMILION, "X"),
    ("not resolved", "open"): (BLUE, "s"),
    ("above zero", "above"): (PURPLE, "^"),
    ("below zero", "below"): (PURPLE, "v"),
}
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


def confusion_matrix(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count answers, (10, 10): row the true class, column the predicted one."""
    pairs = len(CLASSES) * np.asarray(labels, int) + np.asarray(logits).argmax(1)
    return np.bincount(pairs, minlength=len(CLASSES) ** 2).reshape(len(CLASSES), -1)


def answer_probabilities(logits: np.ndarray) -> np.ndarray:
    """Compute the probability (N,) of each image's most probable class."""
    return torch.as_tensor(np.asarray(logits, np.float64)).softmax(1).amax(1).numpy()


def most_confident(logits: np.ndarray, labels: np.ndarray, n: int, right: bool) -> np.ndarray:
    """Which n right or wrong answers have the highest probability: their indices, highest first."""
    wanted = np.flatnonzero(right_answers(logits, labels) == right)
    order = np.argsort(-answer_probabilities(logits)[wanted], kind="stable")
    return wanted[order[:n]]


def calibration_curve(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """Bin the answers by probability: mean probability, share of right ones, count of each bin.
    After Guo et al., On Calibration of Modern Neural Networks, 2017."""
    probability = answer_probabilities(logits)
    right = right_answers(logits, labels)
    answers = pd.DataFrame({"probability": probability, "right": right, "count": 1})
    which = (probability * bins).astype(int).clip(max=bins - 1)
    return answers.groupby(which).agg({"probability": "mean", "right": "mean", "count": "sum"})


def calibration_error(curve: pd.DataFrame) -> float:
    """Average the distance between an answer's probability and the share of right ones."""
    return float(np.average((curve["probability"] - curve["right"]).abs(), weights=curve["count"]))


def smoothing_floor(label_smoothing: float) -> float:
    """Compute the least loss per image (nats) that smoothed labels allow: their own entropy."""
    shares = torch.full((len(CLASSES),), label_smoothing / len(CLASSES), dtype=torch.float64)
    shares[0] += 1 - label_smoothing
    return float(torch.special.entr(shares).sum())


def _curves(axes: Axes, history: Sequence[dict], measure: str, factor: float = 1) -> None:
    """Training and, where images validate, validation over the epochs."""
    names = {"train": "training", "validation": "validation"}
    every = max(1, len(history) // 10)
    for (part, name), look in zip(names.items(), LOOKS, strict=False):
        values = [factor * row[f"{part}_{measure}"] for row in history]
        if np.isfinite(values).all():
            epochs = [row["epoch"] for row in history]
            axes.plot(epochs, values, **look, markevery=every, label=name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.legend()


@styled
def training_curves(history: Sequence[dict], epochs: int, label_smoothing: float) -> Figure:
    """Loss per image and accuracy over epochs 1 to ``epochs``, and the loss's floor."""
    end = 100 * history[-1]["train_accuracy"]
    figure = new_figure(2.4, f"Loss and accuracy by epoch; training ends at {end:.1f} %.")
    left, right = figure.subplots(1, 2)
    if floor := smoothing_floor(label_smoothing):
        left.axhline(floor, color=BLACK, linestyle=":", linewidth=1, label=f"floor {floor:.3f}")
    _curves(left, history, "loss")
    _curves(right, history, "accuracy", 100)
    limits = (1 - 0.03 * epochs, 1.03 * max(epochs, 2))
    left.set(ylabel="cross-entropy per image (nats)", xlim=limits)
    right.set(ylabel="accuracy (%)", xlim=limits, ylim=(0, 100))
    return figure


@styled
def loss_curves(histories: pd.DataFrame) -> Figure:
    """Training loss above, validation accuracy below, a column a run: the mean of its seeds, where
    it ends, and in grey the other runs. histories: of all records, with run and label_smoothing."""
    histories = histories.assign(validation_accuracy=100 * histories["validation_accuracy"])
    measures = ["train_loss", "validation_accuracy"]
    means = histories.groupby(["run", "epoch"])[measures].mean().unstack("run")
    runs = histories["run"].unique()
    ends = {run: means.xs(run, axis=1, level="run").dropna().iloc[-1] for run in runs}
    words = [f"{run} {end.iloc[1]:.1f} %" for run, end in ends.items()]
    figure = new_figure(2.9, f"Loss and accuracy of each run; they end at {', '.join(words)}.")
    grid = figure.subplots(2, len(runs), sharex=True, sharey="row", squeeze=False)
    for run, (upper, lower) in zip(runs, grid.T, strict=True):
        for axes, measure in ((upper, "train_loss"), (lower, "validation_accuracy")):
            axes.plot(means[measure], color=GREY, linewidth=0.6)
            axes.plot(means[measure][run], color=BLUE)
            axes.xaxis.set_major_locator(MaxNLocator(2, integer=True))
        floor = smoothing_floor(histories.groupby("run")["label_smoothing"].first()[run])
        upper.axhline(floor, color=BLACK, linestyle=":", linewidth=1)
        upper.set(title=run, ylim=(0, None))
        upper.text(0.95, 0.85, f"{ends[run].iloc[0]:.2f}", ha="right", transform=upper.transAxes)
        lower.text(0.95, 0.06, f"{ends[run].iloc[1]:.1f}", ha="right", transform=lower.transAxes)
    grid[0, 0].set_ylabel("training loss (nats)")
    grid[1, 0].set_ylabel("validation (%)")
    figure.supxlabel("epoch", fontsize=8)
    return figure


def _named_rows(figure: Figure, names: Iterable[str], label: str) -> Axes:
    """Axes with named rows, at y = 0, 1, ... downwards."""
    axes = figure.subplots()
    names = list(names)
    axes.set(yticks=range(len(names)), yticklabels=names, xlabel=label)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    return axes


def _bars(values: pd.Series, low: pd.Series, high: pd.Series) -> np.ndarray:
    """Lengths (2, N) of error bars."""
    return np.clip([values - low, high - values], 0, None)


@styled
def run_accuracies(seeds: pd.DataFrame, intervals: pd.DataFrame, base: str = "") -> Figure:
    """Each run's mean and interval, below them its seeds, and the paper's value. seeds: columns run
    and accuracy; intervals: a row a run, in the order to be shown, of mean, low, high and, where
    the paper has one, paper; base: the run whose mean is a dotted line."""
    mean = intervals["mean"]
    rows = np.arange(len(intervals))
    alt = ", ".join(f"{run} {value:.2f}" for run, value in mean.items())
    figure = new_figure(0.7 + 0.22 * len(rows), f"Mean accuracy of each run: {alt}.")
    axes = _named_rows(figure, intervals.index, "accuracy (%)")
    bars = _bars(mean, intervals["low"], intervals["high"])
    axes.errorbar(mean, rows, xerr=bars, fmt="D", color=BLUE, markersize=4, label="mean, interval")
    # the seeds beside the mean: under it they could not be seen
    below = 0.3 + intervals.index.get_indexer(seeds["run"])
    axes.plot(seeds["accuracy"], below, "o", color=SKY, markersize=3, label="a seed")
    if "paper" in intervals:
        axes.plot(intervals["paper"], rows, "x", color=VERMILION, markersize=6, label="paper")
    if base in intervals.index:
        axes.axvline(mean[base], color=BLACK, linestyle=":", linewidth=1, label=f"mean of {base}")
    figure.legend(loc="outside upper right", ncols=4, frameon=False)
    return figure


@styled
def claims(judged: pd.DataFrame, margin: float = 0.5) -> Figure:
    """Each claim's difference with its interval, and the paper's; colour and marker say what is
    concluded, the band which differences count as alike. judged: what ``claims.judge`` gives."""
    rows = judged[judged["estimate"].notna()].assign(y=lambda kept: range(len(kept)))
    alt = "; ".join(f"{row.says} {row.estimate:+.2f}" for row in rows.itertuples())
    figure = new_figure(0.8 + 0.24 * len(rows), f"Differences in points of accuracy: {alt}.")
    axes = _named_rows(figure, rows["says"], "points of accuracy")
    axes.axvspan(-margin, margin, color=GREY, alpha=0.35, linewidth=0, label=f"±{margin:g} points")
    axes.axvline(0, color=BLACK, linewidth=0.8)
    look = {"color": ORANGE, "markersize": 11, "markeredgewidth": 2.5, "label": "paper"}
    axes.plot(rows["paper"], rows["y"], "|", **look)
    for words, (colour, marker) in VERDICTS.items():
        group = rows[rows["verdict"].isin(words)]
        if len(group):
            bars = _bars(group["estimate"], group["low"], group["high"])
            look = {"color": colour, "fmt": marker, "markersize": 5}
            look["label"] = group["verdict"].iloc[0]
            axes.errorbar(group["estimate"], group["y"], xerr=bars, **look)
    figure.legend(loc="outside upper center", ncols=6, frameon=False)
    return figure


def _share_bars(shares: pd.Series, counts: pd.Series) -> np.ndarray:
    """Lengths (2, N) of the error bars of shares: their binomial 95 % intervals, per cent."""
    ends = [binomial_interval(s, int(n)) for s, n in zip(shares, counts, strict=True)]
    return 100 * _bars(shares, *np.transpose(ends))


def _confusion(axes: Axes, logits: np.ndarray, labels: np.ndarray) -> None:
    """Draw counts; the colour is the share of the true class that is mistaken for the other."""
    matrix = confusion_matrix(logits, labels)
    mistaken = (matrix - np.diag(np.diag(matrix))) / matrix.sum(1, keepdims=True).clip(1)
    look = {"cmap": "Blues", "cbar": False, "linewidths": 0.5, "annot_kws": {"size": 7}}
    look |= {"vmin": 0, "fmt": "d", "xticklabels": CLASSES, "yticklabels": CLASSES}
    sns.heatmap(mistaken, annot=matrix, **look, ax=axes)
    axes.set(xlabel="predicted", ylabel="true", title="Confusion")
    axes.tick_params(axis="x", rotation=90)


def _class_accuracy(axes: Axes, logits: np.ndarray, labels: np.ndarray) -> None:
    """Accuracy of each class that occurs, lowest first, with its binomial 95 % interval."""
    right = pd.Series(right_answers(logits, labels)).groupby([CLASSES[c] for c in labels])
    rows = right.agg(["mean", "size"]).sort_values("mean")
    bars = _share_bars(rows["mean"], rows["size"])
    axes.errorbar(100 * rows["mean"], rows.index, xerr=bars, color=BLUE, fmt="o", markersize=4)
    axes.set(xlabel="accuracy (%)", title="Accuracy of each class")


def _calibration(axes: Axes, logits: np.ndarray, labels: np.ndarray) -> None:
    """How often answers of a given probability are right, with binomial 95 % intervals."""
    curve = calibration_curve(logits, labels)
    axes.plot([0, 100], [0, 100], color=BLACK, linestyle=":", label="right as often as it says")
    look = {"color": BLUE, "fmt": "o", "markersize": 4}
    look["label"] = f"calibration error {100 * calibration_error(curve):.1f} %"
    bars = _share_bars(curve["right"], curve["count"])
    axes.errorbar(100 * curve["probability"], 100 * curve["right"], bars, **look)
    axes.set(xlabel="probability of the answer (%)", ylabel="right answers (%)")
    axes.set(title="Calibration", xlim=(0, 101), ylim=(0, 102))
    axes.legend()


@styled
def run_panels(
    logits: np.ndarray, labels: np.ndarray, history: Sequence[dict] = (), layout: str = ""
) -> Figure:
    """Draw accuracy over the epochs (A), and of the answers confusion (B), accuracy of each class
    (C) and calibration (D). layout: a mosaic of these letters, rows apart by ";"."""
    right = right_answers(logits, labels)
    layout = layout or ("AB;CD" if history else "BC;BD")
    alt = f"Charts of {len(right):,} answers, of which {right.sum():,} are right."
    figure = new_figure(0.4 + 2.4 * len(layout.split(";")), alt)
    panels = figure.subplot_mosaic(layout)
    if "A" in panels:
        _curves(panels["A"], history, "accuracy", 100)
        panels["A"].set(ylabel="accuracy (%)", title="Accuracy in training")
    for letter, draw in {"B": _confusion, "C": _class_accuracy, "D": _calibration}.items():
        if letter in panels:
            draw(panels[letter], logits, labels)
    return figure


@styled
def benchmark_bars(seconds: dict[str, Sequence[float]], base: str) -> Figure:
    """Each contestant's seconds, one a repeat, and how many times as fast ``base`` is: medians."""
    table = pd.DataFrame(seconds)
    medians = table.median()
    faster = table.div(table[base], axis=0).median()
    texts = [f"{value:.3g} s, {faster[name]:.2f} x" for name, value in medians.items()]
    alt = ", ".join(map(" ".join, zip(seconds, texts, strict=True)))
    figure = new_figure(0.6 + 0.25 * len(texts), f"Seconds an epoch: {alt}.")
    axes = figure.subplots()
    look = {"color": SKY, "saturation": 1, "err_kws": {"color": BLACK, "linewidth": 1}}
    sns.barplot(table, orient="h", estimator="median", errorbar=("pi", 100), **look, ax=axes)
    axes.patches[list(seconds).index(base)].set(facecolor=BLUE, hatch="//", edgecolor="white")
    for row, (end, text) in enumerate(zip(table.max(), texts, strict=True)):
        axes.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center")
    low = table.min().min()
    high = table.max().max()
    axes.set(xscale="log", xlim=(low / 2, high * (high / low) ** 0.3 * 2))  # room for the texts
    axes.set_xlabel(f"seconds an epoch (log); x: how many times as fast {base} is")
    for set_formatter in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        set_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    return figure


@styled
def architecture(model: nn.Module) -> Figure:
    """Draw the network's stages: boxes as high as the picture, as wide as the channels' log."""
    names = {"Identity": "image", "Conv2d": "conv 2×2\n+ GELU", "Block": "block"}
    names |= {"MaxPool2d": "3×3\npool", "Linear": "linear,\n/ 9"}
    figure = new_figure(
        2.1, "The network's layers from left to right, from the image to ten logits."
    )
    axes = figure.subplots()
    x = 0.0
    output = torch.zeros(1, 3, 32, 32)
    for stage in (nn.Identity(), *model.net):
        output = stage(output).detach()
        name = type(stage).__name__
        if name in names:
            channels, *size = output.shape[1:]
            width = 0.7 + 0.18 * np.log2(channels)
            height = 0.35 + 2.4 * (size or [1])[0] / 32
            count = sum(p.numel() for p in stage.parameters())
            look = {"facecolor": SKY if count else "white", "edgecolor": BLACK}
            axes.add_patch(Rectangle((x, -height / 2), width, height, **look))
            if x:
                axes.annotate("", (x, 0), (x - 0.6, 0), arrowprops={"arrowstyle": "->"})
            below = "×".join(map(str, output.shape[1:])) + (f"\n{count:,}" if count else "")
            axes.text(x + width / 2, 1.5, names[name], ha="center", va="bottom", weight="bold")
            axes.text(x + width / 2, -1.5, below, ha="center", va="top")
            x += width + 0.6
    axes.set_axis_off()
    axes.set(xlim=(-0.3, x - 0.3), ylim=(-2.3, 2.3))
    return figure


@styled
def gallery(
    images: Sequence[Tensor], titles: Sequence[str], columns: int, alt: str, limit: float = 1.0
) -> Figure:
    """Images with a title each, row by row: uint8 (3, H, W) as they are; normalised with -2.5 as
    black and 2.5 as white; maps (H, W) from -limit (purple) over zero (white) to limit (brown)."""
    starts = range(0, len(images), columns)
    title_lines = sum(max(t.count("\n") + bool(t) for t in titles[i : i + columns]) for i in starts)
    figure = new_figure(len(starts) * WIDTH / columns + 0.14 * title_lines, alt)
    grid = list(figure.subplots(len(starts), columns, squeeze=False).flat)
    for axes in grid:
        axes.set_axis_off()
    for axes, image, title in zip(grid, images, titles, strict=False):
        if image.is_floating_point() and image.dim() == 3:
            image = (image / 5 + 0.5).clamp(0, 1)
        image = image.permute(1, 2, 0) if image.dim() == 3 else image
        axes.imshow(image.numpy(), interpolation="nearest", cmap="PuOr_r", vmin=-limit, vmax=limit)
        axes.set_title(title, fontsize=7)
    return figure


def answers(images: Tensor, logits: np.ndarray, names: Sequence[str], columns: int = 8) -> Figure:
    """Images, uint8, with their names and what the network says of them."""
    probabilities, classes = torch.as_tensor(logits).softmax(1).max(1)
    titles = []
    room = 38 - 3 * columns
    for name, c, p in zip(names, classes, probabilities, strict=True):
        # what fits above a picture; a dollar sign would begin a formula
        short = (name if len(name) <= room else f"{name[:5]}…{name[6 - room :]}").replace(
            "$", r"\$"
        )
        titles.append(f"{short}\n{CLASSES[c]}\n{100 * p:.0f} %")
    alt = f"{len(images)} pictures with answers, the first: {', '.join(titles[:1])}."
    return gallery(images, titles, columns, alt.replace("\n", ", "))


def mistakes(images: Tensor, logits: np.ndarray, labels: np.ndarray, n: int = 12) -> Figure:
    """Show the n wrong answers of the highest probability; images: uint8 (N, 3, 32, 32)."""
    chosen = most_confident(logits, labels, n, right=False)
    names = [f"{CLASSES[labels[i]]} taken for" for i in chosen]
    return answers(images[chosen], logits[chosen], names, columns=6)


def feature_maps(image: Tensor, name: str, maps: dict[str, Tensor], each: int = 8) -> Figure:
    """Show the strongest channels of every block's output (C, H, W), each on its own scale."""
    shown = []
    titles = []
    for block, output in maps.items():
        chosen = output.mean((1, 2)).topk(each).indices
        shown += [image, *(output[chosen] / output[chosen].abs().max())]
        titles += [f"{block}:", *(f"channel {c}" for c in chosen.tolist())]
    return gallery(shown, titles, each + 1, f"Feature maps of {', '.join(maps)} for a {name}.")


def crop_name(crop: Tensor) -> str:
    """How a crop (3,), see ``draw_crops``, moves the image: "up 2, left 4, flipped"."""
    dy, dx, flip = crop.tolist()
    moves = [(dy, "up"), (-dy, "down"), (dx, "left"), (-dx, "right")]
    text = ", ".join(f"{word} {by}" for by, word in moves if by > 0) or "not moved"
    return f"{text}\nflipped" if flip else text


@styled
def preprocessing(image: Tensor, name: str, statistics: tuple, seed: int) -> Figure:
    """One image, uint8, through each normalisation, each padding and six draws of crop and flip."""
    rim = RunParams.crop
    crops = draw_crops(seed, 1, 6)
    index = torch.zeros(6, dtype=torch.int64)
    normalizers = [make_normalizer(image[None], mode, statistics) for mode in MODES]
    images = [image, *(normalizer.apply(image[None])[0] for normalizer in normalizers)]
    titles = ["as it is", *(f"by {mode}" for mode in MODES)]
    for padding in ("reflect", "constant"):
        images.append(F.pad(images[1][None], [rim] * 4, mode=padding)[0])
        titles.append(f"padded: {padding}")
    for padding in ("reflect", "constant"):
        images += crop_and_flip(image[None], normalizers[0], index, crops, padding)
        titles += map(crop_name, crops)
    alt = f"A picture ({name}) as it is, under three normalisations, two paddings and six crops."
    figure = gallery(images, titles, 6, alt)
    for axes in figure.axes[4:6]:  # where the image lies in the padded one
        axes.add_patch(Rectangle([rim - 0.5] * 2, 32, 32, fill=False, linestyle="--"))
    return figure


@styled
def value_histograms(images: Tensor, statistics: tuple) -> Figure:
    """Values of uint8 images by colour channel: as they are and under each normalisation."""
    shown = {"as they are": images.float()}
    colours = ("red", "green", "blue")
    for mode in MODES:
        shown[f"by {mode}"] = make_normalizer(images, mode, statistics).apply(images)
    figure = new_figure(2.0, f"Histograms of pixel values by colour: {', '.join(shown)}.")
    for axes, (title, values) in zip(figure.subplots(1, 4), shown.items(), strict=True):
        edges = np.linspace(values.min(), values.max(), 25)
        for name, i, channel in zip(colours, (1, 2, 0), values.unbind(1), strict=True):
            shares = 100 * np.histogram(channel, edges)[0] / channel.numel()
            axes.plot((edges[1:] + edges[:-1]) / 2, shares, **LOOKS[i] | {"marker": ""}, label=name)
        axes.set(title=title, ylim=(0, None))
    figure.axes[0].set_ylabel("% of pixels in a bin")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def lines(series: dict[str, tuple], alt: str, legend: str | None = None, **settings) -> Figure:
    """One line (x, y) a name; ``settings`` of the axes."""
    figure = new_figure(2.7, alt)
    axes = figure.subplots()
    for (name, (x, y)), look in zip(series.items(), LOOKS, strict=False):
        axes.plot(x, y, **look, label=name)
    axes.set(**settings)
    axes.legend(title=legend)
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
    for axes, matrix, title in ((left, before, "covariance"), (right, after, "whitened")):
        image = axes.imshow(matrix.numpy(), cmap="PuOr_r", vmin=-limit, vmax=limit)
        axes.grid(visible=False)
        axes.set(title=title, xticks=(), yticks=())
    left.set(xticks=(1.5, 5.5, 9.5), xticklabels=("red", "green", "blue"))
    right.set(xticks=(0, 5, 11), xticklabels=(1, 6, 12))
    figure.colorbar(image, ax=[left, right], shrink=0.7)
    return figure


@styled
def patch_scatter(before: Tensor, after: Tensor) -> Figure:
    """Patches (N, 12): two neighbouring values, and the first two responses to whitening."""
    raw, whitened = (float(torch.corrcoef(x[:, :2].T)[0, 1]) for x in (before, after))
    figure = new_figure(3.1, f"Clouds of points, correlated by {raw:.2f} and by {whitened:.2f}.")
    left, right = figure.subplots(1, 2)
    for axes, x in ((left, before), (right, after)):
        axes.scatter(x[:, 0], x[:, 1], s=2, color=BLUE, alpha=0.4, rasterized=True)
        limit = 1.05 * float(x[:, :2].abs().max())
        axes.set(aspect="equal", xlim=(-limit, limit), ylim=(-limit, limit))
    left.set(xlabel="red, upper left", ylabel="red, upper right", title="as they are")
    right.set(xlabel="along eigenvector 1", ylabel="along eigenvector 2", title="whitened")
    return figure


def responses(image: Tensor, filters: Tensor) -> Figure:
    """24 filters at work on a normalised image: each, its response and its negative's."""
    maps = F.conv2d(image[None], filters)[0]
    spread = maps[:12].std((1, 2))
    alt = f"Twelve filters with their responses; filter {spread.argmax() + 1} responds most."
    patches = [2.5 * patch / patch.abs().max() for patch in filters[:12]]
    blank = torch.full((31, 31), torch.nan)
    titles = ["image", *(f"{i} ({s:.1f})" for i, s in enumerate(spread, 1)), *[""] * 26]
    shown = [image, *patches, blank, *maps[:12], blank, *maps[12:]]
    return gallery(shown, titles, 13, alt, 4.0)
