"""The figures of explore, whitening and predict; those that the report shares are in figures.py,
and so is the style."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from cifarlib.data import CLASSES
from cifarlib.preprocess import crop_and_flip, draw_crops, make_normalizer
from cifarlib.report.figures_old import (
    BLUE,
    LOOKS,
    MODES,
    crop_names,
    gallery,
    lines,
    new_figure,
    picture,
    styled,
)
from cifarlib.whitening import whitening_filters

# looks of series whose colours come near
RGB = {name: LOOKS[i] | {"marker": ""} for name, i in (("red", 1), ("green", 2), ("blue", 0))}


@styled
def class_balance(parts: dict[str, Tensor]) -> Figure:
    """Share of each class among the labels (N,) of each part of the data."""
    shares = {
        name: 100 * torch.bincount(labels, minlength=10) / len(labels)
        for name, labels in parts.items()
    }
    ranges = [
        f"{name}, {share.min():.2f} to {share.max():.2f} per cent" for name, share in shares.items()
    ]
    alt = f"Share of each of the ten classes: {'; '.join(ranges)}."
    figure = lines(
        {name: (CLASSES, share) for name, share in shares.items()},
        alt,
        ylabel="share of the part (%)",
    )
    for line in figure.axes[0].lines:  # between classes there is nothing
        line.set_linestyle("")
    figure.axes[0].legend(frameon=True)
    figure.axes[0].tick_params(axis="x", rotation=30)
    return figure


@styled
def class_samples(images: Tensor, labels: Tensor, seed: int, each: int = 10) -> Figure:
    """``each`` images (uint8, (N, 3, 32, 32)) of every class, drawn by ``seed``, a class a
    column."""
    generator = np.random.default_rng(seed)
    chosen = [
        generator.choice((labels == c).nonzero()[:, 0].numpy(), each, replace=False)
        for c in range(10)
    ]
    alt = f"{each} pictures of each of the ten classes, a class a column: {', '.join(CLASSES)}."
    return gallery(
        images[np.transpose(chosen).flatten()], [*CLASSES, *[""] * (10 * each - 10)], 10, alt
    )


def _histogram(axes: Axes, values: Tensor, title: str) -> None:
    """Of each colour channel of values (N, 3, H, W), in 24 bins over all of them."""
    limits = values.min().item(), values.max().item()
    for channel, (name, look) in zip(values.unbind(1), RGB.items(), strict=True):
        counts, edges = np.histogram(channel, 24, limits, density=True)
        axes.plot((edges[1:] + edges[:-1]) / 2, counts, **look, label=name)
    axes.set(title=title, yticks=[], ylim=(0, None), ylabel="share of pixels")


@styled
def value_histograms(images: Tensor, statistics: tuple[Tensor, Tensor]) -> Figure:
    """Values of uint8 images (N, 3, 32, 32) by colour channel: as they are and under each
    normalisation."""
    panels = {
        f"by {mode}": make_normalizer(images, mode, statistics).apply(images) for mode in MODES
    }
    ranges = [
        f"{name}, they run from {values.min():.1f} to {values.max():.1f}"
        for name, values in panels.items()
    ]
    alt = f"Four histograms of pixel values by colour channel; {'; '.join(ranges)}."
    figure, grid = new_figure(9.5, 2.8, alt, 1, 4)
    _histogram(grid[0], images.float(), "as they are (0 to 255)")
    for axes, (name, values) in zip(grid[1:], panels.items(), strict=True):
        _histogram(axes, values, name)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def as_seen(
    image: Tensor,
    name: str,
    statistics: tuple[Tensor, Tensor],
    normalization: str,
    padding: str,
    seed: int,
) -> Figure:
    """One image, uint8 (3, 32, 32), as it is, normalised, in four random crops, and the values'
    histograms."""
    normalizer, draws = (
        make_normalizer(image[None], normalization, statistics),
        draw_crops(seed, 1, 4),
    )
    plain, names = normalizer.apply(image[None]), crop_names(draws)
    crops = crop_and_flip(
        image[None], normalizer, torch.zeros(4, dtype=torch.int64), draws, padding
    )
    alt = (
        f"A picture ({name}) as it is, normalised by {normalization} to values from {plain.min():.2f} to "
        f"{plain.max():.2f}, and in four crops after {padding} padding: {'; '.join(names)}. Below, its histograms."
    )
    figure, grid = new_figure(9.5, 4.3, alt, "012345;LLLRRR", height_ratios=(1, 1.3))
    titles = [name, f"by {normalization}", *(f"{padding}\n{crop}" for crop in names)]
    for axes, shown, title in zip(grid.values(), (image, plain[0], *crops), titles, strict=False):
        picture(axes, shown, title)
    _histogram(grid["L"], image[None].float(), "values as they are (0 to 255)")
    _histogram(grid["R"], plain, f"normalised by {normalization}")
    figure.legend(*grid["L"].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@styled
def patch_scatter(before: Tensor, after: Tensor) -> Figure:
    """Patches (N, 12) before and after whitening: two neighbouring values, and the first two
    coordinates."""
    raw, whitened = (float(torch.corrcoef(x[:, :2].T)[0, 1]) for x in (before, after))
    alt = (
        f"Two clouds of {len(before):,} points. Neighbouring red values lie along the diagonal, correlation {raw:.2f}; "
        f"the first two whitened coordinates form a cloud of correlation {whitened:.2f}."
    )
    figure, (left, right) = new_figure(8, 4, alt, 1, 2)
    for axes, x in ((left, before), (right, after)):
        axes.scatter(x[:, 0], x[:, 1], s=3, color=BLUE, alpha=0.4, rasterized=True)
        axes.set_aspect("equal")
    left.set(
        xlabel="red, upper left",
        ylabel="red, upper right",
        title=f"as they are: correlation {raw:.2f}",
    )
    labels = {"xlabel": "along eigenvector 1", "ylabel": "along eigenvector 2"}
    right.set(**labels, title=f"whitened: correlation {whitened:.2f}")
    return figure


@styled
def first_layers(layers: dict[str, Tensor]) -> Figure:
    """The 24 filters (24, 3, 2, 2) of each first layer, in two rows of twelve, each filter on its
    own scale."""
    patches = [2.5 * patch / patch.abs().max() for filters in layers.values() for patch in filters]
    weights = [
        f"{name}, largest weight {filters.abs().max():.2f}" for name, filters in layers.items()
    ]
    alt = f"Colour patches of 2 by 2 pixels, two rows of twelve each: {'; '.join(weights)}."
    return gallery(patches, [title for name in layers for title in (name, *[""] * 23)], 12, alt)


@styled
def responses(image: Tensor, filters: Tensor) -> Figure:
    """24 filters (24, 3, 2, 2) at work on a normalised image (3, 32, 32): each, its response and
    its negative's."""
    maps = F.conv2d(image[None], filters)[0]
    spread = maps[:12].std((1, 2))
    alt = (
        f"Twelve filters and the responses of them and their negatives to one image. The standard deviations run from "
        f"{spread.min():.2f} to {spread.max():.2f}; filter {spread.argmax() + 1} responds most."
    )
    patches = [2.5 * patch / patch.abs().max() for patch in filters[:12]]
    titles = ["image", *(f"{i} ({s:.1f})" for i, s in enumerate(spread, 1)), *[""] * 26]
    blank = torch.full((31, 31), torch.nan)
    return gallery(
        [image, *patches, blank, *maps[:12], blank, *maps[12:]], titles, 13, alt, limit=4.0
    )


