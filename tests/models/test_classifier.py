import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from helpers.normalizations import CENTRED
from verisal.errors import CheckpointError, ConfigError
from verisal.models import Classifier, SmallResNet, export_classifier, load_classifier
from verisal.models._layout import InputShape, probe_stages
from verisal.models.split import split_network

NAMES = tuple("abcde")


def make(*, widths=(4, 6, 8, 10), folded=False):
    network = SmallResNet(len(NAMES), widths=widths, folded=folded)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.weight)
    return Classifier(
        network, network.stage_names, class_names=NAMES, image_size=32, normalization=CENTRED
    ).eval()


def test_one_pass_gives_the_logits_and_the_activations_that_hooks_see():
    classifier = make()
    images = torch.rand(3, 3, 32, 32)
    seen = []
    for name in classifier.stages:
        classifier.network.get_submodule(name).register_forward_hook(lambda *call: seen.append(call[2]))
    logits = classifier(images)
    hooked, seen[:] = list(seen), []
    outputs = classifier.stage_outputs(images)
    assert torch.equal(outputs.logits, logits)
    for activation, expected in zip(outputs.activations, hooked, strict=True):
        assert torch.equal(activation, expected)


def test_gates_multiply_what_the_next_stage_reads():
    classifier = make()
    images = torch.rand(2, 3, 32, 32)
    activations = classifier.stage_outputs(images).activations
    gates = [torch.rand_like(activation) for activation in activations]
    for name, gate in zip(classifier.stages, gates, strict=True):
        classifier.network.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, gate=gate: output * gate
        )
    expected = classifier(images)
    # The first stage's hook fires in `prefix` too: its ungated activation is the one from before.
    assert torch.allclose(
        classifier.gated(activations[0], [gates[0], *[torch.ones(1)] * 3]), expected, atol=1e-6
    )


def test_gates_at_one_change_nothing_and_gates_at_zero_leave_only_the_bias():
    classifier = make()
    images = torch.rand(4, 3, 32, 32)
    first = classifier.prefix(images)
    assert torch.equal(classifier.gated(first, [torch.ones(1)] * 4), classifier(images))
    nothing = classifier.gated(first, [torch.zeros(1)] * 4)
    assert torch.equal(nothing, classifier.network.head.bias.expand_as(nothing))


def test_folding_batch_normalisation_keeps_the_logits_and_leaves_the_source_alone():
    classifier = make()
    network = classifier.network.train()
    before = copy.deepcopy(network.state_dict())
    folded = network.fold()
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(network.eval()(images), folded(images), atol=1e-5)


def test_export_and_load_give_the_same_logits(tmp_path):
    classifier = make()
    path = tmp_path / "net.safetensors"
    export_classifier(path, classifier, origin={"config": "a test"})
    loaded = load_classifier(str(path))
    images = torch.rand(2, 3, 32, 32)
    assert torch.allclose(loaded(images), classifier(images), atol=1e-5)
    assert loaded.class_names == NAMES
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_a_tampered_export_is_refused(tmp_path):
    path = tmp_path / "net.safetensors"
    export_classifier(path, make(), origin={})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match=r"net\.safetensors"):
        load_classifier(str(path))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"unknown classifier 'resnet9000'; known: .*emoji_scenes_64"):
        load_classifier("resnet9000")


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["stage1", "layer9"], r"\['layer9'\] are not sub-modules"),
        (["stage2", "stage1"], r"the network runs \['stage1', 'stage2'\]"),
        (["stage1", "relu"], "not sub-modules"),
    ],
)
def test_stages_that_cannot_be_gated_are_named(stages, message):
    network = SmallResNet(3, widths=(4, 4, 4, 4))
    with pytest.raises(ConfigError, match=message):
        Classifier(network, stages, class_names=NAMES[:3], image_size=32, normalization=CENTRED)


