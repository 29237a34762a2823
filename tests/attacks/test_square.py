"""The Square attack where its result is known."""

from functools import partial

import pytest
import torch
from torch import Tensor

from verisal.attacks import SquareAttack
from verisal.attacks.black_box.square import _bump, _moved_l2, _moved_linf, _windows
from verisal.errors import ConfigError
from verisal.functional.seeding import per_sample


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def brightness(images: Tensor) -> Tensor:
    """Class 0 while the mean stays below 0.6; no gradient."""
    mean = images.detach().mean(dim=(1, 2, 3))
    return torch.stack([0.6 - mean, mean - 0.6], dim=1)


GREY = torch.full((2, 3, 12, 10), 0.5)
ZEROS = torch.zeros(2, dtype=torch.int64)


def test_finds_the_corner_of_the_ball_without_gradients_and_stops_at_once() -> None:
    result = SquareAttack(0.15, n_queries=1000)(
        brightness, GREY, ZEROS, generator=seeded(), sample_ids=range(len(GREY))
    )
    assert result.success.all()
    assert result.n_bwd.tolist() == [0, 0]
    assert int(result.n_fwd.max()) < 1000
    change = (result.images - 0.5).abs()
    torch.testing.assert_close(change, torch.full_like(change, 0.15))


def test_a_sample_that_cannot_be_fooled_spends_all_queries_and_keeps_the_best() -> None:
    few = SquareAttack(0.05, n_queries=20)(
        brightness, GREY, ZEROS, generator=seeded(), sample_ids=range(len(GREY))
    )
    many = SquareAttack(0.05, n_queries=300)(
        brightness, GREY, ZEROS, generator=seeded(), sample_ids=range(len(GREY))
    )
    assert not many.success.any()
    assert many.n_fwd.tolist() == [301, 301]
    assert (many.images.mean(dim=(1, 2, 3)) > few.images.mean(dim=(1, 2, 3))).all()
    assert (many.images.mean(dim=(1, 2, 3)) > 0.52).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_query_that_is_no_better_is_not_kept(norm: str) -> None:
    def indifferent(images: Tensor) -> Tensor:
        return torch.tensor([1.0, 0.0]).expand(len(images), -1)

    start, later = (
        SquareAttack(0.05, norm, n_queries=count)(
            indifferent, GREY, ZEROS, generator=seeded(), sample_ids=range(len(GREY))
        )
        for count in (1, 20)
    )
    assert later.images.equal(start.images)


def test_l2_uses_the_whole_ball() -> None:
    result = SquareAttack(0.7, "l2", n_queries=60)(
        brightness, GREY, ZEROS, generator=seeded(), sample_ids=range(len(GREY))
    )
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


def test_the_first_squares_cover_the_share_that_is_asked_for() -> None:
    assert [SquareAttack(0.1, p_init=share)._side(0, 40, 40) for share in (1.0, 0.25, 0.01)] == [40, 20, 4]


def test_windows_reach_every_corner_of_the_image() -> None:
    image = torch.zeros(2, 3, 9, 7)
    numbers = torch.tensor([[0.0] * 8, [0.9999] * 8])
    first, second, signs = _windows(numbers, image, 3)
    assert first.tolist() == second.tolist() == [[0, 0], [6, 4]]
    assert signs.flatten(1).tolist() == [[-1] * 3, [1] * 3]
    other = torch.tensor([[0.0, 0.0, 0.5, 0.9, 0, 0, 0, 0]])
    assert _windows(other, image[:1], 3)[1].tolist() == [[3, 4]]


