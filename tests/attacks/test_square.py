"""The Square attack where its result is known."""

import pytest
import torch
from torch import Tensor

from verisal.attacks import SquareAttack
from verisal.attacks.square import _bump, _moved_linf
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


def test_squares_shrink_right_after_the_queries_that_the_schedule_names() -> None:
    attack = SquareAttack(0.1, n_queries=10_000, p_init=1.0)
    names = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
    sides = [(attack._side(at, 64, 64), attack._side(at + 1, 64, 64)) for at in names]
    # 64 / sqrt(2^k) px.
    assert sides == [(64, 45), (45, 32), (32, 23), (23, 16), (16, 11), (11, 8), (8, 6), (6, 4), (4, 3)]
    # The schedule stretches: of 1000 queries the second is as far on as of 10 000 the tenth.
    short = SquareAttack(0.1, n_queries=1000, p_init=1.0)
    assert [short._side(at, 64, 64) for at in (1, 2, 5, 6)] == [64, 45, 45, 32]


def test_a_query_always_changes_the_image() -> None:
    """Signs that would give the image that is known already are turned, evenly among the seven others."""
    numbers = torch.rand(700, 8, generator=seeded())
    numbers[:, 4:7] = 0.7  # plus, as everywhere already
    clean = torch.full((700, 3, 6, 6), 0.5)
    clean[:350] = 1.0  # plus changes nothing here, as values end at 1
    best = (clean + 0.1).clamp(0, 1)
    moved = _moved_linf(clean, best, numbers, 2, 0.1)
    change = (moved - clean).amin(dim=(2, 3)) < -0.05
    assert change.any(dim=1).all()
    kinds = (change * torch.tensor([1, 2, 4])).sum(dim=1).bincount(minlength=8)
    assert kinds[0] == 0
    assert (kinds[1:] - 100).abs().max() < 40
    assert (moved != best).any(dim=1).sum(dim=(1, 2)).tolist() == [4] * 700
    # Signs that do change something stay as they were drawn.
    numbers[:, 4] = 0.2
    kept = _moved_linf(clean, best, numbers, 2, 0.1)
    assert ((kept - clean).amin(dim=(2, 3)) < -0.05).equal(
        torch.tensor([[True, False, False]]).expand(700, 3)
    )


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
