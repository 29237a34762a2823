"""Networks that were compiled or wrapped: hooks work as on the network itself, or the method refuses."""

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from helpers.normalizations import CENTRED
from helpers.saliency_cases import toy_images
from verisal.attacks.on_maps.attack import MapAttack
from verisal.attacks.on_maps.surrogates import softplus_relu
from verisal.errors import ConfigError
from verisal.functional.baselines import Constant
from verisal.functional.comparison.randomisation import randomised_steps
from verisal.functional.networks import plain_network
from verisal.models import Classifier, find_stages
from verisal.saliency import (
    Decoy,
    DeepLift,
    GradCAM,
    Gradient,
    GuidedBackpropagation,
    HierarchicalMasks,
    Occlusion,
    Saliency,
    TorchCamAdapter,
)

# Torch itself looks at gradients that are not there, and hides its warning, which is an error in these tests.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

IMAGES, QUERY = toy_images(2), torch.tensor([0, 3])
STAGES = ("relu", "last")


class Plain(nn.Module):
    """A network that each way of compiling takes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.relu, self.two = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3)
        self.last, self.head = nn.ReLU(), nn.Linear(5, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.last(self.two(self.relu(self.one(images)))).mean(dim=(2, 3)))


def toy_network() -> Plain:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Plain().eval()


def toy_classifier(network: nn.Module) -> Classifier:
    return Classifier(network, STAGES, class_names=tuple("abcd"), image_size=16, normalization=CENTRED).eval()


class Outer(nn.Module):
    """A network of which a part is compiled."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = torch.compile(network, backend="eager")

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def compiled_in_place(network: nn.Module) -> nn.Module:
    network.compile(backend="eager")
    return network


def compiled_forward(network: nn.Module) -> nn.Module:
    network.forward = torch.compile(network.forward, backend="eager")
    return network


WAYS = {
    "torch.compile": lambda network: torch.compile(network, backend="eager"),
    "compile()": compiled_in_place,
    "a part": Outer,
    "forward": compiled_forward,
    "compiled parallel": lambda network: torch.compile(nn.DataParallel(network), backend="eager"),
}


def run_before(network: nn.Module) -> nn.Module:
    """What is compiled looks at hooks once for each kind of input: all kinds that methods have are over."""
    network.eval().requires_grad_(False)
    many = IMAGES.repeat(2, 1, 1, 1)
    for count in (1, 2, 4):
        leaf = many[:count].clone().requires_grad_()
        network(leaf)
        network(leaf.clone())
        with torch.no_grad():
            network(many[:count])
    return network


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "method",
    [GuidedBackpropagation(), DeepLift(), Decoy(layer="one", patch=6, stride=6, steps=2, rounds=1)],
    ids=lambda one: type(one).__name__,
)
def test_hooks_run_in_a_compiled_network(way: str, method: Saliency):
    network = run_before(WAYS[way](toy_network()))
    found, expected = method(network, IMAGES, QUERY), method(toy_network(), IMAGES, QUERY)
    torch.testing.assert_close(found.saliency, expected.saliency)
    assert not torch.allclose(found.saliency, Gradient()(toy_network(), IMAGES, QUERY).saliency, rtol=0.01)


@pytest.mark.parametrize("wrap", [lambda one: torch.compile(one, backend="eager"), nn.DataParallel])
@pytest.mark.parametrize(
    "method", [GradCAM(), HierarchicalMasks(steps=20)], ids=lambda one: type(one).__name__
)
def test_stages_are_found_in_a_wrapped_classifier(method: Saliency, wrap: Callable[[nn.Module], nn.Module]):
    classifier = wrap(toy_classifier(toy_network()))
    classifier(IMAGES)
    expected = method(toy_classifier(toy_network()), IMAGES, QUERY).saliency
    torch.testing.assert_close(method(classifier, IMAGES, QUERY).saliency, expected)


