"""One row per exported attack, and the toy classifier that the contract suite attacks."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal.attacks import (
    APGD,
    BIM,
    DDN,
    FGSM,
    JPEG,
    PGD,
    AALight,
    AdaptedAttack,
    AdversarialPatch,
    Attack,
    Brightness,
    CarliniWagnerL2,
    DeepFoolL2,
    GaussianBlur,
    GaussianNoise,
    HopSkipJumpL2,
    Shift,
    SignNoise,
    SquareAttack,
)

NUM_CLASSES = 4


@dataclass(frozen=True)
class AttackCase:
    """What the suite must know about an attack.

    ``make`` builds it with a budget (eps, L2 norm, or confidence where there is no budget) and ``budgets``
    are small, middle and overwhelming; ``passes`` is (forward, backward) per image where fixed.
    """

    make: Callable[[float], Attack]
    budgets: tuple[float, float, float]
    bounded: bool = True
    gradient: bool = True
    passes: tuple[int, int] | None = None


def noisy_step(eps: float) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Somebody else's attack: one gradient step and some noise, with global random numbers."""

    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        model.train()
        images.requires_grad_()
        F.cross_entropy(model(images), labels).backward()
        noise = 0.1 * torch.rand(images.shape) - 0.05 + images.grad.sign()
        return (images + eps * noise.clamp(-1, 1)).clamp(0, 1).detach()

    return attack


CASES = {
    "FGSM": AttackCase(FGSM, (0.01, 0.04, 0.5), passes=(2, 1)),
    "PGD": AttackCase(PGD, (0.01, 0.04, 0.5), passes=(11, 10)),
    "PGD l2": AttackCase(lambda eps: PGD(eps, "l2", steps=7), (0.1, 0.5, 12.0), passes=(8, 7)),
    "PGD bim": AttackCase(
        lambda eps: PGD(eps, step=1.25 * eps / 10, random_start=False), (0.01, 0.04, 0.5), passes=(11, 10)
    ),
    "PGD restarts": AttackCase(lambda eps: PGD(eps, steps=5, restarts=3), (0.01, 0.04, 0.5)),
    "CarliniWagnerL2": AttackCase(
        lambda kappa: CarliniWagnerL2(kappa, rounds=2, steps=20), (0.0, 1.0, 2.0), bounded=False
    ),
    "DDN": AttackCase(lambda length: DDN(steps=20, initial_norm=length), (0.3, 1.0, 3.0), bounded=False),
    "DeepFoolL2": AttackCase(lambda overshoot: DeepFoolL2(overshoot), (0.0, 0.02, 0.1), bounded=False),
    "APGD": AttackCase(lambda eps: APGD(eps, loss="margin", steps=10), (0.01, 0.04, 0.5), passes=(12, 10)),
    "APGD dlr l2": AttackCase(
        lambda eps: APGD(eps, "l2", loss="dlr", steps=10, restarts=2), (0.1, 0.5, 12.0)
    ),
    "APGD stops": AttackCase(
        lambda eps: APGD(eps, steps=10, restarts=3, stop_when_fooled=True), (0.01, 0.04, 0.5)
    ),
    "SquareAttack": AttackCase(
        lambda eps: SquareAttack(eps, n_queries=40), (0.01, 0.04, 0.5), gradient=False
    ),
    "SquareAttack l2": AttackCase(
        lambda eps: SquareAttack(eps, "l2", n_queries=40), (0.1, 0.5, 12.0), gradient=False
    ),
    "BIM": AttackCase(BIM, (0.01, 0.04, 0.5), passes=(11, 10)),
    "BIM l2": AttackCase(lambda eps: BIM(eps, "l2", steps=7), (0.1, 0.5, 12.0), passes=(8, 7)),
    "AALight": AttackCase(lambda eps: AALight(eps, steps=10, n_queries=20), (0.01, 0.04, 0.5)),
    "HopSkipJumpL2": AttackCase(
        lambda steps: HopSkipJumpL2(int(steps), directions=8, bisections=8, starts=20),
        (0, 2, 4),
        bounded=False,
        gradient=False,
    ),
    "AdversarialPatch": AttackCase(
        lambda share: AdversarialPatch(share, steps=40), (0.05, 0.4, 0.9), bounded=False
    ),
    "AdversarialPatch adam": AttackCase(
        lambda share: AdversarialPatch(share, steps=40, optimiser="adam", random_start=True, levels=None),
        (0.05, 0.4, 0.9),
        bounded=False,
    ),
    "AdversarialPatch places": AttackCase(
        lambda share: AdversarialPatch(share, steps=20, places=3, loss="margin", confidence=0.0),
        (0.05, 0.4, 0.9),
        bounded=False,
    ),
    "AdversarialPatch goes on": AttackCase(
        lambda share: AdversarialPatch(share, steps=5, confidence=None, down=0.0, across=1.0),
        (0.05, 0.4, 0.9),
        bounded=False,
        passes=(6, 5),
    ),
    "JPEG": AttackCase(
        lambda quality: JPEG(int(quality)), (90, 70, 50), bounded=False, gradient=False, passes=(1, 0)
    ),
    "Brightness": AttackCase(Brightness, (0.05, 0.1, 0.5), gradient=False, passes=(1, 0)),
    "GaussianBlur": AttackCase(GaussianBlur, (0.5, 1.0, 3.0), bounded=False, gradient=False, passes=(1, 0)),
    "Shift": AttackCase(
        lambda pixels: Shift(int(pixels)), (1, 2, 5), bounded=False, gradient=False, passes=(1, 0)
    ),
    "AdaptedAttack": AttackCase(
        lambda eps: AdaptedAttack(noisy_step(eps), "noisy step", "linf", eps),
        (0.01, 0.04, 0.5),
        gradient=False,
        passes=(2, 1),
    ),
    "GaussianNoise": AttackCase(GaussianNoise, (0.2, 1.0, 10.0), gradient=False, passes=(1, 0)),
    "SignNoise": AttackCase(SignNoise, (0.01, 0.04, 0.5), gradient=False, passes=(1, 0)),
}