def whitening_error(covariance: Tensor, part: Tensor, eps: float) -> float:
    """How far whitening by the covariance ``part`` (D, D) of few images misses over all, of
    ``covariance`` (D, D): the largest difference, in any variance or covariance of the responses,
    from whitening by all."""
    ours, best = (
        whitening_filters(c, eps).flatten(1).double()[: len(c)] for c in (part, covariance)
    )
    return float((ours @ covariance @ ours.T - best @ covariance @ best.T).abs().max())


@styled
def feature_maps(image: Tensor, name: str, maps: dict[str, Tensor], each: int = 8) -> Figure:
    """The strongest ``each`` channels of every block's output (C, H, W) for one image; each block
    on its own scale."""
    shown, titles = [], []
    for block, output in maps.items():
        chosen = output.mean((1, 2)).topk(each).indices
        shown += [image, *(output[chosen] / output[chosen].abs().max())]
        titles += [f"{block}:", *(f"channel {c}" for c in chosen.tolist())]
    sizes = ", ".join(
        f"{block} {'x'.join(map(str, output.shape))}" for block, output in maps.items()
    )
    alt = f"The {each} strongest feature maps of each block for a picture ({name}): {sizes}."
    return gallery(shown, titles, each + 1, alt)


@styled
def answers(images: Tensor, logits: Tensor, names: Sequence[str]) -> Figure:
    """Images, uint8 (N, 3, 32, 32), with their names and what the network says of them, logits (N,
    10)."""
    shares, classes = torch.as_tensor(logits).softmax(1).max(1)
    texts = [f"{CLASSES[c]}, {100 * share:.0f} %" for c, share in zip(classes, shares, strict=True)]
    alt = "Pictures and answers: " + "; ".join(
        f"{name}: {text}" for name, text in zip(names, texts, strict=True)
    )
    # what fits above a picture; a dollar sign would begin a formula
    short = [
        (name if len(name) <= 14 else f"{name[:5]}…{name[-8:]}").replace("$", r"\$")
        for name in names
    ]
    return gallery(
        images, [f"{name}\n{text}" for name, text in zip(short, texts, strict=True)], 8, alt
    )
