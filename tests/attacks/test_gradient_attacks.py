"""FGSM, PGD and CW-L2 on linear classifiers, where the right answer is known exactly."""

import math
import warnings
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.attack_cases import ToyNet
from verisal.attacks import BIM, DDN, FGSM, PGD, CarliniWagnerL2, DeepFoolL2, SquareAttack
from verisal.attacks._victim import _warn_once
from verisal.attacks.minimal.carlini_wagner import _next_c, _share
from verisal.errors import ConfigError
from verisal.functional.adversarial import noise_norm

SHAPE = (1, 3, 2, 2)
#: Logits are minus and plus half of w . x - b: class 1 above the plane, class 0 below, margin w . x - b.
NORMAL = torch.tensor([3.0, -4.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 12.0])


def plane(images: Tensor) -> Tensor:
    height = (images.flatten(1) - 0.5) @ NORMAL
    return torch.stack([-height / 2, height / 2], dim=1)


def above(height: float) -> Tensor:
    """Image whose class-1 logit is ``height``; the plane lies ``height / 13`` away."""
    return (0.5 + height * NORMAL / 169).view(SHAPE)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def attack(which, image: Tensor, label: int = 1):
    return which(plane, image, torch.tensor([label]), generator=seeded())


def test_fgsm_moves_every_value_against_the_label_and_leaves_flat_ones() -> None:
    result = attack(FGSM(0.25), above(1.3))
    expected = above(1.3).flatten()
    expected[0] -= 0.25
    expected[1] += 0.25
    expected[11] -= 0.25
    torch.testing.assert_close(result.images.flatten(), expected)
    assert result.success.tolist() == [True]  # 1.3 - 0.25 * 19 < 0
    assert (result.n_fwd.tolist(), result.n_bwd.tolist()) == ([2], [1])
    assert attack(FGSM(0.05), above(1.3)).success.tolist() == [False]  # 1.3 - 0.05 * 19 > 0


def test_fgsm_targeted_moves_towards_its_goal() -> None:
    aimed = attack(FGSM(0.25, targeted=True), above(1.3), label=0)
    torch.testing.assert_close(aimed.images, attack(FGSM(0.25), above(1.3)).images)
    assert aimed.success.tolist() == [True]


def test_fgsm_clamps_to_the_unit_box() -> None:
    image = torch.zeros(SHAPE)
    result = attack(FGSM(0.25), image, label=0)  # climbs: value 1 has a negative slope and stays at 0
    assert result.images.flatten()[[0, 1, 2, 11]].tolist() == [0.25, 0.0, 0.0, 0.25]


def test_pgd_l2_ends_on_the_ball_in_the_direction_of_the_plane() -> None:
    image = above(1.3)
    expected = image - 0.12 * NORMAL.view(SHAPE) / 13
    for start in (False, True):
        result = attack(PGD(0.12, "l2", steps=40, step=0.03, random_start=start), image)
        torch.testing.assert_close(result.images, expected, rtol=0, atol=2e-3)
        assert float(result.norms) == pytest.approx(0.12, abs=1e-6)
        assert result.success.tolist() == [True]  # the plane lies 0.1 away
    assert attack(PGD(0.08, "l2"), image).success.tolist() == [False]


def test_pgd_linf_without_start_is_fgsm_on_a_plane() -> None:
    image = above(1.3)
    expected = attack(FGSM(0.1), image).images
    bim = attack(PGD(0.1, step=1.25 * 0.1 / 10, random_start=False), image)
    torch.testing.assert_close(bim.images, expected)
    values = (attack(PGD(0.1), image).images - expected).flatten()
    # The random start survives only where the gradient is zero.
    assert values[[0, 1, 11]].abs().max() < 1e-6
    assert values[2:11].abs().min() > 0


@pytest.mark.parametrize(("which", "length"), [(PGD, 2.5), (BIM, 1.25)])
def test_default_step_is_a_share_of_the_radius_per_step(which, length: float) -> None:
    seen = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images.detach().clone())
        return plane(images)

    attack_ = which(0.1, steps=10) if which is BIM else which(0.1, steps=10, random_start=False)
    attack_(watched, above(1.3), torch.tensor([1]), generator=seeded())
    first = (seen[1] - seen[0]).flatten()
    torch.testing.assert_close(first[[0, 1, 11]], length * 0.01 * torch.tensor([-1.0, 1.0, -1.0]))


