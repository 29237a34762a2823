from math import log

import pytest
import torch
from torch import nn

from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Constant, DatasetMean, GaussianNoise, LinearImputation, neutrality
from verisal.functional.baselines.neutrality import random_cell_masks

IMAGES = torch.rand(5, 3, 14, 21, generator=torch.Generator().manual_seed(0))
QUERY = torch.tensor([0, 1, 1, 0, 2])


class RedMeter(nn.Module):
    """Logits of three classes: 4 times the mean red, and twice 0."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, images):
        red = 4 * self.drop(images[:, 0].mean(dim=(1, 2)))
        return torch.stack([red, torch.zeros_like(red), torch.zeros_like(red)], dim=1)


def probability(red, query):
    """By hand: softmax of (4 red, 0, 0)."""
    values = torch.stack([4 * red, 0 * red, 0 * red], dim=1).softmax(dim=1)
    return values[torch.arange(len(red)), query]


def test_black_is_worth_one_in_k_where_the_logits_vanish():
    found = neutrality(RedMeter().eval(), IMAGES, Constant(), QUERY)
    assert found.baseline == "black"
    assert found.num_classes == 3
    torch.testing.assert_close(found.query_probability, torch.full((5,), 1 / 3))
    torch.testing.assert_close(found.max_probability, torch.full((5,), 1 / 3))
    torch.testing.assert_close(found.entropy, torch.ones(5))
    assert found.neutral is True


def test_white_is_worth_what_the_formulas_say():
    found = neutrality(RedMeter().eval(), IMAGES, Constant(level=1.0), QUERY)
    top = probability(torch.ones(1), torch.tensor([0])).item()
    rest = (1 - top) / 2
    expected = torch.where(QUERY == 0, top, rest)
    torch.testing.assert_close(found.query_probability, expected)
    torch.testing.assert_close(found.max_probability, torch.full((5,), top))
    entropy = -(top * log(top) + 2 * rest * log(rest)) / log(3)
    torch.testing.assert_close(found.entropy, torch.full((5,), entropy))
    assert found.neutral is (2 * top + 3 * rest <= 5 / 3)


def test_change_is_that_of_the_query_probability_under_random_cells():
    found = neutrality(RedMeter().eval(), IMAGES, Constant(), QUERY, area=0.3, seed=4)
    masks = random_cell_masks(IMAGES, area=0.3, seed=4)
    red = [values[:, 0].mean(dim=(1, 2)) for values in (IMAGES, IMAGES * masks)]
    expected = (probability(red[1], QUERY) - probability(red[0], QUERY)).abs()
    torch.testing.assert_close(found.change, expected)
    assert float(expected.min()) > 1e-3


def test_baseline_that_depends_on_a_mask_has_only_the_change():
    found = neutrality(RedMeter().eval(), IMAGES, LinearImputation(), QUERY)
    assert found.query_probability is found.max_probability is found.entropy is found.neutral is None
    assert found.change.shape == (5,)
    assert float(found.change.max()) > 1e-4


@pytest.mark.parametrize(("classes", "limit"), [(4, 0.25), (100, 0.01), (1000, 0.01)])
def test_limit_scales_for_few_classes(classes, limit):
    def flat(images):
        return torch.zeros(len(images), classes)

    found = neutrality(flat, IMAGES, Constant(), torch.zeros(5, dtype=torch.int64))
    assert found.limit == limit
    assert found.neutral


def test_confident_baseline_is_not_neutral():
    def sure(images):
        return torch.tensor([[5.0, 0.0]]).expand(len(images), 2)

    assert neutrality(sure, IMAGES, Constant(), torch.zeros(5, dtype=torch.int64)).neutral is False


def test_chunks_batch_mates_and_modes_change_nothing():
    classifier = RedMeter()  # in train mode, with dropout
    baseline = GaussianNoise(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    whole, before = neutrality(classifier, IMAGES, baseline, QUERY), torch.get_rng_state()
    assert classifier.training
    assert classifier.drop.training
    small = neutrality(classifier, IMAGES, baseline, QUERY, chunk_size=2)
    alone = neutrality(classifier, IMAGES[3:4], baseline, QUERY[3:4])
    assert torch.get_rng_state().equal(before)
    for name in ("query_probability", "max_probability", "entropy", "change"):
        torch.testing.assert_close(getattr(small, name), getattr(whole, name))
        torch.testing.assert_close(getattr(alone, name), getattr(whole, name)[3:4])


def test_bad_input_is_named():
    classifier = RedMeter()
    with pytest.raises(ConfigError, match=r"0\.\.2 \(K = 3\), found 0\.\.7"):
        neutrality(classifier, IMAGES, Constant(), QUERY.clamp_min(0).index_fill(0, torch.tensor([1]), 7))
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        neutrality(classifier, IMAGES * 255, Constant(), QUERY)
    with pytest.raises(ConfigError, match="area must be from 0 to 1, found"):
        neutrality(classifier, IMAGES, Constant(), QUERY, area=1.5)
    with pytest.raises(ConfigError, match="chunk_size must be at least 1, found 0"):
        neutrality(classifier, IMAGES, Constant(), QUERY, chunk_size=0)
    with pytest.raises(ConfigError, match="without a mean"):
        neutrality(classifier, IMAGES, DatasetMean(), QUERY)


@pytest.mark.parametrize("area", [0.0, 0.25, 0.5, 1.0])
def test_cells_are_squares_of_a_seventh_and_their_number_is_fixed(area):
    masks = random_cell_masks(IMAGES[..., :14], area=area)
    assert masks.shape == (5, 1, 14, 14)
    cells = masks.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    assert cells.amin(dim=4).equal(cells.amax(dim=4))
    removed = (1 - masks).mean(dim=(1, 2, 3))
    torch.testing.assert_close(removed, torch.full((5,), round(area * 49) / 49))


def test_wide_image_has_more_columns_of_cells():
    masks = random_cell_masks(IMAGES)  # 14 x 21 px: 7 rows of 2 px, 10 columns of 2 or 3 px
    assert masks.shape == (5, 1, 14, 21)
    assert masks[..., ::2, :].equal(masks[..., 1::2, :])
    starts = [-(-21 * column // 10) for column in range(10)]
    assert int((1 - masks[:, :, ::2][..., starts]).sum(dim=(1, 2, 3)).unique()) == 35


def test_cells_differ_between_images_and_seeds_only():
    masks = random_cell_masks(IMAGES)
    assert not masks[0].equal(masks[1])
    assert random_cell_masks(IMAGES[2:3]).equal(masks[2:3])
    assert not random_cell_masks(IMAGES, seed=1).equal(masks)
