"""How many images are worked on at once."""

import pytest
import torch

from helpers.normalizations import CENTRED
from verisal.attacks import PGD
from verisal.functional.scopes import images_at_once
from verisal.models import Classifier, SmallResNet
from verisal.saliency import HierarchicalMasks, SmoothGrad


@pytest.mark.parametrize(
    ("chunk_size", "height", "width", "found"),
    [
        (64, 64, 64, 64),
        (64, 128, 128, 64),
        (64, 256, 128, 32),  # twice the pixels, half the images
        (64, 224, 224, 20),  # 64 * 16384 / 50176 = 20.9
        (3, 1024, 1024, 1),  # never none
        (7, 32, 512, 7),  # as many pixels as 128 x 128
    ],
)
def test_as_many_pixels_at_once_whatever_the_size(chunk_size, height, width, found):
    assert images_at_once(chunk_size, torch.empty(2, 3, height, width)) == found


class Counting(torch.nn.Module):
    """Means of the quarters of an image as logits; remembers the largest batch that it saw with a graph."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.largest = 0

    def forward(self, images):
        if torch.is_grad_enabled():
            self.largest = max(self.largest, len(images))
        return self.scale * torch.nn.functional.adaptive_avg_pool2d(images.mean(dim=1), 2).flatten(1)


@pytest.mark.parametrize(("side", "largest"), [(128, 8), (256, 2)])
def test_larger_images_are_taken_fewer_at_a_time(side, largest):
    images = torch.rand(8, 3, side, side, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(8) % 4
    network = Counting()
    SmoothGrad(samples=2, chunk_size=8)(network, images, classes)
    assert network.largest == largest
    network = Counting()
    PGD(1 / 255, steps=1)(network, images, classes, generator=torch.Generator(), chunk_size=8)
    assert network.largest == largest


def test_the_result_is_that_of_all_at_once():
    network = SmallResNet(3, widths=(4, 4, 8, 8))
    classifier = Classifier(
        network, network.stage_names, class_names="abc", image_size=144, normalization=CENTRED
    ).eval()
    images = torch.rand(5, 3, 144, 144, generator=torch.Generator().manual_seed(0))
    query = torch.tensor([0, 1, 2, 0, 1])
    # 2 * 128 * 128 / (144 * 144) = 1.6, one at a time, and five.
    few, many = (
        HierarchicalMasks(steps=2, learning_rate=0.5, chunk_size=size)(classifier, images, query)
        for size in (2, 8)
    )
    torch.testing.assert_close(few.saliency, many.saliency, rtol=1e-4, atol=1e-6)
