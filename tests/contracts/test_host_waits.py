"""No hot loop waits for a device more than once in a step, so that a GPU is never left without work."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from helpers.host_waits import counted_waits, waits_per_step
from helpers.saliency_cases import toy_classifier, toy_images
from verisal.attacks import (
    APGD,
    DDN,
    PGD,
    AdversarialPatch,
    CarliniWagnerL2,
    DeepFoolL2,
    HopSkipJumpL2,
    SquareAttack,
)
from verisal.attacks.adaptive.attack import AdaptivePGD
from verisal.attacks.adaptive.target import Defence, FeatureMatching, Orthogonal, Selective, Weighted
from verisal.errors import NumericError
from verisal.functional.baselines import ImageMean
from verisal.functional.removal import perturbation_curve
from verisal.saliency import EvidenceMasks, ExtremalPerturbation, HierarchicalMasks, MeaningfulPerturbation

# So small that no image is ever fooled, and none leaves.
TINY = 1e-6
IMAGES = 5


def images_of_levels():
    return (toy_images(IMAGES) * 255).round() / 255


def linear():
    """A network whose classes are all found by random images."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 12, 4, bias=False)).eval()


def attacked(make, network=toy_classifier):
    network, images = network(), images_of_levels()
    labels = network(images).argmax(dim=1)
    return lambda steps: make(steps)(network, images, labels)


def adaptive(aim, *, stop_below=None):
    network, images = toy_classifier(), images_of_levels()
    labels = network(images).argmax(dim=1)

    def alarm(batch):
        return batch.square().mean(dim=(1, 2, 3))

    defence = Defence(classifier=network, alarm=alarm, embed=lambda batch: batch.flatten(1).sin())

    def run(steps):
        attack = AdaptivePGD(aim=aim, eps=1 / 255, steps=steps, restarts=1, stop_below=stop_below)
        return attack(defence, images, labels, guides=images.flip(0))

    return run


def explained(make):
    network, images = toy_classifier(), images_of_levels()
    query = torch.arange(IMAGES) % 3
    return lambda steps: make(steps)(network, images, query)


def curve(steps):
    images = images_of_levels()
    maps, query = images.mean(dim=1, keepdim=True), torch.arange(IMAGES) % 3
    settings = {"baseline": ImageMean(), "steps": steps, "chunk_size": 4}
    return perturbation_curve(toy_classifier(), images, maps, query, **settings)


ONE_A_STEP = {
    "PGD": attacked(lambda steps: PGD(TINY, steps=steps)),
    "PGD, L2": attacked(lambda steps: PGD(TINY, "l2", steps=steps)),
    "APGD": attacked(lambda steps: APGD(TINY, steps=steps)),
    "APGD that stops": attacked(lambda steps: APGD(TINY, steps=steps, stop_when_fooled=True)),
    "CarliniWagnerL2": attacked(lambda steps: CarliniWagnerL2(confidence=1e6, rounds=1, steps=steps)),
    "DDN": attacked(lambda steps: DDN(steps=steps)),
    "SquareAttack": attacked(lambda steps: SquareAttack(TINY, n_queries=steps)),
    "HopSkipJumpL2": attacked(lambda steps: HopSkipJumpL2(steps=0, bisections=steps), linear),
    "AdversarialPatch": attacked(lambda steps: AdversarialPatch(0.001, steps=steps, places=2)),
    "weighted": adaptive(Weighted(mu=0.1)),
    "weighted, with a goal": adaptive(Weighted(mu=0.1), stop_below=-1e9),
    "cross-entropy alone": adaptive(Weighted(mu=0.0)),
    "selective": adaptive(Selective()),
    "orthogonal": adaptive(Orthogonal()),
    "feature matching": adaptive(FeatureMatching()),
    "MeaningfulPerturbation": explained(lambda steps: MeaningfulPerturbation(steps=steps)),
}
NONE = {
    "HierarchicalMasks": explained(lambda steps: HierarchicalMasks(steps=steps, learning_rate=0.5)),
    "HierarchicalMasks that stop": explained(
        lambda steps: HierarchicalMasks(steps=steps, learning_rate=0.5, least_kept=0.5)
    ),
    "EvidenceMasks": explained(lambda steps: EvidenceMasks(settle=steps)),
    "a curve": curve,
}