def bumpy(images: Tensor) -> Tensor:
    """Many maxima of class 1, which never wins where the first value is below 0.9, and always above it."""
    values = images.flatten(1)
    height = (60 * values).sin().mean(dim=1) - 5 + 20 * (values[:, 0] > 0.9)
    return torch.stack([-height, height], dim=1)


def test_pgd_restarts_begin_at_the_samples_own_starts_whoever_has_left() -> None:
    images = 0.7 * torch.rand(4, *SHAPE[1:], generator=seeded())
    images[0, 0, 0, 0] = 1.0
    labels, names = torch.zeros(4, dtype=torch.int64), list("abcd")
    which = PGD(0.05, steps=2, restarts=4)
    all_four = which(bumpy, images, labels, generator=seeded(), sample_ids=names)
    assert all_four.success.tolist() == [True, False, False, False]
    assert all_four.n_bwd.tolist() == [2, 8, 8, 8]
    others = which(bumpy, images[1:], labels[1:], generator=seeded(), sample_ids=names[1:])
    torch.testing.assert_close(all_four.images[1:], others.images, rtol=0, atol=0)


def test_pgd_restarts_stop_for_fooled_samples_and_keep_the_highest_loss() -> None:
    images = torch.cat([above(0.3), above(5.0)])
    labels = torch.tensor([1, 1])
    result = PGD(0.05, steps=4, restarts=3)(plane, images, labels, generator=seeded())
    assert result.success.tolist() == [True, False]
    # Per restart 4 steps and a verdict, and the last verdict of all.
    assert result.n_fwd.tolist() == [6, 16]
    assert result.n_bwd.tolist() == [4, 12]


def test_pgd_keeps_the_best_of_its_restarts() -> None:
    """More restarts of the same seed begin with the same ones, so that the loss can only rise."""

    images = 0.7 * torch.rand(32, *SHAPE[1:], generator=seeded())
    for targeted in (False, True):
        attacks = [PGD(0.2, steps=2, restarts=count, targeted=targeted) for count in range(1, 6)]
        aims = torch.full((32,), int(targeted))  # class 0 is the label, class 1 the goal
        found = [which(bumpy, images, aims, generator=seeded()) for which in attacks]
        assert [int(result.success.sum()) for result in found] == [0] * 5
        gains = torch.stack([bumpy(result.images)[:, 1] for result in found]).diff(dim=0)
        assert float(gains.min()) >= 0
        # Each restart is the best so far for some image, and for another it is not.
        assert (gains > 0).any(dim=1).all()
        assert (gains == 0).any(dim=1).all()


def test_pgd_l2_start_is_uniform_in_the_ball() -> None:
    class Flat(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :2] * 0

    images = torch.full((400, 3, 1, 2), 0.5)
    result = PGD(0.2, "l2", steps=1)(Flat(), images, [0] * 400, generator=seeded(), sample_ids=range(400))
    # Six dimensions: half of the volume lies within radius 0.5^(1/6). No gradient, so no step.
    share = (result.norms < 0.2 * 0.5 ** (1 / 6)).float().mean()
    assert abs(float(share) - 0.5) < 4 * math.sqrt(0.25 / 400)
    assert float((result.images - images).mean(dim=0).abs().max()) < 4 * 0.2 / math.sqrt(5 * 400)


def test_pgd_l2_takes_full_steps_on_vanishing_gradients() -> None:
    # exp(-60) of softmax mass leaves gradients whose squares underflow in float32.
    result = attack(PGD(0.5, "l2", steps=5, random_start=False), above(6.0))
    faint = PGD(0.5, "l2", steps=5, random_start=False)(
        lambda images: 10 * plane(images), above(6.0), torch.tensor([1]), generator=seeded()
    )
    torch.testing.assert_close(faint.images, result.images, rtol=0, atol=1e-5)


def test_carlini_wagner_finds_the_distance_to_the_plane() -> None:
    for kappa in (0.0, 0.5):
        attack_ = CarliniWagnerL2(kappa, rounds=9, steps=150)
        result = attack(attack_, above(1.3))
        distance = (1.3 + kappa) / 13
        assert result.success.tolist() == [True]
        assert distance <= float(result.norms) <= 1.02 * distance
        logits = plane(result.images)[0]
        assert float(logits[0] - logits[1]) >= kappa


