"""Classifiers around networks that a project has built, trains, moves, casts and wraps by itself."""

import copy

import lightning as L
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from verisal.errors import ConfigError, DataError
from verisal.models import Classifier, FunctionNetwork, Normalization, load_classifier
from verisal.saliency import GradCAM, Gradient, HierarchicalMasks
from verisal.types import StagedClassifier

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
HALF = Normalization((0.5, 0.4, 0.3), (0.25, 0.5, 0.2))
STAGES = ("body.one", "body.two")


class Small(nn.Module):
    """Two convolutions with normalisation, a buffer and a parameter outside of them, dropout by hand."""

    def __init__(self, classes=4):
        super().__init__()
        self.body = nn.Module()
        self.body.one, self.body.two = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 8, 3, stride=2)
        self.body.norm = nn.BatchNorm2d(6)
        self.body.register_buffer("shift", torch.full((1, 6, 1, 1), 0.3))
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 8))
        self.head = nn.Linear(8, classes)

    def forward(self, images):
        hidden = self.body.norm(self.body.one(images)) + self.body.shift
        pooled = self.body.two(hidden.relu()).mean(dim=(2, 3)) * self.scale
        return self.head(nn.functional.dropout(pooled, 0.5, self.training))


def small(**settings):
    torch.manual_seed(0)
    return Small(**settings)


def around(network, **settings):
    return Classifier(network, **{"normalization": HALF, **settings})


def check_views(classifier):
    """All views give the network's own logits, in float32."""
    network = classifier.network
    expected = network(HALF.apply(IMAGES).to(next(network.parameters()).dtype)).float()
    outputs = classifier.stage_outputs(IMAGES)
    ungated = [torch.ones(1)] * len(classifier.stages)
    gated = classifier.gated(classifier.prefix(IMAGES), ungated)
    for logits in (classifier(IMAGES), outputs.logits, gated):
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected)
    assert {each.dtype for each in outputs.activations} == {torch.float32}


def test_stages_and_classes_are_found_when_they_are_first_needed():
    classifier = around(small())
    with pytest.raises(ConfigError, match="the image size of this Small is not known before"):
        _ = classifier.stages
    logits = classifier(IMAGES)
    assert classifier.num_classes == logits.shape[1] == 4
    assert classifier.class_names == ("0", "1", "2", "3")
    assert classifier.image_size == 16
    assert classifier.stages == ("body.norm", "body.two")


def test_what_is_said_holds():
    classifier = around(small(), stages=STAGES, class_names="abcd", image_size=20)
    assert (classifier.stages, classifier.image_size) == (STAGES, 20)
    assert classifier.class_names == tuple("abcd")
    assert classifier.stage_outputs(IMAGES).activations[1].shape == (3, 8, 6, 6)


def test_an_isinstance_neither_searches_nor_raises():
    network = small()
    calls = []
    network.register_forward_hook(lambda *_: calls.append(1))
    assert isinstance(around(network), StagedClassifier)
    assert not isinstance(network, StagedClassifier)
    assert calls == []


def test_stages_are_searched_once():
    network = small().eval()
    calls = []
    classifier = around(network)
    network.register_forward_hook(lambda *_: calls.append(1))
    classifier.stage_outputs(IMAGES)
    searched = len(calls)
    assert searched > 3
    for _ in range(3):
        GradCAM()(classifier, IMAGES, 1)
    assert len(calls) == searched + 3


@pytest.mark.parametrize("names", ["ab", "abcde"])
def test_another_number_of_names_than_of_logits_is_refused(names):
    classifier = around(small(), class_names=names)
    for ask in (classifier, classifier.stage_outputs):
        with pytest.raises(ConfigError, match=f"Small gives 4 logits, but there are {len(names)} class"):
            ask(IMAGES)


class OneStage(nn.Module):
    """Red of the left half for class 0, of the right half for class 1, behind one module with maps."""

    def __init__(self):
        super().__init__()
        self.only, self.weight = nn.Identity(), nn.Parameter(torch.ones(()))

    def forward(self, images):
        left, right = self.only(images)[:, 0].chunk(2, dim=-1)
        return self.weight * torch.stack([left.mean(dim=(1, 2)), right.mean(dim=(1, 2))], dim=1)


