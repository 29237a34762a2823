"""One row per family of networks: stages are found, and gates on them do what they promise."""

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet
from torchvision.models.swin_transformer import SwinTransformer, SwinTransformerBlock

from helpers.normalizations import CENTRED
from verisal.errors import ConfigError
from verisal.models import Classifier, find_stages
from verisal.models._layout import InputShape, probe_stages
from verisal.models._stages import usable_stages
from verisal.models.split import hooked_network
from verisal.saliency import HierarchicalMasks

K = 5


def timm_model(name, **arguments):
    return pytest.importorskip("timm").create_model(name, num_classes=K, **arguments)


def plain_cnn():
    def block(inputs, outputs):
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]

    return nn.Sequential(
        nn.Sequential(*block(3, 4), *block(4, 6), *block(6, 8)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, K),
    )


def vision_transformer():
    return torchvision.models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=K)


def mobilenet():
    rows = [
        InvertedResidualConfig(8, 3, 16, 8, use_se, activation, stride, 1, 1.0)
        for use_se, activation, stride in (
            (True, "RE", 2),
            (False, "RE", 2),
            (True, "HS", 1),
            (True, "HS", 2),
        )
    ]
    return MobileNetV3(rows, 16, num_classes=K)


def efficientnet():
    rows = [
        MBConvConfig(1, 3, 1, 8, 8, 1),
        MBConvConfig(4, 3, 2, 8, 12, 2),
        MBConvConfig(4, 5, 2, 12, 16, 1),
    ]
    return EfficientNet(rows, 0.0, num_classes=K, last_channel=24)


def swin():
    return SwinTransformer([4, 4], 8, [1, 1, 1], [1, 2, 2], [4, 4], num_classes=K, block=SwinTransformerBlock)


# Network, image size, stages that must be found.
FAMILIES = {
    "plain": (plain_cnn, 32, ("0.1", "0.4", "0.7", "0.8")),
    "residual": (
        lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=K, width_per_group=64),
        64,
        ("layer1", "layer2", "layer3", "layer4"),
    ),
    "bottleneck": (
        lambda: ResNet(Bottleneck, [1, 2, 1, 1], num_classes=K, width_per_group=8),
        64,
        ("layer1", "layer2", "layer3", "layer4"),
    ),
    "inverted residual": (mobilenet, 64, ("features.0", "features.1", "features.3", "features.5")),
    "efficientnet": (efficientnet, 32, ("features.1", "features.2", "features.4")),
    "convnext": (
        lambda: ConvNeXt(
            [CNBlockConfig(8, 12, 1), CNBlockConfig(12, 16, 1), CNBlockConfig(16, None, 1)], num_classes=K
        ),
        64,
        ("features.1", "features.3", "features.5"),
    ),
    "dense": (
        lambda: torchvision.models.DenseNet(4, (1, 1, 1, 1), 8, num_classes=K),
        64,
        ("features.denseblock1", "features.denseblock2", "features.denseblock3", "features.denseblock4"),
    ),
    "shuffle": (
        lambda: torchvision.models.ShuffleNetV2([1, 1, 1], [8, 8, 16, 16, 24], num_classes=K),
        64,
        ("maxpool", "stage2", "stage3", "conv5"),
    ),
    "windows, channels last": (swin, 32, ("features.1", "features.3", "permute")),
    "vision transformer": (
        vision_transformer,
        32,
        ("conv_proj", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"),
    ),
    "timm residual": (
        lambda: timm_model("resnet10t", channels=(4, 6, 8, 10), stem_width=4),
        64,
        ("layer1", "layer2", "layer3", "layer4"),
    ),
    "timm inverted residual, same padding": (
        lambda: timm_model("tf_efficientnet_lite0"),
        64,
        ("blocks.1", "blocks.2", "blocks.4", "blocks.6"),
    ),
    "timm convnext": (
        lambda: timm_model("convnext_atto", depths=(1, 1, 1, 1), dims=(4, 6, 8, 10)),
        64,
        ("stages.0", "stages.1", "stages.2", "stages.3"),
    ),
    "timm windows": (
        lambda: timm_model(
            "swin_tiny_patch4_window7_224",
            img_size=32,
            window_size=4,
            embed_dim=8,
            depths=(1, 1),
            num_heads=(1, 2),
        ),
        32,
        ("layers.0", "layers.1"),
    ),
    "timm vision transformer": (
        lambda: timm_model("vit_tiny_patch16_224", img_size=64, embed_dim=12, depth=5, num_heads=2),
        64,
        ("patch_embed.proj", "blocks.1", "blocks.2", "blocks.3"),
    ),
    "timm vision transformer of any size": (
        lambda: timm_model("test_vit", embed_dim=12, num_heads=2),
        64,
        ("patch_embed", "blocks.1", "blocks.3", "blocks.4"),
    ),
    "timm with registers": (
        lambda: timm_model("vit_small_patch14_reg4_dinov2", img_size=56, embed_dim=12, depth=3, num_heads=2),
        56,
        ("patch_embed.proj", "blocks.0", "blocks.1"),
    ),
}