@pytest.mark.parametrize("upright", [True, False])
def test_l2_moves_the_budget_of_two_windows_into_one_by_hand(*, upright: bool) -> None:
    clean = torch.full((1, 3, 9, 9), 0.5)
    noise = torch.randn(1, 3, 9, 9, generator=seeded())
    noise *= 0.3 / noise.norm()
    # The first window at the top left, the second at the bottom right, signs plus, minus, plus.
    numbers = torch.tensor([[0, 0, 0.9999, 0.9999, 0.7, 0.2, 0.7, 0.1 if upright else 0.9]])
    moved = (_moved_l2(clean, clean + noise, numbers, 3, 0.5) - clean)[0]
    assert float(moved.norm()) == pytest.approx(0.5, abs=1e-5)
    assert moved[:, 6:, 6:].abs().max() == 0
    old = noise[0]
    factor = float(moved[0, 5, 0] / old[0, 5, 0])
    assert factor > 0
    torch.testing.assert_close(moved[:, 3:6], factor * old[:, 3:6], rtol=1e-3, atol=1e-5)
    used = float(old[:, :3, :3].square().sum() + old[:, 6:, 6:].square().sum())
    bump = _bump(3, clean) if upright else _bump(3, clean).T
    for channel, sign in enumerate((1, -1, 1)):
        window = old[channel, :3, :3]
        shape = sign * bump + window / window.norm()
        length = ((0.5**2 - 0.3**2) / 3 + used) ** 0.5
        expected = factor * length * shape / shape.norm()
        torch.testing.assert_close(moved[channel, :3, :3], expected, rtol=1e-3, atol=1e-5)


def test_moves_end_at_black_and_white() -> None:
    clean = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 9, 9)
    numbers = torch.rand(2, 8, generator=seeded())
    for moved in (_moved_linf(clean, clean, numbers, 3, 0.1), _moved_l2(clean, clean, numbers, 3, 2.0)):
        assert (float(moved.min()), float(moved.max())) == (0.0, 1.0)
        assert (moved != clean).any()


DRAW = partial(per_sample, seed=0, sample_ids=["a", "b"], device=torch.device("cpu"))


def test_l2_starts_from_bumps_a_fifth_of_the_image_high() -> None:
    start = SquareAttack(0.7, "l2")._start(torch.full((2, 3, 64, 64), 0.5), DRAW)
    torch.testing.assert_close(start.flatten(1).norm(dim=1), torch.full((2,), 0.7))
    # 5 x 5 bumps of 12 px, and 2 px left over on every side.
    assert start[:, :, 2:62, 2:62].ne(0).all()
    assert int(start.ne(0).sum()) == 2 * 3 * 60 * 60
    bumps = start[:, :, 2:62, 2:62].unfold(2, 12, 12).unfold(3, 12, 12)
    lengths = bumps.square().sum(dim=(4, 5)).sqrt()
    torch.testing.assert_close(lengths, torch.full_like(lengths, 0.7 / 75**0.5))
    # Some have an upper and a lower half, some a left and a right one, the same in all channels.
    upright = bumps[..., 0, 0].sign() == bumps[..., 0, 11].sign()
    assert upright.any()
    assert not upright.all()
    assert (upright == upright[:, :1]).all()
    assert (bumps[..., 0, 0].sign() != bumps[:, :1, ..., 0, 0].sign()).any()


def test_numbers_differ_from_block_to_block() -> None:
    numbers = torch.stack(list(SquareAttack(0.1, n_queries=300)._numbers(DRAW, 3)))
    assert numbers.shape == (299, 2, 8)
    assert len(numbers.flatten().unique()) > 0.99 * numbers.numel()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_returns_the_query_of_the_highest_margin(norm: str) -> None:
    margins = []

    def bumpy(images: Tensor) -> Tensor:
        height = (60 * images.flatten(1)).sin().mean(dim=1) - 5
        margins.append(height)
        return torch.stack([-height, height], dim=1)

    result = SquareAttack(0.2, norm, n_queries=50)(
        bumpy, GREY, ZEROS, generator=seeded(), sample_ids=range(len(GREY))
    )
    assert not result.success.any()
    assert margins[-1].equal(torch.stack(margins).amax(dim=0))  # the last is the verdict's


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
