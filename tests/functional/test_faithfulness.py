import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from verisal.errors import ConfigError, DataError
from verisal.functional.comparison import sensitivity_max, uniform_noises
from verisal.functional.removal import (
    dabkowski_gal,
    gaussian_noises,
    infidelity,
    responses,
    saliency_fidelity,
    square_responses,
)
from verisal.functional.removal.faithfulness import crop_to_boxes, threshold_boxes, tuned_threshold
from verisal.functional.removal.infidelity import Responses, squares_of
from verisal.types import SaliencyResult

QUERY = torch.tensor([0, 1])


def images_of(count=2, size=(6, 4)):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(4))


def red_sum(images):
    """Logits: the sum of the red channel, and 0; so p_0 = sigmoid(sum)."""
    total = images[:, 0].sum(dim=(1, 2))
    return torch.stack([total, torch.zeros_like(total)], dim=1)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


# Saliency fidelity


def test_fidelity_worked_by_hand():
    image = torch.zeros(1, 3, 2, 2)
    image[0, 0] = torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    maps = torch.tensor([[[[1.0, 0.0], [0.0, 0.6]]]])
    # E * x sums to 1.6, the mean of E is 0.4 and 0.4 * 2.5 = 1.
    expected = -math.log(sigmoid(1.6) / sigmoid(1.0))
    found = saliency_fidelity(red_sum, image, maps=maps, query_class=torch.tensor([0]))
    assert found.values.tolist() == pytest.approx([expected])
    assert found.floored.tolist() == [False]
    expected = -math.log(sigmoid(-1.6) / sigmoid(-1.0))
    found = saliency_fidelity(red_sum, image, maps=maps, query_class=torch.tensor([1]))
    assert found.values.tolist() == pytest.approx([expected])


def test_fidelity_floors_probabilities_and_counts_them():
    image = torch.ones(1, 3, 2, 2)
    maps = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])

    def steep(images):
        return 100 * red_sum(images)

    # p_1 is e^-100 on the map and e^-100 on the constant map as well: both are floored.
    found = saliency_fidelity(steep, image, maps=maps, query_class=torch.tensor([1]))
    assert found.values.tolist() == [0.0]
    assert found.floored.tolist() == [True]


def test_fidelity_prefers_the_evidence():
    image = torch.ones(2, 3, 4, 4)
    image[:, 0, :, 2:] = 0
    maps = torch.zeros(2, 1, 4, 4)
    maps[0, 0, :, :2] = 1
    maps[1, 0, :, 2:] = 1
    found = saliency_fidelity(red_sum, image, maps=maps, query_class=torch.tensor([0, 0])).values
    assert found[0] < 0 < found[1]


def test_fidelity_of_maps_that_are_not_scaled_is_refused():
    with pytest.raises(DataError, match="post-process them first"):
        saliency_fidelity(red_sum, images_of(), maps=3 * torch.rand(2, 1, 6, 4), query_class=QUERY)


# Dabkowski and Gal


def test_threshold_box_is_tight_half_open_and_right_on_non_square_maps():
    maps = torch.zeros(3, 1, 5, 9)
    maps[0, 0, 1, 2:5] = 0.5
    maps[0, 0, 3, 7] = 1.0
    maps[1, 0, 4, 8] = 2.0
    maps[1, 0, 0, 0] = 0.9
    maps[2] = 1e-9
    assert threshold_boxes(maps, 0.5).tolist() == [[2, 1, 8, 4], [8, 4, 9, 5], [0, 0, 9, 5]]
    assert threshold_boxes(maps, 0.4).tolist()[1] == [0, 0, 9, 5]


def test_crop_equals_cutting_and_resizing_one_by_one():
    images = images_of(4, (7, 10))
    boxes = torch.tensor([[0, 0, 10, 7], [3, 1, 4, 2], [2, 3, 9, 5], [0, 6, 10, 7]])
    found = crop_to_boxes(images, boxes)
    for image, box, crop in zip(images, boxes.tolist(), found, strict=True):
        cut = image[None, :, box[1] : box[3], box[0] : box[2]]
        expected = F.interpolate(cut, size=(7, 10), mode="bilinear", align_corners=False)[0]
        assert torch.allclose(crop, expected, atol=1e-5)


