"""HopSkipJump against a plane, whose distance is known."""

import pytest
import torch
from torch import Tensor

from verisal.attacks import HopSkipJumpL2
from verisal.errors import ConfigError

NORMAL = torch.randn(3 * 8 * 8, generator=torch.Generator().manual_seed(2))
NORMAL /= NORMAL.norm()


def plane(images: Tensor) -> Tensor:
    """One-hot decisions: class 1 at most 0.2 from grey along the normal, else class 0; no gradient."""
    height = (images.detach().flatten(1) - 0.5) @ NORMAL
    return torch.nn.functional.one_hot((height < 0.2).long(), 2).float()


GREY = torch.full((3, 3, 8, 8), 0.5)
ONES = torch.ones(3, dtype=torch.int64)


def run(attack: HopSkipJumpL2, images: Tensor = GREY, labels: Tensor = ONES, model=plane):
    return attack(model, images, labels, generator=torch.Generator().manual_seed(0))


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


def test_wrong_image_is_returned_as_it_is() -> None:
    result = run(HopSkipJumpL2(), labels=ONES - 1)
    assert result.x_adv.equal(GREY)
    assert result.success.all()
    assert result.n_fwd.tolist() == [2, 2, 2]


def test_without_a_start_the_attack_fails_and_says_so() -> None:
    constant = torch.tensor([[0.0, 1.0]])
    result = run(HopSkipJumpL2(starts=4), model=lambda x: constant.expand(len(x), -1))
    assert not result.success.any()
    assert result.n_fwd.tolist() == [6, 6, 6]
    assert not result.x_adv.equal(GREY)


@pytest.mark.parametrize("name", ["directions", "bisections", "starts"])
def test_refuses_bad_settings(name: str) -> None:
    with pytest.raises(ConfigError, match=f"HopSkipJumpL2.{name}"):
        HopSkipJumpL2(**{name: 0})
    with pytest.raises(ConfigError, match=r"HopSkipJumpL2\.steps"):
        HopSkipJumpL2(steps=-1)
