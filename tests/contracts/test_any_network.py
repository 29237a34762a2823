"""Every attack and every saliency method on networks that edit their input, answer in their own way or have
one logit: the same results as with a plain network."""

import ast
from collections import namedtuple
from functools import cache
from pathlib import Path

import pytest
import torch
from test_saliency_contracts import CASES as METHODS
from torch import Tensor, nn

import verisal
from helpers import saliency_cases
from helpers.attack_cases import CASES as ATTACKS
from helpers.attack_cases import AttackCase, toy_problem
from helpers.detector_cases import CASES as DETECTORS
from helpers.normalizations import CENTRED
from helpers.saliency_cases import SaliencyCase, toy_images
from verisal.attacks import AALight, Attack
from verisal.attacks._base import AttackResult
from verisal.errors import ConfigError, NumericError
from verisal.models import Classifier, find_stages
from verisal.saliency import RISE, GradCAM, Gradient, HierarchicalMasks, Occlusion, OfProbability, Saliency

QUERY = torch.tensor([0, 3])
Answer = namedtuple("Answer", "aux logits")
EVERY_ATTACK = pytest.mark.parametrize("case", ATTACKS.values(), ids=ATTACKS)
# The dlr loss needs three classes, and says so.
FOR_TWO = {name: case for name, case in ATTACKS.items() if "dlr" not in name}
TWO_CLASSES = pytest.mark.parametrize("case", FOR_TWO.values(), ids=FOR_TWO)


class Polite(nn.Module):
    """Moves its images before the network sees them, and gives logits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images - 0.25 + 0.25)


class Rude(Polite):
    """The same in place, and with more than the logits in its answer."""

    def forward(self, images: Tensor) -> Answer:
        images.sub_(0.25)
        images.add_(0.25)
        logits = self.network(images)
        # What came in is lost altogether.
        images.fill_(0.5)
        return Answer(2 * logits, logits)


def attacked(case: AttackCase, model: nn.Module, images: Tensor, labels: Tensor) -> AttackResult:
    generator = torch.Generator().manual_seed(3)
    return case.make(case.budgets[1])(model, images, labels, generator=generator)


def assert_same_attack(first: AttackResult, second: AttackResult) -> None:
    torch.testing.assert_close(first.images, second.images, rtol=0, atol=1e-6)
    assert first.success.equal(second.success)
    assert first.n_fwd.equal(second.n_fwd)
    assert first.n_bwd.equal(second.n_bwd)


@EVERY_ATTACK
def test_attacks_on_a_network_that_edits_its_input(case):
    model, images, labels = toy_problem(3)
    before = images.clone()
    rude = attacked(case, Rude(model), images, labels)
    assert images.equal(before)
    assert_same_attack(rude, attacked(case, Polite(model), images, labels))


class OneLogit(nn.Module):
    """The second class against the first, as one logit."""

    output = "sigmoid"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return logits[:, 1] - logits[:, 0]


class TwoLogits(OneLogit):
    """The same decision as a softmax."""

    output = "softmax"

    def forward(self, images: Tensor) -> Tensor:
        logit = super().forward(images)
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


class TwoLabels(OneLogit):
    """The decision twice, the second time the other way round."""

    def forward(self, images: Tensor) -> Tensor:
        logit = super().forward(images)
        return torch.stack([logit, -logit], dim=1)


@TWO_CLASSES
def test_attacks_on_one_logit_are_those_on_the_same_decision_as_two(case):
    model, images, _ = toy_problem(4)
    two = TwoLogits(model)
    labels = two(images).argmax(dim=1)
    expected = attacked(case, two, images, labels)
    one = attacked(case, OneLogit(model), images, labels)
    assert_same_attack(one, expected)
    assert one.success.equal((two(one.images)[:, 1] > 0).long() != labels)
    # Of several labels those that are present are attacked: here the first where it is 1, else the second.
    several = attacked(case, TwoLabels(model), images, 1 - labels)
    assert several.success.equal((two(several.images)[:, 1] > 0).long() != labels)


class Overdone(Attack):
    """Leaves the range or the budget."""

    norm = "linf"

    def __init__(self, change: float, eps: float) -> None:
        self.change, self.eps = change, eps

    def _perturb(self, victim, images: Tensor, *, draw) -> Tensor:
        return images + self.change


def test_attacked_images_outside_of_range_or_budget_are_no_result():
    model, images, labels = toy_problem(2)
    for attack, found in (
        (Overdone(2.0, 3.0), r"must lie in \[0, 1\], found values from .* in 2 of 2 images"),
        (Overdone(0.0101, 0.01), "noise of linf norm 0.0101 found, eps 0.01 allowed"),
        (Overdone(torch.nan, 1.0), "not finite for 2 of 2"),
    ):
        with pytest.raises(NumericError, match=found):
            attack(model, images * 0.9, labels, generator=torch.Generator())
    assert attack.settings()["class"] == "Overdone"
    fine = Overdone(0.01, 0.01)(model, images * 0.9, labels, generator=torch.Generator())
    assert fine.norms.tolist() == pytest.approx([0.01, 0.01], rel=1e-5)


class Masked(Polite):
    """One more class, which is impossible."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return torch.cat([logits, logits.new_full((len(logits), 1), -torch.inf)], dim=1)