def test_carlini_wagner_default_settings_come_close() -> None:
    result = attack(CarliniWagnerL2(0.5), above(1.3))
    assert result.success.tolist() == [True]
    assert float(result.norms) <= 1.1 * 1.8 / 13


def test_carlini_wagner_moves_black_and_white_pixels() -> None:
    image = torch.full(SHAPE, 0.5)
    image.view(-1)[[0, 11]] = 1.0
    image.view(-1)[1] = 0.0  # logit 9.5; the way down leaves the corner of the box
    result = attack(CarliniWagnerL2(), image)
    assert result.success.tolist() == [True]
    # Straight down: 9.5 / 13 of length, and no value meets the box on the other side.
    assert float(result.norms) == pytest.approx(9.5 / 13, rel=0.02)
    torch.testing.assert_close((image - result.images).flatten(), 9.5 * NORMAL / 169, rtol=0, atol=0.02)


def test_carlini_wagner_leaves_a_misclassified_image_as_it_is() -> None:
    result = attack(CarliniWagnerL2(), above(-1.3))
    assert result.images.equal(above(-1.3))
    assert result.success.tolist() == [True]
    assert (result.n_fwd.tolist(), result.n_bwd.tolist()) == ([2], [1])


def test_carlini_wagner_crosses_an_exact_tie() -> None:
    """No margin is missing at a tie, and yet the label is first."""
    tie = torch.full(SHAPE, 0.5)
    result = attack(CarliniWagnerL2(), tie, label=0)
    assert result.success.tolist() == [True]
    assert 0 < float(result.norms) < 0.01


def test_carlini_wagner_other_logit_may_be_negative() -> None:
    """All logits far below zero: an "other" logit of 0 would win at once, without any change."""
    result = CarliniWagnerL2(0.2, rounds=5, steps=60)(
        lambda images: plane(images) - 50, above(1.3), torch.tensor([1]), generator=seeded()
    )
    assert result.success.tolist() == [True]
    assert float(result.norms) >= 1.5 / 13 - 1e-6


def test_carlini_wagner_guesses_its_constant_from_the_plane() -> None:
    """Margin 1.3, slope 13: twice 2 * 1.3 / 169, whatever the scale of the logits."""
    guessed = attack(CarliniWagnerL2(rounds=1, steps=60), above(1.3))
    told = attack(CarliniWagnerL2(rounds=1, steps=60, initial_c=4 * 1.3 / 169), above(1.3))
    torch.testing.assert_close(guessed.images, told.images, rtol=0, atol=1e-5)
    assert guessed.n_bwd.tolist() == told.n_bwd.tolist() == [61]
    loud = CarliniWagnerL2(rounds=1, steps=60)(
        lambda images: 100 * plane(images), above(1.3), torch.tensor([1]), generator=seeded()
    )
    torch.testing.assert_close(loud.images, guessed.images, rtol=0, atol=1e-4)


def test_carlini_wagner_searches_where_a_first_constant_fails() -> None:
    """One round with far too small a constant fails; further rounds multiply it until one succeeds."""
    assert attack(CarliniWagnerL2(rounds=1, initial_c=1e-4), above(1.3)).success.tolist() == [False]
    searched = attack(CarliniWagnerL2(rounds=5, initial_c=1e-4), above(1.3))
    assert searched.success.tolist() == [True]
    assert float(searched.norms) <= 1.2 * 0.1


def test_carlini_wagner_keeps_the_smallest_noise_of_all_rounds() -> None:
    """A first constant a thousand times too large overshoots; the rounds after it come nearer."""
    norms = [
        float(attack(CarliniWagnerL2(rounds=rounds, initial_c=40.0), above(1.3)).norms) for rounds in (1, 9)
    ]
    assert norms[0] > 1.2 * 0.1
    assert norms[1] <= 1.02 * 0.1


def test_carlini_wagner_keeps_a_round_that_no_later_one_betters() -> None:
    """After the guess and one round the plane moves away, to 2.3 / 13 from the image."""
    asked = []

    def hardening(images: Tensor) -> Tensor:
        asked.append(len(images))
        return plane(images) + (torch.tensor([-0.5, 0.5]) if len(asked) > 1 + 30 else 0)

    attacks = [CarliniWagnerL2(rounds=rounds, steps=30, initial_c=1.0) for rounds in (1, 3)]
    first = attack(attacks[0], above(1.3))
    assert 0.1 <= float(first.norms) < 2.3 / 13
    result = attacks[1](hardening, above(1.3), torch.tensor([1]), generator=seeded())
    assert len(asked) == 2 + 3 * 30
    assert result.images.equal(first.images)


