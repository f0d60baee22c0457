"""3x3 convolutions on a CPU in float32 with a third of the multiplications: Winograd's minimal filtering [1].

A tile of m x m outputs depends on (m+2) x (m+2) inputs. Transformed, a tile needs one multiplication for each of these
instead of nine for each output: F(4x4, 3x3) takes 36 instead of 144, and all tiles together are (m+2)^2 matrix products.
Rounding differs from the direct sum's by some 1e-5 of the largest output; the gradients are those of the same formula.
[1] Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)  # and infinity: where the polynomials of the algorithm are evaluated
CHANNELS = 64 * 256  # c_in * c_out: with fewer, the transforms cost more than they save
IMAGES = 32  # with fewer, the transform of the weights does
PART = 128  # images at a time: the transformed tiles of a batch of 1024 would take gigabytes


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether ``conv3x3`` takes less time than PyTorch's convolution, measured on layers of this network."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and weight.shape[2:] == (3, 3)
        and weight.shape[0] * weight.shape[1] >= CHANNELS
        and len(x) >= IMAGES
    )


def conv3x3(x: Tensor, weight: Tensor, size: int) -> Tensor:
    """The first ``size`` rows and columns of ``F.conv2d(x, weight, padding=1)``: (N, C, H, H) to (N, K, size, size),
    channels_last, by weight (K, C, 3, 3). float32."""
    parts = [_Convolution.apply(part, weight, size) for part in x.split(PART)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@functools.cache
def _matrices(m: int) -> tuple[Tensor, Tensor, Tensor]:
    """A (m^2, a^2), G (a^2, 9), B (a^2, a^2), a = m + 2, for flattened tiles: outputs = A ((G weights) * (B inputs)).

    The product of two polynomials, of m and of 3 coefficients, from their values at a points, transposed (Toom, Cook).
    """
    a = m + 2
    values = torch.zeros(a, a, dtype=torch.float64)  # of the powers at each point; infinity sees the highest alone
    values[:-1] = torch.tensor(POINTS[: a - 1], dtype=torch.float64)[:, None] ** torch.arange(a)

    def of(powers: int) -> Tensor:
        some = values[:, :powers].clone()
        some[-1, -1] = 1
        return some

    inputs = of(a).inverse().T
    scale = inputs.abs().amax(1, keepdim=True)  # numbers of like size on both sides round best
    one = of(m).T, of(3) * scale, inputs / scale
    return tuple(torch.kron(matrix, matrix).float() for matrix in one)


class _Convolution(torch.autograd.Function):
    """Tiles are kept as (a^2, tiles, channels): one matrix product transforms them, a^2 others convolve."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, size: int) -> Tensor:
        m = min((2, 3, 4), key=lambda m: -(-size // m) * (m + 2))  # the fewest multiplications
        (n, c, h, _), k, t = x.shape, len(weight), -(-size // m)
        outputs, weights, inputs = _matrices(m)
        a, tiles, read = m + 2, n * t * t, min(h, t * m + 1)
        padded = x.new_zeros(n, t * m + 2, t * m + 2, c)
        padded[:, 1 : 1 + read, 1 : 1 + read] = x.permute(0, 2, 3, 1)[:, :read, :read]
        image, row, column, _ = padded.stride()
        overlapping = padded.as_strided((a, a, n, t, t, c), (row, column, image, m * row, m * column, 1))
        v = (inputs @ overlapping.reshape(a * a, -1)).view(a * a, tiles, c)
        u = (weights @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(a * a, c, k)
        y = (outputs @ torch.bmm(v, u).view(a * a, -1)).view(m, m, n, t, t, k)
        y = y.permute(2, 3, 0, 4, 1, 5).reshape(n, t * m, t * m, k)[:, :size, :size].contiguous()
        ctx.save_for_backward(v, u)
        ctx.sizes = m, t, size, read, x.shape
        return y.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor, None]:
        v, u = ctx.saved_tensors
        m, t, size, read, (n, c, h, _) = ctx.sizes
        outputs, weights, inputs = _matrices(m)
        a, (_, tiles, _), k, rest = m + 2, v.shape, u.shape[2], t * m - size
        dy = F.pad(dy.permute(0, 2, 3, 1), (0, 0, 0, rest, 0, rest))
        dy = dy.view(n, t, m, t, m, k).permute(2, 4, 0, 1, 3, 5).reshape(m * m, -1)
        dm = (outputs.T @ dy).view(a * a, tiles, k)
        du = torch.bmm(v.transpose(1, 2), dm).view(a * a, -1)
        dweight = (weights.T @ du).view(3, 3, c, k).permute(3, 2, 0, 1)
        dx = inputs.T @ torch.bmm(dm, u.transpose(1, 2)).view(a * a, -1)
        dx = dx.view(a, a, n, t, t, c).permute(2, 3, 0, 4, 1, 5)  # (n, t, a, t, a, c): tiles overlap by two pixels
        summed = dx.new_zeros(n, t + 1, m, t + 1, m, c)
        summed[:, :t, :, :t] = dx[:, :, :m, :, :m]
        summed[:, 1:, :2, :t] += dx[:, :, m:, :, :m]
        summed[:, :t, :, 1:, :2] += dx[:, :, :m, :, m:]
        summed[:, 1:, :2, 1:, :2] += dx[:, :, m:, :, m:]
        dx = summed.view(n, (t + 1) * m, (t + 1) * m, c)[:, 1 : 1 + read, 1 : 1 + read]
        dx = F.pad(dx, (0, 0, 0, h - read, 0, h - read)).contiguous()
        return dx.permute(0, 3, 1, 2), dweight, None