class ToyNet(nn.Module):
    """Random conv net with BatchNorm and dropout; float64 inside keeps the batch out of the last digits.

    The logits are centred and scaled on random images, so that all classes occur.
    """

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8 * 16, NUM_CLASSES)
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                width = parameter[0].numel() ** 0.5
                parameter.copy_(2 * torch.randn(parameter.shape, generator=rng) / width)
        self.double()
        self.register_buffer("centre", torch.zeros(NUM_CLASSES))
        self.register_buffer("spread", torch.ones(NUM_CLASSES))
        self.eval()
        with torch.no_grad():
            logits = self(toy_images(256, seed=1))
        self.centre, self.spread = logits.mean(dim=0), logits.std(dim=0) / 4

    def forward(self, images: Tensor) -> Tensor:
        hidden = F.silu(self.norm(self.first(6 * (images.double() - 0.5))))
        hidden = F.silu(self.second(hidden))
        pooled = self.drop(F.adaptive_avg_pool2d(hidden, 4).flatten(1))
        return (self.head(pooled).float() - self.centre) / self.spread


def toy_images(count: int, *, seed: int = 0) -> Tensor:
    """8-bit images of 16 x 12 px: soft blobs and a little grain, with some black and white pixels."""
    rng = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.rand(count, 3, 4, 4, generator=rng), size=(16, 12), mode="bilinear")
    grain = torch.rand(count, 3, 16, 12, generator=rng)
    images = 1.6 * (0.9 * coarse + 0.1 * grain) - 0.3
    return (images.clamp(0, 1) * 255).round() / 255


def toy_problem(count: int, *, seed: int = 0) -> tuple[ToyNet, Tensor, Tensor]:
    """Network in eval mode, images, and the network's own predictions as labels."""
    model = ToyNet()
    images = toy_images(count, seed=seed)
    with torch.no_grad():
        return model, images, model(images).argmax(dim=1)