def test_dabkowski_gal_worked_by_hand():
    image = torch.zeros(1, 3, 2, 4)
    image[0, 0, :, 2:] = 0.5
    maps = torch.zeros(1, 1, 2, 4)
    maps[0, 0, :, 2:] = torch.tensor([[1.0, 0.8], [0.7, 0.2]])
    settings = {"maps": maps, "query_class": torch.tensor([0])}
    # The crop holds the right half, half of the image, resized to 8 px of red 0.5.
    found = dabkowski_gal(red_sum, image, threshold=0.5, **settings)
    assert found.tolist() == pytest.approx([math.log(0.5) - math.log(sigmoid(4.0))])
    # One of 8 px is 12.5 % of the image, above the smallest area.
    found = dabkowski_gal(red_sum, image, threshold=0.9, **settings)
    assert found.tolist() == pytest.approx([math.log(1 / 8) - math.log(sigmoid(4.0))])


def test_area_below_five_percent_is_not_rewarded():
    image, maps = torch.zeros(1, 3, 10, 10), torch.zeros(1, 1, 10, 10)
    maps[0, 0, 5, 5] = 1.0
    found = dabkowski_gal(red_sum, image, maps=maps, query_class=torch.tensor([0]), threshold=0.5)
    assert found.tolist() == pytest.approx([math.log(0.05) - math.log(0.5)])


def test_empty_crop_is_undefined_unless_its_probability_is_given():
    image, maps = images_of(), torch.zeros(2, 1, 6, 4)
    maps[1] = 0.3
    settings = {"maps": maps, "query_class": QUERY, "threshold": 0.5}
    assert dabkowski_gal(red_sum, image, **settings).isnan().all()
    found = dabkowski_gal(red_sum, image, **settings, empty_probability=0.001)
    assert found[0].item() == pytest.approx(math.log(0.05) - math.log(0.001))
    assert found[1].isnan()  # constant, but not empty
    with pytest.raises(ConfigError, match="empty_probability"):
        dabkowski_gal(red_sum, image, **settings, empty_probability=0.0)


def test_threshold_is_tuned_where_the_crop_is_smallest_and_still_the_class():
    images, maps = torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    images[:, 0, 2:6, 2:6] = 1.0
    maps[:, 0, 2:6, 2:6] = 1.0
    maps[:, 0, 0, 0] = 0.4
    settings = {"maps": maps, "query_class": torch.tensor([0, 0])}
    assert tuned_threshold(red_sum, images, **settings, thresholds=(0.1, 0.3, 0.5, 0.9)) == 0.5
    with pytest.raises(ConfigError, match="at least one candidate"):
        tuned_threshold(red_sum, images, **settings, thresholds=())
    with pytest.raises(DataError, match="no map is defined"):
        tuned_threshold(red_sum, images, maps=0 * maps, query_class=torch.tensor([0, 0]))
    for threshold in (0.0, 1.1):
        with pytest.raises(ConfigError, match="share of the maximum"):
            threshold_boxes(maps, threshold)


# Infidelity


def test_infidelity_worked_by_hand_in_both_normalisations():
    found = Responses(
        foretold=torch.tensor([[1.0, 2.0]], dtype=torch.float64),
        observed=torch.tensor([[3.0, 2.0]], dtype=torch.float64),
    )
    assert infidelity(found, normalised=False).tolist() == [2.0]
    # beta = (3 + 4) / (1 + 4) = 1.4: errors 1.6 and -0.8.
    assert infidelity(found, normalised=True).tolist() == pytest.approx([(1.6**2 + 0.8**2) / 2])


def test_infidelity_normalised_does_not_depend_on_the_scale():
    images, attribution = images_of(), images_of() - 0.5
    values = []
    for scale in (1.0, 1e3, -1e-4):
        found = square_responses(
            red_sum, images, attribution=scale * attribution, query_class=QUERY, samples=None
        )
        values.append(infidelity(found, normalised=True))
    assert torch.allclose(values[0], values[1], rtol=1e-5)
    assert torch.allclose(values[0], values[2], rtol=1e-5)


def test_gradient_of_a_linear_model_is_perfectly_faithful():
    images = images_of()
    gradient = torch.zeros_like(images)
    gradient[0, 0] = 1.0  # of logit 0; logit 1 is constant
    for found in (
        square_responses(red_sum, images, attribution=gradient, query_class=QUERY, samples=None),
        responses(
            red_sum,
            images,
            attribution=gradient,
            query_class=QUERY,
            perturbations=gaussian_noises(images, deviation=0.2, samples=4),
        ),
    ):
        assert infidelity(found, normalised=False).tolist() == pytest.approx([0.0, 0.0], abs=1e-9)
        # The second attribution foretells nothing: its scale cannot be found.
        assert infidelity(found, normalised=True)[1].isnan()


def test_all_squares_of_a_small_image():
    assert squares_of(2, 2).tolist() == [[0, 0, 1, 1], [1, 0, 2, 1], [0, 1, 1, 2], [1, 1, 2, 2], [0, 0, 2, 2]]
    assert len(squares_of(32, 32)) == sum((33 - side) ** 2 for side in range(1, 11))
    assert int((squares_of(3, 20)[:, 3]).max()) == 3


