"""Where the other contestants' batches come from."""

import itertools
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset
from torchvision import transforms

from cifarlib.data import Cifar10
from cifarlib.params import RunParams
from cifarlib.preprocess import BEFORE_TRAINING, Normalizer, crop_and_flip, draw_crops, draw_order


@dataclass
class Photos(Dataset):
    """Pictures as torchvision's CIFAR10 has them, so that a DataLoader's workers get them as
    usual."""

    pixels: np.ndarray  # (N, 32, 32, 3)
    labels: list[int]
    transform: Callable

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def make_batches(
    kind: str, data: Cifar10, normalizer: Normalizer, params: RunParams, workers: int, pin: bool
) -> Callable[[int, int], Iterator[tuple[Tensor, Tensor]]]:
    """``(epoch, steps)`` to so many batches of float32 images (B, 3, 32, 32) and labels (B,), on
    the CPU."""
    images, labels, size = data.train.images, data.train.labels, params.batch_size
    if kind == "course":
        return partial(course, images.flatten(1).numpy(), labels, normalizer, size)
    if kind == "loader":
        crop = transforms.RandomCrop(32, padding=4, padding_mode="reflect")
        normalize = transforms.Normalize(
            normalizer.mean.flatten() / 255, normalizer.std.flatten() / 255
        )
        transform = transforms.Compose(
            [crop, transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalize]
        )
        dataset = Photos(
            images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist(), transform
        )
    else:
        images, crops = (
            images.contiguous(memory_format=torch.channels_last),
            draw_crops(0, BEFORE_TRAINING, len(images)),
        )
        parts = torch.arange(len(images)).split(1000)
        ready = [
            crop_and_flip(images, normalizer, part, crops[part], "reflect").contiguous()
            for part in parts
        ]
        dataset = TensorDataset(torch.cat(ready), labels)
    loader = DataLoader(
        dataset,
        size,
        sampler=RandomSampler(dataset, num_samples=params.train_images),
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin,
        worker_init_fn=end_with_parent,
    )
    return lambda epoch, steps: itertools.islice(loader, steps)


def course(
    pixels: np.ndarray, labels: Tensor, normalizer: Normalizer, size: int, epoch: int, steps: int
) -> Iterator:
    """As a loop over images does it, each from its 3,072 bytes."""
    mean, std = normalizer.mean.flatten().numpy(), normalizer.std.flatten().numpy()
    order, crops = (draw(0, epoch, len(labels)).numpy() for draw in (draw_order, draw_crops))
    for index in np.split(order[: steps * size], steps):
        batch = []
        for row, (dy, dx, flip) in zip(pixels[index], crops[index], strict=True):
            image = np.pad(
                row.reshape(3, 32, 32).transpose(1, 2, 0), ((4, 4), (4, 4), (0, 0)), mode="reflect"
            )
            image = image[4 + dy : 36 + dy, 4 + dx : 36 + dx]
            image = image[:, ::-1] if flip else image
            batch.append(((image - mean) / std).transpose(2, 0, 1))
        yield torch.from_numpy(np.stack(batch)), labels[index]


def end_with_parent(_worker: int = 0) -> None:
    """Ends this process once its parent has ended, even when that was killed: the system then
    closes its pipe. With a fork server the parent is the process that asked for this one, not the
    server."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