def make(family):
    build, size, stages = FAMILIES[family]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = build().eval()
        for module in network.modules():
            # Random scales, so that no branch starts at zero and hides a mistake.
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
            if isinstance(module, nn.Linear) and module.out_features == K:
                nn.init.normal_(module.weight)
            for name, parameter in module.named_parameters(recurse=False):
                if name in ("gamma", "layer_scale"):
                    nn.init.uniform_(parameter, 0.5, 1.5)
    classifier = Classifier(network, stages, class_names="abcde", image_size=size, normalization=CENTRED)
    images = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    return classifier.eval().requires_grad_(False), images


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_four_resolutions_or_three_blocks_are_found(family):
    classifier, _ = make(family)
    network, size = classifier.network, classifier.image_size
    told = [entry["module"] for entry in network.feature_info] if family.startswith("timm") else []
    assert (usable_stages(network, told, size) or find_stages(network, size)) == FAMILIES[family][2]


@pytest.mark.parametrize("family", FAMILIES)
def test_gates_on_every_family(family):
    classifier, images = make(family)
    outputs, logits = classifier.stage_outputs(images), classifier(images)
    first = classifier.prefix(images)
    assert torch.equal(outputs.activations[0], first)
    assert torch.allclose(outputs.logits, logits, atol=1e-5)
    assert all(activation.ndim == 4 for activation in outputs.activations)
    sides = [activation.shape[2:] for activation in outputs.activations]
    assert all(rows == columns for rows, columns in sides)
    assert sides == sorted(sides, reverse=True)

    ones = [torch.ones_like(activation) for activation in outputs.activations]
    assert torch.allclose(classifier.gated(first, ones), logits, atol=1e-5)
    assert torch.allclose(classifier.gated(first, [torch.ones(1)] * len(ones)), logits, atol=1e-5)
    for stage in range(len(ones)):
        gates = [torch.zeros_like(one) if index == stage else one for index, one in enumerate(ones)]
        without = classifier.gated(first, gates)
        # Nothing of the image is left after a stage that gives nothing, but in class tokens.
        tokens = classifier.stages[stage].startswith(("blocks", "encoder"))
        assert tokens or torch.allclose(without, without[:1].expand_as(without), atol=1e-4)
        assert not torch.allclose(without, logits, atol=1e-4)

    gates = [one.clone().requires_grad_() for one in ones]
    gradients = torch.autograd.grad(classifier.gated(first, gates)[:, 2].sum(), gates)
    assert all(bool(gradient.flatten(1).any(dim=1).all()) for gradient in gradients)


@pytest.mark.parametrize("family", ["residual", "windows, channels last", "vision transformer"])
def test_gates_act_on_the_position_that_the_map_shows(family):
    """One gated position changes what the stage's own hook would have changed, and nothing else."""
    classifier, images = make(family)
    activations = classifier.stage_outputs(images).activations
    generator = torch.Generator().manual_seed(3)
    gate = torch.rand(activations[1].shape, generator=generator)

    def by_hand(module, inputs, output):
        if output.ndim == 3:  # one class token in front
            rows, columns = activations[1].shape[2:]
            patches = [
                output[:, 1 + y * columns + x] * gate[:, :, y, x] for y in range(rows) for x in range(columns)
            ]
            return torch.stack([output[:, 0], *patches], dim=1)
        return output * (gate if output.shape == gate.shape else gate.movedim(1, 3))

    found = classifier.gated(activations[0], [torch.ones(1), gate] + [torch.ones(1)] * (len(activations) - 2))
    handle = classifier.network.get_submodule(classifier.stages[1]).register_forward_hook(by_hand)
    expected = classifier(images)
    handle.remove()
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "family", ["residual", "windows, channels last", "vision transformer", "timm windows"]
)
def test_hooks_give_what_the_cut_gives(family):
    classifier, images = make(family)
    probe = probe_stages(
        classifier.network, classifier.stages, InputShape(3, classifier.image_size, classifier.image_size)
    )
    hooked = hooked_network(classifier.network, classifier.stages, probe)
    mean, std = classifier.mean, classifier.std
    outputs = classifier.stage_outputs(images)
    first = hooked.prefix((images - mean) / std)
    logits, later = hooked.observed(first)
    assert torch.allclose(logits, outputs.logits, atol=1e-5)
    for found, expected in zip((first, *later), outputs.activations, strict=True):
        assert torch.allclose(found, expected, atol=1e-5)
    gates = tuple(torch.rand_like(activation) for activation in outputs.activations)
    assert torch.allclose(hooked.gated(first, gates), classifier.gated(first, gates), atol=1e-5)
    assert not any(module._forward_hooks for module in classifier.network.modules())


