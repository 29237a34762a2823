"""DeepFool on linear classifiers, where the nearest border is known exactly."""

import math

import pytest
import torch
from torch import Tensor

from verisal.attacks import DeepFoolL2
from verisal.errors import ConfigError
from verisal.functional.adversarial import judge_8bit

SHAPE = (1, 3, 2, 2)
#: One direction per class; class 0 wins at mid grey with logit 1, and class ``k``'s border is ``1 / length``.
LENGTHS = torch.tensor([0.0, 4.0, 10.0, 5.0])


def fan(images: Tensor, shift: float = 0.0) -> Tensor:
    """Logits: 1 for class 0; for class k its own value, as steep as its length."""
    values = images.flatten(1)[:, :4] - 0.5
    return LENGTHS * values + torch.tensor([1.0, 0, 0, 0]) + shift


def grey(count: int = 1) -> Tensor:
    return torch.full((count, *SHAPE[1:]), 0.5)


def attack(which: DeepFoolL2, images: Tensor, label: int = 0, model=fan):
    labels = torch.full((len(images),), label)
    return which(model, images, labels, generator=torch.Generator().manual_seed(0))


def test_one_step_over_the_nearest_of_several_borders() -> None:
    result = attack(DeepFoolL2(), grey())
    # Class 2 is nearest, 1 / 10 away; 1e-4 beyond it, and 2 % longer.
    expected = grey()
    expected.view(-1)[2] += 1.02 * (0.1 + 1e-4)
    torch.testing.assert_close(result.images, expected)
    assert result.success.tolist() == [True]
    # Verdicts on the image and on the step, one graph, three rivals; and the base's verdict.
    assert (result.n_fwd.tolist(), result.n_bwd.tolist()) == ([4], [3])


def test_candidates_are_the_likeliest_classes_of_the_clean_image() -> None:
    images = grey()
    images.view(-1)[1] += 0.05  # class 1 is now second, and its border 0.2 away
    result = attack(DeepFoolL2(candidates=2), images)
    assert fan(result.images).argmax(dim=1).tolist() == [1]
    assert float(result.norms) == pytest.approx(1.02 * (0.2 + 1e-4), abs=1e-6)
    assert result.n_bwd.tolist() == [1]


def test_fewer_classes_than_candidates() -> None:
    few = attack(DeepFoolL2(candidates=10), grey())
    torch.testing.assert_close(few.images, attack(DeepFoolL2(candidates=4), grey()).images)
    two = attack(DeepFoolL2(candidates=10), grey(), model=lambda images: fan(images)[:, :2])
    assert float(two.norms) == pytest.approx(1.02 * (0.25 + 1e-4), abs=1e-6)


def test_more_classes_than_ten() -> None:
    """The nearest border belongs to class 11; all classes are asked when there are as many candidates."""

    def many(images: Tensor) -> Tensor:
        return 4 * (images.flatten(1) - 0.5) * torch.linspace(1, 2, 12) + torch.eye(12)[0]

    assert many(attack(DeepFoolL2(candidates=12), grey(), model=many).images).argmax(dim=1).tolist() == [11]


def test_all_images_of_a_batch_share_every_pass() -> None:
    sizes = []

    def counted(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return fan(images)

    attack(DeepFoolL2(), grey(7), model=counted)
    assert sizes == [7, 7, 7, 7]


def test_finished_samples_leave_the_batch() -> None:
    sizes = []

    def curved(images: Tensor) -> Tensor:
        sizes.append(len(images))
        values = images.flatten(1)[:, :2] - 0.5
        return torch.stack([1 - 0 * values[:, 0], 8 * values[:, 0] - 8 * values[:, 0] ** 2], dim=1)

    images = grey(3)
    images[0].view(-1)[0] = 0.66  # over the border from the start
    images[1].view(-1)[0] = 0.64  # nearly there
    result = attack(DeepFoolL2(), images, model=curved)
    assert result.success[:2].tolist() == [True, True]
    assert result.images[0].equal(images[0])
    assert (result.n_fwd[0], result.n_bwd[0]) == (2, 0)
    assert sizes == [3, 2, 2, 1, 1, 1, 1, 3]  # the last is the base's verdict
    assert result.n_bwd.tolist() == [0, 1, 3]


def test_more_overshoot_survives_rounding_more_often() -> None:
    images = (torch.rand(64, 3, 2, 2, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    labels = fan(images).argmax(dim=1)
    rates = []
    for overshoot in (0.0, 0.02, 0.1):
        result = DeepFoolL2(overshoot)(fan, images, labels, generator=torch.Generator())
        verdict = judge_8bit(fan, images, result.images, labels)
        rates.append(verdict.success_rate)
        assert verdict.success_rate_unrounded == 1.0
    assert rates[0] < rates[2]
    assert rates[1] <= rates[2]


def test_logits_may_all_be_negative() -> None:
    shifted = attack(DeepFoolL2(), grey(), model=lambda images: fan(images, shift=-50.0))
    torch.testing.assert_close(shifted.images, attack(DeepFoolL2(), grey()).images, rtol=0, atol=1e-5)


def test_targeted_goes_over_the_border_of_its_goal() -> None:
    result = attack(DeepFoolL2(targeted=True), grey(), label=3)
    assert float(result.norms) == pytest.approx(1.02 * (0.2 + 1e-4), abs=1e-6)
    assert result.success.tolist() == [True]


def test_targeted_looks_at_every_step_for_the_class_that_is_ahead() -> None:
    """At the border of class 0 and the goal, class 1 is ahead of both."""

    def three(images: Tensor) -> Tensor:
        values = images.flatten(1) - 0.5
        return torch.stack([1 - 4 * values[:, 0], 0.8 + 0 * values[:, 0], 4 * values[:, 1]], dim=1)

    result = attack(DeepFoolL2(targeted=True), grey(), label=2, model=three)
    assert result.success.tolist() == [True]
    # One step to the border of each; going on from the first alone takes many.
    assert result.n_bwd.tolist() == [2]


def test_without_a_slope_it_ends_and_says_so() -> None:
    result = attack(DeepFoolL2(steps=3), grey(), model=lambda images: fan(0 * images + 0.5))
    assert result.images.equal(grey())
    assert result.success.tolist() == [False]
    assert result.n_bwd.tolist() == [9]


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: DeepFoolL2(-0.1), "overshoot"),
        (lambda: DeepFoolL2(math.nan), "overshoot"),
        (lambda: DeepFoolL2(steps=0), "steps"),
        (lambda: DeepFoolL2(candidates=1), "candidates"),
    ],
)
def test_settings_that_cannot_work(build, key: str) -> None:
    with pytest.raises(ConfigError, match=f"DeepFoolL2.{key}"):
        build()