@pytest.mark.parametrize(
    "method",
    [GradCAM(), HierarchicalMasks(objective="class", reg_weight=0.001, penalty="per_layer", steps=60)],
)
def test_one_stage_is_enough(method):
    images = torch.full((1, 3, 8, 8), 0.2)
    images[..., 4:] = 0.8
    classifier = Classifier(OneStage(), normalization="none")
    assert method(classifier, images, 1).saliency.shape == (1, 1, 8, 8)
    assert classifier.stages == ("only",)


def test_gates_of_one_stage_show_the_half_that_holds_the_evidence():
    images = torch.full((1, 3, 8, 8), 0.2)
    images[..., 4:] = 0.8
    method = HierarchicalMasks(objective="class", reg_weight=0.001, penalty="per_layer", steps=60)
    left, right = method(OneStage(), images, 1).saliency.chunk(2, dim=-1)
    assert float(right.mean()) > 5 * float(left.mean())


def test_a_network_without_maps_is_explained_by_methods_that_need_none():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))
    classifier = load_classifier(network, normalization="none")
    expected = network[1].weight[2].view(1, 3, 16, 16)
    attribution = Gradient()(classifier, IMAGES, 2).attribution
    torch.testing.assert_close(attribution, expected.expand(3, -1, -1, -1))
    with pytest.raises(
        ConfigError,
        match=r"no stages of Sequential were found, as no layer of it gives maps .* Gradient, Integ",
    ):
        GradCAM()(classifier, IMAGES, 2)


@pytest.mark.parametrize("training", [True, False])
def test_a_module_of_the_user_stays_as_it_is(training):
    network = small().train(training)
    network.body.norm.eval()
    network.head.weight.requires_grad_(False)
    state = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    flags = [parameter.requires_grad for parameter in network.parameters()]
    generator = torch.get_rng_state()
    classifier = load_classifier(network, normalization=HALF)
    GradCAM()(classifier, IMAGES)
    HierarchicalMasks(steps=20)(classifier, IMAGES, 1)
    assert modes == [module.training for module in network.modules()]
    assert flags == [parameter.requires_grad for parameter in network.parameters()]
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.get_rng_state().equal(generator)
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_is_cut_as_in_eval_mode_while_it_trains():
    classifier = around(small().train())
    with torch.inference_mode():
        classifier.stage_outputs(IMAGES)
    classifier.eval()
    check_views(classifier)