@EVERY_ATTACK
def test_an_impossible_class_does_not_count(case):
    model, images, labels = toy_problem(2)
    found = attacked(case, Masked(model), images, labels)
    if "dlr" not in type(case.make(case.budgets[1])).__name__:
        assert found.success.equal(Polite(model)(found.images).argmax(dim=1) != labels) or case.targeted


def test_a_gradient_that_is_not_finite_is_named():
    model, images, labels = toy_problem(2)
    with pytest.raises(NumericError, match="gradient of the loss is not finite for 2 of 2 images"):
        attacked(ATTACKS["PGD"], lambda given: model(given) + (given * 0).sqrt().mean(), images, labels)


def test_labels_of_one_logit_are_0_and_1():
    model, images, labels = toy_problem(2)
    with pytest.raises(ConfigError, match="decides between 0 and 1, found 2"):
        attacked(ATTACKS["FGSM"], OneLogit(model), images, labels * 0 + 2)


@pytest.mark.parametrize("targeted", [False, True])
def test_aa_light_attacks_two_classes(targeted):
    """Where there are too few classes for dlr, its place is taken by the margin."""
    model, images, _ = toy_problem(8)
    two = TwoLogits(model)
    labels = two(images).argmax(dim=1)
    attack = AALight(0.02, steps=5, n_queries=5, targeted=targeted)
    asked = 1 - labels if targeted else labels
    found = attack(two, images, asked, generator=torch.Generator().manual_seed(0))
    assert found.success.equal(two(found.images).argmax(dim=1) != labels)
    # Some are left to the second part.
    assert int(found.success.sum()) > 0
    assert int(found.n_fwd.max()) > 7


class RudeToyNet(saliency_cases.ToyNet):
    """The toy network of the saliency contract with the manners of :class:`Rude`."""

    def forward(self, images: Tensor) -> Answer:
        images.sub_(0.25)
        images.add_(0.25)
        given = images.clone()
        images.fill_(0.5)
        logits = super().forward(given)
        return Answer(2 * logits, logits)


class PoliteToyNet(saliency_cases.ToyNet):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - 0.25 + 0.25)


@cache
def toy(kind: type[nn.Module], *, bare: bool) -> nn.Module:
    """A network with stages, or without them and with statistics for the baselines."""
    classifier = saliency_cases.toy_classifier(kind)
    if not bare:
        return classifier
    network = classifier.network
    network.register_buffer("mean", torch.full((1, 3, 1, 1), 0.5))
    network.register_buffer("std", torch.full((1, 3, 1, 1), 0.25))
    return network


