"""Patches on classifiers whose right answer is known: places, sides, levels, stops."""

import pytest
import torch
from torch import Tensor

from helpers.attack_cases import toy_problem
from verisal.attacks import FGSM, AdversarialPatch
from verisal.attacks.patch import slope_of_points, smooth
from verisal.errors import ConfigError
from verisal.functional.adversarial import judge_8bit, round_to_8bit
from verisal.models import Classifier


def brightness(images: Tensor) -> Tensor:
    """Class 1 where the mean is above 0.55."""
    height = images.flatten(1).mean(dim=1) - 0.55
    return 100 * torch.stack([-height, height], dim=1)


def grey(count: int = 1, *, height: int = 10, width: int = 20) -> Tensor:
    return torch.full((count, 3, height, width), 0.5)


def test_only_the_box_changes_and_the_mask_shows_it() -> None:
    model, images, labels = toy_problem(8)
    result = AdversarialPatch(0.2, steps=10)(model, images, labels)
    assert result.boxes.dtype == torch.int64
    for image, attacked, mask, box in zip(images, result.images, result.mask, result.boxes, strict=True):
        left, top, right, bottom = box.tolist()
        expected = torch.zeros_like(mask)
        expected[:, top:bottom, left:right] = True
        assert mask.equal(expected)
        assert (bottom - top, right - left) == (7, 5)  # 16 x 12 px times the root of 0.2
        assert image[:, ~mask[0]].equal(attacked[:, ~mask[0]])
        assert not image[:, mask[0]].equal(attacked[:, mask[0]])
    # Places are the images' own.
    assert len(set(map(tuple, result.boxes.tolist()))) > 1


def test_attacks_on_the_whole_image_say_so() -> None:
    model, images, labels = toy_problem(2)
    result = FGSM(0.01)(model, images, labels)
    assert result.boxes is None
    assert result.mask.shape == (2, 1, 16, 12)
    assert result.mask.all()


@pytest.mark.parametrize(
    ("down", "across", "corner"), [(0.0, 0.0, (0, 0)), (1.0, 1.0, (15, 7)), (0.5, 0.0, (0, 4))]
)
def test_given_places(down: float, across: float, corner: tuple[int, int]) -> None:
    result = AdversarialPatch(0.07, down=down, across=across)(brightness, grey(), 0)
    left, top, right, bottom = result.boxes[0].tolist()
    assert (left, top) == corner
    assert (right - left, bottom - top) == (5, 3)


def test_drawn_places_reach_every_corner_and_not_further() -> None:
    images = grey(400)
    ids = list(range(400))
    boxes = AdversarialPatch(0.5, steps=1)(brightness, images, 0, sample_ids=ids).boxes
    size = AdversarialPatch(0.5).size(10, 20)
    assert size == (7, 14)
    corners = {tuple(corner) for corner in boxes[:, :2].tolist()}
    assert corners == {(left, top) for left in range(7) for top in range(4)}


def test_size_is_at_least_a_pixel_and_at_most_the_image() -> None:
    assert AdversarialPatch(1e-6).size(32, 32) == (1, 1)
    assert AdversarialPatch(0.9999).size(32, 32) == (32, 32)
    assert AdversarialPatch(0.25).size(8, 64) == (4, 32)


def test_stops_at_the_first_patch_with_the_margin_and_keeps_it() -> None:
    # The mean is to rise by .05 + margin / 200; a patch of a quarter raises it by a quarter of its step.
    near = AdversarialPatch(0.25, step=0.1, confidence=0.0)(brightness, grey(height=8, width=8), 0)
    far = AdversarialPatch(0.25, step=0.1, confidence=10.0)(brightness, grey(height=8, width=8), 0)
    on = AdversarialPatch(0.25, step=0.1, confidence=None)(brightness, grey(height=8, width=8), 0)
    margins = [float(brightness(result.images) @ torch.tensor([-1.0, 1.0])) for result in (near, far, on)]
    assert [bool(result.success) for result in (near, far, on)] == [True] * 3
    assert 0 <= margins[0] < 5  # a step of 0.1 is worth 5
    assert 10 <= margins[1] < 15
    assert margins[2] == pytest.approx(15, abs=1e-3)  # white: 0.125 more in the mean, and 0.05 were needed
    assert int(near.n_bwd) < int(far.n_bwd) < int(on.n_bwd) == 100


