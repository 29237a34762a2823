"""Weight gradients of narrow layers, in processes of their own: a wrong layer ends the process."""

import multiprocessing
import os

import pytest
import torch
from torch import nn

from helpers.normalizations import CENTRED
from verisal.detectors.network import AttributionCNN
from verisal.models import Classifier, SmallResNet
from verisal.saliency import MaskNetwork

CONTEXT = multiprocessing.get_context("forkserver")
WIDTHS = [(1, 2, 3, 4), (4, 8, 8, 8), (7, 7, 7, 7)]


def networks():
    """Name to a network that a task trains, as narrow as it can be, and a batch of what it reads."""
    found = {}
    for widths in WIDTHS:
        network = SmallResNet(3, widths=widths)
        found[f"classifier {widths}"] = (network, (torch.rand(8, 3, 32, 32),))
    found["detector"] = (AttributionCNN(3, width=1), (torch.rand(8, 3, 32, 32),))
    maps = tuple(
        torch.rand(8, width, size, size) for width, size in zip((1, 2, 3, 4), (16, 8, 4, 2), strict=True)
    )
    found["masks"] = (MaskNetwork([1, 2, 3, 4], 3), (maps, torch.zeros(8, dtype=torch.int64)))
    return found


def train(names, layout):
    """Steps of training; the processor seems to have AVX2 alone, whose code is the one that fails."""
    os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, (network, inputs) in networks().items():
        if name not in names:
            continue
        network = network.to(memory_format=layout)
        seen = [laid(part, layout) for part in inputs]
        for _ in range(4):
            output = network(*seen)
            loss = sum(part.square().mean() for part in output) if isinstance(output, list) else output.mean()
            network.zero_grad()
            loss.backward()
            # Freed and reused memory shows what was written where it must not be.
            _ = [torch.zeros(size) for size in range(1, 200, 7)]


def laid(part, layout):
    if isinstance(part, tuple):
        return [laid(one, layout) for one in part]
    return part.contiguous(memory_format=layout) if part.ndim == 4 else part


def exit_code(target, *args):
    process = CONTEXT.Process(target=target, args=args)
    process.start()
    process.join(250)
    return process.exitcode


def test_narrow_networks_train_in_channels_last():
    assert exit_code(train, list(networks()), torch.channels_last) == 0


def test_the_narrow_form_is_the_same_layer():
    torch.manual_seed(0)
    network = SmallResNet(3, widths=(4, 8, 8, 8)).eval()
    narrow = network.stage2[0].shortcut[0]
    assert narrow.in_channels == 4
    plain = nn.Conv2d(4, 8, 1, stride=2, bias=False)
    plain.load_state_dict(narrow.state_dict())
    for size in (15, 16):
        images = torch.rand(2, 4, size, size)
        torch.testing.assert_close(narrow(images), plain(images))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network.fold()(images), network(images), rtol=1e-4, atol=1e-5)
    classifier = Classifier(
        network, network.stage_names, class_names="abc", image_size=32, normalization=CENTRED
    ).eval()
    outputs = classifier.stage_outputs(images)
    torch.testing.assert_close(outputs.logits, classifier(images))
    ones = [torch.ones(1)] * 4
    torch.testing.assert_close(classifier.gated(outputs.activations[0], ones), classifier(images))


@pytest.mark.parametrize("channels", [8, 12])
def test_wider_layers_are_torch_s_own(channels):
    shortcut = SmallResNet(3, widths=(channels, 16, 16, 16)).stage2[0].shortcut[0]
    assert type(shortcut) is nn.Conv2d
