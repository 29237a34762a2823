"""``verisal explain`` of exported networks that decide each label by itself, several or one."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from verisal.cli import main
from verisal.models import export_classifier, load_classifier
from verisal.saliency import EvidenceMasks, HierarchicalMasks, calibrate_reg_weight

SIZE = 32
EXPLAIN = ["explain", "scan.png", "--classifier=tagger.safetensors", "--factory=my_tagger:network"]
# A label is seen where its colour is bright enough in the mean of the image.
NETWORK = """
import torch
from torch import nn


def network(labels=3):
    layers = [nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()) for _ in range(2)]
    made = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, labels))
    with torch.no_grad():
        for layer in (made[0][0], made[1][0]):
            layer.weight.zero_()
            layer.bias.zero_()
            for colour in range(3):
                layer.weight[colour, colour] = 1 / 9
        made[4].weight.copy_(60 * torch.eye(3)[:labels])
        made[4].bias.fill_(-3)
    return made
"""


@pytest.fixture
def scan(tmp_path, monkeypatch):
    """A picture with a red square at the left and a smaller green one at the right, and what explains it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_tagger.py").write_text(NETWORK)
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[8:20, 3:13, 0] = 255
    pixels[12:22, 20:29, 1] = 220
    Image.fromarray(pixels).save("scan.png")
    return torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255


def exported(names, **arguments):
    """A small export of a network for these labels."""
    classifier = load_classifier(
        "my_tagger:network",
        arguments=arguments,
        weights=None,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        image_size=SIZE,
        class_names=names,
        output="sigmoid",
    )
    export_classifier("tagger.safetensors", classifier, origin={})
    return classifier


def inside(values, top, bottom, left, right):
    """Share of a map within a box."""
    return values[top:bottom, left:right].sum() / values.sum()


def test_labels_of_an_export_are_explained_by_the_default_method(scan, capsys):
    classifier = exported(["red", "green", "blue"])
    probabilities = classifier(scan).sigmoid()[0].tolist()
    assert [p > 0.5 for p in probabilities] == [True, True, False]
    for query, box in (("top1", (5, 23, 0, 16)), ("green", (9, 25, 17, 32))):
        assert main([*EXPLAIN, f"--query={query}"]) == 0
        said = capsys.readouterr().out
        name = "red" if query == "top1" else query
        place = classifier.class_names.index(name)
        assert f"scan.png: {name} {probabilities[place]:.2f} ->" in said
        found = np.load("explanations/scan.png.npz")
        assert found["query"].tolist() == [place, 2]
        np.testing.assert_allclose(found["probabilities"], probabilities, atol=1e-5)
        assert inside(found["saliency"][0, 0], *box) > 0.9
        # Nothing is blue: no evidence is invented.
        assert found["saliency"][1].max() < 0.05 * found["saliency"][0].max()
        settings = json.loads(str(found["settings"]))
        assert settings["output"] == "sigmoid"
        own = EvidenceMasks()(classifier, scan, place).saliency[0]
        np.testing.assert_allclose(found["saliency"][0], own, atol=1e-3)


def test_one_logit_has_one_map_and_no_disturbed_query(scan, capsys):
    classifier = exported(["red"], labels=1)
    probability = float(classifier(scan).sigmoid())
    assert main(EXPLAIN) == 0
    assert f"scan.png: red {probability:.2f} ->" in capsys.readouterr().out
    found = np.load("explanations/scan.png.npz")
    assert found["saliency"].shape == (1, 1, SIZE, SIZE)
    assert found["query"].tolist() == [0]
    assert inside(found["saliency"][0, 0], 5, 23, 0, 16) > 0.9
    assert "disturbed_query" not in json.loads(str(found["settings"]))
    assert main([*EXPLAIN, "--query=second"]) == 2
    assert "one logit and no second class" in capsys.readouterr().err


def test_lambda_of_one_logit_is_relative_to_its_distance_from_0(scan):
    classifier = exported(["red"], labels=1)
    lax, (found,) = calibrate_reg_weight(HierarchicalMasks(), classifier, scan, grid=(0.01,))
    result = HierarchicalMasks(reg_weight=0.01).learn(classifier, scan, torch.zeros(1, dtype=torch.int64))
    assert found.relative_change == pytest.approx(
        abs(float(result.query_change) / float(classifier(scan))), rel=1e-3
    )
    assert found.relative_change > 0
    assert lax == 0.01
