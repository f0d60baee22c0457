"""The figures of explore, whitening and predict; those that the report shares are in plots.py, and so is the style."""

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from cifarlib.data import CLASSES
from cifarlib.plots import BLUE, GREEN, VERMILION, gallery, lines, new_figure, picture, style
from cifarlib.preprocess import crop_and_flip, draw, normalization, normalize
from cifarlib.whitening import whitening_filters


def class_balance(parts: dict[str, Tensor]) -> Figure:
    """Share of each class among the labels (N,) of each part of the data."""
    shares = {name: 100 * torch.bincount(labels, minlength=10) / len(labels) for name, labels in parts.items()}
    alt = "Share of each of the ten classes: " + "; ".join(
        f"{name}, {share.min():.2f} to {share.max():.2f} per cent" for name, share in shares.items()
    )
    series = {name: (CLASSES, share) for name, share in shares.items()}
    figure = lines(series, alt, ylabel="share of the part (%)")
    for line in figure.axes[0].lines:  # between classes there is nothing
        line.set_linestyle("")
    figure.axes[0].legend(frameon=True)
    figure.axes[0].tick_params(axis="x", rotation=30)
    return figure


def class_samples(images: Tensor, labels: Tensor, seed: int, each: int = 10) -> Figure:
    """``each`` images (uint8, (N, 3, 32, 32)) of every class, drawn by ``seed``, a class a column."""
    generator = np.random.default_rng(seed)
    chosen = [generator.choice((labels == c).nonzero()[:, 0].numpy(), each, replace=False) for c in range(10)]
    order = np.transpose(chosen).flatten()
    alt = f"{each} pictures of each of the ten classes, a class a column: {', '.join(CLASSES)}."
    return gallery(images[order], [*CLASSES, *[""] * (len(order) - 10)], 10, alt)


def _histogram(axes: matplotlib.axes.Axes, values: Tensor, title: str) -> None:
    """Of each colour channel of values (N, 3, H, W), in 24 bins over all of them."""
    low, high = values.min().item(), values.max().item()
    for c, colour, dash in zip(range(3), (VERMILION, GREEN, BLUE), ("-", "--", "-."), strict=True):
        counts, edges = np.histogram(values[:, c], 24, (low, high), density=True)
        axes.plot((edges[1:] + edges[:-1]) / 2, counts, color=colour, linestyle=dash, label=("red", "green", "blue")[c])
    axes.set(title=title, yticks=[], ylim=(0, None))


def value_histograms(images: Tensor, statistics: tuple[Tensor, Tensor]) -> Figure:
    """Values of uint8 images (N, 3, 32, 32) by colour channel: as they are and under each normalisation."""
    panels, said = {"as they are (0 to 255)": images.float()}, []
    for mode in ("channel", "image-channel", "length"):
        panels[f"by {mode}"] = values = normalize(images, *normalization(images, mode, statistics))
        said.append(f"by {mode}, they run from {values.min():.1f} to {values.max():.1f}")
    with style():
        figure = new_figure(9.5, 2.8, f"Four histograms of pixel values by colour channel; {'; '.join(said)}.")
        for axes, (title, values) in zip(figure.subplots(1, 4), panels.items(), strict=True):
            _histogram(axes, values, title)
        figure.axes[0].legend(frameon=True)
    return figure


def as_seen(
    image: Tensor, name: str, statistics: tuple[Tensor, Tensor], normalization_mode: str, padding: str, seed: int
) -> Figure:
    """One image, uint8 (3, 32, 32), as it is, normalised, in four random crops, and the values' histograms."""
    scale = normalization(image[None], normalization_mode, statistics)
    draws = draw(seed, 1, 4)
    crops = crop_and_flip(image[None], *scale, torch.zeros(4, dtype=torch.int64), draws, padding)
    plain = normalize(image[None], *scale)
    shifts = [f"{dy:+d}, {dx:+d}{', flipped' if flip else ''}" for dy, dx, flip in draws.tolist()]
    alt = (
        f"A picture ({name}) as it is, normalised by {normalization_mode} to values from {plain.min():.2f} to "
        f"{plain.max():.2f}, and in four crops after {padding} padding: {'; '.join(shifts)}. Below, its histograms."
    )
    titles = [name, f"by {normalization_mode}", *(f"{padding}\n{shift}" for shift in shifts)]
    with style():
        figure = new_figure(9.5, 4.3, alt)
        grid = figure.subplot_mosaic("012345;LLLRRR", height_ratios=(1, 1.3))
        for axes, shown, title in zip(grid.values(), (image, plain[0], *crops), titles, strict=False):
            picture(axes, shown, title)
        _histogram(grid["L"], image[None].float(), "values as they are (0 to 255)")
        _histogram(grid["R"], plain, f"normalised by {normalization_mode}")
        grid["L"].legend(frameon=True)
    return figure


