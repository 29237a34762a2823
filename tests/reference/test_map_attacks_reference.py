"""Attacks on maps, one image at a time, pixel by pixel, with a twin that is a network of its own."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers.replicates import replicates
from verisal.attacks.on_maps.attack import MapAttack
from verisal.attacks.on_maps.surrogates import (
    GradientSurrogate,
    IntegratedGradientsSurrogate,
    SmoothGradSurrogate,
)
from verisal.functional.comparison import map_change
from verisal.functional.seeding import content_ids, derive_seed
from verisal.types import SaliencyResult

SIZE = (6, 5)


class Doubled(nn.Module):
    """A network that computes with 64 bits, so that signs of small gradients are no matter of rounding."""

    def __init__(self, activation):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layers = [nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6 * 30, 3)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.3, generator=torch.Generator().manual_seed(7))
        self.layers = nn.Sequential(
            layers[0], activation(), layers[1], activation(), nn.Flatten(), layers[2]
        ).double()

    def forward(self, images):
        return self.layers(images.double())


def network():
    return Doubled(nn.ReLU).eval()


def explain(classifier, images, query_class):
    images = images.detach().requires_grad_()
    score = classifier(images).gather(1, query_class[:, None]).sum()
    (values,) = torch.autograd.grad(score, images)
    saliency = values.abs().amax(dim=1, keepdim=True)
    return SaliencyResult(saliency=saliency, raw=saliency, attribution=values)


def shares(attribution):
    """The map's share of its total at every pixel, as rows of numbers that may be differentiated."""
    height, width = attribution.shape[1:]
    sizes = [[max(abs(value) for value in attribution[:, y, x]) for x in range(width)] for y in range(height)]
    total = sum(sum(row) for row in sizes)
    return [[value / total for value in row] for row in sizes]


def dissimilarity(kind, attribution, clean, nudge=0.0):
    height, width = attribution.shape[1:]
    found, before = shares(attribution), shares(clean)
    pixels = [(y, x) for y in range(height) for x in range(width)]
    if kind == "top_k":
        top = sorted(pixels, key=lambda at: -float(before[at[0]][at[1]]))[: round(0.1 * len(pixels))]
        return -sum(found[y][x] for y, x in top)
    if kind == "target":
        return sum(found[y][x] for y, x in pixels if y >= height - 2 and x >= width - 2)
    total = 0.0
    for axis, length in ((0, height), (1, width)):
        now = sum(found[at[0]][at[1]] * at[axis] for at in pixels)
        then = sum(float(before[at[0]][at[1]]) * at[axis] for at in pixels)
        then += nudge if then >= (length - 1) / 2 else -nudge
        total = total + (now - then) ** 2
    return total


def twin_attribution(surrogate, twin, image, query, clean, seed):
    def gradient(point):
        score = twin(point[None])[0, query]
        return torch.autograd.grad(score, point, create_graph=True)[0]

    if isinstance(surrogate, SmoothGradSurrogate):
        number = derive_seed(seed, content_ids(clean[None])[0], "noisy copies of the twin")
        generator = torch.Generator().manual_seed(number)
        noise = torch.randn(surrogate.samples, *clean.shape, generator=generator)
        sigma = 0.15 * (clean.max() - clean.min())
        return sum(gradient(image + sigma * part) for part in noise) / surrogate.samples
    if isinstance(surrogate, IntegratedGradientsSurrogate):
        ways = [(step + 0.5) / surrogate.steps for step in range(surrogate.steps)]
        return image * sum(gradient(way * image) for way in ways) / surrogate.steps
    return gradient(image)


