"""Attacks on sets of labels against literal loops: one image, one label at a time, plain autograd."""

import math

import torch
from torch import Tensor, nn

from verisal.attacks import APGD, BIM, DDN, FGSM, CarliniWagnerL2, DeepFoolL2
from verisal.functional.seeding import per_sample

LABELS = 5


class Tagger(nn.Module):
    """Two smooth layers on 6 x 5 px, in float64 inside; each logit is a label's."""

    output = "sigmoid"

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(3)
        self.first = torch.randn(90, 12, generator=rng, dtype=torch.float64) / 4
        self.second = torch.randn(12, LABELS, generator=rng, dtype=torch.float64)

    def forward(self, images: Tensor) -> Tensor:
        hidden = (images.double().flatten(1) - 0.5) @ self.first
        return (torch.tanh(hidden) @ self.second).float()


def problem() -> tuple[Tagger, Tensor, Tensor]:
    model = Tagger()
    images = torch.rand(6, 3, 6, 5, generator=torch.Generator().manual_seed(4))
    sets = (model(images) > 0).long()
    sets[0, 1:] = sets[1, 0] = sets[2, 2:4] = -1
    return model, images, sets


def bce(model: Tagger, image: Tensor, labels: list[int]) -> tuple[float, Tensor]:
    """Binary cross-entropy as its definition has it, mean of the asked labels, and its slope."""
    leaf = image.clone().requires_grad_()
    p = torch.sigmoid(model(leaf[None])[0].double())
    terms = [-(y * p[k].log() + (1 - y) * (1 - p[k]).log()) for k, y in enumerate(labels) if y != -1]
    loss = sum(terms) / len(terms)
    (slope,) = torch.autograd.grad(loss, leaf)
    return float(loss.detach()), slope


def any_flips(model: Tagger, image: Tensor, labels: list[int]) -> bool:
    logits = model(image[None])[0].tolist()
    return any((logits[k] > 0) != (y == 1) for k, y in enumerate(labels) if y != -1)


def test_fgsm_climbs_the_binary_cross_entropy() -> None:
    model, images, sets = problem()
    for targeted, sign in ((False, 1), (True, -1)):
        result = FGSM(0.03, targeted=targeted)(model, images, sets)
        for index, labels in enumerate(sets.tolist()):
            _, slope = bce(model, images[index], labels)
            expected = (images[index] + sign * 0.03 * slope.sign()).clamp(0, 1)
            torch.testing.assert_close(result.images[index], expected, rtol=0, atol=1e-7)
            assert bool(result.success[index]) == (any_flips(model, expected, labels) != targeted)


def test_bim() -> None:
    model, images, sets = problem()
    result = BIM(0.04, steps=6)(model, images, sets)
    for index, labels in enumerate(sets.tolist()):
        image = current = images[index]
        for _ in range(6):
            current = current + 1.25 * 0.04 / 6 * bce(model, current, labels)[1].sign()
            current = torch.minimum(torch.maximum(current, image - 0.04), image + 0.04).clamp(0, 1)
        torch.testing.assert_close(result.images[index], current, rtol=0, atol=1e-6)
        assert bool(result.success[index]) == any_flips(model, current, labels)


def test_ddn() -> None:
    model, images, sets = problem()
    result = DDN(steps=12, initial_norm=0.3)(model, images, sets)
    for index, labels in enumerate(sets.tolist()):
        image = current = images[index]
        best, best_length, length = None, math.inf, 0.3
        for step in range(12):
            slope = bce(model, current, labels)[1].double()
            noise = (current - image).double()
            size = math.sqrt(float((noise**2).sum()))
            flipped = any_flips(model, current, labels)
            if flipped and size < best_length:
                best, best_length = current, size
            last = current
            share = 0.01 + 0.99 * (1 + math.cos(math.pi * step / 12)) / 2
            noise = noise + share * slope / math.sqrt(float((slope**2).sum()))
            length *= 0.95 if flipped else 1.05
            current = (image + length * noise / math.sqrt(float((noise**2).sum()))).clamp(0, 1).float()
        torch.testing.assert_close(result.images[index], last if best is None else best, rtol=0, atol=1e-5)


def test_deep_fool_goes_to_the_nearest_border_of_an_asked_label() -> None:
    model, images, sets = problem()
    result = DeepFoolL2(overshoot=0.02)(model, images, sets)
    for index, labels in enumerate(sets.tolist()):
        image = current = images[index]
        total = torch.zeros_like(image)
        for _ in range(50):
            if any_flips(model, current, labels):
                break
            ways = []
            for k, y in enumerate(labels):
                if y == -1:
                    continue
                leaf = current.clone().requires_grad_()
                logit = model(leaf[None])[0, k]
                (slope,) = torch.autograd.grad(logit, leaf)
                steepness = math.sqrt(float((slope.double() ** 2).sum()))
                distance = abs(float(logit.detach())) / steepness
                ways.append((distance, (-1 if y else 1) * (distance + 1e-4) / steepness * slope))
            total = total + min(ways, key=lambda way: way[0])[1]
            current = (image + 1.02 * total).clamp(0, 1)
        torch.testing.assert_close(result.images[index], current, rtol=0, atol=1e-5)
        assert bool(result.success[index]) == any_flips(model, current, labels) is True


def nearest(model: Tagger, image: Tensor, labels: list[int]) -> tuple[float, int]:
    """Least signed logit of an asked label, below 0 where it is decided otherwise, and its label."""
    logits = model(image[None])[0].tolist()
    return min((logits[k] if y else -logits[k], k) for k, y in enumerate(labels) if y != -1)


def test_margin_is_that_of_the_nearest_asked_label() -> None:
    """One APGD step from its start, which goes along the slope of the nearest label's own logit."""
    model, images, sets = problem()
    attack = APGD(0.02, loss="margin", steps=1)
    result = attack(model, images, sets, sample_ids=list("abcdef"))
    for index, labels in enumerate(sets.tolist()):
        drawn = per_sample(
            lambda rng: 2 * torch.rand(3, 6, 5, generator=rng) - 1,
            seed=0,
            sample_ids=["abcdef"[index]],
            stream="apgd start 0",
            device=torch.device("cpu"),
        )[0]
        start = (images[index] + 0.02 * drawn / drawn.abs().max()).clamp(0, 1)
        _, k = nearest(model, start, labels)
        leaf = start.clone().requires_grad_()
        (slope,) = torch.autograd.grad(model(leaf[None])[0, k] * (-1 if labels[k] else 1), leaf)
        moved = start + 0.04 * slope.sign() - images[index]
        moved = (images[index] + moved.clamp(-0.02, 0.02)).clamp(0, 1)
        better = nearest(model, moved, labels)[0] < nearest(model, start, labels)[0]
        torch.testing.assert_close(result.images[index], moved if better else start, rtol=0, atol=1e-6)


def test_carlini_wagner_leaves_the_asked_confidence() -> None:
    model, images, sets = problem()
    result = CarliniWagnerL2(0.5)(model, images, sets)
    plain = CarliniWagnerL2()(model, images, sets)
    for index, labels in enumerate(sets.tolist()):
        assert -0.9 < nearest(model, result.images[index], labels)[0] <= -0.5
        assert -0.1 < nearest(model, plain.images[index], labels)[0] <= 0
    assert (plain.norms < result.norms).all()
