"""What the network sees of an image: normalised, and cropped and flipped at random, a whole batch
at once on its device (paper, section 1.2)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

SIDE = 32  # pixels a side of an image
BEFORE_TRAINING = 0  # the "epoch" of crops and flips that are drawn once, before epoch 1


@dataclass(frozen=True)
class Normalizer:
    """Subtracts ``mean`` and divides by ``std``, both in grey levels (0 to 255): one value a colour
    channel for all images, (1, 3, 1, 1), or each image's own, (N, 1 or 3, 1, 1)."""

    mean: Tensor
    std: Tensor

    def __getitem__(self, index: Tensor | slice) -> "Normalizer":
        """Return the normalizer of the images at ``index``."""
        return self if len(self.mean) == 1 else Normalizer(self.mean[index], self.std[index])

    def apply(self, images: Tensor) -> Tensor:
        """Normalise uint8 images (N, 3, H, W) to float32 of the same shape, in channels_last memory
        format; contiguous on MPS, where BatchNorm's gradients on channels_last were wrong (PyTorch
        issue 175189)."""
        layout = torch.contiguous_format if images.device.type == "mps" else torch.channels_last
        return images.contiguous(memory_format=layout).float().sub_(self.mean).div_(self.std)


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Compute mean and standard deviation (3,) of each colour channel over uint8 images
    (N, 3, H, W), on the scale 0 to 1."""
    sums = torch.zeros(2, images.shape[1], dtype=torch.int64)  # sums of integers are exact
    for part in images.split(1000):
        x = part.long()
        sums += torch.stack([x.sum((0, 2, 3)), (x * x).sum((0, 2, 3))]).cpu()
    mean, square = sums.double() / (images.numel() // images.shape[1])
    return (mean / 255).float(), ((square - mean * mean).sqrt() / 255).float()


def make_normalizer(images: Tensor, mode: str, statistics: tuple[Tensor, Tensor]) -> Normalizer:
    """Make the normalizer of uint8 images (N, 3, 32, 32), on their device (paper, section 1.2).

    mode "channel": by ``statistics``, the training split's ``channel_statistics``. "image-channel":
    by each image's own mean and deviation per channel. "length": by each image's one mean and
    deviation of its 3,072 values."""
    if mode == "channel":
        return Normalizer(*(255 * s.to(images.device).view(1, 3, 1, 1) for s in statistics))
    dimensions = {"image-channel": (2, 3), "length": (1, 2, 3)}
    over = {"dim": dimensions[mode], "keepdim": True, "correction": 0}
    parts = [torch.std_mean(part.float(), **over) for part in images.split(1000)]
    std, mean = map(torch.cat, zip(*parts, strict=True))
    return Normalizer(mean, std.clamp_min(1e-3))  # an image of one colour becomes zero


def normalize(images: Tensor, mode: str, statistics: tuple[Tensor, Tensor]) -> Tensor:
    """Normalise uint8 images (N, 3, 32, 32) to float32: see ``make_normalizer``."""
    return make_normalizer(images, mode, statistics).apply(images)


def draw_crops(seed: int, epoch: int, n: int, crop: int = 4, cutout: int = 0) -> Tensor:
    """Draw how each of n images is cropped, flipped and cut out in this epoch: int64 (n, 3) of
    dy, dx in -crop..crop, flip in 0, 1; with a cutout (n, 5), also the first row and the first
    column of the square.

    A function of (seed, epoch) alone: equal on every device, and a resumed run needs nothing saved.
    """
    generator = np.random.default_rng((seed, epoch, 0))
    shift = generator.integers(-crop, crop + 1, (n, 2))
    columns = [shift, generator.integers(0, 2, (n, 1))]
    if cutout:
        generator = np.random.default_rng((seed, epoch, 3))  # 0: crops, 1: order, 3: cutouts
        columns.append(generator.integers(0, SIDE - cutout + 1, (n, 2)))
    return torch.from_numpy(np.concatenate(columns, axis=1))


def alternating_flips(seed: int, epoch: int, n: int) -> Tensor:
    """Tell which of images 0 to n-1 are flipped in this epoch, int64 (n,) of 0, 1: a coin each,
    drawn once, and in every other epoch its other side."""
    # numpy reads (seed, 2) as (seed, 2, 0), the crops of epoch 2: a slip, kept for the records
    return (torch.from_numpy(np.random.default_rng((seed, 2)).integers(0, 2, n)) + epoch) % 2


def draw_order(seed: int, epoch: int, n: int) -> Tensor:
    """Draw the order of the n training images in this epoch: a permutation, int64 (n,)."""
    return torch.from_numpy(np.random.default_rng((seed, epoch, 1)).permutation(n))


def crop_and_flip(
    images: Tensor,
    normalizer: Normalizer,
    index: Tensor,
    crops: Tensor,
    padding: str,
    *,
    cutout: int = 0,
) -> Tensor:
    """Make the batch ``images[index]``, normalised, padded, cropped back, flipped and cut out.

    images: uint8 (N, 3, H, H) in channels_last memory format; normalizer: of all N images; index:
    int64 (B,); crops: int64 (B, 3 or 5), see ``draw_crops``. padding "reflect" mirrors without
    repeating the edge, "constant" puts zero after normalisation. cutout: a square of so many pixels
    a side, always within the image, becomes zero, as in airbench96. Returns float32
    (B, 3, H, H): one gather of pixels, padding by arithmetic."""
    c, side = images.shape[1:3]
    pixel = torch.arange(side, device=images.device)
    dy, dx, flip = (column[:, None] for column in crops[:, :3].unbind(1))
    y = pixel + dy
    x = torch.where(flip.bool(), side - 1 - pixel, pixel) + dx
    rows, columns = ((at >= 0) & (at < side) for at in (y, x))  # of the image, not of its rim
    if padding == "reflect":  # -1 becomes 1, side becomes side - 2
        y, x = (side - 1 - (side - 1 - at.abs()).abs() for at in (y, x))
    y, x = (at.clamp(0, side - 1) for at in (y, x))
    # of each pixel (B, H, W) in the images as rows of c values
    position = (index[:, None] * side + y)[:, :, None] * side + x[:, None, :]
    pixels = images.permute(0, 2, 3, 1).reshape(-1, c).index_select(0, position.flatten())
    batch = normalizer[index].apply(pixels.view(len(index), side, side, c).permute(0, 3, 1, 2))
    if padding == "constant":
        batch = batch.mul_(rows[:, None, :, None] & columns[:, None, None, :])
    if cutout:
        corner = crops[:, 3:, None].unbind(1)
        rows, columns = ((pixel >= first) & (pixel < first + cutout) for first in corner)
        batch = batch.masked_fill_(rows[:, None, :, None] & columns[:, None, None, :], 0)
    return batch
