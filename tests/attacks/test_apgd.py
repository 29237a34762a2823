"""APGD on linear classifiers, its losses by hand, its schedule, and AALight's chain."""

import pytest
import torch
from torch import Tensor

from verisal.attacks import APGD, BIM, PGD, AALight
from verisal.attacks._victim import rising_loss
from verisal.attacks.gradient.apgd import _looks, _Outcome, _State
from verisal.errors import ConfigError

SHAPE = (1, 3, 2, 2)
NORMAL = torch.tensor([3.0, -4.0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 12.0])


def plane(images: Tensor) -> Tensor:
    """Logits minus and plus half of ``NORMAL . (x - 1/2)``, and a third class that never wins."""
    height = (images.flatten(1) - 0.5) @ NORMAL
    return torch.stack([-height / 2, height / 2, torch.full_like(height, -50.0)], dim=1)


def above(height: float) -> Tensor:
    """Image of class 1 at distance ``height / 13`` from the border."""
    return (0.5 + height * NORMAL / 169).view(SHAPE)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])
def test_ends_at_the_corner_of_the_ball(loss: str) -> None:
    result = APGD(0.05, loss=loss, steps=10)(plane, above(1.3), torch.tensor([1]), generator=seeded())
    change = (result.images - above(1.3)).flatten()
    torch.testing.assert_close(change[[0, 1, 11]], torch.tensor([-0.05, 0.05, -0.05]))
    assert not result.success  # 1.3 - 0.05 * 19 > 0
    assert (result.n_fwd.tolist(), result.n_bwd.tolist()) == ([12], [10])


def test_l2_ends_below_the_plane_at_the_distance_of_the_ball() -> None:
    result = APGD(0.2, "l2", steps=60)(plane, above(1.3), torch.tensor([1]), generator=seeded())
    torch.testing.assert_close(result.images, above(1.3 - 0.2 * 13), rtol=0, atol=5e-3)
    assert result.success.all()


def test_stopping_when_fooled_costs_less_and_keeps_the_success() -> None:
    images = torch.cat([above(height) for height in (0.1, 0.5, 0.9, 3.0)])
    labels = torch.ones(4, dtype=torch.int64)
    full = APGD(0.05, steps=10)(plane, images, labels, generator=seeded())
    short = APGD(0.05, steps=10, stop_when_fooled=True)(plane, images, labels, generator=seeded())
    assert full.success.tolist() == short.success.tolist() == [True, True, True, False]
    assert short.n_fwd.tolist()[3] == 12
    assert max(short.n_fwd.tolist()[:3]) <= 4
    torch.testing.assert_close(short.images[3], full.images[3])


def test_targeted_climbs_to_its_goal() -> None:
    aimed = APGD(0.1, loss="margin", steps=10, targeted=True)
    assert aimed(plane, above(1.3), torch.tensor([0]), generator=seeded()).success.all()
    assert not aimed(plane, above(1.3), torch.tensor([2]), generator=seeded()).success.any()


def test_losses_by_hand() -> None:
    logits, labels = torch.tensor([[4.0, 1.0, 3.0, -1.0]] * 2), torch.tensor([0, 2])
    assert rising_loss("margin", targeted=False)(logits, labels).tolist() == [-1.0, 1.0]
    assert rising_loss("margin", targeted=True)(logits, labels).tolist() == [1.0, -1.0]
    dlr = rising_loss("dlr", targeted=False)(logits, labels)
    torch.testing.assert_close(dlr, torch.tensor([-1 / 3, 1 / 3]))
    aimed = rising_loss("dlr", targeted=True)(logits, labels)
    torch.testing.assert_close(aimed, torch.tensor([1 / 4, -1 / 4]))
    ce = -torch.log_softmax(logits, dim=1)[[0, 1], labels]
    torch.testing.assert_close(rising_loss("ce", targeted=False)(logits, labels), ce)
    torch.testing.assert_close(rising_loss("ce", targeted=True)(logits, labels), -ce)