@replicates(MapAttack.__call__)
def slow_attack(attack, classifier, image, query):
    """The image, its D and its step, of one image in 8 bits."""
    twin = Doubled(lambda: nn.Softplus(beta=attack.beta))
    label = classifier(image[None]).argmax().item()
    clean = explain(classifier, image[None], torch.tensor([query])).attribution[0]
    changed, last, best = image, None, (-math.inf, image, 0)
    for step in range(1, attack.steps + 1):
        changed = changed.detach().requires_grad_()
        attribution = twin_attribution(attack.surrogate, twin, changed, query, image, attack.seed)
        wanted = dissimilarity(attack.kind, attribution, clean, nudge=0.01)
        (slope,) = torch.autograd.grad(wanted, changed)
        changed = changed.detach() + attack.step * slope.sign()
        changed = image + (changed - image).clamp(-attack.eps, attack.eps)
        changed = changed.clamp(0, 1)
        stored = (changed * 255).round() / 255
        if classifier(stored[None]).argmax().item() == label and not stored.equal(image):
            last = (stored, step)
        if step % attack.judge_every == 0 or step == attack.steps:
            if last is not None:
                found = explain(classifier, last[0][None], torch.tensor([query])).attribution[0]
                reached = float(dissimilarity(attack.kind, found, clean))
                best = max(best, (reached, *last), key=lambda entry: entry[0])
            last = None
    return best


@pytest.mark.parametrize(
    "surrogate",
    [GradientSurrogate(), SmoothGradSurrogate(samples=3), IntegratedGradientsSurrogate(steps=3)],
    ids=lambda part: part.name,
)
@pytest.mark.parametrize("kind", ["top_k", "mass_centre", "target"])
@pytest.mark.parametrize("chunk_size", [2, 64])
def test_attack_equals_the_slow_one(kind, surrogate, chunk_size):
    classifier = network()
    images = (torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(2)) * 255).round() / 255
    query = torch.tensor([0, 2, 1])
    attack = MapAttack(
        kind=kind, surrogate=surrogate, steps=5, step=2 / 255, judge_every=2, chunk_size=chunk_size, seed=4
    )

    def method(some, classes):
        return explain(classifier, some, classes)

    clean = method(images, query).attribution
    found = attack(classifier, method, images, query_class=query, attribution=clean)
    for index in range(3):
        value, image, step = slow_attack(attack, classifier, images[index], int(query[index]))
        assert found.step[index].item() == step
        assert torch.allclose(found.images[index], image, atol=1e-6)
        assert found.objective[index].item() == pytest.approx(value, rel=1e-4, abs=1e-7)
    assert bool(found.found.any())


@replicates(map_change)
def slow_change(clean, attacked, size, percentile, top_share):
    """Of one image, as numbers; ``size`` is the norm of its change."""
    height, width = clean.shape[1:]
    pixels = [(y, x) for y in range(height) for x in range(width)]
    flat = [
        [max(abs(float(value)) for value in part[:, y, x]) for y, x in pixels] for part in (clean, attacked)
    ]
    tops = [
        set(sorted(range(len(pixels)), key=lambda at: -row[at])[: max(1, round(top_share * len(pixels)))])
        for row in flat
    ]
    centres = [
        [sum(value * at[axis] for value, at in zip(row, pixels, strict=True)) / sum(row) for axis in (0, 1)]
        for row in flat
    ]
    scaled = []
    for row in flat:
        place = percentile / 100 * (len(row) - 1)
        ordered = sorted(row)
        low, high = ordered[math.floor(place)], ordered[math.ceil(place)]
        cut = [min(value, low + (high - low) * (place - math.floor(place))) for value in row]
        scaled.append([(value - min(cut)) / (max(cut) - min(cut)) for value in cut])
    shift = math.dist(*centres)
    return SimpleNamespace(
        sensitivity=math.dist(*scaled) / size,
        top_k=len(tops[0] & tops[1]) / len(tops[0] | tops[1]),
        shift=shift,
        shift_share=shift / math.hypot(height, width),
    )


@pytest.mark.parametrize(("percentile", "top_share"), [(95.0, 0.1), (70.0, 0.3), (100.0, 0.01)])
def test_change_of_maps_equals_the_slow_one(percentile, top_share):
    draws = torch.randn(2, 4, 3, *SIZE, generator=torch.Generator().manual_seed(9))
    sizes = torch.tensor([0.5, 1.0, 2.0, 4.0])
    found = map_change(draws[0], draws[0] + draws[1], l2=sizes, percentile=percentile, top_share=top_share)
    for index in range(4):
        expected = slow_change(
            draws[0, index], (draws[0] + draws[1])[index], float(sizes[index]), percentile, top_share
        )
        for name, value in vars(expected).items():
            assert float(getattr(found, name)[index]) == pytest.approx(value, rel=1e-5), name
