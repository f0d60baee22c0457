"""The network of the paper's Appendix A.1: 1,972,792 parameters, the architecture of airbench94 [1].

``print(Network())`` shows the structure that the paper prints.
[1] Keller Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024.
"""

import torch
from torch import Tensor, nn

from cifarlib import winograd

WIDTHS = (64, 256, 256)  # output channels of the three blocks
FILTERS = 24  # first layer: 12 eigenvectors of the 2x2x3 patch covariance and their negatives
CLASSES = 10


class Conv(nn.Conv2d):
    """A convolution without bias; ``dirac=True`` starts as the identity on its first C_in filters.

    The other filters keep PyTorch's default initialisation. Nothing holds the weights near the identity
    afterwards: DiracNets reparameterise throughout training, which is not the same.
    """

    direct = False  # True: PyTorch's own convolution in any case, for comparison

    def __init__(self, c_in: int, c_out: int, kernel_size: int = 3, bias: bool = False, dirac: bool = False, **kwargs):
        super().__init__(c_in, c_out, kernel_size, bias=bias, **kwargs)
        if dirac:
            nn.init.dirac_(self.weight[:c_in].detach())

    def forward(self, x: Tensor, size: int | None = None) -> Tensor:
        """size: how many rows and columns of the output matter; the others may be there or not."""
        if self.direct or not winograd.pays(x, self.weight):
            return super().forward(x)
        return winograd.conv3x3(x, self.weight, size or x.shape[-1])


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation whose scale stays at 1 and whose bias is trained (paper, section 1.1)."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-12, momentum=0.4)
        self.weight.requires_grad_(False)


class Block(nn.Module):
    """conv1, 2x2 max-pooling, norm1, GELU, conv2, norm2, GELU: (N, c_in, H, W) -> (N, c_out, H//2, W//2)."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv1 = Conv(c_in, c_out, padding="same", dirac=True)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = BatchNorm(c_out)
        self.conv2 = Conv(c_out, c_out, padding="same", dirac=True)
        self.norm2 = BatchNorm(c_out)
        self.activ = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        even = x.shape[-1] // 2 * 2  # the pooling drops the last row and column of an odd number
        x = self.activ(self.norm1(self.pool(self.conv1(x, even))))
        return self.activ(self.norm2(self.conv2(x)))


class Scale(nn.Module):
    """Multiplies by 1/9, as reference [1] does with its logits."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 9


class Network(nn.Module):
    """Images (N, 3, 32, 32), normalised, to logits (N, 10).

    whitening: filters (24, 3, 2, 2) from ``whitening.whitening_filters``, then frozen while the bias trains;
    None (the paper's "No") leaves the first layer at PyTorch's default initialisation, trained.
    """

    def __init__(self, whitening: Tensor | None = None):
        super().__init__()
        c1, c2, c3 = WIDTHS
        self.net = nn.Sequential(
            Conv(3, FILTERS, kernel_size=2, bias=True),
            nn.GELU(),
            Block(FILTERS, c1),
            Block(c1, c2),
            Block(c2, c3),
            nn.MaxPool2d(3),
            nn.Flatten(),
            nn.Linear(c3, CLASSES, bias=False),
            Scale(),
        )
        if whitening is not None:
            self.first_layer.weight.requires_grad_(False).copy_(whitening)

    @property
    def first_layer(self) -> Conv:
        return self.net[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def build_model(seed: int, whitening: Tensor | None = None) -> Network:
    """A network whose random weights depend on ``seed`` alone, on the CPU; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Network(whitening)


def layer_table(model: Network) -> list[dict]:
    """One row per layer in the order of execution: name, output shape (without the batch), parameters, trained."""
    leaves = {name: m for name, m in model.named_modules() if name and not list(m.children())}
    rows: list[dict] = []

    def hook(name: str):
        def note(module: nn.Module, _, output: Tensor) -> None:
            own = list(module.parameters(recurse=False))
            rows.append(
                {
                    "layer": f"{name.removeprefix('net.')} {type(module).__name__}",
                    "output": "x".join(map(str, output.shape[1:])),
                    "parameters": sum(p.numel() for p in own),
                    "trained": sum(p.numel() for p in own if p.requires_grad),
                }
            )

        return note

    handles = [m.register_forward_hook(hook(name)) for name, m in leaves.items()]
    was_training = model.training
    with torch.no_grad():
        device = next(model.parameters()).device
        model.eval()(torch.zeros(1, 3, 32, 32, device=device))
    for handle in handles:
        handle.remove()
    model.train(was_training)
    return rows
