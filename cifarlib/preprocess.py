"""What the network sees of an image: normalised, and cropped and flipped at random, a whole batch at once on its device
(paper, section 1.2)."""

import numpy as np
import torch
from torch import Tensor

PADDING = 4  # pixels on each side, before the random 32x32 crop


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (3,) of each colour channel over uint8 images (N, 3, H, W), on the scale 0 to 1."""
    sums = torch.zeros(2, images.shape[1], dtype=torch.int64)  # sums of integers are exact
    for part in images.split(1000):
        x = part.int()
        sums += torch.stack([x.sum((0, 2, 3)), (x * x).sum((0, 2, 3))]).cpu()
    mean, square = sums.double() / (images.numel() // images.shape[1])
    return (mean / 255).float(), ((square - mean * mean).sqrt() / 255).float()


def normalization(images: Tensor, mode: str, statistics: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What ``normalize`` subtracts and divides by, in grey levels, for uint8 images (N, 3, 32, 32).

    mode "channel": ``statistics``, the training split's mean and standard deviation per colour channel, (1, 3, 1, 1).
    "image-channel": each image's own per channel, (N, 3, 1, 1). "length": each image's one mean and deviation of its
    3,072 values, (N, 1, 1, 1). (Paper, section 1.2.)
    """
    if mode == "channel":
        mean, std = (255 * s.to(images.device).view(1, 3, 1, 1) for s in statistics)
        return mean, std
    dims = {"image-channel": (2, 3), "length": (1, 2, 3)}[mode]
    parts = [torch.std_mean(p.float(), dim=dims, keepdim=True, correction=0) for p in images.split(1000)]
    std, mean = (torch.cat(some) for some in zip(*parts, strict=True))
    return mean, std.clamp_min(1e-3)  # an image of one colour becomes zero


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 images (N, 3, 32, 32) to float32 of the same shape, in channels_last memory format; ``mean`` and ``std``
    from ``normalization`` of the same images."""
    return images.contiguous(memory_format=torch.channels_last).float().sub_(mean).div_(std)


def draw(seed: int, epoch: int, n: int) -> Tensor:
    """How each of n images is cropped and flipped in this epoch: int64 (n, 3) of dy, dx in -4..4 and flip in 0, 1.

    A function of (seed, epoch) alone: equal on every device, and nothing has to be saved for a resumed run.
    """
    generator = np.random.default_rng((seed, epoch, 0))
    shift = generator.integers(-PADDING, PADDING + 1, (n, 2))
    return torch.from_numpy(np.concatenate([shift, generator.integers(0, 2, (n, 1))], axis=1))


def draw_order(seed: int, epoch: int, n: int) -> Tensor:
    """The order of the n training images in this epoch: a permutation, int64 (n,)."""
    return torch.from_numpy(np.random.default_rng((seed, epoch, 1)).permutation(n))


def crop_and_flip(
    images: Tensor, mean: Tensor, std: Tensor, index: Tensor, draws: Tensor | None, padding: str
) -> Tensor:
    """The batch ``images[index]``, normalised, padded by 4 pixels, cropped back and flipped as ``draws`` says.

    images: uint8 (N, 3, H, W) in channels_last memory format; mean, std: (1 or N, 1 or 3, 1, 1), see
    ``normalization``; index: int64 (B,); draws: int64 (B, 3), see ``draw``, or None for neither crop nor flip.
    padding "reflect" mirrors without repeating the edge, "constant" puts zero after normalisation. Returns float32
    (B, 3, H, W), channels_last: one gather of pixels, in which the padding exists only as arithmetic on positions.
    """
    c, height, width = images.shape[1:]
    if draws is None:
        draws = torch.zeros(len(index), 3, dtype=torch.int64, device=images.device)
    dy, dx, flip = (d[:, None] for d in draws.unbind(1))
    y = torch.arange(height, device=images.device) + dy
    x = torch.arange(width, device=images.device)
    x = torch.where(flip.bool(), width - 1 - x, x) + dx
    if padding == "reflect":
        inside = None
        y = height - 1 - (height - 1 - y.abs()).abs()
        x = width - 1 - (width - 1 - x.abs()).abs()
    else:
        inside = ((y >= 0) & (y < height))[:, None, :, None] & ((x >= 0) & (x < width))[:, None, None, :]
        y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    position = (index[:, None] * height + y)[:, :, None] * width + x[:, None, :]
    pixels = images.permute(0, 2, 3, 1).reshape(-1, c).index_select(0, position.flatten())
    batch = pixels.view(len(index), height, width, c).permute(0, 3, 1, 2).float()
    batch = batch.sub_(mean[index] if len(mean) > 1 else mean).div_(std[index] if len(std) > 1 else std)
    return batch if inside is None else batch.mul_(inside)
