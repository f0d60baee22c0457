"""3x3 convolutions on a CPU with fewer multiplications than PyTorch's, put into a built network:
``use_fast``.

Winograd's minimal filtering [1]: a tile of m x m outputs depends on (m+2) x (m+2) inputs.
Transformed, a tile needs one multiplication for each of these instead of nine for each output:
F(4x4, 3x3) takes 36 instead of 144, and all tiles together are (m+2)^2 matrix products. In float32
the result differs from the direct sum's by some 1e-5 of the largest output. In bfloat16 tiles stay
at 2x2, whose inputs and outputs are only added and subtracted: result and gradients are 0.5 % away
from the exact ones in norm, the direct sum's 0.2 to 0.3 %; with tiles of 4x4 it would be 2 to 3 %.
[1] Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cifarlib.device.choice import cpu_multiplies_bfloat16
from cifarlib.model import Block, Network

# where the algorithm evaluates its polynomials, besides at infinity
POINTS = (0.0, 1.0, -1.0, 2.0, -2.0)
CHANNELS = 64 * 256  # c_in * c_out: with fewer, the transforms cost more than they save
IMAGES = 32  # with fewer, transforming the weights costs more than it saves
SHARE = 0.45  # of the multiplications: with more of them left, the transforms cost what is saved
SMALL = 3  # pixels a side: up to here most of an image touches the padding
PART = 128  # images at a time: the transformed tiles of a batch of 1024 would take gigabytes
PYTORCH = "PyTorch"
WINOGRAD = "Winograd"  # both as a record names them
NINE_PRODUCTS = "nine products"  # a method for one layer, used beside Winograd's


def use_fast(model: Network, precision: str) -> str:
    """Swap the 3x3 convolutions of a network on a CPU for faster ones, where there are any; its
    weights stay as and where they are. Returns the word that names them in a record."""
    is_on_cpu = model.first_layer.weight.device.type == "cpu"
    is_slower = precision == "float16" or (precision == "bfloat16" and not faster_in_bfloat16())
    if not is_on_cpu or is_slower:
        return PYTORCH
    for block in model.net:
        if isinstance(block, Block):
            block.conv1 = FastConvolution(block.conv1, pooled=True)
            block.conv2 = FastConvolution(block.conv2)
    return WINOGRAD


def faster_in_bfloat16() -> bool:
    """Tell whether this CPU multiplies bfloat16, but without matrix units, which make the direct
    sum cheaper than the transforms. Not measured: a resumed run must go on in the same way."""
    return cpu_multiplies_bfloat16() and not torch.cpu.get_capabilities().get("amx_bf16")


class FastConvolution(nn.Module):
    """Takes the place of a 3x3 convolution with padding 1 and without bias, on images (N, C, H, H),
    channels_last. The output has autocast's type where that is on, else the images'.

    pooled: 2x2 max-pooling follows, which drops the last row and column of an odd number, so they
    need not be computed."""

    def __init__(self, convolution: nn.Conv2d, pooled: bool = False):
        super().__init__()
        self.weight = convolution.weight
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        height = x.shape[-1]
        size = height // 2 * 2 if self.pooled else height
        method = fastest_method(len(x), *self.weight.shape[:2], height, size, x.dtype)
        if method == PYTORCH:
            return F.conv2d(x, self.weight, padding=1)
        with torch.autocast("cpu", enabled=False):  # the weights are transformed, then rounded
            if method == NINE_PRODUCTS:
                return _NineProducts.apply(x, self.weight)
            parts = [_winograd(part, self.weight, size) for part in x.split(PART)]
            return parts[0] if len(parts) == 1 else torch.cat(parts)


def fastest_method(n: int, k: int, c: int, height: int, size: int, dtype: torch.dtype) -> str:
    """Choose how n images (c, height, height) become the first size x size of k channels' outputs,
    as measured on layers of this network."""
    if dtype not in (torch.float32, torch.bfloat16) or k * c < CHANNELS or n < IMAGES:
        return PYTORCH
    if _multiplications(size, _tile(size, dtype)) <= SHARE * 9 * height**2:
        return WINOGRAD
    return NINE_PRODUCTS if height <= SMALL else PYTORCH


def _multiplications(size: int, m: int) -> int:
    """Count those of a pair of channels and an image, for size x size outputs in m x m tiles."""
    return (-(-size // m) * (m + 2)) ** 2


def _tile(size: int, dtype: torch.dtype) -> int:
    """Choose m: that with the fewest multiplications, 2 unless in float32."""
    choices = (2, 3, 4) if dtype == torch.float32 else (2,)
    return min(choices, key=lambda m: _multiplications(size, m))


@functools.cache
def _matrices(m: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Compute A (m^2, a^2), G (a^2, 9), B (a^2, a^2), a = m + 2, for flattened tiles: outputs =
    A ((G weights) * (B inputs)). A and B in ``dtype``, G in float32. Transposed, they multiply
    polynomials of m and of 3 coefficients by their values at a points (Toom, Cook)."""
    a = m + 2
    points = torch.tensor(POINTS[: a - 1], dtype=torch.float64)[:, None]

    def evaluation(powers: int) -> Tensor:
        infinity = torch.eye(powers, dtype=torch.float64)[-1:]  # sees the highest power alone
        return torch.cat([points ** torch.arange(powers), infinity])

    inputs = evaluation(a).inverse().T
    scale = inputs.abs().amax(1, keepdim=True)  # numbers of like size on both sides round best
    one_dimensional = (evaluation(m).T, evaluation(3) * scale, inputs / scale)
    outputs, weights, inputs = (torch.kron(matrix, matrix) for matrix in one_dimensional)
    return outputs.to(dtype), weights.float(), inputs.to(dtype)


