"""Adapters: budget, range, counts and random states of attacks by others."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from verisal.attacks import AdaptedAttack, ARTCall, FoolboxCall, TorchattacksCall
from verisal.errors import ConfigError, NumericError

IMAGES = torch.full((5, 3, 4, 4), 0.5)
LABELS = torch.zeros(5, dtype=torch.int64)


def network(images: Tensor) -> Tensor:
    mean = images.flatten(1).mean(dim=1)
    return torch.stack([0.55 - mean, mean - 0.55], dim=1)


def brighter(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    model(images)
    return images + 0.1


def run(attack: AdaptedAttack, **more):
    return attack(network, IMAGES, LABELS, generator=torch.Generator().manual_seed(0), **more)


def test_any_callable_gets_verdict_norm_and_counts() -> None:
    result = run(AdaptedAttack(brighter, "brighter", "linf", 0.1))
    assert result.success.all()
    torch.testing.assert_close(result.norms, torch.full((5,), 0.1))
    assert (result.n_fwd.tolist(), result.n_bwd.tolist()) == ([2] * 5, [0] * 5)


def test_noise_above_the_budget_names_attack_found_and_allowed() -> None:
    with pytest.raises(ConfigError, match=r"brighter: noise of linf norm 0\.1 found, 0\.05 allowed"):
        run(AdaptedAttack(brighter, "brighter", "linf", 0.05))
    with pytest.raises(ConfigError, match=r"l2 norm 0\.69282 found, 0\.69 allowed"):  # 0.1 * sqrt(48)
        run(AdaptedAttack(brighter, "brighter", "l2", 0.69))
    assert run(AdaptedAttack(brighter, "brighter", "l2")).success.all()


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda model, x, y: x + 0.6, ConfigError, r"\[0, 1\], found \[1\.1, 1\.1\]"),
        (lambda model, x, y: x[:, :1], ConfigError, r"found \(1, 1, 4, 4\)"),
        (lambda model, x, y: (x * 255).byte(), ConfigError, "torch.uint8"),
        (lambda model, x, y: x.numpy(), ConfigError, "found ndarray"),
        (lambda model, x, y: x * float("nan"), NumericError, "not finite"),
    ],
)
def test_results_that_are_no_images_are_refused(function, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        run(AdaptedAttack(function, "odd"))


def in_place(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    labels += 1
    return images.add_(0.01)


def test_a_function_that_writes_into_its_arguments_harms_nobody() -> None:
    result = run(AdaptedAttack(in_place, "in place", "linf", 0.02))
    assert IMAGES.eq(0.5).all()
    assert LABELS.eq(0).all()
    torch.testing.assert_close(result.norms, torch.full((5,), 0.01))


def shaky(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    draws = random.gauss() + np.random.rand() + torch.rand(len(images), 1, 1, 1)
    return (images + abs(draws) / 100).clamp(0, 1)


def test_global_random_numbers_are_seeded_per_image_and_put_back() -> None:
    attack = AdaptedAttack(shaky, "shaky")
    state = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    full = run(attack, sample_ids=list("abcde"))
    assert random.getstate() == state[0]
    assert np.random.get_state()[1].tolist() == state[1]
    assert torch.get_rng_state().equal(state[2])
    assert full.norms.unique().numel() == 5
    random.seed(1)
    part = attack(
        network, IMAGES[2:3], LABELS[2:3], generator=torch.Generator().manual_seed(0), sample_ids=["c"]
    )
    assert part.images.equal(full.images[2:3])


def failing(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    random.gauss()
    raise RuntimeError("out of order")


def test_random_states_are_put_back_after_errors() -> None:
    state = random.getstate()
    with pytest.raises(RuntimeError, match="out of order"):
        run(AdaptedAttack(failing, "failing"))
    assert random.getstate() == state


def test_calls_of_a_whole_chunk_share_their_passes() -> None:
    def halves(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        leaf = images.requires_grad_()
        model(leaf)[:, 1].sum().backward()
        model(leaf[:2])
        return (images + 0.1 * leaf.grad.sign()).detach()

    result = run(AdaptedAttack(halves, "halves", "linf", 0.1, calls="per_chunk"))
    assert result.n_fwd.tolist() == [2 + 1] * 5  # (5 + 2) / 5, rounded up, and the verdict
    assert result.n_bwd.tolist() == [1] * 5
    assert result.success.all()


class Boxed:
    """As a library's own tensor, around ``raw``."""

    def __init__(self, raw: Tensor) -> None:
        self.raw = raw


def test_foolbox_objects_are_called_its_way() -> None:
    def attack(model, images: Tensor, labels: Tensor, *, epsilons: float):
        assert (model.bounds.lower, model.bounds.upper, model.data_format) == (0.0, 1.0, "channels_first")
        assert isinstance(model(Boxed(images)), Boxed)
        assert model(images).equal(network(images))
        return None, images + epsilons, None

    result = run(AdaptedAttack(FoolboxCall(attack, 0.1), "foolbox", "linf", 0.1))
    assert result.success.all()
    assert result.n_fwd.tolist() == [3] * 5


def test_torchattacks_and_art_objects_are_built_around_the_model() -> None:
    class Generates:
        def __init__(self, model: nn.Module) -> None:
            self.model = model

        def generate(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
            assert y.tolist() == [0]
            self.model(torch.from_numpy(x))
            return x + 0.1

    built = TorchattacksCall(lambda model: lambda x, y: x + 0.1 * model(x).shape[0])
    for function in (built, ARTCall(Generates)):
        result = run(AdaptedAttack(function, "peer", "linf", 0.1))
        assert result.success.all()
        assert result.n_fwd.tolist() == [2] * 5


def test_name_stands_for_the_function_in_the_settings() -> None:
    assert AdaptedAttack(brighter, "brighter 0.1", "linf", 0.1).settings() == {
        "class": "AdaptedAttack",
        "name": "brighter 0.1",
        "norm": "linf",
        "eps": 0.1,
        "calls": "per_image",
        "targeted": False,
    }
    for wrong in ({"name": ""}, {"norm": "l0"}, {"eps": -1.0}, {"calls": "all"}):
        with pytest.raises(ConfigError, match=f"AdaptedAttack.{next(iter(wrong))}"):
            AdaptedAttack(brighter, **{"name": "a"} | wrong)
