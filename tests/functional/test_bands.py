"""Removal of whole bands: by hand, refusals, and independence of chunks."""

import pytest
import torch

from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Constant, DatasetMean, ImageMean, LinearImputation
from verisal.functional.removal import band_removal, curve_area
from verisal.saliency import RISE, Gradient, InputXGradient, IntegratedGradients, Occlusion

WEIGHTS = torch.tensor([1.0, -2.0, 4.0])


def linear(images):
    """Logits: the weighted sum of the bands' means, and 0."""
    total = images.mean(dim=(2, 3)) @ WEIGHTS
    return torch.stack([total, torch.zeros_like(total)], dim=1)


def scored(images, attribution, **settings):
    query = torch.zeros(len(images), dtype=torch.int64)
    settings = {"baseline": Constant(), "score": "logit", **settings}
    return band_removal(linear, images, attribution, query, **settings)


def test_values_by_hand():
    images = torch.ones(1, 3, 2, 2)
    attribution = torch.tensor([1.0, -3.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    found = scored(images, attribution)
    assert found.evidence.tolist() == [[0.25, 0.75, 0.0]]
    assert found.order.tolist() == [[1, 0, 2]]
    assert found.fractions.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    # All three, without the second, without the second and the first, without any.
    assert found.scores.tolist() == [[3, 5, 4, 0]]
    assert found.falls.tolist() == [[1, -2, 4]]
    assert found.fall_scores.tolist() == [[3, -1, -2, 0]]
    assert curve_area(found.fractions, found.scores).item() == pytest.approx((1.5 + 5 + 4) / 3)


def test_random_orders_depend_on_seed_and_content_alone_and_their_mean_is_that_of_all():
    images = torch.rand(3, 3, 4, 4)
    whole = scored(images, images, seed=3)
    assert scored(images[1:2], images[1:2], seed=3).random_scores.equal(whole.random_scores[1:2])
    assert not scored(images, images, seed=4).random_scores.equal(whole.random_scores)
    many = scored(images, images, random_orders=2000).random_scores
    # Of a sum, a share of the bands taken away at random takes that share of the sum.
    expected = linear(images)[:, :1] * (1 - torch.arange(4) / 3)
    torch.testing.assert_close(many, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("chunk_size", [1, 5, 100])
def test_chunks_change_nothing(chunk_size):
    images = torch.rand(3, 3, 4, 5)
    found, whole = (scored(images, images, chunk_size=size) for size in (chunk_size, 32))
    for name, values in vars(whole).items():
        torch.testing.assert_close(vars(found)[name], values)


def test_what_says_nothing_about_bands_is_undefined_and_costs_no_pass():
    images, seen = torch.ones(3, 3, 2, 2), []
    attribution = torch.ones(3, 3, 2, 2)
    attribution[1, 0] = 2
    attribution[2, 0, 0, 0] = torch.nan

    def watching(batch):
        seen.append(len(batch))
        return linear(batch)

    query = torch.zeros(3, dtype=torch.int64)
    found = band_removal(watching, images, attribution, query, baseline=Constant(), random_orders=1)
    for values in (found.evidence, found.scores, found.random_scores, found.falls, found.fall_scores):
        assert values.isnan().all(dim=1).tolist() == [True, False, True]
    # Four points, three bands alone, and the second step of the two other orders.
    assert sum(seen) == 4 + 3 + 2
    assert (
        band_removal(watching, images[:1], attribution[:1], query[:1], baseline=Constant())
        .scores.isnan()
        .all()
    )


def test_a_band_s_own_mean_leaves_its_level():
    images = torch.rand(2, 3, 4, 4)
    kept = scored(images, images, baseline=ImageMean()).scores
    torch.testing.assert_close(kept, linear(images)[:, :1].expand(-1, 4), rtol=0, atol=1e-5)
    gone = scored(images, images, baseline=DatasetMean(mean=(0.0, 0.0, 0.0))).scores
    assert gone[:, -1].tolist() == [0, 0]


def test_two_bands_have_no_second_step():
    images = torch.tensor([0.5, 1.0]).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    query = torch.tensor([0])
    found = band_removal(
        lambda batch: batch.mean(dim=(2, 3)), images, images, query, baseline=Constant(), score="logit"
    )
    assert found.scores.tolist() == [[0.5, 0.5, 0]]
    assert found.fall_scores.tolist() == [[0.5, 0, 0]]


@pytest.mark.parametrize(
    "method",
    [
        Gradient(),
        InputXGradient(),
        IntegratedGradients(steps=4),
        Occlusion(window=4, stride=4, baseline=Constant(), per_channel=True),
        RISE(cells=2, masks=30, baseline=Constant(), per_channel=True),
    ],
    ids=lambda method: type(method).__name__,
)
def test_the_band_that_carries_the_class_is_found(method):
    """Of seven bands one decides, by a bright patch; all others are noise that the network reads a little."""
    images = torch.rand(2, 7, 8, 8) / 2
    images[:, 5, :4, :4] = 1
    weights = torch.full((7,), 0.1)
    weights[5] = 20

    def classify(batch):
        total = batch[..., :4, :4].mean(dim=(2, 3)) @ weights - 6
        return torch.stack([total, torch.zeros_like(total)], dim=1)

    query = torch.tensor([0, 0])
    attribution = method(classify, images, query).attribution
    found = band_removal(classify, images, attribution, query, baseline=Constant())
    assert found.order[:, 0].tolist() == found.falls.argmax(dim=1).tolist() == [5, 5]
    assert found.evidence[:, 5].gt(0.5).all()
    # The whole score goes with the first band, and on the way of a random order in the middle.
    assert found.scores[:, 0].gt(0.99).all()
    assert found.scores[:, 1:].lt(0.01).all()
    areas = [curve_area(found.fractions, line) for line in (found.scores, found.random_scores)]
    assert (areas[0] < areas[1]).all()


def test_refusals():
    images = torch.rand(2, 3, 4, 4)
    with pytest.raises(ConfigError, match="a whole band is replaced, and linear is made from the pixels"):
        scored(images, images, baseline=LinearImputation())
    with pytest.raises(DataError, match=r"every band of the images, \(2, 3, 4, 4\), found \(2, 1, 4, 4\)"):
        scored(images, images[:, :1])
    with pytest.raises(DataError, match="found images of one channel"):
        scored(images[:, :1], images[:, :1])
    with pytest.raises(ConfigError, match="found 'odds'"):
        scored(images, images, score="odds")
    with pytest.raises(ConfigError, match="random_orders"):
        scored(images, images, random_orders=0)
