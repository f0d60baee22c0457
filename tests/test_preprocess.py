import pytest
import torch
import torch.nn.functional as F

from cifarlib.preprocess import (
    channel_statistics,
    crop_and_flip,
    draw_crops,
    draw_order,
    make_normalizer,
)


@pytest.fixture(scope="module")
def images():
    values = torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8)
    return values.contiguous(memory_format=torch.channels_last)


def one_by_one(images, index, draws, padding, cutout):
    """The same through torch's own padding, an image at a time."""
    out = []
    for i, (dy, dx, flip, *corner) in zip(index.tolist(), draws.tolist(), strict=True):
        padded = F.pad(images[i][None], (4, 4, 4, 4), mode=padding)[0]
        crop = padded[:, 4 + dy : 36 + dy, 4 + dx : 36 + dx]
        crop = (crop.flip(2) if flip else crop).clone()
        if cutout:
            row, column = corner
            crop[:, row : row + cutout, column : column + cutout] = 0
            assert (crop[0] == 0).sum() >= cutout**2  # the square lies within the image
        out.append(crop)
    return torch.stack(out)


@pytest.mark.parametrize(("padding", "cutout"), [("reflect", 0), ("constant", 0), ("reflect", 9)])
@pytest.mark.parametrize("mode", ["channel", "length", "image-channel"])
def test_a_batch_equals_normalise_pad_crop_flip_one_by_one(images, mode, padding, cutout, device):
    index, crops = draw_order(0, 1, 300)[:200], draw_crops(0, 1, 300, cutout=cutout)[:200]
    statistics = channel_statistics(images)
    normalizer = make_normalizer(images, mode, statistics)
    moved = images.to(device)
    on_device = moved, make_normalizer(moved, mode, statistics), index.to(device)
    batch = crop_and_flip(*on_device, crops.to(device), padding, cutout=cutout)
    expected = one_by_one(normalizer.apply(images), index, crops, padding, cutout)
    torch.testing.assert_close(batch.cpu(), expected)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    plain = crop_and_flip(*on_device, torch.zeros_like(crops[:, :3]).to(device), padding)
    torch.testing.assert_close(plain.cpu(), normalizer.apply(images)[index])


def test_every_shift_and_both_flips_occur_equally_often():
    draws = draw_crops(0, 1, 81_000)
    for column, values in ((0, range(-4, 5)), (1, range(-4, 5)), (2, (0, 1))):
        counts = torch.stack([(draws[:, column] == v).sum() for v in values])
        assert counts.sum() == 81_000
        assert (counts.max() - counts.min()) / counts.float().mean() < 0.06


def test_a_cutout_changes_neither_crops_nor_flips_and_lies_anywhere():
    draws = draw_crops(0, 1, 5000, cutout=12)
    assert torch.equal(draws[:, :3], draw_crops(0, 1, 5000))
    for corner in draws[:, 3:].unbind(1):
        assert sorted(set(corner.tolist())) == list(range(21))


@pytest.mark.parametrize(
    ("mode", "dims"), [("channel", (0, 2, 3)), ("length", (1, 2, 3)), ("image-channel", (2, 3))]
)
def test_normalised_images_have_mean_0_and_deviation_1(cifar10, mode, dims, device):
    images = cifar10.train.images[:500].to(device)
    x = make_normalizer(images, mode, channel_statistics(images.cpu())).apply(images)
    assert x.dtype == torch.float32
    assert x.is_contiguous(memory_format=torch.channels_last)
    std, mean = torch.std_mean(x.double(), dim=dims, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-4)
    torch.testing.assert_close(std, torch.ones_like(std), rtol=0, atol=1e-4)


def test_an_image_of_one_colour_becomes_zero():
    white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    for mode in ("length", "image-channel"):
        normalizer = make_normalizer(white, mode, (torch.zeros(3), torch.ones(3)))
        assert (normalizer.apply(white) == 0).all()
