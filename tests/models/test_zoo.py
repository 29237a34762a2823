import json
from importlib import resources

import torch

from verisal.data import EmojiScenes
from verisal.models import load_classifier
from verisal.models.sources.zoo import shipped_classifiers


def test_the_embedded_classifier_is_right_on_92_to_98_percent_of_unseen_scenes():
    classifier = load_classifier("emoji_scenes_64")
    batch = EmojiScenes("det_test", 600, size=classifier.image_size).stack(range(600))
    with torch.no_grad():
        accuracy = float((classifier(batch.images).argmax(dim=1) == batch.labels).float().mean())
    # Two standard errors of 600 scenes are 1.5 %; the card states the accuracy on 4000.
    assert 0.92 <= accuracy <= 0.99
    card = json.loads((resources.files("verisal") / "weights" / "emoji_scenes_64.json").read_text())
    assert 0.92 <= card["origin"]["test_accuracy"] <= 0.98
    assert abs(accuracy - card["origin"]["test_accuracy"]) < 0.02


def test_shipped_weights_are_small_and_name_their_config():
    for name in shipped_classifiers():
        weights = resources.files("verisal") / "weights" / f"{name}.safetensors"
        card = json.loads((resources.files("verisal") / "weights" / f"{name}.json").read_text())
        assert len(weights.read_bytes()) <= 2_000_000
        assert card["origin"]["config"] == "configs/classifier.yaml"
        assert not load_classifier(name).training
