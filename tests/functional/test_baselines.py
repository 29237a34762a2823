import pytest
import torch

from verisal.errors import ConfigError
from verisal.functional import Constant, DatasetMean, bound, compose, content_ids
from verisal.models import load_classifier

IMAGES = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))


def test_mask_of_one_keeps_and_zero_replaces():
    mask = torch.zeros(2, 1, 4, 5)
    mask[:, :, :2] = 1
    blended = compose(IMAGES, Constant(level=0.25)(IMAGES), mask)
    assert blended[:, :, :2].equal(IMAGES[:, :, :2])
    assert blended[:, :, 2:].eq(0.25).all()


@pytest.mark.parametrize(
    ("level", "name"), [(0.0, "black"), (0.5, "grey"), (1.0, "white"), (0.3, "level0.3")]
)
def test_constant_is_named_by_its_level(level, name):
    assert Constant(level=level).name == name
    assert Constant(level=level)(IMAGES).eq(level).all()


def test_constant_outside_the_pixel_range_is_refused():
    with pytest.raises(ConfigError, match=r"\[0, 1\], found 2"):
        Constant(level=2)


def test_dataset_mean_is_zero_once_normalised_and_not_black():
    classifier = load_classifier("emoji_scenes_64")
    baseline = bound(DatasetMean(), classifier)
    filled = baseline(IMAGES)
    assert ((filled - classifier.mean) / classifier.std).abs().max() == 0
    assert filled.min() > 0


def test_dataset_mean_needs_statistics_from_somewhere():
    with pytest.raises(ConfigError, match="function has none; give mean"):
        bound(DatasetMean(), lambda images: images)
    with pytest.raises(ConfigError, match="give mean"):
        DatasetMean()(IMAGES)
    assert bound(DatasetMean(mean=(0.1, 0.2, 0.3)), print)(IMAGES)[1, :, 3, 4].tolist() == pytest.approx(
        [0.1, 0.2, 0.3]
    )


def test_content_id_is_of_the_image_alone_and_survives_float_noise():
    alone = content_ids(IMAGES[1:])
    assert content_ids(IMAGES)[1:] == alone
    assert content_ids(IMAGES[1:] + 1e-7) == alone
    assert content_ids(IMAGES[:1]) != alone