CHANGES = {
    "a step": lambda network: [p.data.add_(0.1) for p in network.parameters()],
    "cast": lambda network: network.to(torch.bfloat16),
    "cast and back": lambda network: network.half().float(),
    "another buffer": lambda network: setattr(network.body, "shift", torch.ones(1, 6, 1, 1)),
    "another head": lambda network: setattr(network, "head", nn.Linear(8, 4)),
    "assigned": lambda network: network.load_state_dict(
        {name: value + 0.25 for name, value in network.state_dict().items()}, assign=True
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_buffers_and_precision_are_those_of_the_moment(change):
    network = small().eval()
    classifier = around(network)
    before = classifier.stage_outputs(IMAGES).logits
    CHANGES[change](network)
    check_views(classifier)
    assert not classifier(IMAGES).equal(before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_methods_explain_a_network_of_half_precision(dtype):
    network = small().eval()
    classifier, method = around(network), GradCAM()
    expected = method(classifier, IMAGES, 1).saliency
    network.to(dtype)
    found = method(classifier, IMAGES, 1).saliency
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.02 * float(expected.max()))
    assert HierarchicalMasks(steps=20)(classifier, IMAGES, 1).saliency.dtype == torch.float32


def test_a_cast_classifier_keeps_its_normalisation():
    classifier = around(small()).to(torch.bfloat16)
    assert classifier.network.scale.dtype == torch.bfloat16
    assert classifier.normalization == HALF
    assert classifier.to(torch.float32).normalization == HALF


def test_a_copy_is_changed_by_itself():
    classifier = around(small().eval())
    before = classifier.stage_outputs(IMAGES).logits
    twin = copy.deepcopy(classifier)
    nn.init.zeros_(twin.network.scale)
    twin.network.body.shift = torch.zeros(1, 6, 1, 1)
    check_views(twin)
    assert classifier.stage_outputs(IMAGES).logits.equal(before)


class Holder(L.LightningModule):
    """A module as users write it, with a classifier in it."""

    def __init__(self):
        super().__init__()
        self.net = small()
        self.classifier = around(self.net)


def test_parameters_of_a_module_that_holds_network_and_classifier_are_listed_once():
    module = Holder()
    assert [id(p) for p in module.parameters()] == [id(p) for p in module.net.parameters()]


def compiled_in_place(network):
    network.compile(backend="eager")
    return network


WRAPPERS = {
    "compiled": lambda network: torch.compile(network, backend="eager"),
    "compiled in place": compiled_in_place,
    "DataParallel": DataParallel,
    "compiled DataParallel": lambda network: torch.compile(DataParallel(network), backend="eager"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_wrappers_are_taken_off(wrapper):
    network = small().eval()
    wrapped = WRAPPERS[wrapper](network)
    with torch.no_grad():
        wrapped(IMAGES)
    classifier = around(wrapped)
    assert classifier.network is network
    check_views(classifier)
    expected = GradCAM()(around(small().eval()), IMAGES, 1).saliency
    torch.testing.assert_close(GradCAM()(classifier, IMAGES, 1).saliency, expected)


def test_distributed_data_parallel_is_taken_off(tmp_path):
    network = small().eval()
    place = (tmp_path / "rendezvous").as_uri()
    torch.distributed.init_process_group("gloo", init_method=place, rank=0, world_size=1)
    try:
        assert around(DistributedDataParallel(network)).network is network
    finally:
        torch.distributed.destroy_process_group()


class TwoInputs(L.LightningModule):
    """Has no forward, and a method with two inputs that gives logits."""

    def __init__(self):
        super().__init__()
        self.backbone = small(classes=8)
        self.table = nn.Linear(8, 4)

    def scores(self, images, temperature):
        return self.table(self.backbone(images)) / temperature


@pytest.mark.parametrize("stages", [None, ("backbone.body.one", "backbone.body.two")])
def test_a_function_asks_a_module_whose_forward_takes_something_else(stages):
    module = TwoInputs().eval()
    network = FunctionNetwork(module, lambda inner, images: inner.scores(images, 2.0))
    classifier = around(network, stages=stages)
    torch.testing.assert_close(classifier(IMAGES), module.scores(HALF.apply(IMAGES), 2.0))
    assert float(GradCAM()(classifier, IMAGES, 1).saliency.sum()) > 0
    first = "module.backbone.body.norm" if stages is None else "module.backbone.body.one"
    assert classifier.stages == (first, "module.backbone.body.two")
    outputs = classifier.stage_outputs(IMAGES)
    torch.testing.assert_close(outputs.logits, classifier(IMAGES))
    assert outputs.activations[-1].shape[1] == 8


def test_what_is_no_function_is_refused():
    with pytest.raises(ConfigError, match=r"function \(module, images\) that returns logits was expected"):
        FunctionNetwork(TwoInputs(), "scores")


@pytest.mark.parametrize("ask", [Classifier.__call__, Classifier.stage_outputs])
def test_a_module_without_forward_is_a_question(ask):
    with pytest.raises(ConfigError, match=r"TwoInputs has no forward; give the part .*FunctionNetwork"):
        ask(around(TwoInputs()), IMAGES)


def test_a_network_says_what_its_logits_are():
    network = small(classes=1)
    with pytest.raises(ConfigError, match="softmax needs at least two classes"):
        around(network)(IMAGES)
    network.output = "sigmoid"
    assert load_classifier(network, normalization="none").output == "sigmoid"
    assert around(network)(IMAGES).shape == (3, 1)


def torchvision_network():
    block = torchvision.models.resnet.BasicBlock
    return torchvision.models.ResNet(block, [1, 1, 1, 1], num_classes=4)


def timm_network():
    timm = pytest.importorskip("timm")
    return timm.create_model("resnet10t", channels=(4, 6, 8, 10), stem_width=4, num_classes=4)


def transformers_network(name, **settings):
    transformers = pytest.importorskip("transformers")
    config = transformers.AutoConfig.for_model(name, num_labels=4, **settings)
    return transformers.AutoModelForImageClassification.from_config(config)


def residual_of_transformers():
    return transformers_network(
        "resnet", embedding_size=4, hidden_sizes=[4, 6, 8], depths=[1, 1, 1], layer_type="basic"
    )


def patches_of_transformers():
    return transformers_network(
        "vit",
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=64,
        patch_size=8,
    )


class Lightning(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torchvision_network()

    def forward(self, images):
        return self.net(images)


LIBRARIES = {
    "torchvision": (torchvision_network, ("layer1", "layer2", "layer3", "layer4")),
    "timm": (timm_network, ("layer1", "layer2", "layer3", "layer4")),
    "transformers": (
        residual_of_transformers,
        ("resnet.embedder", "resnet.encoder.stages.1", "resnet.encoder.stages.2"),
    ),
    "transformers, patches": (
        patches_of_transformers,
        ("vit.embeddings.patch_embeddings.projection", "vit.layers.1", "vit.layers.2"),
    ),
    "Lightning": (Lightning, ("net.layer1", "net.layer2", "net.layer3", "net.layer4")),
}


@pytest.mark.parametrize("library", LIBRARIES)
def test_networks_of_libraries_are_taken_as_they_are(library):
    build, stages = LIBRARIES[library]
    torch.manual_seed(0)
    network = build()
    # Some start with a head of zeros.
    for parameter in list(network.parameters())[-2:]:
        nn.init.normal_(parameter)
    images = torch.rand(2, 3, 64, 64)
    classifier = load_classifier(network, normalization=HALF)
    saliency = GradCAM()(classifier, images).saliency
    assert saliency.shape == (2, 1, 64, 64)
    assert float(saliency.sum()) > 0
    assert classifier.stages == stages
    network.eval()
    answer = network(HALF.apply(images))
    torch.testing.assert_close(classifier(images), getattr(answer, "logits", answer))


def test_a_module_takes_the_settings_of_a_source_but_for_weights(tmp_path):
    (tmp_path / "names.txt").write_text("ant\nbee\ncat\ndog\n")
    classifier = load_classifier(
        small(),
        mean=[0.1, 0.2, 0.3],
        std=[1, 2, 3],
        stages=STAGES,
        image_size=16,
        class_names=str(tmp_path / "names.txt"),
        output="sigmoid",
    )
    assert classifier.normalization == Normalization((0.1, 0.2, 0.3), (1, 2, 3))
    assert classifier.class_names == ("ant", "bee", "cat", "dog")
    assert (classifier.stages, classifier.image_size, classifier.output) == (STAGES, 16, "sigmoid")
    assert load_classifier(classifier) is classifier


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "a.pt"}, r"no settings \['weights'\]; known: normalization, stages, class_names"),
        ({"mean": (0, 0, 0)}, "mean and std belong together"),
        ({"normalization": "none", "mean": (0, 0, 0)}, "normalization is mean and std in one"),
        ({"normalization": "none", "image_size": 0}, "image_size must be"),
    ],
)
def test_settings_that_a_module_cannot_have_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_classifier(small(), **settings)


def test_a_name_takes_a_normalisation_too():
    name = "torchvision:shufflenet_v2_x0_5"
    classifier = load_classifier(name, weights=None, image_size=32, normalization="none")
    assert classifier.normalization == Normalization((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize("around", [Classifier, load_classifier])
def test_what_is_no_network_is_told_the_way_to_one(around):
    with pytest.raises(
        ConfigError, match=r"expected a network .* found resnet18; call it where it builds one"
    ):
        around(torchvision.models.resnet18)
    with pytest.raises(ConfigError, match=r"expected a network .* found int$"):
        around(3)


def test_bytes_are_no_images():
    classifier = Classifier(Small(), normalization="none")
    with pytest.raises(DataError, match=r"float in .* found torch.uint8; divide 8-bit images by 255"):
        classifier((255 * IMAGES).byte())


@pytest.mark.parametrize("inplace", [False, True])
def test_stages_of_a_network_that_keeps_its_resolution(inplace):
    """Every map is as large as the image."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)),
    ).eval()
    maps = network[:6](IMAGES)
    expected = (maps * network[8].weight[2].view(1, 8, 1, 1) / 256).sum(dim=1, keepdim=True)
    torch.testing.assert_close(GradCAM()(network, IMAGES, 2).attribution, expected)