def test_looks_come_ever_closer() -> None:
    assert _looks(100) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    assert _looks(1) == {1: 1}
    assert list(_looks(5)) == [1, 2, 3, 4, 5]


def values(*numbers: float) -> Tensor:
    """One image of one value per number."""
    return torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1, 1)


def state(**parts: Tensor) -> _State:
    count = len(next(iter(parts.values())))
    rows = {name: torch.arange(count) for name in ("place", "rows")}
    wide = {name: torch.zeros(count, 1, 1, 1) for name in ("images", "at", "before", "gradient", "best")}
    flat = {name: torch.zeros(count) for name in ("loss", "best_loss", "best_loss_at_look", "rises")}
    usual = rows | wide | flat | {"best_gradient": torch.zeros(count, 1, 1, 1), "step": torch.ones(count)}
    return _State(**usual | {"halved": torch.zeros(count, dtype=torch.bool)} | parts)


def test_a_look_halves_the_step_of_samples_that_rise_too_rarely_or_stall() -> None:
    looked = state(
        at=values(1, 2, 3, 4),
        gradient=values(1, 1, 1, 1),
        best=values(5, 6, 7, 8),
        best_gradient=values(-1, -1, -1, -1),
        # Rose just too rarely; stalls; stalls, but was halved at the last look; found something better.
        rises=torch.tensor([3, 4, 4, 4]),
        best_loss=torch.tensor([2.0, 1.0, 1.0, 1.5]),
        best_loss_at_look=torch.ones(4),
        halved=torch.tensor([False, False, True, False]),
    )
    looked.look(at_most=3.0)
    assert looked.halved.tolist() == [True, True, False, False]
    assert looked.step.tolist() == [0.5, 0.5, 1.0, 1.0]
    assert looked.at.flatten().tolist() == [5, 6, 3, 4]  # back to the best iterate, and to its slope
    assert looked.gradient.flatten().tolist() == [-1, -1, 1, 1]
    assert looked.best_loss_at_look.tolist() == [2.0, 1.0, 1.0, 1.5]
    assert looked.rises.tolist() == [0, 0, 0, 0]


def test_a_note_counts_rises_from_step_to_step_and_keeps_the_best_iterate() -> None:
    noted = state(at=values(1, 2, 3), gradient=values(4, 5, 6), best_loss=torch.full((3,), 0.5))
    noted.note(torch.tensor([1.0, 0.25, -1.0]))
    assert noted.rises.tolist() == [1, 1, 0]
    assert noted.best.flatten().tolist() == [1, 0, 0]
    assert noted.best_gradient.flatten().tolist() == [4, 0, 0]
    noted.note(torch.tensor([0.75, 0.5, -0.5]))
    assert noted.rises.tolist() == [1, 2, 1]
    assert noted.best_loss.tolist() == [1.0, 0.5, 0.5]


def test_an_iterate_that_fools_is_kept_before_one_of_higher_loss() -> None:
    known = _Outcome(values(0, 0, 0, 0, 0), torch.ones(5), torch.tensor([True, True, False, False, True]))
    offered = torch.tensor([False, True, True, False, True])
    known.offer(torch.arange(5), values(1, 2, 3, 4, 5), torch.tensor([9.0, 2.0, 0.5, 2.0, 0.5]), offered)
    assert known.images.flatten().tolist() == [0, 2, 3, 4, 0]
    assert known.fools.tolist() == [True, True, True, False, True]
    assert known.loss.tolist() == [1.0, 2.0, 0.5, 2.0, 1.0]


