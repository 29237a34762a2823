"""The Square attack where its result is known."""

import pytest
import torch
from torch import Tensor

from verisal.attacks import SquareAttack
from verisal.attacks.square import _bump
from verisal.errors import ConfigError


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def brightness(images: Tensor) -> Tensor:
    """Class 0 while the mean stays below 0.6; no gradient."""
    mean = images.detach().mean(dim=(1, 2, 3))
    return torch.stack([0.6 - mean, mean - 0.6], dim=1)


GREY = torch.full((2, 3, 12, 10), 0.5)
ZEROS = torch.zeros(2, dtype=torch.int64)


def test_finds_the_corner_of_the_ball_without_gradients_and_stops_at_once() -> None:
    result = SquareAttack(0.15, n_queries=1000)(brightness, GREY, ZEROS, generator=seeded())
    assert result.success.all()
    assert result.n_bwd.tolist() == [0, 0]
    assert int(result.n_fwd.max()) < 1000
    change = (result.x_adv - 0.5).abs()
    torch.testing.assert_close(change, torch.full_like(change, 0.15))


def test_a_sample_that_cannot_be_fooled_spends_all_queries_and_keeps_the_best() -> None:
    few = SquareAttack(0.05, n_queries=20)(brightness, GREY, ZEROS, generator=seeded())
    many = SquareAttack(0.05, n_queries=300)(brightness, GREY, ZEROS, generator=seeded())
    assert not many.success.any()
    assert many.n_fwd.tolist() == [301, 301]
    assert (many.x_adv.mean(dim=(1, 2, 3)) > few.x_adv.mean(dim=(1, 2, 3))).all()
    assert (many.x_adv.mean(dim=(1, 2, 3)) > 0.52).all()


def test_l2_uses_the_whole_ball() -> None:
    result = SquareAttack(0.7, "l2", n_queries=60)(brightness, GREY, ZEROS, generator=seeded())
    assert not result.success.any()
    torch.testing.assert_close(result.norms, torch.full((2,), 0.7))


def test_squares_shrink_and_fit_into_the_image() -> None:
    sides = [SquareAttack(0.1, n_queries=10_000)._side(q, 30, 20) for q in (0, 11, 51, 201, 501, 8001)]
    assert sides == [20, 15, 11, 8, 5, 1]  # sqrt(480 / 2^k) px, at most the shorter side
    odd = [SquareAttack(1, "l2", n_queries=10_000)._side(q, 30, 20) for q in (0, 11, 51, 201, 501, 8001)]
    assert odd == [19, 15, 11, 9, 5, 3]


def test_bump_has_two_halves_of_opposite_sign_and_length_one() -> None:
    bump = _bump(3, torch.zeros(1))
    assert (bump[0] > 0).all()
    assert (bump[1:] < 0).all()
    torch.testing.assert_close(bump.square().sum(), torch.tensor(1.0))
    # Upper half 1 x 3: 1/4, 5/4, 1/4 times a constant, at length one over root two.
    torch.testing.assert_close(bump[0] / bump[0, 0], torch.tensor([1.0, 5.0, 1.0]))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_smaller_than_a_window(norm: str) -> None:
    tiny = torch.full((1, 3, 2, 3), 0.5)
    attack = SquareAttack(0.05, norm, n_queries=5)
    assert attack(brightness, tiny, ZEROS[:1], generator=seeded()).n_fwd.tolist() == [6]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": -1.0}, "SquareAttack.eps"),
        ({"eps": 8.0}, "pixel units"),
        ({"norm": "l0"}, "SquareAttack.norm"),
        ({"n_queries": 0}, "SquareAttack.n_queries"),
        ({"p_init": 0.0}, "SquareAttack.p_init"),
    ],
)
def test_refuses_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SquareAttack(**{"eps": 0.1} | settings)
