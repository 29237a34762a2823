"""APGD, Square and the adapters against torchattacks, ART and foolbox, where these are installed."""

import random
import warnings
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from verisal.attacks import (
    APGD,
    PGD,
    AdaptedAttack,
    ARTCall,
    FoolboxCall,
    SquareAttack,
    TorchattacksCall,
)
from verisal.attacks._base import AttackResult
from verisal.attacks._victim import rising_loss
from verisal.errors import ConfigError
from verisal.functional.seeding import per_sample

SIZE, CLASSES = 16, 4

pytestmark = pytest.mark.filterwarnings("default")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.SiLU())
        self.head = nn.Linear(16 * 16, CLASSES)
        with torch.no_grad():
            for value in self.parameters():
                value.copy_(2 * torch.randn(value.shape, generator=rng) / value[0].numel() ** 0.5)

    def forward(self, images: Tensor) -> Tensor:
        return 2 * self.head(self.body(4 * (images - 0.5)).flatten(1))


def problem(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    images = torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    images = (nn.functional.avg_pool2d(images, 5, 1, 2) * 255).round() / 255
    model = Net().eval()
    with torch.no_grad():
        return model, images, model(images).argmax(dim=1)


def quiet(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def both(
    norm: str, eps: float, loss: str, steps: int
) -> tuple[nn.Module, Tensor, AttackResult, tuple[Tensor, Tensor, Tensor]]:
    """Network, labels, our result, and the peer's best images, whether they hold, and best losses."""
    torchattacks = quiet("torchattacks")
    model, images, labels = problem(40)
    model = model.double()
    attack = APGD(eps, norm, loss=loss, steps=steps)
    ours = attack(lambda x: model(x.double()), images, labels, generator=seeded(), sample_ids=range(40))
    one = torch.rand if norm == "linf" else torch.randn
    start = per_sample(
        lambda rng: one(3, SIZE, SIZE, generator=rng),
        seed=3,
        sample_ids=range(40),
        stream="apgd start 0",
        device=torch.device("cpu"),
    )
    name = "Linf" if norm == "linf" else "L2"
    peer = torchattacks.APGD(model, norm=name, eps=eps, steps=steps, loss=loss)
    with mock.patch.object(torch, one.__name__, return_value=start.double()):
        best, right, best_loss, _ = peer.attack_single_run(images.double(), labels)
    return model, labels, ours, (best.float(), right, best_loss)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.006), ("l2", 0.1)])
def test_first_steps_of_apgd_are_those_of_torchattacks_from_the_same_start(norm: str, eps: float) -> None:
    model, labels, ours, (best, _, _) = both(norm, eps, "ce", 4)
    # The peer returns the iterate of highest loss, ours the fooling one of highest loss.
    same = (model(best.double()).argmax(dim=1) != labels) == ours.success
    assert same.float().mean() >= 0.9
    gap = (ours.images - best)[same].abs().flatten(1).amax(dim=1)
    # The sign of a slope that is nearly zero depends on the last digit: few values of few images.
    assert float((gap < 1e-5).float().mean()) >= 0.8


@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.006), ("l2", 0.1)])
def test_apgd_succeeds_on_the_same_images_as_that_of_torchattacks(norm: str, eps: float, loss: str) -> None:
    model, labels, ours, (_, right, best_loss) = both(norm, eps, loss, 30)
    assert ours.success.equal(~right)
    assert 5 < int(ours.success.sum()) < 35
    with torch.no_grad():
        reached = rising_loss(loss, targeted=False)(model(ours.images.double()), labels)
    torch.testing.assert_close(reached, best_loss, rtol=0.01, atol=0.01)


def test_square_linf_succeeds_as_often_as_that_of_art() -> None:
    quiet("art")
    from art.attacks.evasion import SquareAttack as Peer
    from art.estimators.classification import PyTorchClassifier

    def make(model: nn.Module) -> Peer:
        loss = nn.CrossEntropyLoss()
        estimator = PyTorchClassifier(model, loss, (3, SIZE, SIZE), CLASSES, clip_values=(0.0, 1.0))
        return Peer(estimator, max_iter=150, eps=0.015, p_init=0.8, verbose=False)

    assert_succeeds_as_often(ARTCall(make), SquareAttack(0.015, n_queries=150))


def test_square_l2_succeeds_as_often_as_that_of_torchattacks() -> None:
    torchattacks = quiet("torchattacks")
    peer = TorchattacksCall(lambda net: torchattacks.Square(net, norm="L2", eps=0.5, n_queries=150))
    assert_succeeds_as_often(peer, SquareAttack(0.5, "l2", n_queries=150))


def assert_succeeds_as_often(peer: ARTCall | TorchattacksCall, attack: SquareAttack) -> None:
    model, images, labels = problem(100)
    adapted = AdaptedAttack(peer, "peer", attack.norm, attack.eps, calls="per_chunk")
    theirs = adapted(model, images, labels, generator=seeded(), chunk_size=100).success.float().mean()
    ours = attack(model, images, labels, generator=seeded()).success.float().mean()
    print(f"square {attack.norm}: ours {ours:.3f}, theirs {theirs:.3f}")
    assert 0.2 < theirs < 0.95
    assert ours >= theirs - 0.02


def test_foolbox_attack_passes_through_the_adapter() -> None:
    quiet("foolbox")
    from foolbox.attacks import L2DeepFoolAttack, LinfPGD

    model, images, labels = problem(20)
    peer = LinfPGD(rel_stepsize=0.25, steps=10, random_start=False)
    adapted = AdaptedAttack(FoolboxCall(peer, 0.02), "foolbox pgd", "linf", 0.02)
    result = adapted(model, images, labels, generator=seeded())
    ours = PGD(0.02, random_start=False)(model, images, labels, generator=seeded())
    torch.testing.assert_close(result.images, ours.images, rtol=0, atol=1e-5)
    assert result.success.equal(ours.success)
    assert result.n_bwd.tolist() == [10] * 20
    # Ten gradients, one verdict of the library's and one of ours.
    assert result.n_fwd.tolist() == [12] * 20
    least = AdaptedAttack(FoolboxCall(L2DeepFoolAttack()), "foolbox deepfool", "l2")
    assert least(model, images, labels, generator=seeded()).success.all()


def test_torchattacks_attack_passes_through_the_adapter() -> None:
    torchattacks = quiet("torchattacks")
    model, images, labels = problem(20)
    peer = TorchattacksCall(lambda net: torchattacks.PGD(net, eps=0.02, alpha=0.005, steps=10))
    adapted = AdaptedAttack(peer, "torchattacks pgd", "linf", 0.02)
    random.seed(5)
    np.random.seed(5)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    result = adapted(model, images, labels, generator=seeded(), sample_ids=list("abcdefghijklmnopqrst"))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[:2]
    assert torch.get_rng_state().equal(before[2])
    assert result.n_fwd.tolist() == [11] * 20
    assert result.n_bwd.tolist() == [10] * 20
    part = adapted(model, images[4:6], labels[4:6], generator=seeded(), sample_ids=["e", "f"])
    torch.testing.assert_close(part.images, result.images[4:6], rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match=r"0\.02 found, 0\.01 allowed"):
        AdaptedAttack(peer, "torchattacks pgd", "linf", 0.01)(model, images, labels, generator=seeded())