def test_momentum_mixes_the_step_with_the_one_before() -> None:
    at = state(at=values(0.5), before=values(0.46), gradient=values(2.0), step=torch.tensor([0.02]))
    at.images = values(0.4)
    attack = APGD(0.3)
    assert attack._moved(at, momentum=False).item() == pytest.approx(0.52)
    assert attack._moved(at, momentum=True).item() == pytest.approx(0.5 + 0.75 * 0.02 + 0.25 * 0.04)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_on_the_surface_and_crosses_the_ball_in_the_first_step(norm: str) -> None:
    seen = []

    def watched(images: Tensor) -> Tensor:
        seen.append(images.detach() - above(1.3))
        return plane(images)

    APGD(0.05, norm, steps=1, restarts=2)(watched, above(1.3), torch.tensor([1]), generator=seeded())
    size = {"linf": lambda noise: noise.abs().max().item(), "l2": lambda noise: noise.norm().item()}[norm]
    assert size(seen[0]) == pytest.approx(0.05, abs=1e-6)
    assert (seen[0] - seen[2]).abs().max() > 0.01  # the second restart starts elsewhere
    if norm == "linf":
        torch.testing.assert_close(seen[1].flatten()[[0, 1, 11]], torch.tensor([-0.05, 0.05, -0.05]))


def test_restarts_keep_the_highest_loss() -> None:
    """More restarts of the same seed begin with the same ones, so that the loss can only rise."""

    def bumpy(images: Tensor) -> Tensor:
        height = (60 * images.flatten(1)).sin().mean(dim=1) - 5
        return torch.stack([-height, height], dim=1)

    images = torch.rand(32, *SHAPE[1:], generator=seeded())
    labels = torch.zeros(32, dtype=torch.int64)
    attacks = [APGD(0.2, loss="margin", steps=2, restarts=count) for count in range(1, 6)]
    found = [which(bumpy, images, labels, generator=seeded()) for which in attacks]
    gains = torch.stack([bumpy(result.images)[:, 1] for result in found]).diff(dim=0)
    assert float(gains.min()) >= 0
    assert (gains > 0).any(dim=1).all()
    assert (gains == 0).any(dim=1).all()


@pytest.mark.parametrize(("targeted", "classes"), [(False, 2), (True, 3)])
def test_dlr_with_too_few_classes_names_the_margin_loss(*, targeted: bool, classes: int) -> None:
    attack = APGD(0.1, loss="dlr", targeted=targeted)
    with pytest.raises(
        ConfigError, match=rf"at least {classes + 1} classes, found {classes}; use loss: margin"
    ):
        attack(lambda x: plane(x)[:, :classes], above(1.3), torch.tensor([1]), generator=seeded())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"eps": -0.1}, "APGD.eps"),
        ({"eps": 8.0}, "pixel units"),
        ({"norm": "l1"}, "APGD.norm"),
        ({"loss": "cw"}, "APGD.loss must be 'ce', 'dlr' or 'margin', found 'cw'"),
        ({"steps": 0}, "APGD.steps"),
        ({"restarts": 0}, "APGD.restarts"),
        ({"rho": 1.5}, "APGD.rho"),
    ],
)
def test_refuses_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        APGD(**{"eps": 0.1} | settings)


def test_bim_is_pgd_from_the_image() -> None:
    images, labels = torch.cat([above(1.3), above(0.2)]), torch.tensor([1, 1])
    ours = BIM(0.05, steps=5)(plane, images, labels, generator=seeded())
    same = PGD(0.05, steps=5, step=0.0125, random_start=False)(plane, images, labels, generator=seeded())
    assert ours.images.equal(same.images)
    with pytest.raises(ConfigError, match=r"BIM\.steps"):
        BIM(0.05, steps=0)


def test_aa_light_passes_survivors_on_and_spends_nothing_on_the_fooled() -> None:
    images, labels = torch.cat([above(0.1), above(3.0)]), torch.tensor([1, 1])
    result = AALight(0.05, steps=6, n_queries=9)(plane, images, labels, generator=seeded())
    assert result.success.tolist() == [True, False]
    # APGD twice (7 forward and 6 backward passes each), Square, verdict.
    assert result.n_fwd.tolist() == [7 + 1, 7 + 7 + 9 + 1]
    assert result.n_bwd.tolist() == [6, 12]
    with pytest.raises(ConfigError, match="use loss: margin"):
        APGD(0.01, loss="dlr", steps=2)(lambda x: plane(x)[:, :2], images, labels, generator=seeded())