class _Leaky(nn.Module):
    """The second stage also reads the image."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return (self.two(self.one(images)) + images).mean(dim=(2, 3))


class _Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images):
        return self.two(self.one(images)) if images.sum() > 0 else self.one(images)


def test_a_network_that_bypasses_the_first_stage_is_refused():
    with pytest.raises(ConfigError, match="also reads values computed before it"):
        split_network(_Leaky(), ["one", "two"], probe_stages(_Leaky(), ["one", "two"], InputShape(3, 8, 8)))


def test_a_network_that_cannot_be_traced_is_refused():
    with pytest.raises(ConfigError, match="cannot be traced"):
        split_network(
            _Branching(), ["one", "two"], probe_stages(_Leaky(), ["one", "two"], InputShape(3, 8, 8))
        )


def test_a_wrong_number_of_gates_is_refused():
    classifier = make()
    with pytest.raises(ConfigError, match="expected 4 gates"):
        classifier.gated(classifier.prefix(torch.rand(1, 3, 32, 32)), [torch.ones(1)] * 3)


def test_a_copy_is_independent_of_its_original():
    classifier = make()
    images = torch.rand(1, 3, 32, 32)
    twin = copy.deepcopy(classifier)
    nn.init.zeros_(twin.network.head.weight)
    outputs = classifier.stage_outputs(images)
    assert torch.equal(outputs.logits, classifier(images))
    assert torch.equal(twin.stage_outputs(images).logits, twin(images))


@dataclass
class Answer:
    features: torch.Tensor
    scores: torch.Tensor


class Answering(nn.Module):
    """A network with two convolutions that says more than its logits, each way of saying it by name."""

    def __init__(self, way, classes=4):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, stride=2), nn.Conv2d(6, 8, 3, stride=2)
        self.head, self.way = nn.Linear(8, classes), way

    def forward(self, images):
        if self.way == "in place":
            images.mul_(2).sub_(1)
            nn.functional.relu(images, inplace=True)
        hidden = self.two(self.one(images).relu())
        logits = self.head(hidden.relu().mean(dim=(2, 3)))
        features = hidden.flatten(1)
        match self.way:
            case "tuple":
                return features, logits
            case "dict":
                return {"features": hidden, "logits": logits}
            case "dataclass":
                return Answer(hidden, logits)
            case "column":
                return logits[:, :, None, None]
            case "vector":
                return logits[:, 0]
        return logits


WAYS = ("plain", "in place", "tuple", "dict", "dataclass", "column")


@pytest.mark.parametrize("way", WAYS)
def test_every_view_of_a_network_gives_logits_whatever_it_returns(way):
    network = Answering(way)
    classifier = Classifier(
        network, ("one", "two"), class_names=tuple("abcd"), image_size=16, normalization=CENTRED
    ).eval()
    images = torch.rand(2, 3, 16, 16)
    seen = (images - 0.5) / 0.25
    if way == "in place":
        seen = (2 * seen - 1).relu()
    one = network.one(seen)
    expected = network.head(network.two(one.relu()).relu().mean(dim=(2, 3)))
    torch.testing.assert_close(classifier(images), expected)
    outputs = classifier.stage_outputs(images)
    torch.testing.assert_close(outputs.logits, expected)
    torch.testing.assert_close(outputs.activations[0], one)
    half = network.two((one / 2).relu()).relu().mean(dim=(2, 3))
    gated = classifier.gated(classifier.prefix(images), [torch.full((1,), 0.5), torch.ones(1)])
    torch.testing.assert_close(gated, network.head(half))


def test_one_logit_is_a_sigmoid_or_refused():
    with pytest.raises(ConfigError, match="say output: sigmoid"):
        Classifier(
            Answering("vector", 1), ("one", "two"), class_names=("a",), image_size=16, normalization=CENTRED
        )
    classifier = Classifier(
        Answering("vector", 1),
        ("one", "two"),
        class_names=("a",),
        image_size=16,
        output="sigmoid",
        normalization=CENTRED,
    )
    assert classifier.output == "sigmoid"
    assert classifier(torch.rand(2, 3, 16, 16)).shape == (2, 1)
    with pytest.raises(ConfigError, match="output must be 'softmax', 'sigmoid' or 'score', found 'logits'"):
        Classifier(
            Answering("plain"),
            ("one", "two"),
            class_names=tuple("abcd"),
            image_size=16,
            output="logits",
            normalization=CENTRED,
        )


def test_what_is_no_classification_is_named():
    class Segments(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)

        def forward(self, images):
            return {"out": self.two(self.one(images))}

    with pytest.raises(ConfigError, match=r"Segments returns \(1, 4, 12, 12\) .* pool maps to one value"):
        Classifier(
            Segments(), ("one", "two"), class_names=tuple("abcd"), image_size=16, normalization=CENTRED
        )
