import pytest
import torch
import torch.nn.functional as F

from cifarlib.augment import crop_and_flip, draw, draw_order
from cifarlib.data import channel_statistics, normalization, normalize


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (300, 3, 32, 32), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)


def one_by_one(images, index, draws, padding):
    """The same through torch's own padding, an image at a time."""
    out = []
    for i, (dy, dx, flip) in zip(index.tolist(), draws.tolist(), strict=True):
        padded = F.pad(images[i][None], (4, 4, 4, 4), mode=padding)[0]
        crop = padded[:, 4 + dy : 36 + dy, 4 + dx : 36 + dx]
        out.append(crop.flip(2) if flip else crop)
    return torch.stack(out)


@pytest.mark.parametrize("padding", ["reflect", "constant"])
@pytest.mark.parametrize("mode", ["channel", "length", "image-channel"])
def test_a_batch_equals_normalise_pad_crop_flip_one_by_one(images, mode, padding, device):
    index, draws = draw_order(0, 1, 300)[:200], draw(0, 1, 300)[:200]
    scale = normalization(images, mode, channel_statistics(images))
    on_device = [t.to(device) for t in (images, *scale, index, draws)]
    batch = crop_and_flip(*on_device, padding)
    torch.testing.assert_close(batch.cpu(), one_by_one(normalize(images, *scale), index, draws, padding))
    assert batch.is_contiguous(memory_format=torch.channels_last)
    plain = crop_and_flip(*on_device[:4], None, padding)
    torch.testing.assert_close(plain.cpu(), normalize(images, *scale)[index])


def test_every_shift_and_both_flips_occur_equally_often():
    draws = draw(0, 1, 81_000)
    for column, values in ((0, range(-4, 5)), (1, range(-4, 5)), (2, (0, 1))):
        counts = torch.stack([(draws[:, column] == v).sum() for v in values])
        assert counts.sum() == 81_000
        assert (counts.max() - counts.min()) / counts.float().mean() < 0.06


def test_draws_depend_on_seed_and_epoch_alone():
    assert torch.equal(draw(1, 2, 50), draw(1, 2, 50))
    assert torch.equal(draw_order(1, 2, 50), draw_order(1, 2, 50))
    for other in ((1, 3), (2, 2)):
        assert not torch.equal(draw(1, 2, 50), draw(*other, 50))
        assert not torch.equal(draw_order(1, 2, 50), draw_order(*other, 50))


def test_an_epoch_sees_every_image_once():
    assert sorted(draw_order(0, 1, 1000).tolist()) == list(range(1000))
