"""What people type who come from other attack libraries: it works, or one sentence says what to do."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from verisal.attacks import FGSM, PGD, SquareAttack
from verisal.errors import ConfigError, DataError
from verisal.models import Classifier

IMAGES = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2])


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(108), nn.Dropout(0.5), nn.Linear(108, 4)).eval()


NET = network()


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        (
            lambda: PGD(NET, eps=0.1),
            r"PGD takes its settings \(eps, .*give the network to the call: PGD\(...\)",
        ),
        (lambda: FGSM(NET), "found a network among them"),
        (lambda: SquareAttack(model=NET, eps=0.1), "found a network among them"),
        (lambda: PGD(0.1, alpha=0.01), "PGD has no setting 'alpha'; it has eps, norm, steps, step,"),
        (lambda: PGD(8), r"eps must be in \[0, 1\] pixel units, such as 0.0157 for 4/255, found 8"),
        (lambda: PGD(0.1)(NET, IMAGES, LABELS.float()), r"found \(3,\) float32; convert them: .long\(\)"),
        (
            lambda: PGD(0.1)(NET, IMAGES, nn.functional.one_hot(LABELS)),
            r"found \(3, 3\) int64; of one row per image, such as one-hot labels, take the class: .argmax",
        ),
        (lambda: PGD(0.1)(NET, IMAGES, LABELS[:, None]), r"found \(3, 1\) int64; drop the last dimension"),
        (
            lambda: PGD(0.1)(NET, IMAGES, LABELS[:2]),
            r"an int or \(3,\) whole numbers, .* found \(2,\) int64$",
        ),
        (lambda: PGD(0.1)(NET, IMAGES, None), "one class per image, found None"),
        (lambda: PGD(0.1)(NET, IMAGES, LABELS + 2), r"labels must lie in 0..3, as the classifier has 4"),
        (lambda: PGD(0.1)(NET, IMAGES * 255, LABELS), "divide 8-bit images by 255, and leave the norm"),
        (lambda: PGD(0.1)(NET, (IMAGES * 255).byte(), LABELS), "divide 8-bit images by 255: images / 255"),
        (lambda: PGD(0.1)(NET, IMAGES * 2 - 1, LABELS), r"look normalised: .*Classifier\(network, norm"),
        (lambda: PGD(0.1)(NET, IMAGES[0], LABELS[0]), r"one image is a batch of one: image\[None\]"),
        (lambda: PGD(0.1)(NET, IMAGES.numpy(), LABELS), r"make it one: torch.from_numpy\(images\)"),
        (lambda: PGD(0.1)(NET, torch.where(IMAGES > 0.99, torch.nan, IMAGES), LABELS), "found NaN in"),
        (lambda: PGD(0.1)(IMAGES, NET, LABELS), "images must be a tensor .* found Sequential"),
    ],
)
def test_one_sentence(typed, sentence):
    with pytest.raises((ConfigError, DataError), match=sentence):
        typed()


def test_what_works_as_it_is():
    expected = PGD(0.1)(NET, IMAGES, LABELS).images
    for labels in (LABELS.tolist(), LABELS.numpy(), LABELS.to(torch.uint8), np.int64([0, 1, 2])):
        assert PGD(0.1)(NET, IMAGES, labels).images.equal(expected)
    for attack in (copy.deepcopy(PGD(0.1)), pickle.loads(pickle.dumps(PGD(0.1)))):  # noqa: S301 - our own
        assert attack(NET, IMAGES, LABELS).images.equal(expected)


def test_a_network_in_training_mode_is_attacked_as_it_will_be_used():
    training = network().train()
    assert PGD(0.1)(training, IMAGES, LABELS).images.equal(PGD(0.1)(NET, IMAGES, LABELS).images)
    assert training.training
    assert training[2].training
    for name, values in training.state_dict().items():
        assert values.equal(NET.state_dict()[name])


def test_a_network_that_says_its_normalisation_is_attacked_with_it():
    told = ((0.2, 0.4, 0.6), (0.3, 0.2, 0.1))
    saying = network()
    saying.pretrained_cfg = {"mean": told[0], "std": told[1]}
    expected = PGD(0.1)(Classifier(NET, normalization=told), IMAGES, LABELS).images
    assert PGD(0.1)(saying, IMAGES, LABELS).images.equal(expected)
    assert not PGD(0.1)(NET, IMAGES, LABELS).images.equal(expected)
    assert PGD(0.1).bound_to(saying)(IMAGES, LABELS).equal(expected)