def test_carlini_wagner_bisects_its_constant_on_a_logarithmic_scale() -> None:
    low, high = torch.tensor([0.5, 0.0, 2.0, 0.0]), torch.tensor([torch.inf, 9.0, 8.0, 1e-3])
    torch.testing.assert_close(_next_c(low, high), torch.tensor([5.0, 3.0, 4.0, 1e-3 / 3]))


def test_carlini_wagner_steps_fall_along_half_a_cosine() -> None:
    assert [_share(0.6, step, 4) for step in (0, 2)] == pytest.approx([0.6, 0.32])
    assert _share(0.6, 1000, 1000) == pytest.approx(0.04)
    assert _share(0.01, 7, 9) == 0.01  # never grows


def test_carlini_wagner_first_steps_by_hand() -> None:
    """``initial_c = 2 * 1.3 / 169`` pulls to the plane itself: shares 0.6 and 0.32 of the way."""
    told = CarliniWagnerL2(rounds=1, steps=2, initial_c=2 * 1.3 / 169)
    result = attack(told, above(1.3))
    torch.testing.assert_close(result.images, above(1.3 * 0.4))  # the last iterate, a failure
    assert result.success.tolist() == [False]
    longer = replace(told, steps=3)
    # Shares 0.6 and 0.46: what is left of the height is 0.4 * 0.54.
    torch.testing.assert_close(attack(longer, above(1.3)).images, above(1.3 * 0.4 * 0.54))


@pytest.mark.parametrize("targeted", [False, True])
def test_carlini_wagner_weighs_all_other_classes_by_hand(targeted: bool) -> None:
    """The first step of three goes a share of 0.6 along the slope of the margin with a smooth maximum."""

    def three(images: Tensor) -> Tensor:
        return images.flatten(1)[:, :3] * torch.tensor([4.0, 4.0, 1.0]) + torch.tensor([0.0, 1.0, 0.0])

    # Logits 2, 3 and 0.5: of the classes other than 0 (targeted) and 1 the best would weigh all.
    label, slope = (0, [1.0 * 4, 0.0, 0.0]) if targeted else (1, [0.0, -1.0 * 4, 0.0])
    other = 1 if targeted else 0
    likely = 1 / (1 + math.exp(0.5 - (3.0 if targeted else 2.0)))
    sign = -1 if targeted else 1
    slope[other], slope[2] = sign * likely * 4, sign * (1 - likely)
    told = CarliniWagnerL2(rounds=1, steps=2, initial_c=0.02, targeted=targeted)
    result = told(three, torch.full(SHAPE, 0.5), torch.tensor([label]), generator=seeded())
    assert result.success.tolist() == [False]
    moved = (result.images - 0.5).flatten()[:3]
    torch.testing.assert_close(moved, 0.6 * 0.01 * torch.tensor(slope))


def test_carlini_wagner_goes_on_from_the_smallest_noise_in_its_last_round() -> None:
    seen = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images.detach() - above(1.3))
        return plane(images)

    CarliniWagnerL2(rounds=3, steps=6)(watched, above(1.3), torch.tensor([1]), generator=seeded())
    assert len(seen) == 1 + 3 * 6 + 1
    # The guess and the first two rounds begin at the image; the last at the best of them, which has crossed.
    assert [float(seen[at].norm()) for at in (0, 1, 7)] == [0.0] * 3
    lengths = [float(noise.norm()) for noise in seen]
    assert lengths[13] == min(length for length in lengths[:13] if length > 0.1)
    # It met the margin, so that its first step only shortens it, by half of 0.6.
    torch.testing.assert_close(seen[14], 0.7 * seen[13])


