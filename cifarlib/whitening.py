"""Patch whitening: the covariance of 2x2x3 patches, its eigenvectors, the first layer's 24 filters.

As in airbench94: a filter is an eigenvector divided by sqrt(eigenvalue + eps), so that responses
over the training images are uncorrelated, of variance l / (l + eps) for an eigenvalue l."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_covariance(parts: Iterable[Tensor], size: int = 2) -> Tensor:
    """Compute the covariance (D, D), D = C * size * size, of all size x size patches of the images
    in ``parts``, each (N, C, H, W).

    A patch counts channel by channel, then row by row, as a convolution's weight does. Patches
    overlap (stride 1). In float64, on the images' device; MPS has no float64."""
    total = products = count = 0
    for images in parts:
        if images.device.type == "mps":
            images = images.cpu()
        patches = F.unfold(images.double(), size).transpose(0, 1).flatten(1)  # (D, patches)
        total = total + patches.sum(1)
        products = products + patches @ patches.T
        count += patches.shape[1]
    mean = total / count
    return ((products - count * torch.outer(mean, mean)) / (count - 1)).cpu()


def eigenpatches(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (D,), largest first, and eigenvectors (D, D), one a row, of a covariance
    (D, D).

    An eigenvector's sign is arbitrary. Here the first component within 10 % of the largest in size
    is positive: symmetry makes components equally large, and rounding must not choose."""
    ascending_values, ascending_columns = torch.linalg.eigh(covariance.double())
    values = ascending_values.flip(0)
    vectors = ascending_columns.T.flip(0)
    near = vectors.abs() > 0.9 * vectors.abs().amax(1, keepdim=True)
    chosen = vectors.gather(1, near.int().argmax(1, keepdim=True))
    return values, vectors * chosen.sign()


def whitening_filters(covariance: Tensor, eps: float) -> Tensor:
    """Make filters (2D, 3, size, size), float32, of a covariance (D, D): D scaled
    eigenvectors, largest eigenvalue first, then their negatives."""
    values, vectors = eigenpatches(covariance)
    scaled = vectors / (values + eps).sqrt()[:, None]
    size = round((len(values) / 3) ** 0.5)
    return torch.cat([scaled, -scaled]).float().view(-1, 3, size, size)