@pytest.mark.parametrize("channels", [1, 3])
def test_squares_turn_black_in_all_channels(channels):
    images, attribution = images_of(), images_of()[:, :channels] - 0.5
    fast = square_responses(
        red_sum, images, attribution=attribution, query_class=QUERY, samples=None, chunk_size=7
    )
    squares = []
    for x0, y0, x1, y1 in squares_of(6, 4).tolist():
        perturbation = torch.zeros_like(images)
        perturbation[:, :, y0:y1, x0:x1] = images[:, :, y0:y1, x0:x1]
        squares.append(perturbation)
    slow = responses(red_sum, images, attribution=attribution, query_class=QUERY, perturbations=squares)
    assert torch.allclose(fast.foretold, slow.foretold, atol=1e-9)
    assert torch.allclose(fast.observed, slow.observed, atol=1e-5)


def test_drawn_squares_are_squares_and_depend_on_content_only():
    images, attribution = images_of(), torch.ones(2, 1, 6, 4)
    settings = {"samples": 40, "seed": 3}
    both = square_responses(red_sum, images, attribution=attribution, query_class=QUERY, **settings)
    every = square_responses(red_sum, images, attribution=attribution, query_class=QUERY, samples=None)
    for drawn, known in zip(both.foretold.tolist(), every.foretold.tolist(), strict=True):
        assert all(min(abs(value - other) for other in known) < 1e-9 for value in drawn)
    second = square_responses(
        red_sum, images[1:], attribution=attribution[1:], query_class=QUERY[1:], **settings
    )
    assert torch.equal(second.foretold[0], both.foretold[1])
    other = square_responses(red_sum, images, attribution=attribution, query_class=QUERY, samples=40, seed=4)
    assert not torch.equal(other.foretold, both.foretold)


def test_settings_of_infidelity_that_cannot_work_are_refused():
    images, attribution = images_of(), images_of()
    settings = {"attribution": attribution, "query_class": QUERY}
    with pytest.raises(ConfigError, match="samples must be at least 1, found 0"):
        square_responses(red_sum, images, **settings, samples=0)
    with pytest.raises(ConfigError, match="chunk_size"):
        square_responses(red_sum, images, **settings, samples=1, chunk_size=0)
    with pytest.raises(ConfigError, match="deviation must be positive"):
        gaussian_noises(images, deviation=0.0, samples=1)
    with pytest.raises(DataError, match="attribution must be"):
        square_responses(red_sum, images, attribution=attribution[..., :3], query_class=QUERY, samples=1)
    with pytest.raises(DataError, match="at least one"):
        responses(red_sum, images, **settings, perturbations=[])
    with pytest.raises(ConfigError, match="query"):
        square_responses(red_sum, images, attribution=attribution, query_class=QUERY + 1, samples=1)


# Sensitivity


def explain_red(images, query_class):
    """A map that is the red channel, and twice that for query 1."""
    saliency = images[:, :1] * (query_class + 1).view(-1, 1, 1, 1)
    return SaliencyResult(saliency=saliency, raw=saliency)


def test_sensitivity_worked_by_hand_divides_once_after_the_maximum():
    images = torch.full((2, 3, 1, 2), 0.5)
    images[:, 0, 0, 1] = 0.25
    noises = [torch.zeros(2, 3, 1, 2), torch.zeros(2, 3, 1, 2)]
    noises[0][0, 0, 0] = torch.tensor([0.3, 0.4])  # norm 0.5
    noises[1][0, 0, 0] = torch.tensor([0.3, 0.0])
    noises[1][1, 0, 0] = torch.tensor([0.9, 0.0])  # clamped to 0.5
    found = sensitivity_max(
        explain_red,
        images,
        query_class=QUERY,
        attribution=explain_red(images, QUERY).saliency,
        noises=noises,
    )
    assert found.tolist() == pytest.approx([0.5 / math.sqrt(0.3125), 0.5 / math.sqrt(0.3125)])


@pytest.mark.parametrize(
    ("chunk_size", "asked"), [(1, [2] * 5), (2, [2] * 5), (5, [4, 4, 2]), (6, [6, 4]), (100, [10])]
)
def test_sensitivity_does_not_depend_on_how_copies_are_grouped(chunk_size, asked):
    images, found = images_of(), []

    def explain(images, query_class):
        found.append(len(images))
        return explain_red(images, query_class)

    def value(**settings):
        return sensitivity_max(
            explain,
            images,
            query_class=QUERY,
            attribution=explain_red(images, QUERY).saliency.requires_grad_(),
            noises=uniform_noises(images, radius=0.02, samples=5, seed=1),
            **settings,
        )

    grouped = value(chunk_size=chunk_size)
    assert found == asked
    assert not grouped.requires_grad
    assert torch.allclose(grouped, value())


