"""HopSkipJump against a plane, whose distance is known."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from verisal.attacks import HopSkipJumpL2
from verisal.attacks._victim import Victim
from verisal.errors import ConfigError
from verisal.functional.seeding import per_sample

NORMAL = torch.randn(3 * 8 * 8, generator=torch.Generator().manual_seed(2))
NORMAL /= NORMAL.norm()


def plane(images: Tensor) -> Tensor:
    """One-hot decisions: class 1 at most 0.2 from grey along the normal, else class 0; no gradient."""
    height = (images.detach().flatten(1) - 0.5) @ NORMAL
    return torch.nn.functional.one_hot((height < 0.2).long(), 2).float()


GREY = torch.full((3, 3, 8, 8), 0.5)
ONES = torch.ones(3, dtype=torch.int64)


def run(attack: HopSkipJumpL2, images: Tensor = GREY, labels: Tensor = ONES, model=plane):
    # Equal images, each with its own draws.
    return attack(model, images, labels, sample_ids=range(len(images)))


def test_comes_near_to_the_distance_of_the_plane() -> None:
    norms = [run(HopSkipJumpL2(steps=steps)).norms.mean().item() for steps in (0, 2, 6)]
    assert norms == sorted(norms, reverse=True)
    result = run(HopSkipJumpL2(steps=8, directions=80))
    assert result.success.all()
    assert result.norms.min() >= 0.2 - 1e-5
    assert result.norms.max() <= 0.2 * 1.35
    assert result.n_bwd.tolist() == [0, 0, 0]


def test_keeps_the_nearest_border_of_all_steps() -> None:
    """More steps of the same seed begin with the same ones, so that the noise can only get shorter."""
    grey = GREY[:1].expand(8, -1, -1, -1)
    ones = torch.ones(8, dtype=torch.int64)
    found = [run(HopSkipJumpL2(steps=steps, directions=2), grey, ones) for steps in range(6)]
    gains = torch.stack([result.norms for result in found]).diff(dim=0)
    assert float(gains.max()) <= 0
    # Two directions mislead: some steps come nearer, and some end farther away and are forgotten.
    assert (gains < 0).any(dim=1).all()
    assert int((gains == 0).sum()) >= 4
    assert all(result.success.all() for result in found)


def test_cost_is_what_the_settings_say() -> None:
    result = run(HopSkipJumpL2(steps=4, directions=10, bisections=9))
    # Clean image, first bisection, four steps with 10 * sqrt(t) directions and a bisection, verdict; besides
    # these the starts and jumps tried, at least one each.
    fixed = 1 + 9 + (10 + 14 + 17 + 20) + 4 * 9 + 1
    assert int(result.n_fwd.min()) >= fixed + 5
    assert int(result.n_fwd.max()) <= fixed + 50 + 4 * 12


def watched(decide) -> tuple[Victim, list[Tensor]]:
    """A victim of label 0 that is wrong where ``decide(images)``, and the images that it is asked about."""
    seen: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        seen.append(images)
        return torch.nn.functional.one_hot(decide(images).long(), 2).float()

    return Victim(model, torch.zeros(1, dtype=torch.int64), targeted=False), seen


ROW = torch.tensor([0])
DRAW = partial(per_sample, seed=0, sample_ids=["a"], device=torch.device("cpu"))


def test_a_jump_is_halved_until_it_stays_wrong() -> None:
    clean, slope = GREY[:1], torch.zeros(1, 3, 8, 8)
    slope[0, 0, 0, 0] = 1.0
    border = clean.clone()
    border[0, 1, 1, 1] += 0.32  # 0.32 away
    for most, expected in ((1.0, 0.16), (0.1, 0.08), (0.03, 0.02), (-1.0, 0.0)):
        victim, _ = watched(lambda images, most=most: images[:, 0, 0, 0] <= 0.5 + most)
        # Step 4 begins with half of the distance.
        jumped = HopSkipJumpL2()._jumped(victim, clean, border, ROW, slope, 4)
        assert (jumped - border)[0, 0, 0, 0].item() == pytest.approx(expected, abs=1e-6)


def test_slope_is_the_mean_direction_of_the_votes_less_their_mean() -> None:
    clean, border = GREY[:1], GREY[:1] + 0.01
    attack = HopSkipJumpL2(directions=7, bisections=9)
    victim, seen = watched(lambda images: images[:, 0].sum(dim=(1, 2)) > border[0, 0].sum() - 0.001)
    slope = attack._slope(victim, clean, border, ROW, 4, DRAW)
    assert len(seen) == 14
    moves = torch.cat(seen) - border
    lengths = moves.flatten(1).norm(dim=1)
    far = (border - clean).norm()
    torch.testing.assert_close(lengths, (2**-9 * math.sqrt(192) * far).expand(14), rtol=1e-3, atol=0)
    votes = torch.where(moves[:, 0].sum(dim=(1, 2)) > -0.001, 1.0, -1.0)
    assert 0.05 < abs(float(votes.mean())) < 0.9
    expected = ((votes - votes.mean()).view(-1, 1, 1, 1) * moves).sum(dim=0, keepdim=True)
    torch.testing.assert_close(slope, expected / expected.norm(), rtol=0, atol=1e-4)
    # All votes alike: nothing would be left of the difference, so that their mean stays in.
    victim, seen = watched(lambda images: images[:, 0, 0, 0] > -1)
    agreed = attack._slope(victim, clean, border, ROW, 1, DRAW)
    mean = (torch.cat(seen) - border).sum(dim=0, keepdim=True)
    torch.testing.assert_close(agreed, mean / mean.norm(), rtol=0, atol=1e-4)


def test_starts_are_images_of_all_coarsenesses() -> None:
    victim, seen = watched(lambda images: images[:, 0, 0, 0] > 2)
    _, rows = HopSkipJumpL2(starts=6)._started(victim, GREY[:1].clone(), ROW, DRAW)
    assert rows.tolist() == []
    assert [len(images[0, 0].unique()) for images in seen] == [64, 16, 4, 1, 64, 16]


def test_wrong_image_is_returned_as_it_is() -> None:
    result = run(HopSkipJumpL2(), labels=ONES - 1)
    assert result.images.equal(GREY)
    assert result.success.all()
    assert result.n_fwd.tolist() == [2, 2, 2]


def test_without_a_start_the_attack_fails_and_says_so() -> None:
    constant = torch.tensor([[0.0, 1.0]])
    result = run(HopSkipJumpL2(starts=4), model=lambda x: constant.expand(len(x), -1))
    assert not result.success.any()
    assert result.n_fwd.tolist() == [6, 6, 6]
    assert not result.images.equal(GREY)


@pytest.mark.parametrize("name", ["directions", "bisections", "starts"])
def test_refuses_bad_settings(name: str) -> None:
    with pytest.raises(ConfigError, match=f"HopSkipJumpL2.{name}"):
        HopSkipJumpL2(**{name: 0})
    with pytest.raises(ConfigError, match=r"HopSkipJumpL2\.steps"):
        HopSkipJumpL2(steps=-1)
