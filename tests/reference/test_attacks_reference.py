"""Attacks against literal loops: one image at a time, plain autograd, no active set, no shared code."""

import math

import torch
from torch import Tensor, nn

from verisal.attacks import FGSM, PGD, CarliniWagnerL2
from verisal.functional.seeding import per_sample

CLASSES = 4


class Small(nn.Module):
    """Two smooth layers on 6 x 5 px, in float64 inside."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(3)
        self.first = torch.randn(90, 12, generator=rng, dtype=torch.float64) / 4
        self.second = torch.randn(12, CLASSES, generator=rng, dtype=torch.float64) * 3

    def forward(self, images: Tensor) -> Tensor:
        hidden = (images.double().flatten(1) - 0.5) @ self.first
        return (torch.tanh(hidden) @ self.second).float()


def problem(count: int = 6) -> tuple[Small, Tensor, Tensor]:
    model = Small()
    images = torch.rand(count, 3, 6, 5, generator=torch.Generator().manual_seed(4))
    images[0, :, 0, 0] = 0.0
    images[0, :, 1, 1] = 1.0
    return model, images, model(images).argmax(dim=1)


def slope_of(model: Small, image: Tensor, label: int) -> Tensor:
    leaf = image.clone().requires_grad_()
    loss = -torch.log_softmax(model(leaf[None])[0], dim=0)[label]
    loss.backward()
    return leaf.grad


def test_fgsm() -> None:
    model, images, labels = problem()
    result = FGSM(0.03)(model, images, labels, generator=torch.Generator())
    for index in range(len(images)):
        slope = slope_of(model, images[index], int(labels[index]))
        expected = (images[index] + 0.03 * slope.sign()).clamp(0, 1)
        torch.testing.assert_close(result.images[index], expected, rtol=0, atol=1e-7)


def test_pgd_linf() -> None:
    model, images, labels = problem()
    generator = torch.Generator().manual_seed(11)
    result = PGD(0.04, steps=6)(model, images, labels, generator=generator, sample_ids=list("abcdef"))
    for index, name in enumerate("abcdef"):
        start = per_sample(
            lambda rng: torch.rand(3, 6, 5, generator=rng),
            seed=11,
            sample_ids=[name],
            stream="pgd start 0",
            device=torch.device("cpu"),
        )[0]
        image = images[index]
        current = (image + 0.04 * (2 * start - 1)).clamp(0, 1)
        for _ in range(6):
            current = current + 2.5 * 0.04 / 6 * slope_of(model, current, int(labels[index])).sign()
            current = torch.minimum(torch.maximum(current, image - 0.04), image + 0.04).clamp(0, 1)
        torch.testing.assert_close(result.images[index], current, rtol=0, atol=1e-6)


def test_pgd_l2_without_random_start() -> None:
    model, images, labels = problem()
    result = PGD(0.7, "l2", steps=5, random_start=False)(model, images, labels, generator=torch.Generator())
    for index in range(len(images)):
        image = current = images[index]
        for _ in range(5):
            slope = slope_of(model, current, int(labels[index])).double()
            noise = current + 2.5 * 0.7 / 5 * slope / math.sqrt(float((slope**2).sum())) - image
            length = math.sqrt(float((noise**2).sum()))
            if length > 0.7:
                noise = noise * 0.7 / length
            current = (image + noise).clamp(0, 1).float()
        torch.testing.assert_close(result.images[index], current, rtol=0, atol=1e-5)


def carlini_wagner(
    model: Small, image: Tensor, label: int, *, kappa: float, goal: bool, first_c: float
) -> Tensor:
    """Attacked image of CarliniWagnerL2(rounds=4, steps=30) of an image without the margin."""
    best, best_length, last = None, math.inf, None
    low, high, c = 0.0, math.inf, first_c
    for number in range(4):
        current = best if number == 3 and best is not None else image
        first = 0.3 if number == 3 else 0.6
        succeeded = False
        for step in range(30):
            leaf = current.clone().requires_grad_()
            logits = model(leaf[None])[0]
            plain = logits.detach().tolist()
            rest = [k for k in range(CLASSES) if k != label]
            other = logits[max(rest, key=plain.__getitem__)]
            sign = 1 if goal else -1
            margin = sign * (logits[label] - other).item()
            mixed = sum(logits[k].exp() for k in rest).log()
            climbed = sign * (logits[label] - (mixed if number in (0, 2) and step < 10 else other))
            (slope,) = torch.autograd.grad(climbed, leaf)
            met = margin >= kappa and (int(logits.argmax()) == label) == goal
            length = math.sqrt(((current - image).double() ** 2).sum().item())
            if met:
                succeeded = True
                if length < best_length:
                    best, best_length = current, length
            last = current
            share = 0.04 + (first - 0.04) * (1 + math.cos(math.pi * step / 30)) / 2
            moved = (1 - share) * (current - image) + (0 if met else share * c / 2) * slope
            current = (image + moved).clamp(0, 1)
        low, high = (low, c) if succeeded else (c, high)
        middle = math.sqrt(low * high) if low > 0 else high / 3
        c = low * 10 if high == math.inf else middle
    return last if best is None else best


def compare_carlini_wagner(kappa: float, *, targeted: bool, first_c: float = 0.3) -> list[bool]:
    model, images, labels = problem()
    if targeted:
        labels = (labels + 1) % CLASSES
    attack = CarliniWagnerL2(kappa, rounds=4, steps=30, initial_c=first_c, targeted=targeted)
    result = attack(model, images, labels, generator=torch.Generator())
    for index in range(len(images)):
        expected = carlini_wagner(
            model, images[index], int(labels[index]), kappa=kappa, goal=targeted, first_c=first_c
        )
        torch.testing.assert_close(result.images[index], expected, rtol=0, atol=2e-4)
    assert result.n_bwd.tolist() == [121] * len(images)
    return result.success.tolist()


def test_carlini_wagner() -> None:
    assert compare_carlini_wagner(0.0, targeted=False) == [True] * 6
    assert compare_carlini_wagner(2.0, targeted=False) == [True] * 6


def test_carlini_wagner_targeted() -> None:
    assert compare_carlini_wagner(0.5, targeted=True) == [True] * 6


def test_carlini_wagner_that_cannot_succeed_returns_its_last_iterate() -> None:
    # No input of this network has a margin of 1000 logits. The constants stay small, 0.003 to 3: with large
    # ones the best other class flips from step to step, and the last digit decides where the loop ends.
    assert compare_carlini_wagner(1000.0, targeted=False, first_c=0.003) == [True] * 6
