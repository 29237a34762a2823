"""Patches against literal loops: one image at a time, plain autograd, no active set, no shared code."""

import math

import pytest
import torch
from torch import Tensor

from reference.test_attacks_reference import CLASSES, Small, problem
from verisal.attacks import AdversarialPatch
from verisal.functional.seeding import per_sample

SEED = 11
HEIGHT, WIDTH = 3, 2  # of 6 x 5 pixels, at a share of 0.2


def drawn(name: str, shape: tuple[int, ...], stream: str) -> Tensor:
    return per_sample(
        lambda rng: torch.rand(shape, generator=rng),
        seed=SEED,
        sample_ids=[name],
        stream=stream,
        device=torch.device("cpu"),
    )[0]


def whole(down: float, across: float) -> tuple[int, int]:
    return min(int(down * (6 - HEIGHT + 1)), 6 - HEIGHT), min(int(across * (5 - WIDTH + 1)), 5 - WIDTH)


def pasted(image: Tensor, patch: Tensor, corner: tuple[int, int]) -> Tensor:
    top, left = corner
    framed = torch.nn.functional.pad(patch, (left, 5 - WIDTH - left, top, 6 - HEIGHT - top))
    inside = torch.nn.functional.pad(torch.ones_like(patch), (left, 5 - WIDTH - left, top, 6 - HEIGHT - top))
    return image * (1 - inside) + framed


def loop(model: Small, image: Tensor, label: int, name: str, attack: AdversarialPatch) -> Tensor:
    """Attacked image of one image."""
    own = whole(*drawn(name, (2,), "patch place").tolist())
    others = drawn(name, (attack.steps, attack.places - 1, 2), "patch places").tolist()
    top, left = own
    patch = image[:, top : top + HEIGHT, left : left + WIDTH].clone()
    if attack.random_start:
        patch = drawn(name, (3, HEIGHT, WIDTH), "patch start")
    best, best_key = None, (-1, -math.inf)
    mean = square = torch.zeros_like(patch)
    for step in range(attack.steps):
        seen = patch if attack.levels is None else (patch * (attack.levels - 1)).round() / (attack.levels - 1)
        leaf = seen.clone().requires_grad_()
        total, fools, margins = 0.0, [], []
        for corner in (own, *(whole(*place) for place in others[step])):
            logits = model(pasted(image, leaf, corner)[None])[0]
            rest = max(logits[k] for k in range(CLASSES) if k != label)
            lead = logits[label] - rest if attack.targeted else rest - logits[label]
            probability = torch.log_softmax(logits, dim=0)[label]
            risen = probability if attack.targeted else -probability
            total = total + (lead if attack.loss == "margin" else risen)
            fools.append((int(logits.argmax()) == label) == attack.targeted)
            margins.append(lead.item())
        (slope,) = torch.autograd.grad(total / attack.places, leaf)
        key = (sum(fools) + (attack.places + 1) * fools[0], total.item())
        if key > best_key:
            best, best_key = seen, key
        if attack.confidence is not None and all(fools) and min(margins) >= attack.confidence:
            break
        if attack.optimiser == "adam":
            mean = 0.9 * mean + 0.1 * slope
            square = 0.999 * square + 0.001 * slope**2
            way = mean / (1 - 0.9 ** (step + 1)) / ((square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-12)
        else:
            way = slope.sign()
        length = attack.step * (0.1 + 0.9 * (1 + math.cos(math.pi * step / attack.steps)) / 2)
        patch = (patch + length * way).clamp(0, 1)
    return pasted(image, best, own)


@pytest.mark.parametrize(
    "attack",
    [
        AdversarialPatch(0.2, steps=12),
        AdversarialPatch(0.2, steps=12, confidence=None, levels=None),
        AdversarialPatch(0.2, steps=8, places=4, loss="margin", confidence=0.0),
        AdversarialPatch(0.2, steps=8, optimiser="adam", random_start=True, levels=16, confidence=5.0),
        AdversarialPatch(0.2, steps=12, places=2, optimiser="adam", step=0.3, targeted=True),
    ],
    ids=["sign", "goes on", "places", "adam", "targeted"],
)
def test_patch(attack: AdversarialPatch) -> None:
    model, images, labels = problem()
    if attack.targeted:
        labels = (labels + 1) % CLASSES
    generator = torch.Generator().manual_seed(SEED)
    result = attack(model, images, labels, generator=generator, sample_ids=list("abcdef"))
    for index, name in enumerate("abcdef"):
        expected = loop(model, images[index], int(labels[index]), name, attack)
        torch.testing.assert_close(result.images[index], expected, rtol=0, atol=1e-5)
    assert result.success.any()
