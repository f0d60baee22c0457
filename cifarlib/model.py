"""The network of the paper's Appendix A.1: 1,972,792 parameters, airbench94's architecture [1].

``print(Network())`` shows the structure that the paper prints.
[1] Keller Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024."""

import torch
from torch import Tensor, nn

WIDTHS = (64, 256, 256)  # output channels of the three blocks
FILTERS = 24  # first layer: 12 eigenvectors of the 2x2x3 patch covariance and their negatives


def convolution3x3(c_in: int, c_out: int, dirac: bool) -> nn.Conv2d:
    """Make a 3x3 convolution without bias.

    dirac: it starts as the identity on its first c_in filters; the others keep PyTorch's default
    initialisation. Nothing holds the weights near the identity afterwards: DiracNets reparameterise
    throughout training, which is not the same."""
    convolution = nn.Conv2d(c_in, c_out, kernel_size=3, padding="same", bias=False)
    if dirac:
        nn.init.dirac_(convolution.weight[:c_in].detach())
    return convolution


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose scale stays at 1 and whose bias is trained (paper, section 1.1)."""

    def __init__(self, channels: int):
        # airbench94 keeps 0.6 of the old statistics; PyTorch's momentum is the new ones' share
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad_(False)


class Block(nn.Module):
    """conv1, 2x2 pooling, norm1, GELU, conv2, norm2, GELU: (N, C, H, W) to (N, c_out, H/2, W/2)."""

    def __init__(self, c_in: int, c_out: int, dirac: bool = True):
        super().__init__()
        self.conv1 = convolution3x3(c_in, c_out, dirac)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = BatchNorm(c_out)
        self.conv2 = convolution3x3(c_out, c_out, dirac)
        self.norm2 = BatchNorm(c_out)
        self.activ = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.activ(self.norm1(self.pool(self.conv1(x))))
        return self.activ(self.norm2(self.conv2(x)))


class Scale(nn.Module):
    """Divides by 9, as reference [1] does with its logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 9


class Network(nn.Module):
    """Images (N, 3, 32, 32), normalised, to logits (N, 10).

    filters: (24, 3, 2, 2) from ``whitening.whitening_filters``, then frozen while the bias
    trains; None (the paper's "No" whitening) leaves the first layer at PyTorch's default
    initialisation, trained."""

    def __init__(self, filters: Tensor | None = None, dirac: bool = True):
        super().__init__()
        c1, c2, c3 = WIDTHS
        self.net = nn.Sequential(
            nn.Conv2d(3, FILTERS, kernel_size=2),
            nn.GELU(),
            Block(FILTERS, c1, dirac),
            Block(c1, c2, dirac),
            Block(c2, c3, dirac),
            nn.MaxPool2d(3),
            nn.Flatten(),
            nn.Linear(c3, 10, bias=False),
            Scale(),
        )
        if filters is not None:
            self.first_layer.weight.requires_grad_(False).copy_(filters)

    @property
    def first_layer(self) -> nn.Conv2d:
        return self.net[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def build_model(seed: int, filters: Tensor | None = None, dirac: bool = True) -> Network:
    """Make a network, on the CPU, whose random weights depend on ``seed`` alone; the global
    generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return Network(filters, dirac)


def forward(model: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Compute logits (B, 10), float32, of normalised images (B, 3, 32, 32), under autocast to
    ``dtype``."""
    is_mixed = dtype != torch.float32
    with torch.autocast(x.device.type, dtype=dtype, enabled=is_mixed, cache_enabled=False):
        logits = model(x)
    return logits.float()
