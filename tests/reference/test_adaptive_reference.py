"""Adaptive attacks image by image and step by step, as they are written down."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from verisal.attacks import AdaptivePGD, Defence, Orthogonal, Selective, Weighted

EPS, STEPS = 8 / 255, 12
# No sum of these lies half-way between two levels, where rounding depends on the last bit.
STEP = 1.37 / 255


def toy():
    torch.manual_seed(2)
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 36, 3))
    detector = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 16, 1))
    for layer in (network[-1], detector[-1]):
        nn.init.normal_(layer.weight, std=1.0)
    images = torch.randint(0, 256, (4, 3, 6, 6)) / 255
    return network.double(), detector.double(), images


def slow_attack(aim, network, detector, image, label, *, l2):
    """One image, one restart from the image itself; returns the kept image and its score."""
    x, best, lowest = image.clone(), None, math.inf
    for number in range(STEPS + 1):
        seen = (x * 255).round() / 255
        leaf = seen.clone().requires_grad_()
        logits, score = network(leaf[None])[0], detector(leaf[None])[0, 0]
        loss = F.cross_entropy(logits[None], torch.tensor([label]))
        (g,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        (a,) = torch.autograd.grad(score, leaf)
        fooled = int(logits.argmax()) != label
        if fooled and score.item() < lowest:
            best, lowest = seen.clone(), score.item()
        if number == STEPS:
            return best, lowest
        if isinstance(aim, Weighted):
            direction = g - aim.mu * a
        elif isinstance(aim, Selective):
            direction = -a if fooled else g
        elif fooled:
            direction = -(a - (a * g).sum() / (g * g).sum() * g)
        else:
            direction = g - (g * a).sum() / (a * a).sum() * a
        length = math.sqrt(direction.numel()) / direction.norm()
        direction = length * direction if l2 else direction.sign()
        x = (image + (x + STEP * direction - image).clamp(-EPS, EPS)).clamp(0, 1)
    return None


@pytest.mark.parametrize("shape", ["sign", "l2"])
@pytest.mark.parametrize("aim", [Weighted(mu=0.3), Selective(), Orthogonal()], ids=lambda aim: aim.name)
def test_whole_batches_give_what_the_literal_loop_gives(aim, shape):
    network, detector, images = toy()
    labels = network(images.double()).argmax(dim=1)
    defence = Defence(classifier=lambda x: network(x.double()), alarm=lambda x: detector(x.double())[:, 0])
    method = AdaptivePGD(aim=aim, eps=EPS, steps=STEPS, step=STEP, restarts=1, shape=shape)
    found = method(defence, images, labels, generator=torch.Generator().manual_seed(0))
    hits = 0
    for row in range(len(images)):
        best, lowest = slow_attack(
            aim, network, detector, images[row].double(), int(labels[row]), l2=shape == "l2"
        )
        assert bool(found.fooled[row]) == (best is not None)
        if best is not None:
            hits += 1
            assert float(found.score[row]) == pytest.approx(lowest, abs=1e-4)
            torch.testing.assert_close(found.images[row].double(), best, rtol=0, atol=1e-6)
    assert hits >= 2