def patch_scatter(before: Tensor, after: Tensor) -> Figure:
    """Patches (N, 12) before and after whitening: two neighbouring values, and the first two coordinates."""
    correlation = [float(torch.corrcoef(x[:, :2].T)[0, 1]) for x in (before, after)]
    alt = (
        f"Two clouds of {len(before):,} points. Neighbouring red values lie along the diagonal, correlation "
        f"{correlation[0]:.2f}; the first two whitened coordinates form a cloud of correlation {correlation[1]:.2f}."
    )
    labels = ("red, upper left", "red, upper right"), ("along eigenvector 1", "along eigenvector 2")
    with style():
        figure = new_figure(8, 4, alt)
        for axes, x, (across, up), r, title in zip(
            figure.subplots(1, 2), (before, after), labels, correlation, ("as they are", "whitened"), strict=True
        ):
            axes.scatter(x[:, 0], x[:, 1], s=3, color=BLUE, alpha=0.4, rasterized=True)
            axes.set(xlabel=across, ylabel=up, title=f"{title}: correlation {r:.2f}", aspect="equal")
    return figure


def first_layers(layers: dict[str, Tensor]) -> Figure:
    """The 24 filters (24, 3, 2, 2) of each first layer, in two rows of twelve, each filter on its own scale."""
    patches = [2.5 * patch / patch.abs().max() for filters in layers.values() for patch in filters]
    alt = "Colour patches of 2 by 2 pixels, two rows of twelve each: " + "; ".join(
        f"{name}, largest weight {filters.abs().max():.2f}" for name, filters in layers.items()
    )
    return gallery(patches, [title for name in layers for title in (name, *[""] * 23)], 12, alt)


def responses(image: Tensor, filters: Tensor) -> Figure:
    """What the 24 filters (24, 3, 2, 2) make of a normalised image (3, 32, 32): filter, response, and its negative's,
    all responses on one scale."""
    maps = F.conv2d(image[None], filters)[0]
    spread = maps[:12].std((1, 2))
    alt = (
        f"Twelve filters and the responses of them and their negatives to one image. The standard deviations run from "
        f"{spread.min():.2f} to {spread.max():.2f}; filter {spread.argmax() + 1} responds most."
    )
    patches = [2.5 * patch / patch.abs().max() for patch in filters[:12]]
    titles = ["image", *(f"{i} ({s:.1f})" for i, s in enumerate(spread, 1)), *[""] * 26]
    blank = torch.full((31, 31), torch.nan)
    return gallery([image, *patches, blank, *maps[:12], blank, *maps[12:]], titles, 13, alt, limit=4.0)


def epsilon_effect(values: Tensor, several: Sequence[float]) -> Figure:
    """Variance of the responses, l / (l + eps), along each eigenvector, for several eps."""
    alt = "Variance of the whitened responses along the last eigenvector: " + ", ".join(
        f"{values[-1] / (values[-1] + eps):.2g} with epsilon {eps:g}" for eps in several
    )
    series = {f"{eps:g}": (range(1, len(values) + 1), values / (values + eps)) for eps in several}
    labels = {"xlabel": "eigenvector, in order", "ylabel": "variance of the response"}
    return lines(series, alt, "epsilon", ylim=(0, 1.05), **labels)


def whitening_error(covariance: Tensor, part: Tensor, eps: float) -> float:
    """How far whitening by the covariance (D, D) of some images misses over all, of ``covariance`` (D, D): the largest
    difference, in any variance or covariance of the responses, from whitening by all."""
    ours, best = (whitening_filters(c, eps).flatten(1).double()[: len(c)] for c in (part, covariance))
    return float((ours @ covariance @ ours.T - best @ covariance @ best.T).abs().max())


def subset_errors(errors: dict[int, list[float]]) -> Figure:
    """``whitening_error`` of several subsets of each size."""
    alt = "Error of whitening by fewer images, the median and each subset: " + ", ".join(
        f"{np.median(several):.3f} with {n:,} images" for n, several in errors.items()
    )
    series = {
        name: (list(errors), [pick(e) for e in errors.values()])
        for name, pick in {"largest": max, "median": np.median, "smallest": min}.items()
    }
    return lines(
        series,
        alt,
        "of the parts",
        xscale="log",
        yscale="log",
        xlabel="images",
        ylabel="largest error of a (co)variance",
    )


def feature_maps(image: Tensor, name: str, maps: dict[str, Tensor], each: int = 8) -> Figure:
    """The strongest ``each`` channels of every block's output (C, H, W) for one image, uint8 (3, 32, 32); each block on
    its own scale."""
    shown, titles = [], []
    for block, output in maps.items():
        chosen = output.mean((1, 2)).topk(each).indices
        shown += [image, *(output[chosen] / output[chosen].abs().max())]
        titles += [f"{block}:", *(f"channel {c}" for c in chosen.tolist())]
    sizes = ", ".join(f"{block} {'x'.join(map(str, output.shape))}" for block, output in maps.items())
    return gallery(
        shown, titles, each + 1, f"The {each} strongest feature maps of each block for a picture ({name}): {sizes}."
    )


def answers(images: Tensor, logits: Tensor, names: Sequence[str]) -> Figure:
    """Images, uint8 (N, 3, 32, 32), with their names and what the network says of them, logits (N, 10)."""
    shares, classes = torch.as_tensor(logits).softmax(1).max(1)
    said = [f"{CLASSES[c]}, {100 * share:.0f} %" for c, share in zip(classes, shares, strict=True)]
    alt = "Pictures and answers: " + "; ".join(f"{name}: {text}" for name, text in zip(names, said, strict=True))
    # what fits above a picture; a dollar sign would begin a formula
    short = [(name if len(name) <= 14 else f"{name[:5]}…{name[-8:]}").replace("$", r"\$") for name in names]
    return gallery(images, [f"{name}\n{text}" for name, text in zip(short, said, strict=True)], 8, alt)
