"""Networks that take images of one height and width alone, which are not equal: methods, stages, gates."""

import pytest
import torch
from torch import nn

from verisal.errors import ConfigError
from verisal.functional.baselines import Constant
from verisal.models import Classifier, export_classifier, load_classifier
from verisal.models._layout import InputShape, probe_stages
from verisal.saliency import RISE, GradCAM, Gradient, HierarchicalMasks, Occlusion


def spectrogram_network():
    """Of 16 x 40 images of one channel, as of sounds: its head knows the size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 6, (3, 5)), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 6 * 16, 3),
        )  # fmt: skip


class Patches(nn.Module):
    """A convolution that cuts patches of 4 px, two blocks of tokens with residuals, and a mean over them."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Conv2d(3, 6, 4, stride=4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3))
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        tokens = self.cut(images).flatten(2).transpose(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(tokens.mean(dim=1))


METHODS = (
    Gradient(),
    GradCAM(),
    Occlusion(window=(4, 8), stride=4, baseline=Constant()),
    RISE(masks=8, cells=3, baseline=Constant()),
    HierarchicalMasks(steps=3, learning_rate=0.4),
)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda network: network,
        lambda network: Classifier(network, normalization="none"),
        lambda network: Classifier(network, ["1", "4"], normalization="none"),
    ],
    ids=["bare", "found stages", "named stages"],
)
def test_methods(wrapped, method):
    images = torch.rand(2, 1, 16, 40)
    found = method(wrapped(spectrogram_network().eval()), images, [0, 2])
    assert found.saliency.shape == (2, 1, 16, 40)
    assert found.saliency.isfinite().all()
    if found.attribution is not None:
        assert found.attribution.flatten(1).std(dim=1).gt(0).all()


def test_stages_are_found_and_cut_at_the_size_of_the_images():
    network = spectrogram_network().eval()
    classifier = Classifier(network, normalization="none").eval()
    images = torch.rand(2, 1, 16, 40)
    outputs = classifier.stage_outputs(images)
    assert classifier.stages == ("1", "2", "4")
    for name, part in zip(classifier.stages, outputs.activations, strict=True):
        torch.testing.assert_close(part, network[: int(name) + 1](images))
    torch.testing.assert_close(outputs.logits, classifier(images))
    gates = [torch.ones_like(part) for part in outputs.activations]
    torch.testing.assert_close(classifier.gated(classifier.prefix(images), gates), outputs.logits)
    assert classifier.image_size == 40


def test_blocks_of_tokens_are_found_on_images_that_are_not_square():
    classifier = Classifier(Patches(), normalization="none").eval()
    images = torch.rand(2, 3, 12, 20)
    outputs = classifier.stage_outputs(images)
    assert classifier.stages[0] == "cut"
    assert [tuple(part.shape[2:]) for part in outputs.activations] == [(3, 5)] * len(classifier.stages)
    assert GradCAM()(classifier, images, 1).saliency.shape == (2, 1, 12, 20)


def test_images_of_another_size_than_the_first_get_their_own_maps():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    classifier = Classifier(network, normalization="none").eval()
    for size in ((16, 40), (24, 12), (20, 20)):
        outputs = classifier.stage_outputs(torch.rand(1, 3, *size))
        assert outputs.activations[0].shape[2:] == size
        for method in METHODS:
            assert method(classifier, torch.rand(1, 3, *size), 0).saliency.shape == (1, 1, *size)


def test_a_blank_image_like_a_map_has_the_proportions_of_the_probe():
    network = spectrogram_network()
    probe = probe_stages(network, ["4"], InputShape(1, 16, 40))
    assert probe.grid == (6, 16)
    assert probe.input_shape.like(torch.empty(3, 6, 6, 16), probe.grid).shape == (3, 1, 16, 40)
    assert probe.input_shape.like(torch.empty(3, 6, 12, 8), probe.grid).shape == (3, 1, 32, 20)


def test_a_size_that_is_said_is_that_of_the_search_and_of_exports(tmp_path):
    classifier = load_classifier(
        "torchvision:resnet18",
        weights=None,
        normalization="none",
        image_size=(32, 64),
        class_names=("a", "b"),
    )
    assert classifier.height_and_width == (32, 64)
    assert classifier.image_size == 64
    export_classifier(tmp_path / "net.safetensors", classifier, origin={})
    again = load_classifier(tmp_path / "net.safetensors")
    assert again.height_and_width == (32, 64)
    assert again.stages == classifier.stages
    with pytest.raises(ConfigError, match=r"a side or \(height, width\) in pixels, found \(1, 2, 3\)"):
        Classifier(spectrogram_network(), normalization="none", image_size=(1, 2, 3))
