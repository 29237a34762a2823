"""The class that a method explains: predicted, one for all, or one per image, of any integer type."""

from dataclasses import dataclass
from typing import final

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.saliency_cases import toy_classifier, toy_images
from verisal.errors import ConfigError, DataError
from verisal.saliency import CentrePrior, GradCAM, Gradient, Saliency
from verisal.types import AnyClassifier, SaliencyResult

IMAGES = toy_images(3)


@final
@dataclass(frozen=True, kw_only=True)
class Asked(Saliency):
    """Says the class that it was asked about, of which ``explain`` gets a checked tensor."""

    def explain(self, classifier: AnyClassifier, images: Tensor, query_class: Tensor) -> SaliencyResult:
        assert query_class.dtype == torch.int64
        saliency = query_class.float().view(-1, 1, 1, 1).expand(-1, 1, *images.shape[-2:])
        return SaliencyResult(saliency, saliency, n_forward=2)


def asked(query_class: object) -> list[int]:
    result = Asked()(toy_classifier(), IMAGES, query_class)
    assert result.query_class.tolist() == result.saliency[:, 0, 0, 0].tolist()
    return result.query_class.tolist()


@pytest.mark.parametrize(
    "query_class",
    [
        [1, 3, 0],
        (1, 3, 0),
        np.array([1, 3, 0]),
        *(torch.tensor([1, 3, 0], dtype=kind) for kind in (torch.int64, torch.int32, torch.uint8)),
    ],
    ids=str,
)
def test_one_class_per_image(query_class):
    assert asked(query_class) == [1, 3, 0]


@pytest.mark.parametrize("query_class", [2, np.int64(2), torch.tensor(2)], ids=str)
def test_one_class_for_all_images(query_class):
    assert asked(query_class) == [2, 2, 2]


def test_the_predicted_class_is_that_of_eval_mode_and_its_pass_is_counted():
    classifier = toy_classifier()
    predicted = classifier(IMAGES).argmax(dim=1)
    classifier.train()
    result = Asked()(classifier, IMAGES)
    assert result.query_class.equal(predicted)
    assert classifier.training
    assert (result.n_forward, Asked()(classifier, IMAGES, 0).n_forward) == (3, 2)
    assert Gradient()(classifier, IMAGES).saliency.equal(Gradient()(classifier, IMAGES, predicted).saliency)


def test_a_map_of_the_image_alone_asks_nobody():
    result = CentrePrior()(lambda images: 1 / 0, IMAGES)
    assert result.query_class is None
    assert result.n_forward == 0


@pytest.mark.parametrize(
    ("query_class", "words"),
    [
        (1.0, r"an int or \(3,\) whole numbers, one class per image, found \(\) float32"),
        (True, r"an int or \(3,\) whole numbers, one class per image, found \(\) bool"),
        ([0, 1], r"an int or \(3,\) whole numbers, one class per image, found \(2,\) int64"),
        ("cat", r"an int or \(3,\) whole numbers, one class per image, found 'cat'"),
        (4, r"0\.\.3 \(K = 4\), found 4\.\.4"),
    ],
)
def test_anything_else_is_refused(query_class, words):
    with pytest.raises(ConfigError, match=words):
        Gradient()(toy_classifier(), IMAGES, query_class)


@pytest.mark.parametrize("method", [Gradient(), GradCAM()], ids=["Gradient", "GradCAM"])
@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES[0], r"found \(3, 16, 12\) torch.float32; one image is a batch of one: image\[None\]"),
        (IMAGES.permute(0, 2, 3, 1), r"channels come first: images.permute\(0, 3, 1, 2\)"),
        ((IMAGES * 255).byte(), "divide 8-bit images by 255: images / 255"),
        (IMAGES.double(), r"convert them: images.float\(\)"),
        (IMAGES * 255, "divide 8-bit images by 255"),
        (IMAGES * 4 - 2, r"look normalised: .*verisal.models.Classifier\(network, normalization=...\)"),
        (IMAGES.numpy(), "must be a tensor .* found ndarray"),
    ],
)
def test_images_in_another_form_are_refused_with_the_way_out(method, images, words):
    with pytest.raises(DataError, match=words):
        method(toy_classifier().network, images)
