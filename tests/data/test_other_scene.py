"""Scenes of another class as baseline images."""

import pytest
import torch

from verisal.data import EmojiScenes, OtherScene
from verisal.errors import ConfigError
from verisal.fingerprint import settings_of
from verisal.functional.baselines import OtherImage
from verisal.types import Batch


def test_it_shows_what_a_pool_of_the_same_scenes_shows():
    scenes = EmojiScenes("det_fit", 6, size=32)
    pool = Batch.collate([scenes[index] for index in range(6)])
    images, query = torch.rand(3, 3, 32, 32), pool.labels[:3]
    for seed in (0, 1):
        other = OtherScene(count=6, size=32, seed=seed)
        expected = OtherImage(images=pool.images, labels=pool.labels, seed=seed)
        assert other.name == expected.name
        assert torch.equal(other(images, query_class=query), expected(images, query_class=query))


def test_its_settings_are_plain_data():
    assert settings_of(OtherScene(count=6)) == {
        "class": "OtherScene",
        "split": "det_fit",
        "count": 6,
        "size": 64,
        "seed": 0,
    }


def test_another_size_and_a_pool_of_one_are_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        OtherScene(count=1)
    with pytest.raises(ConfigError, match="resize the pool"):
        OtherScene(count=6, size=32)(torch.rand(1, 3, 16, 16), query_class=torch.tensor([0]))
