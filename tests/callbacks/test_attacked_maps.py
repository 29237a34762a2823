import pytest
import torch

from helpers.explaining_toys import Samples, Task, loader, trainer
from verisal.attacks.on_maps.attack import MapAttack
from verisal.callbacks import AttackedMaps
from verisal.errors import ConfigError
from verisal.functional.comparison import postprocess
from verisal.saliency import Gradient, InputXGradient
from verisal.types import Batch

ATTACK = MapAttack(kind="top_k", steps=4, judge_every=2)


@pytest.fixture
def whole():
    samples = Samples(6)
    network = Task().classifier.eval().requires_grad_(False)
    batch = Batch.collate([samples[index] for index in range(6)])
    return batch, network, network(batch.images).argmax(dim=1)


def panels_of(attack, **settings):
    callback = AttackedMaps({"product": InputXGradient()}, attack, **settings)
    trainer(callback).validate(Task(), loader(6), verbose=False)
    return callback.evaluation.panels


def test_panels_hold_the_map_of_the_image_and_that_of_the_attacked_image(whole):
    batch, network, query = whole
    panels = panels_of(ATTACK, max_images=2)
    assert len(panels) == 2
    for panel in panels:
        index = batch.image_ids.index(panel.image_id)
        image, asked = batch.images[index : index + 1], query[index : index + 1]
        clean = InputXGradient()(network, image, asked)
        found = ATTACK(
            network,
            lambda images, classes: InputXGradient()(network, images, classes),
            image,
            query_class=asked,
            attribution=clean.attribution,
        )
        assert bool(found.found)
        torch.testing.assert_close(panel.image, batch.images[index])
        torch.testing.assert_close(panel.maps["product"], postprocess(clean.attribution)[0, 0])
        torch.testing.assert_close(panel.maps["product, attacked"], postprocess(found.maps)[0, 0])
        assert not torch.equal(panel.maps["product"], panel.maps["product, attacked"])
        assert ATTACK.name in panel.caption


def test_a_map_that_no_attack_reached_stands_alone():
    panels = panels_of(MapAttack(kind="top_k", steps=1, eps=0.0), max_images=1)
    assert list(panels[0].maps) == ["product", "random", "centre"]


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="max_images"):
        AttackedMaps({"gradient": Gradient()}, ATTACK, max_images=0)
