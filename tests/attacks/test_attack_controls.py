"""What must hold for any sound attack on a trained network."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal.attacks import APGD, BIM, FGSM, PGD, AALight, Attack, SquareAttack
from verisal.functional.adversarial import judge_8bit


def bars(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Horizontal, vertical and no bars of random place and contrast on noise; ``(N, 3, 12, 12)``."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=rng)
    images = 0.3 + 0.4 * torch.rand(count, 3, 12, 12, generator=rng)
    places = torch.randint(1, 11, (count,), generator=rng).tolist()
    contrast = 0.1 + 0.3 * torch.rand(count, 3, 1, generator=rng)
    for image, label, place, more in zip(images, labels.tolist(), places, contrast, strict=True):
        if label == 0:
            image[:, place] += more
        elif label == 1:
            image[:, :, place] += more
    return (images.clamp(0, 1) * 255).round() / 255, labels


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.SiLU(), nn.Conv2d(12, 12, 3, padding=1), nn.SiLU(),
            nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(48, 3),
        )  # fmt: skip
        images, labels = bars(384, seed=1)
        adam = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(8):
            for part in torch.randperm(384).split(64):
                adam.zero_grad()
                F.cross_entropy(net(images[part] - 0.5), labels[part]).backward()
                adam.step()
    images, labels = bars(160, seed=2)
    network = nn.Sequential(Centred(), net).eval()
    with torch.no_grad():
        assert (network(images).argmax(dim=1) == labels).float().mean() > 0.85
    return network, images, labels


class Centred(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images - 0.5


def rate(attack: Attack, trained: tuple[nn.Module, Tensor, Tensor]) -> float:
    network, images, labels = trained
    result = attack(network, images, labels, generator=torch.Generator().manual_seed(0))
    return judge_8bit(network, images, result.images, labels).success_rate_unrounded


def linf(name: str, eps: float) -> Attack:
    return {
        "fgsm": lambda: FGSM(eps),
        "bim": lambda: BIM(eps),
        "pgd": lambda: PGD(eps),
        "apgd": lambda: APGD(eps, steps=20),
        "apgd dlr": lambda: APGD(eps, loss="dlr", steps=20),
        "square": lambda: SquareAttack(eps, n_queries=100),
    }[name]()


@pytest.mark.parametrize("name", ["bim", "pgd", "apgd", "apgd dlr"])
@pytest.mark.parametrize("eps", [4 / 255, 8 / 255, 16 / 255])
def test_iterative_attacks_succeed_at_least_as_often_as_fgsm(name: str, eps: float, trained) -> None:
    assert rate(linf(name, eps), trained) >= rate(linf("fgsm", eps), trained)


@pytest.mark.parametrize("name", ["bim", "pgd", "apgd", "square"])
def test_success_never_falls_with_eps_from_none_to_all(name: str, trained) -> None:
    rates = [rate(linf(name, eps), trained) for eps in (0.0, 6 / 255, 24 / 255, 0.5)]
    assert rates == sorted(rates)
    assert rates[0] == 0.0
    assert rates[-1] >= 0.99


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_twice_the_steps_move_the_success_by_less_than_a_point(norm: str, trained) -> None:
    eps = 6 / 255 if norm == "linf" else 0.4
    for few, many in (
        (PGD(eps, norm, steps=20), PGD(eps, norm, steps=40)),
        (APGD(eps, norm, steps=20), APGD(eps, norm, steps=40)),
    ):
        first, second = rate(few, trained), rate(many, trained)
        assert 0.1 < first < 0.9
        assert abs(second - first) < 0.01


@pytest.mark.parametrize(
    "attack", [BIM(0.0), APGD(0.0, steps=3), SquareAttack(0.0, "l2", n_queries=3)], ids=repr
)
def test_no_budget_no_change(attack: Attack, trained) -> None:
    network, images, labels = trained
    result = attack(network, images[:8], labels[:8], generator=torch.Generator())
    assert result.images.equal(images[:8])


def test_a_part_of_the_batch_gets_what_it_gets_in_the_whole(trained) -> None:
    network, images, labels = trained
    ids = [f"image {index}" for index in range(len(images))]
    for attack in (APGD(8 / 255, steps=12), SquareAttack(8 / 255, n_queries=60)):
        whole = attack(network, images, labels, generator=torch.Generator(), sample_ids=ids)
        some = attack(network, images[7:31], labels[7:31], generator=torch.Generator(), sample_ids=ids[7:31])
        assert some.success.equal(whole.success[7:31])
        gap = (some.images - whole.images[7:31]).abs().flatten(1).amax(dim=1)
        assert float((gap < 1e-5).float().mean()) >= 0.9  # signs of slopes that are nearly zero


def test_the_chain_is_as_strong_as_each_of_its_parts(trained) -> None:
    eps = 6 / 255
    chain = rate(AALight(eps, steps=20, n_queries=60), trained)
    assert chain >= max(rate(linf(name, eps), trained) for name in ("apgd", "apgd dlr"))
