"""Success and noise of gradient attacks beside those of foolbox and torchattacks, where installed."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal.attacks import DDN, FGSM, PGD, CarliniWagnerL2, DeepFoolL2

CLASSES = 5

# What the libraries warn of as they are imported and run is their concern.
pytestmark = pytest.mark.filterwarnings("ignore")


def library(name: str):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, exc_type=ImportError)


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Smooth class patterns, weak beside smooth noise; ``(count, 3, 16, 16)``."""
    patterns = torch.rand(CLASSES, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=rng)
    coarse = 0.5 * patterns[labels] + 0.5 * torch.rand(count, 3, 4, 4, generator=rng)
    images = F.interpolate(coarse, size=16, mode="bilinear")
    images = images + 0.1 * torch.rand(images.shape, generator=rng) - 0.05
    return (images.clamp(0, 1) * 255).round() / 255, labels


@pytest.fixture(scope="module")
def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A small trained network, and images that it gets right."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()]
        model = nn.Sequential(*layers, nn.Linear(256, CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    images, labels = blobs(512, seed=1)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    model.eval().requires_grad_(False)
    images, labels = blobs(120, seed=2)
    right = model(images).argmax(dim=1) == labels
    assert right.sum() >= 100
    return model, images[right][:100], labels[right][:100]


def ours(attack, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return attack(model, images, labels, generator=torch.Generator().manual_seed(0)).images


def summary(model: nn.Module, images: Tensor, labels: Tensor, attacked: Tensor) -> tuple[float, float]:
    """Success rate, and median L2 norm where successful."""
    hit = model(attacked).argmax(dim=1) != labels
    return float(hit.float().mean()), float((attacked - images).flatten(1).norm(dim=1)[hit].median())


def foolbox_images(attack, problem) -> Tensor:
    foolbox = library("foolbox")
    model, images, labels = problem
    return attack(foolbox).run(
        foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"),
        images,
        foolbox.criteria.Misclassification(labels),
    )


def test_deepfool_is_that_of_foolbox(problem) -> None:
    peer = foolbox_images(lambda foolbox: foolbox.attacks.L2DeepFoolAttack(), problem)
    torch.testing.assert_close(ours(DeepFoolL2(), *problem), peer, rtol=0, atol=1e-5)


def test_ddn_succeeds_and_measures_as_that_of_foolbox(problem) -> None:
    rate, length = summary(*problem, foolbox_images(lambda foolbox: foolbox.attacks.DDNAttack(), problem))
    own_rate, own_length = summary(*problem, ours(DDN(), *problem))
    assert own_rate == pytest.approx(rate, abs=0.02)
    assert own_length == pytest.approx(length, rel=0.05)


def test_carlini_wagner_succeeds_and_measures_as_that_of_foolbox(problem) -> None:
    peer = foolbox_images(
        lambda foolbox: foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=5, steps=200), problem
    )
    rate, length = summary(*problem, peer)
    for attack in (CarliniWagnerL2(), CarliniWagnerL2(rounds=5, steps=200)):
        own_rate, own_length = summary(*problem, ours(attack, *problem))
        assert own_rate == pytest.approx(rate, abs=0.02)
        assert own_length == pytest.approx(length, rel=0.05)


def test_fgsm_and_pgd_without_a_start_are_those_of_torchattacks(problem) -> None:
    torchattacks = library("torchattacks")
    model, images, labels = problem
    peer = torchattacks.FGSM(model, eps=0.02)(images, labels)
    torch.testing.assert_close(ours(FGSM(0.02), *problem), peer, rtol=0, atol=1e-6)
    peer = torchattacks.PGD(model, eps=0.02, alpha=0.005, steps=7, random_start=False)(images, labels)
    own = ours(PGD(0.02, steps=7, step=0.005, random_start=False), *problem)
    torch.testing.assert_close(own, peer, rtol=0, atol=1e-6)