def test_sensitivity_of_no_image_and_of_one_sample():
    images = images_of(1)
    for part in (images, images[:0]):
        maps = explain_red(part, QUERY[: len(part)]).saliency
        found = sensitivity_max(
            explain_red,
            part,
            query_class=QUERY[: len(part)],
            attribution=maps,
            noises=uniform_noises(part, radius=1.5, samples=1),
        )
        assert found.shape == (len(part),)
        assert (found > 0).all()


def test_sensitivity_is_undefined_where_a_map_is_constant_or_a_change_has_no_end():
    images = images_of(3)

    def explain(images, query_class):
        saliency = explain_red(images, query_class).saliency.clone()
        saliency[1] = math.inf
        return SaliencyResult(saliency=saliency, raw=saliency)

    query = torch.zeros(3, dtype=torch.int64)
    maps = explain_red(images, query).saliency.clone()
    maps[2] = 0.5
    found = sensitivity_max(explain, images, query_class=query, attribution=maps, noises=[images * 0.1])
    assert found.isnan().tolist() == [False, True, True]


def test_noise_stays_in_the_ball_and_depends_on_content_only():
    images = images_of(3)
    drawn = list(uniform_noises(images, radius=0.02, samples=3, seed=0))
    assert 0.019 < max(float(noise.abs().max()) for noise in drawn) <= 0.02
    assert not torch.equal(drawn[0], drawn[1])
    alone = list(uniform_noises(images[2:], radius=0.02, samples=3, seed=0))
    assert torch.equal(alone[1][0], drawn[1][2])


def test_map_that_becomes_not_finite_is_undefined():
    images = images_of()

    def explain(images, query_class):
        saliency = explain_red(images, query_class).saliency.clone()
        saliency[1::2, 0, 0, 0] = math.nan
        return SaliencyResult(saliency=saliency, raw=saliency)

    found = sensitivity_max(
        explain,
        images,
        query_class=QUERY,
        attribution=explain_red(images, QUERY).saliency,
        noises=uniform_noises(images, radius=0.02, samples=2),
    )
    assert found.isnan().tolist() == [False, True]


def test_settings_of_sensitivity_that_cannot_work_are_refused():
    images = images_of()
    maps = explain_red(images, QUERY).saliency
    with pytest.raises(DataError, match="at least one noise"):
        sensitivity_max(explain_red, images, query_class=QUERY, attribution=maps, noises=[])
    with pytest.raises(DataError, match="one method"):
        sensitivity_max(
            explain_red,
            images,
            query_class=QUERY,
            attribution=maps[..., 1:],
            noises=[torch.zeros_like(images)],
        )
    with pytest.raises(ConfigError, match="radius must be positive"):
        uniform_noises(images, radius=0.0, samples=1)
    with pytest.raises(ConfigError, match="samples must be at least 1"):
        uniform_noises(images, radius=0.1, samples=0)
    with pytest.raises(ConfigError, match="chunk_size must be at least 1"):
        sensitivity_max(
            explain_red, images, query_class=QUERY, attribution=maps, noises=[images], chunk_size=0
        )


# The classifier is left as it was


class Draws(nn.Module):
    """A network in training mode that draws random numbers and counts what it is asked."""

    def __init__(self):
        super().__init__()
        self.drop, self.scale, self.largest = nn.Dropout(0.5), nn.Parameter(torch.ones(())), 0

    def forward(self, images):
        torch.rand(2)
        self.largest = max(self.largest, len(images))
        return red_sum(self.drop(images) * self.scale)


def test_classifier_in_training_mode_is_asked_in_eval_mode_and_left_as_it_was():
    network, images, maps = Draws().train(), images_of(), torch.rand(2, 1, 6, 4)
    before = torch.get_rng_state()
    found = [
        square_responses(network, images, attribution=maps, query_class=QUERY, samples=9, chunk_size=3),
        saliency_fidelity(network, images, maps=maps, query_class=QUERY, chunk_size=3),
    ]
    expected = [
        square_responses(red_sum, images, attribution=maps, query_class=QUERY, samples=9),
        saliency_fidelity(red_sum, images, maps=maps, query_class=QUERY),
    ]
    assert torch.allclose(found[0].observed, expected[0].observed, atol=1e-6)
    assert torch.allclose(found[1].values, expected[1].values, atol=1e-6)
    assert torch.get_rng_state().equal(before)
    assert network.training
    assert network.drop.training
    assert network.scale.requires_grad
    assert network.scale.grad is None
    assert network.largest == 3