@pytest.mark.parametrize("name", ONE_A_STEP)
def test_a_step_waits_once(name):
    waits, lines = waits_per_step(ONE_A_STEP[name], steps=5)
    assert waits == 1, lines


@pytest.mark.parametrize("name", NONE)
def test_a_step_never_waits(name):
    waits, lines = waits_per_step(NONE[name], steps=5)
    assert waits == 0, lines


def test_an_aim_that_asks_some_images_waits_twice_where_images_leave():
    waits, lines = waits_per_step(adaptive(Selective(), stop_below=-1e9), steps=5)
    assert waits == 2, lines


def test_a_step_towards_a_border_waits_once():
    network, images = toy_classifier(), images_of_levels()
    labels = network(images).argmax(dim=1)
    with counted_waits() as waits:
        result = DeepFoolL2(candidates=3)(network, images, labels)
    steps = int(result.n_bwd.max()) // 2
    assert steps >= 2
    looks = max(count for line, count in waits.where.items() if line.startswith("attacks/_victim.py"))
    # The logits of the images themselves, their number of classes, the end, the verdict.
    assert looks <= steps + 4


def test_masks_that_may_leave_wait_once_a_step_and_at_the_looks():
    waits, lines = waits_per_step(explained(lambda steps: ExtremalPerturbation(steps=steps)), steps=40)
    assert waits <= 1.2, lines


@pytest.mark.parametrize(
    ("asks", "count"),
    [
        (lambda values: float(values[0]), 1),
        (lambda values: bool((values > 0).all()), 1),
        (lambda values: values.tolist(), 1),
        (lambda values: values.cpu(), 1),
        (lambda values: values.nonzero(), 1),
        (lambda values: values[values > 0], 1),
        (lambda values: values.masked_fill_(values > 0, 1), 0),
        (lambda values: values[torch.tensor([0, 1])], 0),
        (lambda values: torch.where(values > 0, values, 0), 0),
    ],
)
def test_what_waits_is_counted_by_its_line(asks, count):
    source = "def run(asks, values):\n    asks(values)\n"
    space: dict = {}
    exec(compile(source, "/somewhere/verisal/room/file.py", "exec"), space)  # noqa: S102 - two lines of ours
    with counted_waits() as waits:
        space["run"](asks, torch.ones(3))
    assert dict(waits.where) == ({"room/file.py:2": count} if count else {})


class Breaking(nn.Module):
    """Linear, with logits or slopes that are no numbers from one of its passes on."""

    def __init__(self, kind, passes):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.kind, self.left = nn.Linear(3 * 8 * 8, 4), kind, passes

    def forward(self, images):
        assert images.isfinite().all()
        logits = self.linear(images.flatten(1))
        self.left -= 1
        if self.left < 0 and self.kind == "logits":
            return logits + torch.nan
        if self.left < 0:
            # The root of 0, whose slope is infinite, times 0.
            logits = logits + (images.flatten(1) * 0).sum(dim=1, keepdim=True).sqrt() * 0
        return logits


LATE = [
    APGD(0.01, steps=9, stop_when_fooled=True),
    CarliniWagnerL2(confidence=9.0),
    DDN(steps=9),
    DeepFoolL2(overshoot=0.0),
    SquareAttack(0.001, n_queries=20),
    HopSkipJumpL2(steps=1),
    AdversarialPatch(0.05, steps=9, confidence=99.0),
]


@pytest.mark.parametrize("passes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["logits", "slope"])
@pytest.mark.parametrize("attack", LATE, ids=lambda attack: type(attack).__name__)
def test_what_is_no_number_is_refused_though_it_is_looked_at_later(attack, kind, passes):
    if kind == "slope" and isinstance(attack, SquareAttack | HopSkipJumpL2):
        pytest.skip("asks for no slope")
    network = Breaking(kind, passes).eval()
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = network.linear(images.flatten(1)).argmax(dim=1)
    network.left = passes
    expected = (
        "gives logits that are not finite" if kind == "logits" else "gradient of the loss is not finite"
    )
    with pytest.raises(NumericError, match=expected):
        attack(network, images, labels)
