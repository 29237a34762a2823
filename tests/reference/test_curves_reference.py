"""Perturbation curves and removal scores written down pixel by pixel, one image and one step at a time."""

import pytest
import torch
from torch import nn

from helpers.replicates import replicates
from verisal.functional.baselines import Blur, Constant, Inpaint, LinearImputation
from verisal.functional.removal import curve_area, perturbation_curve, removal_scores


def slow_order(saliency, order, block_size):
    """Pixels ``(row, column)`` of one map ``(H, W)``, first to be changed first."""
    height, width = saliency.shape
    cells = {}
    for row in range(height):
        for column in range(width):
            cells.setdefault((row // block_size, column // block_size), []).append((row, column))
    sign = -1 if order == "most_relevant_first" else 1
    mean = {
        cell: sum(float(saliency[place]) for place in places) / len(places) for cell, places in cells.items()
    }
    return [place for cell in sorted(cells, key=lambda cell: sign * mean[cell]) for place in cells[cell]]


def slow_version(image, baseline, kept):
    """One image ``(3, H, W)`` with all pixels but ``kept`` removed."""
    mask = torch.zeros(1, 1, *image.shape[1:])
    for row, column in kept:
        mask[0, 0, row, column] = 1
    fill = baseline(image[None], mask)[0]
    version = fill.clone()
    for row, column in kept:
        version[:, row, column] = image[:, row, column]
    return version


@replicates(perturbation_curve)
def slow_curve(classifier, image, saliency, query, *, baseline, order, direction, steps, block_size, score):
    pixels = slow_order(saliency, order, block_size)
    fractions, scores = [], []
    for step in range(steps + 1):
        count = round(step * len(pixels) / steps)
        kept = pixels[:count] if direction == "insert" else pixels[count:]
        logits = classifier(slow_version(image, baseline, kept)[None])[0]
        values = logits if score == "logit" else logits.softmax(dim=0)
        fractions.append(count / len(pixels))
        scores.append(float(values[query]))
    area = sum((fractions[k + 1] - fractions[k]) * (scores[k + 1] + scores[k]) / 2 for k in range(steps))
    return fractions, scores, area


@replicates(removal_scores)
def slow_removal(classifier, image, saliency, query, *, baseline, shares, order):
    pixels = slow_order(saliency, order, 1)
    found = []
    for share in shares:
        logits = classifier(slow_version(image, baseline, pixels[round(share * len(pixels)) :])[None])[0]
        found.append((float(logits.softmax(dim=0)[query]), float(int(logits.argmax()) == query)))
    return found


def toy(count=2, size=(7, 5)):
    generator = torch.Generator().manual_seed(4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(60, 3)).eval()
    network[3].weight.data.mul_(4)
    images = torch.rand(count, 3, *size, generator=generator)
    # Few levels, so that there are ties.
    maps = (torch.rand(count, 1, *size, generator=generator) * 6).floor()
    return network, images, maps, torch.tensor([2, 0])


BASELINES = [Constant(level=0.5), Blur(sigma=20), LinearImputation(), Inpaint()]


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: baseline.name)
@pytest.mark.parametrize("direction", ["remove", "insert"])
@pytest.mark.parametrize(
    ("order", "steps", "block_size", "score"),
    [
        ("most_relevant_first", 8, 1, "probability"),
        ("least_relevant_first", 6, 1, "logit"),
        ("most_relevant_first", 5, 2, "probability"),
        ("least_relevant_first", 4, 3, "logit"),
    ],
)
@torch.no_grad()
def test_curve_equals_the_literal_one(baseline, direction, order, steps, block_size, score):
    network, images, maps, query = toy()
    settings = {
        "baseline": baseline,
        "direction": direction,
        "order": order,
        "steps": steps,
        "block_size": block_size,
        "score": score,
    }
    fractions, scores = perturbation_curve(network, images, maps, query, chunk_size=5, **settings)
    areas = curve_area(fractions, scores)
    for index in range(len(images)):
        slow = slow_curve(network, images[index], maps[index, 0], int(query[index]), **settings)
        assert fractions.tolist() == pytest.approx(slow[0])
        assert scores[index].tolist() == pytest.approx(slow[1], abs=1e-5)
        assert areas[index].item() == pytest.approx(slow[2], abs=1e-5)


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda baseline: baseline.name)
@pytest.mark.parametrize("order", ["most_relevant_first", "least_relevant_first"])
@torch.no_grad()
def test_removal_scores_equal_the_literal_ones(baseline, order):
    network, images, maps, query = toy()
    shares = (0.1, 0.2, 0.5, 0.9)
    settings = {"baseline": baseline, "shares": shares, "order": order}
    probability, correct = removal_scores(network, images, maps, query, chunk_size=3, **settings)
    for index in range(len(images)):
        slow = slow_removal(network, images[index], maps[index, 0], int(query[index]), **settings)
        assert probability[index].tolist() == pytest.approx([value for value, _ in slow], abs=1e-5)
        assert correct[index].tolist() == [value for _, value in slow]
