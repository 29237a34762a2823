"""Maps made from those of other methods, on the toy classifier."""

import pytest
import torch

from helpers.saliency_cases import toy_classifier, toy_images
from verisal.errors import ConfigError
from verisal.functional.comparison.smoothness import variation_at_equal_mass
from verisal.saliency import BlurredLike, CentrePrior, Gradient, HierarchicalMasks, OfProbability, OneLayer

MASKS = HierarchicalMasks(reg_weight=0.02, steps=5, learning_rate=0.2)
QUERY = torch.tensor([0, 3, 1])


def test_one_layer_is_the_raw_map_of_that_layer():
    classifier, images = toy_classifier(), toy_images(3)
    whole = MASKS(classifier, images, QUERY)
    for layer in (0, 2, -1):
        found = OneLayer(base=MASKS, layer=layer)(classifier, images, QUERY)
        assert torch.equal(found.saliency, whole.raw_layers[layer])
        assert found.raw_layers == ()


@pytest.mark.parametrize("layer", [3, -4])
def test_a_layer_that_is_not_there_is_named(layer):
    with pytest.raises(ConfigError, match=f"layer {layer}, which has 3 layers"):
        OneLayer(base=MASKS, layer=layer)(toy_classifier(), toy_images(3), QUERY)


def test_blurred_maps_are_as_smooth_as_the_other_and_smoother_ones_stay():
    classifier, images = toy_classifier(), toy_images(3)
    found = BlurredLike(base=Gradient(), like=CentrePrior())(classifier, images, QUERY)
    like = variation_at_equal_mass(CentrePrior()(classifier, images, QUERY).saliency)
    torch.testing.assert_close(variation_at_equal_mass(found.saliency), like, rtol=1e-3, atol=0)
    stays = BlurredLike(base=CentrePrior(), like=Gradient())(classifier, images, QUERY)
    assert torch.equal(stays.saliency, CentrePrior()(classifier, images, QUERY).saliency)


def test_the_gradient_of_a_probability_is_that_of_the_softmax():
    classifier, images = toy_classifier(), toy_images(3)
    found = OfProbability(base=Gradient())(classifier, images, QUERY)
    leaf = images.clone().requires_grad_()
    share = classifier(leaf).softmax(dim=1).gather(1, QUERY[:, None]).sum()
    (expected,) = torch.autograd.grad(share, leaf)
    torch.testing.assert_close(found.attribution, expected)


def test_a_base_that_reads_stages_is_refused():
    with pytest.raises(ConfigError, match="HierarchicalMasks reads or hooks layers"):
        OfProbability(base=MASKS)
