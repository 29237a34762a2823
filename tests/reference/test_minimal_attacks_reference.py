"""DeepFool and DDN against literal loops: one image at a time, plain autograd, no active set."""

import math

import torch
from torch import Tensor, nn

from verisal.attacks import DDN, DeepFoolL2

CLASSES = 6


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


def problem(count: int = 8) -> tuple[Small, Tensor, Tensor]:
    model = Small()
    images = torch.rand(count, 3, 6, 5, generator=torch.Generator().manual_seed(4))
    images[0, :, 0, 0] = 0.0
    images[0, :, 1, 1] = 1.0
    labels = model(images).argmax(dim=1)
    labels[7] = (labels[7] + 1) % CLASSES  # wrong from the start
    return model, images, labels


def deepfool(model: Small, image: Tensor, label: int, *, candidates: int, overshoot: float) -> Tensor:
    order = [k for k in model(image[None])[0].argsort(descending=True).tolist() if k != label]
    total, current = torch.zeros_like(image), image
    for _ in range(50):
        if int(model(current[None])[0].argmax()) != label:
            break
        steps = []
        for k in order[: candidates - 1]:
            leaf = current.clone().requires_grad_()
            logits = model(leaf[None])[0]
            gap = logits[k] - logits[label]
            gap.backward()
            length = leaf.grad.norm().item()
            distance = abs(gap.item()) / length
            steps.append((distance, (distance + 1e-4) * leaf.grad / length))
        total = total + min(steps, key=lambda step: step[0])[1]
        current = (image + (1 + overshoot) * total).clamp(0, 1)
    return current


def test_deepfool() -> None:
    model, images, labels = problem()
    for candidates, overshoot in ((10, 0.02), (3, 0.02), (10, 0.1)):
        attack = DeepFoolL2(overshoot, candidates=candidates)
        result = attack(model, images, labels, generator=torch.Generator())
        assert result.success.all()
        for image, label, found in zip(images, labels.tolist(), result.images, strict=True):
            expected = deepfool(model, image, label, candidates=candidates, overshoot=overshoot)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def ddn(model: Small, image: Tensor, label: int, *, goal: bool, levels: int | None) -> Tensor:
    """DDN(steps=25, gamma=0.1, initial_norm=0.5)."""
    delta, length = torch.zeros_like(image), 0.5
    longest = torch.maximum(image, 1 - image).norm().item()
    best, best_length, current = None, math.inf, image
    for step in range(25):
        current = image + delta
        leaf = current.clone().requires_grad_()
        logits = model(leaf[None])[0]
        loss = -torch.log_softmax(logits, dim=0)[label]
        loss.backward()
        fooled = (int(logits.argmax()) == label) == goal
        if fooled and delta.norm().item() < best_length:
            best, best_length = current, delta.norm().item()
        alpha = 0.01 + 0.99 * (1 + math.cos(math.pi * step / 25)) / 2
        delta = delta + (-1 if goal else 1) * alpha * leaf.grad / leaf.grad.norm()
        length = min(length * (0.9 if fooled else 1.1), longest)
        attacked = (image + length * delta / delta.norm()).clamp(0, 1)
        if levels is not None:
            attacked = (attacked * (levels - 1)).round() / (levels - 1)
        delta = attacked - image
    return current if best is None else best


def test_ddn() -> None:
    model, images, labels = problem()
    images = (images * 255).round() / 255
    for goal in (False, True):
        for levels in (None, 256):
            attack = DDN(steps=25, gamma=0.1, initial_norm=0.5, levels=levels, targeted=goal)
            result = attack(model, images, labels, generator=torch.Generator())
            for image, label, found in zip(images, labels.tolist(), result.images, strict=True):
                expected = ddn(model, image, label, goal=goal, levels=levels)
                torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