@pytest.mark.parametrize("case", METHODS.values(), ids=METHODS)
def test_maps_of_a_network_that_edits_its_input(case: SaliencyCase):
    method, images = case.make(), toy_images(2)
    before = images.clone()
    try:
        expected = method(toy(PoliteToyNet, bare=True), images, QUERY)
        bare = True
    except (ConfigError, AttributeError):
        # It reads stages.
        expected = method(toy(PoliteToyNet, bare=False), images, QUERY)
        bare = False
    assert bare or method.needs_module or "Callable" in type(method).__name__
    found = method(toy(RudeToyNet, bare=bare), images, QUERY)
    assert images.equal(before)
    torch.testing.assert_close(found.saliency, expected.saliency, rtol=1e-4, atol=1e-6)
    assert (found.n_forward, found.n_backward) == (expected.n_forward, expected.n_backward)


def test_stages_and_gates_of_a_network_that_edits_its_input():
    """A tracer would lose what is done in place."""
    rude, polite = toy(RudeToyNet, bare=False), toy(PoliteToyNet, bare=False)
    images = toy_images(2)
    for found, expected in (
        (rude(images), polite(images)),
        (rude.stage_outputs(images).logits, polite(images)),
        (rude.prefix(images), polite.prefix(images)),
    ):
        torch.testing.assert_close(found, expected)
    assert find_stages(rude.network, 16) == find_stages(polite.network, 16)


# Passes of networks that are our own, or that stop half-way, and what is asked through :func:`ask` in turn.
ELSEWHERE = {
    "functional/networks.py",
    "functional/outputs.py",
    "attacks/on_maps/attack.py",
    "functional/comparison/randomisation.py",
    "saliency/decoy/layer.py",
    "attacks/adapters.py",
}


def test_every_pass_of_a_classifier_goes_through_one_function():
    package, found = Path(verisal.__file__).parent, set()
    for room in ("functional", "saliency", "attacks", "metrics", "detectors", "callbacks"):
        for path in (package / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                if called.rpartition(".")[2].lstrip("_") in ("classifier", "network", "model"):
                    found.add(str(path.relative_to(package)))
    assert found == ELSEWHERE


def decided(kind: type[OneLogit], output: str, names: str) -> Classifier:
    """One decision about the toy images of the saliency contract, with stages."""
    network = kind(saliency_cases.toy_classifier().network)
    stages = ("network.one", "network.three")
    return Classifier(
        network, stages, class_names=tuple(names), image_size=16, output=output, normalization=CENTRED
    ).eval()


@pytest.mark.parametrize(
    "method",
    [
        Occlusion(window=4, stride=4),
        RISE(masks=40, cells=3),
        Gradient(),
        GradCAM(),
        OfProbability(base=Gradient()),
        HierarchicalMasks(objective="evidence", steps=10, learning_rate=0.1, reg_weight=0.01),
        HierarchicalMasks(objective="class", steps=10, learning_rate=0.1, reg_weight=0.01),
    ],
    ids=lambda method: type(method).__name__,
)
def test_maps_of_one_logit_are_those_of_the_same_decision_as_two(method: Saliency):
    one, two = decided(OneLogit, "sigmoid", "a"), decided(TwoLogits, "softmax", "ab")
    images, first = toy_images(3), torch.zeros(3, dtype=torch.int64)
    found, expected = method(one, images, first), method(two, images, first + 1)
    torch.testing.assert_close(found.saliency, expected.saliency)
    shown = found.saliency if found.attribution is None else found.attribution
    assert float(shown.flatten(1).std(dim=1).max()) > 1e-6
    # One of several labels by itself.
    several = decided(TwoLabels, "sigmoid", "ab")
    torch.testing.assert_close(method(several, images, first).saliency, expected.saliency)


def test_what_compares_classes_says_that_it_cannot_serve_labels():
    several = decided(TwoLabels, "sigmoid", "ab")
    images, query = toy_images(2), torch.zeros(2, dtype=torch.int64)
    for name in ("HierarchicalMasks output", "HierarchicalMasks probability", "Decoy", "LearnedMask"):
        with pytest.raises(ConfigError, match=r"output: sigmoid.* choose a method .* RISE"):
            METHODS[name].make()(several, images, query)
    for name in ("MaxSoftmax", "AttackCost", "FeatureSqueezing"):
        with pytest.raises(ConfigError, match=f"{name}, a detector .* output: sigmoid"):
            DETECTORS[name].make().score(several, images)