def test_carlini_wagner_finds_the_nearer_border_of_a_class_that_is_not_the_next() -> None:
    """Class 1 is ahead of class 2 at grey, but its border is three times as far away."""

    def two(images: Tensor) -> Tensor:
        values = images.flatten(1)[:, :2] - 0.5
        return torch.stack([0 * values[:, 0], values[:, 0] - 0.3, 4 * values[:, 1] - 0.4], dim=1)

    result = CarliniWagnerL2()(two, torch.full(SHAPE, 0.5), torch.tensor([0]), generator=seeded())
    assert two(result.images).argmax(dim=1).tolist() == [2]
    assert float(result.norms) == pytest.approx(0.1, rel=0.02)


BLACK_AND_WHITE = {
    "all black or white": lambda rng: (torch.rand(24, 3, 16, 12, generator=rng) > 0.5).float(),
    "black on white": lambda rng: (torch.rand(24, 3, 16, 12, generator=rng) > 0.2).float(),
    "strokes with grey edges": lambda rng: (
        4 * torch.nn.functional.avg_pool2d(torch.rand(24, 3, 18, 14, generator=rng), 3, 1) - 1.7
    ).clamp(0, 1),
}


@pytest.mark.parametrize("kind", BLACK_AND_WHITE)
def test_carlini_wagner_is_no_weaker_than_ddn_on_saturated_images(kind: str) -> None:
    model = ToyNet().eval()
    images = BLACK_AND_WHITE[kind](seeded())
    labels = model(images).argmax(dim=1)
    peer = DDN()(model, images, labels, generator=seeded())
    ours = CarliniWagnerL2()(model, images, labels, generator=seeded())
    assert peer.success.all()
    assert ours.success.all()
    assert float((ours.norms / peer.norms).log().mean().exp()) <= 1.02
    assert float((ours.norms / peer.norms).max()) <= 1.1


def test_norm_is_that_of_the_returned_image() -> None:
    result = attack(CarliniWagnerL2(0.5), above(1.3))
    torch.testing.assert_close(result.norms, noise_norm(result.images - above(1.3), "l2"))


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda: FGSM(-0.1), "FGSM.eps"),
        (lambda: FGSM(4.0), "FGSM.eps"),
        (lambda: FGSM(math.nan), "FGSM.eps"),
        (lambda: PGD(4.0), "PGD.eps"),
        (lambda: PGD(-1.0, "l2"), "PGD.eps"),
        (lambda: PGD(0.1, "l1"), "PGD.norm"),
        (lambda: PGD(0.1, steps=0), "PGD.steps"),
        (lambda: PGD(0.1, step=-0.1), "PGD.step"),
        (lambda: PGD(0.1, restarts=0), "PGD.restarts"),
        (lambda: PGD(0.1, restarts=2, random_start=False), "PGD.restarts"),
        (lambda: CarliniWagnerL2(-1.0), "CarliniWagnerL2.confidence"),
        (lambda: CarliniWagnerL2(rounds=0), "CarliniWagnerL2.rounds"),
        (lambda: CarliniWagnerL2(steps=0), "CarliniWagnerL2.steps"),
        (lambda: CarliniWagnerL2(step=0.0), "CarliniWagnerL2.step"),
        (lambda: CarliniWagnerL2(step=1.1), "CarliniWagnerL2.step"),
        (lambda: CarliniWagnerL2(initial_c=0.0), "CarliniWagnerL2.initial_c"),
    ],
)
def test_settings_that_cannot_work(build, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        build()


def test_a_network_that_ends_in_a_softmax_is_named_once_and_only_where_gradients_are_asked_for() -> None:
    def sure(images: Tensor) -> Tensor:
        return plane(images).softmax(dim=1)

    one, label = above(1.3), torch.tensor([1])
    for which in (FGSM(0.25), PGD(0.2, norm="l2"), CarliniWagnerL2(), DeepFoolL2()):
        with pytest.warns(UserWarning, match="sum to 1.*remove the softmax") as told:
            which(sure, one, label, generator=seeded())
        assert len(told) == 1
    # Without a filter of the caller's, once, whatever other code does to filters meanwhile.
    shown = []
    _warn_once.cache_clear()
    with warnings.catch_warnings():
        warnings.resetwarnings()
        warnings.showwarning = lambda message, *_: shown.append(str(message))
        for _ in range(3):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
            FGSM(0.25)(sure, one, label, generator=seeded())
    assert len(shown) == 1
    SquareAttack(0.25, n_queries=2)(sure, one, label, generator=seeded())  # reads no gradient
    FGSM(0.25)(lambda images: sure(images).log(), one, label, generator=seeded())
