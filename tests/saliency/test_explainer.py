"""A method bound to anybody's network: one normalisation, stages searched once, objects of other packages."""

import copy
from collections.abc import Callable

import pytest
import torch
from captum.attr import InputXGradient as CaptumInputXGradient
from pytorch_grad_cam import GradCAM as GridCam
from torch import Tensor, nn
from torchcam.methods import GradCAM as TorchCam
from torchvision.models import VisionTransformer, resnet18

from verisal.errors import ConfigError, DataError
from verisal.models import Classifier, Normalization
from verisal.saliency import (
    Decoy,
    Explainer,
    GradCAM,
    Gradient,
    HierarchicalMasks,
    InputXGradient,
    Occlusion,
    Saliency,
)
from verisal.saliency.gates.masks import resize_maps

TOLD = ((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


class HandWritten(nn.Module):
    """Takes images in [0, 1]; its pooling and rectifiers are functions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.decide = nn.Linear(8 * 8 * 8, 5)
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        maps = nn.functional.max_pool2d(self.first(images).relu(), 2)
        return self.decide(nn.functional.max_pool2d(self.second(maps).relu(), 2).flatten(1))


def transformer() -> nn.Module:
    network = VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
    )
    nn.init.normal_(network.heads.head.weight)
    return network


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


NETWORKS = {"hand-written": HandWritten, "ViT": transformer, "ResNet": lambda: resnet18(num_classes=5)}
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize(
    "method",
    [
        Gradient(),
        GradCAM(),
        HierarchicalMasks(steps=20),
        Occlusion(window=16, stride=16),
        Decoy(steps=2, rounds=1, patch=16, stride=16),
    ],
    ids=lambda method: type(method).__name__,
)
def test_a_bare_network_is_explained_as_the_classifier_around_it(method: Saliency, kind: str):
    network = seeded(NETWORKS[kind])
    before = copy.deepcopy(network.state_dict())
    result = method(network, IMAGES)
    expected = method(Classifier(network, normalization="none"), IMAGES)
    torch.testing.assert_close(result.saliency, expected.saliency)
    assert float(result.saliency.std()) > 0
    assert result.baseline in ("", "grey")
    assert network.training
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())


def test_patches_of_a_transformer_are_weighted_as_in_grad_cam():
    network, block = seeded(transformer).eval(), "encoder.layers.encoder_layer_1"
    classifier = Classifier(network, ["conv_proj", block], normalization="none")
    kept = []
    network.get_submodule(block).register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits = network(IMAGES)
    gradient = torch.autograd.grad(logits[:, 2].sum(), kept[0])[0]
    tokens, weights = kept[0][:, 1:], gradient[:, 1:].mean(dim=1, keepdim=True)
    expected = (tokens * weights).sum(dim=2).view(2, 1, 4, 4)
    found = GradCAM()(classifier, IMAGES, 2).attribution
    torch.testing.assert_close(found, resize_maps(expected, (32, 32)))


def test_a_normalisation_that_a_network_says_itself_is_used():
    """As those of timm do."""
    network = seeded(HandWritten).eval()
    network.pretrained_cfg = {"mean": TOLD[0], "std": TOLD[1]}
    expected = Gradient()(lambda images: seeded(HandWritten)(Normalization(*TOLD).apply(images)), IMAGES)
    torch.testing.assert_close(Gradient()(network, IMAGES).saliency, expected.saliency)
    torch.testing.assert_close(Explainer(network, Gradient())(IMAGES).saliency, expected.saliency)


def test_an_explainer_asks_for_the_normalisation_and_says_how():
    with pytest.raises(ConfigError, match=r"give normalization=.*'imagenet'; or 'none'"):
        Explainer(seeded(HandWritten), GradCAM())
    with pytest.raises(DataError, match="look normalised: give them as they were before"):
        Explainer(seeded(HandWritten), GradCAM(), normalization="none")(IMAGES * 4 - 2)


def test_stages_are_searched_once():
    explainer = Explainer(seeded(HandWritten), GradCAM(), normalization=TOLD)
    network, passes = explainer.classifier.network, []
    for _ in range(3):
        network.passes = 0
        explainer(IMAGES, 1)
        passes.append(network.passes)
    assert passes[0] > 5
    assert passes[1:] == [1, 1]
    assert repr(explainer) == "Explainer(GradCAM of HandWritten)"


def test_weights_are_those_of_the_moment():
    network = seeded(HandWritten)
    explainer = Explainer(network, GradCAM(), normalization=TOLD)
    explainer(IMAGES, 1)
    with torch.no_grad():
        network.second.weight.mul_(-0.5)
    fresh = Explainer(copy.deepcopy(network), GradCAM(), normalization=TOLD)
    assert explainer(IMAGES, 1).saliency.equal(fresh(IMAGES, 1).saliency)


@pytest.mark.parametrize("target", [None, 3, [3, 3], torch.tensor([3, 3]), torch.tensor(3)], ids=str)
def test_attribute_takes_what_captum_users_pass(target):
    explainer = Explainer(seeded(HandWritten), InputXGradient(), normalization="none")
    expected = InputXGradient()(explainer.classifier, IMAGES, target).attribution
    assert explainer.attribute(IMAGES, target=target).equal(expected)
    # As captum's examples have it.
    watched = explainer.attribute(IMAGES.clone().requires_grad_(), target)
    assert watched.equal(expected)
    assert not watched.requires_grad
    masks = Explainer(explainer.classifier, HierarchicalMasks(steps=20))
    assert masks.attribute(IMAGES, target).equal(masks(IMAGES, target).saliency)


def test_what_a_classifier_says_is_not_said_again():
    classifier = Classifier(seeded(HandWritten), normalization=TOLD)
    assert Explainer(classifier, Gradient()).classifier is classifier
    with pytest.raises(ConfigError, match="describe a bare network, found Classifier"):
        Explainer(classifier, Gradient(), normalization="none")
    with pytest.raises(ConfigError, match="describe a bare network, found function"):
        Explainer(lambda images: images.mean(dim=(2, 3)), Gradient(), output="sigmoid")


PEERS = {
    "captum": lambda network, layer: CaptumInputXGradient(network),
    "pytorch-grad-cam": lambda network, layer: GridCam(model=network, target_layers=[layer]),
    "torch-cam": lambda network, layer: TorchCam(network, target_layer=layer),
}


@pytest.mark.parametrize("peer", PEERS)
def test_an_object_of_another_package_gives_the_same_map_wherever_it_was_built(peer: str):
    """On the bare network it is given normalised images, on the classifier images in [0, 1]."""
    network = seeded(HandWritten).eval()
    classifier = Classifier(network, normalization=TOLD)
    bare = Explainer(network, PEERS[peer](network, network.second), normalization=TOLD)(IMAGES, [1, 4])
    around = Explainer(classifier, PEERS[peer](classifier, network.second))(IMAGES, [1, 4])
    if peer == "captum":
        # Image times gradient depends on which input that is.
        values = Normalization(*TOLD).apply(IMAGES).requires_grad_()
        gradient = torch.autograd.grad(network(values).gather(1, torch.tensor([[1], [4]])).sum(), values)[0]
        torch.testing.assert_close(bare.attribution, values.detach() * gradient)
        torch.testing.assert_close(
            around.attribution, InputXGradient()(classifier, IMAGES, [1, 4]).attribution
        )
    else:
        torch.testing.assert_close(bare.saliency, around.saliency)
    assert float(bare.saliency.std()) > 0


@pytest.mark.parametrize("peer", PEERS)
def test_an_object_of_another_network_is_refused(peer: str):
    other = seeded(HandWritten).eval()
    explainer = Explainer(seeded(HandWritten), PEERS[peer](other, other.second), normalization=TOLD)
    with pytest.raises(ConfigError, match=r"was built on another network \(HandWritten\)"):
        explainer(IMAGES, 1)


def test_functions_are_methods_and_anything_else_is_refused():
    def brightness(classifier: object, images: Tensor, query_class: Tensor) -> Tensor:
        return images.mean(dim=1)

    network = seeded(HandWritten)
    result = Explainer(network, brightness, normalization="none")(IMAGES)
    torch.testing.assert_close(result.saliency, IMAGES.mean(dim=1, keepdim=True))
    with pytest.raises(ConfigError, match=r"network comes first: Explainer\(network, GradCAM\(\)\)"):
        Explainer(GradCAM(), network, normalization="none")
    with pytest.raises(ConfigError, match=r"found the class; write GradCAM\(\)"):
        Explainer(network, GradCAM, normalization="none")
    with pytest.raises(ConfigError, match=r"captum, .* or torch-cam, or a function .* found str"):
        Explainer(network, "gradcam", normalization="none")


def test_a_coarse_last_stage_is_said_with_the_stages_before_it(recwarn):
    first, second = nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 3, stride=4, padding=1)

    def classifier(places):
        end = nn.Linear(4 * places, 3)
        network = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), end)
        return Classifier(network, normalization="none", stages=["1", "3"])

    images = torch.rand(2, 3, 16, 16)
    said = r"'3' has 2 x 2 places for images of 16 x 16 pixels.*'1' with 8 x 8; .*GradCAM\(stage='1'\)"
    with pytest.warns(UserWarning, match=said):
        GradCAM()(classifier(4), images)
    # Who names a stage knows it, and 4 x 4 places are enough.
    GradCAM(stage="3")(classifier(4), images)
    GradCAM()(classifier(16), torch.rand(2, 3, 32, 32))
    assert not recwarn.list