@pytest.mark.parametrize("way", ["torch.compile", "compile()", "compiled parallel"])
def test_a_classifier_around_a_compiled_network(way: str):
    network = run_before(WAYS[way](toy_network()))
    classifier, plain = toy_classifier(network), toy_classifier(toy_network())
    assert type(classifier.network) is Plain
    torch.testing.assert_close(
        classifier.stage_outputs(IMAGES).activations, plain.stage_outputs(IMAGES).activations
    )
    gates = [torch.full_like(part, 0.5) for part in plain.stage_outputs(IMAGES).activations]
    torch.testing.assert_close(
        classifier.gated(classifier.prefix(IMAGES), gates), plain.gated(plain.prefix(IMAGES), gates)
    )


def test_a_classifier_around_a_network_with_a_compiled_part():
    network = run_before(Outer(toy_network()))
    stages = find_stages(network, 16)
    assert all(stage.startswith("network._orig_mod.") for stage in stages)
    classifier = Classifier(
        network, stages, class_names=tuple("abcd"), image_size=16, normalization=CENTRED
    ).eval()
    expected = GradCAM()(toy_classifier(toy_network()), IMAGES, QUERY).saliency
    torch.testing.assert_close(GradCAM()(classifier, IMAGES, QUERY).saliency, expected)


def test_relu_is_softened_in_a_compiled_network():
    network = run_before(torch.compile(toy_network(), backend="eager"))
    with softplus_relu(10.0):
        softened, expected = network(IMAGES), toy_network()(IMAGES)
    torch.testing.assert_close(softened, expected)
    assert not torch.allclose(softened, network(IMAGES), atol=1e-3)


def test_layers_of_a_compiled_network_are_randomised_in_their_order():
    network = run_before(torch.compile(toy_network(), backend="eager"))
    assert randomised_steps(network, IMAGES) == randomised_steps(toy_network(), IMAGES)


def test_hooks_of_a_peer_run_in_a_compiled_network():
    network = run_before(torch.compile(toy_network(), backend="eager"))
    seen = []

    def extractor(*, class_idx: list[int], scores: Tensor, normalized: bool) -> list[Tensor]:
        assert not normalized
        return [seen[-1].mean(dim=1) * scores[0, class_idx[0]].detach()]

    handle = network.two.register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))
    TorchCamAdapter(extractor=extractor)(network, IMAGES, QUERY)
    handle.remove()
    assert [tuple(values.shape[:2]) for values in seen] == [(2, 5)]


def test_wrappers_are_taken_off():
    network = toy_network()
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        distributed = DistributedDataParallel(network)
    finally:
        torch.distributed.destroy_process_group()
    for wrapped in (network, distributed, nn.DataParallel(torch.compile(network, backend="eager"))):
        assert plain_network(wrapped) is network


def scripted(network: nn.Module) -> nn.Module:
    # Of torch itself: TorchScript is on its way out.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(network, IMAGES)


def exported(network: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network, (IMAGES,)).module()


@pytest.mark.parametrize("make", [scripted, exported])
def test_hooks_that_would_never_run_are_refused(make: Callable[[nn.Module], nn.Module]):
    original = toy_network()
    network = make(original)
    refused = pytest.raises(
        ConfigError, match="inside which hooks never run; give the network that it was made"
    )
    for method in (GuidedBackpropagation(), Decoy()):
        with refused:
            method(network, IMAGES, QUERY)
    with refused:
        toy_classifier(network)
    with refused:
        find_stages(network, 16)
    with refused:
        MapAttack(kind="top_k", steps=1)(
            network, lambda *_: None, IMAGES, query_class=QUERY, attribution=IMAGES
        )
    # The advice, followed; and what needs no hooks takes the network as it is.
    assert float(GuidedBackpropagation()(original, IMAGES, QUERY).saliency.max()) > 0
    for method in (Gradient(), Occlusion(window=8, stride=8, chunk_size=2, baseline=Constant())):
        torch.testing.assert_close(
            method(network, IMAGES, QUERY).saliency, method(original, IMAGES, QUERY).saliency
        )