@pytest.mark.parametrize("family", ["efficientnet", "vision transformer", "windows, channels last"])
def test_hierarchical_masks_work_unchanged(family):
    classifier, images = make(family)
    query = classifier(images).argmax(dim=1)
    result = HierarchicalMasks(steps=5, learning_rate=0.2)(classifier, images, query)
    assert result.saliency.shape == (3, 1, *images.shape[2:])
    assert len(result.raw_layers) == len(classifier.stages)
    assert bool(result.saliency.isfinite().all())


class _DataDependent(nn.Module):
    """Cannot be traced: what it does depends on a value, though never on which of the two ways."""

    def __init__(self, *, leaks=False):
        super().__init__()
        self.one, self.two, self.leaks = nn.Conv2d(3, 4, 3), nn.Conv2d(4, K, 3), leaks

    def forward(self, images):
        maps = self.two(self.one(images))
        if float(maps.detach().sum()) > 1e9:
            maps = maps * 2
        return maps.mean(dim=(2, 3)) + (images.mean(dim=(1, 2, 3))[:, None] if self.leaks else 0)


def test_a_network_that_cannot_be_traced_is_gated_by_hooks():
    classifier = Classifier(
        _DataDependent(), ["one", "two"], class_names="abcde", image_size=16, normalization=CENTRED
    )
    images = torch.rand(2, 3, 16, 16)
    first = classifier.prefix(images)
    assert torch.allclose(classifier.gated(first, [torch.ones(1)] * 2), classifier(images), atol=1e-6)
    gated = classifier.gated(first, [torch.ones(1), torch.full((1,), 0.5)])
    assert torch.allclose(gated, classifier(images) / 2, atol=1e-6)


def test_a_network_that_bypasses_its_stages_is_refused_by_both_ways():
    with pytest.raises(ConfigError, match="stage 'one' also reads values computed before it"):
        Classifier(
            _DataDependent(leaks=True),
            ["one", "two"],
            class_names="abcde",
            image_size=16,
            normalization=CENTRED,
        )


def test_blocks_without_the_patches_before_them_are_refused():
    stages = FAMILIES["vision transformer"][2][1:]
    with pytest.raises(ConfigError, match="name the convolution that cuts the patches first"):
        Classifier(vision_transformer(), stages, class_names="abcde", image_size=32, normalization=CENTRED)


def test_a_stage_that_is_changed_in_place_is_refused():
    with pytest.raises(ConfigError, match=r"'0.0' gives out is changed in place by the module after it"):
        Classifier(plain_cnn(), ["0.0", "0.4"], class_names="abcde", image_size=32, normalization=CENTRED)


def test_a_wrong_image_size_is_named():
    with pytest.raises(ConfigError, match="fails on an image of 48 x 48 px"):
        Classifier(
            vision_transformer(),
            FAMILIES["vision transformer"][2],
            class_names="abcde",
            image_size=48,
            normalization=CENTRED,
        )


def test_one_name_per_logit():
    with pytest.raises(ConfigError, match="gives 5 logits, but there are 3 class names"):
        Classifier(plain_cnn(), ["0.1", "0.4"], class_names="abc", image_size=32, normalization=CENTRED)


def test_a_network_without_stages_says_so():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, K))
    with pytest.raises(
        ConfigError,
        match=r"no stages of Sequential were found, as no layer .* choose a method that reads no layers",
    ):
        find_stages(network, 8, channels=3)


def test_looking_for_stages_leaves_the_network_alone():
    network = FAMILIES["residual"][0]().train()
    network.layer1.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    find_stages(network, 32)
    assert network.training
    assert not network.layer1.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.grad is None for parameter in network.parameters())
