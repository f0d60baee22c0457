"""Patch whitening: the covariance of 2x2x3 patches, its eigenvectors, the first layer's 24 filters.

After reference [1] (airbench94): a filter is an eigenvector divided by sqrt(eigenvalue + eps), so that the responses
over the training images are uncorrelated with variance l / (l + eps).
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_covariance(images: Tensor, size: int = 2, chunk: int = 2000) -> Tensor:
    """Covariance (D, D), D = C * size * size, float64, of all size x size patches of images (N, C, H, W).

    A patch counts channel by channel, then row by row, as a convolution's weight does. Patches overlap (stride 1).
    """
    d = images.shape[1] * size * size
    total, products, count = torch.zeros(d, dtype=torch.float64), torch.zeros(d, d, dtype=torch.float64), 0
    for part in images.split(chunk):
        # float32 within a chunk, float64 across: the mean is near 0, so nothing cancels
        patches = F.unfold(part.float().contiguous(), size).transpose(0, 1).reshape(d, -1)
        total += patches.sum(1).cpu().double()
        products += (patches @ patches.T).cpu().double()
        count += patches.shape[1]
    mean = total / count
    return (products - count * torch.outer(mean, mean)) / (count - 1)


def eigenpatches(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (D,), largest first, and eigenvectors (D, D), one a row, of a covariance (D, D).

    An eigenvector's sign is arbitrary: here its largest component is positive, on any machine.
    """
    values, vectors = torch.linalg.eigh(covariance.cpu().double())
    values, vectors = values.flip(0), vectors.T.flip(0)
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    return values, vectors * largest.sign()


def whitening_filters(covariance: Tensor, eps: float = 5e-4, channels: int = 3) -> Tensor:
    """Filters (2D, channels, size, size), float32: D scaled eigenvectors, largest eigenvalue first, then their
    negatives."""
    values, vectors = eigenpatches(covariance)
    scaled = vectors / (values + eps).sqrt()[:, None]
    size = round((len(values) / channels) ** 0.5)
    return torch.cat([scaled, -scaled]).float().view(-1, channels, size, size)