def test_every_kept_patch_is_one_that_a_file_can_hold() -> None:
    model, images, labels = toy_problem(12)
    result = AdversarialPatch(0.15, steps=30, step=0.03)(model, images, labels)
    assert (round_to_8bit(result.images).float() / 255).sub(result.images).abs().max() < 1e-6
    verdict = judge_8bit(model, images, result.images, labels)
    assert verdict.success.equal(result.success)
    assert result.success.float().mean() > 0.5


def test_a_patch_for_many_places_works_at_more_of_them() -> None:
    model, images, labels = toy_problem(16)
    shares = []
    for places in (1, 6):
        attack = AdversarialPatch(0.3, steps=40, places=places, confidence=None)
        result = attack(model, images, labels)
        left, top, right, bottom = result.boxes.unbind(dim=1)
        rates = []
        for row in range(16):
            patch = result.images[row, :, top[row] : bottom[row], left[row] : right[row]]
            moved = images[row].repeat(32, 1, 1, 1)
            for place, image in enumerate(moved):
                down, across = place % 8, place // 8
                image[:, down : down + patch.shape[1], across : across + patch.shape[2]] = patch
            rates.append((model(moved).argmax(dim=1) != labels[row]).float().mean())
        shares.append(float(torch.stack(rates).mean()))
    assert shares[1] > shares[0] + 0.05


def test_adam_and_sign_both_climb_flat_losses() -> None:
    """Gradients far below 1e-8 still give steps."""

    def faint(images: Tensor) -> Tensor:
        return 1e-9 * brightness(images)

    for optimiser in ("sign", "adam"):
        attack = AdversarialPatch(0.25, optimiser=optimiser, loss="margin", confidence=0.0)
        assert attack(faint, grey(height=8, width=8), 0).success.all()


def test_a_patch_between_few_points_is_smooth_and_still_fools() -> None:
    model, images, labels = toy_problem(12)
    smooth, fine = (
        AdversarialPatch(0.5, steps=40, grain=grain, levels=None, confidence=None)(model, images, labels)
        for grain in (4, 1)
    )
    assert smooth.success.float().mean() > 0.5
    bends = []
    for result in (smooth, fine):
        left, top, right, bottom = result.boxes[0].tolist()
        rows = result.images[0, :, top:bottom, left:right]
        bends.append(float(rows.diff(n=2, dim=1).abs().mean()))
    # Between two points of a column colours lie on a line.
    assert bends[0] < bends[1] / 4


def test_slopes_of_points_are_those_that_differences_give() -> None:
    points = torch.rand(1, 1, 3, 3, dtype=torch.float64)
    weights = torch.rand(1, 1, 8, 9, dtype=torch.float64)
    found = slope_of_points(weights, points)
    for place in range(9):
        moved = points.flatten().clone()
        moved[place] += 1e-6
        rise = (weights * (smooth(moved.view_as(points), (8, 9)) - smooth(points, (8, 9)))).sum() / 1e-6
        assert float(found.flatten()[place]) == pytest.approx(float(rise), abs=1e-6)


def test_bounds_of_the_classifier_are_those_of_the_patch() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2, bias=False))
    with torch.no_grad():
        network[1].weight.copy_(torch.stack([-torch.ones(64), torch.ones(64)]))
    classifier = Classifier(network, normalization="none", bounds=(-1000, 1000), channels=1, image_size=8)
    # Its logits are far apart, where the cross-entropy is flat.
    attack = AdversarialPatch(0.25, loss="margin", confidence=None)
    result = attack(classifier, torch.full((1, 1, 8, 8), 0.499), 0)
    assert classifier.bounds.from_unit(result.images).max() == pytest.approx(1000)
    assert result.success.all()


def test_settings_out_of_range_are_refused() -> None:
    for share in (0.0, 1.0, -0.1, 5.0):
        with pytest.raises(ConfigError, match=r"AdversarialPatch\.share must be a share"):
            AdversarialPatch(share)
    for wrong in (
        {"steps": 0},
        {"places": 0},
        {"grain": 0},
        {"step": 0.0},
        {"step": 2.0},
        {"confidence": -1.0},
        {"down": 1.5},
        {"across": -0.5},
        {"levels": 1},
        {"optimiser": "lbfgs"},
        {"loss": "mse"},
    ):
        with pytest.raises(ConfigError, match=f"AdversarialPatch.{next(iter(wrong))}"):
            AdversarialPatch(**wrong)
