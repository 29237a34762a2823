"""Refusals of methods and attacks give the true reason, and what they advise works."""

import pytest
import torch
from torch import Tensor, nn

from helpers.attack_cases import toy_problem
from verisal.attacks import APGD, FGSM, AdaptedAttack, DeepFoolL2
from verisal.errors import ConfigError
from verisal.saliency import (
    DeepLift,
    GradCAM,
    Gradient,
    GuidedBackpropagation,
    IntegratedGradients,
    OfProbability,
)

QUERY = torch.tensor([0, 1, 2])


def small_images() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def network_of(*layers: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ends = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers, *ends)
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
    return network.eval()


def integrated_gradients_serve(network: nn.Module) -> bool:
    """Whether the advice helps: their attributions sum to the change of the logit."""
    images = small_images()
    found = IntegratedGradients(steps=300)(network, images, QUERY).attribution.sum(dim=(1, 2, 3))
    change = (network(images) - network(torch.zeros_like(images))).gather(1, QUERY[:, None])[:, 0]
    return bool(((found - change).abs() < 0.02 * change.abs() + 1e-3).all())


def test_deeplift_names_max_pooling_where_its_rule_loses_a_part():
    network = network_of(
        nn.MaxPool2d(3, stride=1, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2), nn.ReLU()
    )
    with pytest.raises(ConfigError, match=r"loses a part at max pooling \(modules \['1', '3'\]\)") as error:
        DeepLift()(network, small_images(), QUERY)
    assert "IntegratedGradients" in str(error.value)
    assert integrated_gradients_serve(network)


def test_deeplift_names_no_pooling_where_there_is_none():
    network = network_of(nn.SiLU())
    with pytest.raises(ConfigError, match="Sequential is non-linear outside of modules") as error:
        DeepLift()(network, small_images(), QUERY)
    assert "pooling" not in str(error.value)
    assert integrated_gradients_serve(network)


def test_deeplift_follows_max_pooling_that_it_can():
    network = network_of(nn.ReLU(), nn.MaxPool2d(2))
    images = small_images()
    found = DeepLift()(network, images, QUERY).attribution.sum(dim=(1, 2, 3))
    change = (network(images) - network(torch.zeros_like(images))).gather(1, QUERY[:, None])[:, 0]
    torch.testing.assert_close(found, change, rtol=1e-2, atol=1e-4)


def test_deeplift_names_dilation():
    network = network_of(nn.ReLU(), nn.MaxPool2d(2, dilation=2))
    with pytest.raises(ConfigError, match="no max pooling with dilation, and '2' has dilation 2"):
        DeepLift()(network, small_images(), QUERY)
    assert integrated_gradients_serve(network)


class Residual(nn.Module):
    """Reads the input of its ReLU a second time; ``copied`` as the refusal advises."""

    def __init__(self, *, copied: bool) -> None:
        super().__init__()
        self.relu, self.copied = nn.ReLU(), copied

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.relu(maps.clone() if self.copied else maps)


@pytest.mark.parametrize("method", [GuidedBackpropagation(), DeepLift()], ids=["guided", "DeepLift"])
def test_a_shared_input_is_served_by_a_copy(method):
    with pytest.raises(ConfigError, match=r"read the inputs of \['1.relu'\] too.* module\(x.clone\(\)\)"):
        method(network_of(Residual(copied=False)), small_images(), QUERY)
    assert float(method(network_of(Residual(copied=True)), small_images(), QUERY).saliency.max()) > 0


@pytest.mark.parametrize("base", [GuidedBackpropagation(), GradCAM()], ids=["guided", "GradCAM"])
def test_probability_of_a_method_that_hooks_layers(base):
    with pytest.raises(ConfigError, match="reads or hooks layers; choose Gradient"):
        OfProbability(base=base)
    assert float(OfProbability(base=Gradient())(network_of(), small_images(), QUERY).saliency.max()) > 0


def test_dlr_with_two_classes_advises_the_margin():
    model, images, labels = toy_problem(2)

    def two(batch: Tensor) -> Tensor:
        return model(batch)[:, :2]

    with pytest.raises(ConfigError, match="at least 3 classes, found 2; use loss: margin"):
        APGD(0.1, loss="dlr")(two, images, labels % 2, generator=torch.Generator())
    found = APGD(0.1, loss="margin", steps=5)(two, images, labels % 2, generator=torch.Generator())
    assert found.success.equal(two(found.images).argmax(dim=1) != labels % 2)


@pytest.mark.parametrize("attack", [FGSM(0.1), DeepFoolL2()], ids=["FGSM", "DeepFoolL2"])
def test_a_detached_image_is_named_although_parameters_have_a_graph(attack):
    model, images, labels = toy_problem(2)
    hidden = lambda batch: model(batch.detach())  # noqa: E731 - its parameters stay unfrozen
    with pytest.raises(ConfigError, match="no gradient to the image"):
        attack(hidden, images, labels, generator=torch.Generator())


def test_foreign_attack_on_several_labels_goes_image_by_image():
    model, images, labels = toy_problem(3)
    model.output = "sigmoid"

    def step(network: nn.Module, clean: Tensor, label: Tensor) -> Tensor:
        clean.requires_grad_()
        loss = nn.functional.cross_entropy(network(clean), label, reduction="sum")
        return (clean + 0.2 * torch.autograd.grad(loss, clean)[0].sign()).clamp(0, 1)

    with pytest.raises(ConfigError, match="set calls: per_image"):
        AdaptedAttack(step, "step", calls="per_chunk")(model, images, labels, generator=torch.Generator())
    found = AdaptedAttack(step, "step", calls="per_image")(model, images, labels, generator=torch.Generator())
    own = FGSM(0.2)(model, images, labels, generator=torch.Generator())
    torch.testing.assert_close(found.images, own.images)
    assert found.success.equal(model(found.images).gather(1, labels[:, None])[:, 0] <= 0)
