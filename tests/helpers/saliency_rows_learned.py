"""Rows of the mask model."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch

from helpers.saliency_cases import SaliencyCase, toy_classifier
from verisal.saliency import LearnedMask, MaskNetwork, PlaceNetwork
from verisal.saliency.gates.learned import classifier_fingerprint, save_mask_network


@cache
def toy_masks(objective):
    """Path of a mask network with random weights for the toy classifier."""
    folder = Path(tempfile.mkdtemp(prefix="verisal-masks-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = MaskNetwork((4, 6, 8), 4)
        for level in network.levels:
            torch.nn.init.normal_(level.head.weight, std=0.3)
    card = {
        "channels": (4, 6, 8),
        "num_classes": 4,
        "width_ratio": 1.0,
        "classifier": classifier_fingerprint(toy_classifier()),
        "objective": objective,
        "penalty": "per_channel",
        "reg_weight": 0.02,
    }
    path = folder / f"{objective}.safetensors"
    save_mask_network(path, network, card)
    return str(path)


@cache
def toy_places():
    """Path of a network of places with random weights for the toy classifier."""
    folder = Path(tempfile.mkdtemp(prefix="verisal-places-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = PlaceNetwork((4, 6, 8), width=4)
        for level in network.levels:
            torch.nn.init.normal_(level.head.weight, std=0.3)
    card = {"channels": (4, 6, 8), "width": 4, "classifier": classifier_fingerprint(toy_classifier())}
    path = folder / "places.safetensors"
    save_mask_network(path, network, card)
    return str(path)


CASES: dict[str, SaliencyCase] = {
    "LearnedMask": SaliencyCase(
        lambda: LearnedMask(checkpoint=toy_masks("evidence"), shown="gated_activation"),
        layers=3,
        passes=(1, 0),
        late_call=1,
    ),
    "LearnedMask output": SaliencyCase(
        lambda: LearnedMask(checkpoint=toy_masks("output"), shown="gated_activation"),
        layers=3,
        passes=(1, 0),
        late_call=1,
        uses_query=False,
    ),
    "LearnedMask refined": SaliencyCase(
        lambda: LearnedMask(checkpoint=toy_masks("evidence"), steps=3, fusion="mean", shown="contribution"),
        layers=3,
        passes=(6, 4),
        late_call=4,
        channels=1,
    ),
    "LearnedMask places": SaliencyCase(
        lambda: LearnedMask(checkpoint=toy_places()),
        layers=3,
        passes=(2, 2),
        late_call=2,
        channels=1,
    ),
    "LearnedMask places refined": SaliencyCase(
        lambda: LearnedMask(checkpoint=toy_places(), steps=3),
        layers=3,
        passes=(5, 5),
        late_call=4,
        channels=1,
    ),
}
