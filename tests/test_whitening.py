import pytest
import torch
import torch.nn.functional as F

from cifarlib.model import build_model
from cifarlib.params import load_params
from cifarlib.preprocess import channel_statistics, make_normalizer, normalize
from cifarlib.train import build
from cifarlib.whitening import eigenpatches, patch_covariance, whitening_filters


@pytest.fixture(scope="module")
def images(cifar10):
    raw = cifar10.train.images[:3000]
    return make_normalizer(raw, "channel", channel_statistics(raw)).apply(raw)


@pytest.fixture(scope="module")
def covariance(images):
    return patch_covariance(images.split(1000))


def patches_of(images, size=2):
    return F.unfold(images.double().contiguous(), size).transpose(0, 1).reshape(3 * size * size, -1)


@pytest.mark.parametrize("size", [2, 3])
def test_covariance_is_that_of_all_patches(images, size):
    ours = patch_covariance(images[:500].split(170), size)
    expected = torch.cov(patches_of(images[:500], size))
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eps", [1e-12, 5e-4, 1e-2])
def test_whitened_patches_have_covariance_l_over_l_plus_eps(images, covariance, eps):
    filters = whitening_filters(covariance, eps)[:12].double()
    responses = F.conv2d(images.double(), filters).transpose(0, 1).reshape(12, -1)
    values, _ = eigenpatches(covariance)
    expected = torch.diag(values / (values + eps))
    torch.testing.assert_close(torch.cov(responses), expected, rtol=0, atol=1e-3)
    assert torch.equal(-filters, whitening_filters(covariance, eps)[12:].double())


def test_eigenpatches_are_ordered_orthonormal_and_signed(covariance):
    values, vectors = eigenpatches(covariance)
    assert (values.diff() <= 0).all()
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(12, dtype=torch.float64))
    torch.testing.assert_close(vectors.T @ torch.diag(values) @ vectors, covariance)


def test_rounding_and_chunks_do_not_choose_a_sign(images, covariance):
    _, vectors = eigenpatches(covariance)
    rounded = covariance * (1 + 1e-9 * torch.randn(12, 12)).double()
    for other in (patch_covariance(images.split(170)), rounded):
        _, again = eigenpatches((other + other.T) / 2)
        torch.testing.assert_close(again, vectors, rtol=0, atol=1e-4)


@pytest.mark.parametrize("run", ["fast-length", "fast-no-dirac"])
def test_a_run_begins_with_the_filters_of_all_its_normalised_images(cifar10, run):
    p = load_params(run, seed=3, whitening_eps=1e-3)
    split = cifar10.train.head(1500)
    statistics = channel_statistics(split.images)
    normalised = normalize(split.images, p.normalization, statistics)
    filters = whitening_filters(torch.cov(patches_of(normalised)), 1e-3)
    expected = build_model(3, filters, dirac=run != "fast-no-dirac").state_dict()
    ours = build(p, split, statistics, torch.device("cpu"), "float32").model.state_dict()
    torch.testing.assert_close(dict(ours), dict(expected), rtol=1e-4, atol=1e-4)