def _winograd(x: Tensor, weight: Tensor, size: int) -> Tensor:
    """Convolve: one matrix product transforms all tiles, (m+2)^2 others convolve them."""
    n, c, _, _ = x.shape
    k = len(weight)
    m = _tile(size, x.dtype)
    t = -(-size // m)  # tiles a side
    outputs, weights, inputs = _matrices(m, x.dtype)
    v = (inputs @ _Tiles.apply(x, m, t)).view(len(inputs), -1, c)
    u = (weights @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(len(inputs), c, k).to(x.dtype)
    y = (outputs @ torch.bmm(v, u).view(len(inputs), -1)).view(m, m, n, t, t, k)
    y = y.permute(2, 3, 0, 4, 1, 5).reshape(n, t * m, t * m, k)
    return y[:, :size, :size].contiguous().permute(0, 3, 1, 2)


class _Tiles(torch.autograd.Function):
    """Cut padded images (N, C, H, H) into t x t tiles, which overlap by two pixels:
    ((m+2)^2, N * t * t * C)."""

    @staticmethod
    def forward(ctx, x: Tensor, m: int, t: int) -> Tensor:
        ctx.sizes = m, t, x.shape
        n, c, h, _ = x.shape
        padded = x.new_zeros(n, t * m + 2, t * m + 2, c)
        padded[:, 1 : 1 + h, 1 : 1 + h] = x.permute(0, 2, 3, 1)
        tiles = padded.unfold(1, m + 2, m).unfold(2, m + 2, m)  # (n, t, t, c, m + 2, m + 2)
        return tiles.permute(4, 5, 0, 1, 2, 3).reshape((m + 2) ** 2, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx, dtiles: Tensor) -> tuple[Tensor, None, None]:
        m, t, (n, c, h, _) = ctx.sizes
        dx = dtiles.view(m + 2, m + 2, n, t, t, c).permute(2, 3, 0, 4, 1, 5)
        summed = dx.new_zeros(n, t + 1, m, t + 1, m, c)
        summed[:, :t, :, :t] = dx[:, :, :m, :, :m]
        summed[:, 1:, :2, :t] += dx[:, :, m:, :, :m]
        summed[:, :t, :, 1:, :2] += dx[:, :, :m, :, m:]
        summed[:, 1:, :2, 1:, :2] += dx[:, :, m:, :, m:]
        dx = summed.view(n, (t + 1) * m, (t + 1) * m, c)[:, 1 : 1 + h, 1 : 1 + h]
        return dx.contiguous().permute(0, 3, 1, 2), None, None


class _NineProducts(torch.autograd.Function):
    """PyTorch's convolution, but the gradient by the weights: nine matrix products of the pixels
    that each weight joins, in a third to a half of the time."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        weight = weight.to(x.dtype)
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=1)

    @staticmethod
    @once_differentiable
    @torch.autocast("cpu", enabled=False)
    def backward(ctx, dy: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        k, c = weight.shape[:2]
        rows, drows = (images.permute(2, 0, 3, 1) for images in (x, dy))  # (H, N, H, channels)
        h = len(rows)
        dweight = x.new_empty(3, 3, k, c)
        # of x, by weight i; of dy by 2 - i
        reach = [slice(max(0, i - 1), h + min(0, i - 1)) for i in range(3)]
        for j in range(3):
            inputs = rows[:, :, reach[j]].reshape(h, -1, c)
            outputs = drows[:, :, reach[2 - j]].reshape(h, -1, k)
            for i in range(3):
                of_weight = outputs[reach[2 - i]].reshape(-1, k).T
                torch.mm(of_weight, inputs[reach[i]].reshape(-1, c), out=dweight[i, j])
        return F.conv_transpose2d(dy, weight, padding=1), dweight.permute(2, 3, 0, 1).float()
