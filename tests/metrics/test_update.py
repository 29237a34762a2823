"""What ``update`` takes of people who have maps, masks and a network, and nothing of ours."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.tv_tensors import BoundingBoxes, Mask

import verisal.metrics
from helpers.metric_cases import toy_explained, toy_map
from verisal.errors import ConfigError, DataError
from verisal.functional.statistics import Bootstrap
from verisal.metrics import (
    EnergyInside,
    Infidelity,
    MaxBoxAcc,
    PerturbationCurve,
    PointingGame,
    SaliencyMetric,
    SensitivityMax,
    Smoothness,
)
from verisal.types import SaliencyResult

MASKS = torch.zeros(3, 6, 8, dtype=torch.bool)
MASKS[:, 1:4, 2:5] = True
BOX = torch.tensor([2.0, 1.0, 5.0, 4.0])
# Energy on the object: all, half, none.
MAPS = torch.zeros(3, 6, 8)
MAPS[0, 2, 3] = 4.0
MAPS[1, 2, 3] = MAPS[1, 5, 5] = 1.0
MAPS[2, 0, 0] = 2.0


def energy(*args, **kwargs):
    metric = EnergyInside()
    metric.update(*args, **kwargs)
    score = metric.scores(Bootstrap(0))["energy"]
    assert score.n == 3
    assert float(metric.compute()) == pytest.approx(score.value)
    return score.value


@pytest.mark.parametrize(
    "maps",
    [
        MAPS,
        MAPS[:, None],
        MAPS.numpy(),
        MAPS[:, None].numpy().astype(np.float64),
        MAPS.half(),
        MAPS.bfloat16(),
        MAPS.to(torch.uint8),
        list(MAPS),
        [own[None] for own in MAPS.double()],
        tuple(own[None, None] for own in MAPS),
        list(MAPS.numpy()),
        MAPS.clone().requires_grad_(),
        SaliencyResult(saliency=MAPS[:, None], raw=MAPS[:, None]),
    ],
)
def test_maps_of_any_kind(maps):
    assert energy(maps, MASKS) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "masks",
    [
        MASKS,
        MASKS[:, None],
        MASKS.numpy(),
        MASKS.to(torch.uint8),
        MASKS.to(torch.uint8) * 255,
        MASKS.long(),
        MASKS.float() * 0.9 + 0.1 * ~MASKS,
        MASKS.half(),
        Mask(MASKS),
        list(MASKS),
        [own[None] for own in MASKS.numpy()],
        [own[None].expand(3, 6, 8).to(torch.uint8) for own in MASKS],
        # The objects of an image together.
        [torch.stack([own & (torch.arange(8) == column) for column in range(8)]) for own in MASKS],
    ],
)
def test_masks_of_any_kind(masks):
    assert energy(MAPS, masks) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "boxes",
    [
        BOX.expand(3, 4),
        BOX.expand(3, 1, 4),
        BOX.expand(3, 4).long(),
        BOX.expand(3, 4).numpy(),
        [BOX[None], BOX.expand(2, 4), BOX[None].half()],
        [[BOX.tolist()]] * 3,
        [BoundingBoxes(BOX[None], format="XYXY", canvas_size=(6, 8))] * 3,
        [BoundingBoxes([[2.0, 1.0, 3.0, 3.0]], format="XYWH", canvas_size=(6, 8))] * 3,
        BoundingBoxes([[3.5, 2.5, 3.0, 3.0]] * 3, format="CXCYWH", canvas_size=(6, 8)),
    ],
)
def test_boxes_of_any_kind(boxes):
    assert energy(MAPS, boxes=boxes) == pytest.approx(0.5)


def test_boxes_stand_in_for_masks_that_are_empty():
    masks = MASKS.clone()
    masks[1:] = False
    metric = EnergyInside()
    metric.update(MAPS, masks, boxes=[torch.zeros(0, 4), BOX[None], []])
    assert metric.table().rows[:2, 0].tolist() == [1.0, 0.5]
    assert metric.scores()["energy"].undefined == 1
    listed = EnergyInside()
    listed.update(MAPS, [MASKS[:1], MASKS[:0], MASKS[0]])
    assert listed.table().rows[:, 0].tolist() == pytest.approx([1.0, float("nan"), 0.0], nan_ok=True)


TARGET = {"boxes": BOX[None], "masks": MASKS[:1], "labels": torch.tensor([1])}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"maps": MAPS[0]},
            r"maps must be \(B, 1, H, W\) or \(B, H, W\), found \(6, 8\); of one image: maps\[None\]$",
        ),
        (
            {"maps": [MAPS[0], MAPS[1, :5]]},
            r"of one size, found \(6, 8\), \(5, 8\); update once for each image",
        ),
        ({"maps": []}, r"maps must be of one image at least, found an empty list"),
        ({"maps": (MAPS[:, None].expand(3, 3, 6, 8),)}, r"found \(3, 3, 6, 8\); reduce the channels first"),
        ({"maps": MASKS, "masks": MAPS}, r"found true and false; masks come second: update\(maps, masks\)"),
        ({"maps": "maps.npy"}, r"maps must be tensors or arrays, found str$"),
        (
            {"masks": [TARGET] * 3},
            r"found dict; .*: masks=\[target\['masks'\]\[target\['labels'\] == c\] for",
        ),
        ({"masks": [MASKS[0], MASKS[0, :5]]}, r"masks of one update must be of one size"),
        (
            {"boxes": [TARGET] * 3},
            r"found dict; .*: boxes=\[target\['boxes'\]\[target\['labels'\] == c\] for",
        ),
        (
            {"boxes": [BoundingBoxes(BOX[None], format="XYXY", canvas_size=(60, 80))] * 3},
            r"boxes are of an image of 80 x 60 pixels, found a map of 8 x 6; resize both together",
        ),
        ({"maps": MAPS[:, None].expand(3, 3, 6, 8)}, r"found \(3, 3, 6, 8\); reduce the channels first"),
        (
            {"maps": MAPS[:, :3, :4]},
            r"maps are \(3, 4\) and masks \(6, 8\); bring the maps .*interpolate\(maps, size=\(6, 8\)",
        ),
        ({"maps": MAPS[:2]}, r"found 2 maps and 3 masks|masks must be \(2, H, W\)"),
        ({"masks": MASKS[0]}, r"masks must be \(3, H, W\) or \(3, 1, H, W\), one per map .* found \(6, 8\)"),
        ({"masks": MASKS * 7}, r"found the values 0, 7; from a map of classes: masks = class_map == query"),
        ({"masks": MASKS * 255.0}, r"masks of floats must lie in \[0, 1\], found values from 0 to 255"),
        ({"boxes": BOX}, r"boxes must be 3 tensors \(N, 4\), one per map"),
        ({"boxes": [BOX[None]] * 2}, r"boxes must be 3 tensors"),
        (
            {"boxes": [[[2.0, 4.0, 3.0, 2.0]]] * 3},
            r"must be \(x1, y1, x2, y2\), found \[2.0, 4.0, 3.0, 2.0\].*box_convert",
        ),
        ({"boxes": (BOX / 8).expand(3, 4)}, r"found shares of the image such as"),
        (
            {"boxes": (BOX * 20).expand(3, 4)},
            r"which are 8 wide and 6 high, found \[40.0, 20.0, 100.0, 80.0\]",
        ),
        ({"image_ids": ["a", "b"]}, r"image_ids must be one name per map, found 2 for 3 maps"),
        ({"images": torch.rand(3, 3, 6, 6)}, r"maps are \(6, 8\) and images \(6, 6\)"),
        ({"images": torch.randn(3, 3, 6, 8)}, r"images must lie in \[0, 1\]"),
    ],
)
def test_what_does_not_fit_is_one_sentence(given, said):
    with pytest.raises(DataError, match=said) as refusal:
        EnergyInside().update(**{"maps": MAPS, "masks": MASKS, **given})
    assert "\n" not in str(refusal.value)


def test_rotated_boxes_of_torchvision_are_refused():
    boxes = BoundingBoxes([[5.0, 3, 2, 2, 30]], format="CXCYWHR", canvas_size=(6, 8))
    with pytest.raises(ConfigError, match="boxes must be upright, found the format CXCYWHR; convert them"):
        MaxBoxAcc().update(MAPS, boxes=[boxes] * 3)


@pytest.mark.parametrize(
    "query", [torch.zeros(2, dtype=torch.int64), torch.zeros(3), torch.zeros(3, 1).long()]
)
def test_query_class_of_another_shape_or_kind_is_refused(query):
    with pytest.raises(
        ConfigError, match=r"query class must be an int or \(3,\) whole numbers, one class per image"
    ):
        EnergyInside().update(MAPS, MASKS, query_class=query)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (PointingGame, "PointingGame needs masks or boxes: update(maps, masks)"),
        (MaxBoxAcc, "MaxBoxAcc needs boxes: update(maps, boxes=boxes)"),
        (
            PerturbationCurve,
            "PerturbationCurve needs images and classifier:"
            " update(maps, images=images, classifier=classifier)",
        ),
        (
            SensitivityMax,
            "SensitivityMax needs images, classifier and method:"
            " update(maps, images=images, classifier=classifier, method=method)",
        ),
    ],
)
def test_what_a_metric_lacks_is_one_sentence(make, said):
    with pytest.raises(DataError) as refusal:
        make().update(MAPS)
    assert str(refusal.value) == said


def test_a_metric_of_ones_own_that_says_nothing_of_its_needs_is_told_too():
    class Asking(SaliencyMetric):
        def __init__(self):
            super().__init__("asking", ("value",))

        def rows_of(self, explained):
            return explained.classifier(explained.images)

    with pytest.raises(DataError, match=r"Asking needs classifier: update\(maps, classifier=classifier\)"):
        Asking().update(MAPS)


def test_needs_name_what_update_takes():
    kinds = [getattr(verisal.metrics, name) for name in verisal.metrics.__all__]
    needs = {need for kind in kinds if issubclass(kind, SaliencyMetric) for need in kind.needs}
    assert needs == {"objects", "boxes", "images", "classifier", "method"}


def test_a_metric_of_maps_alone_takes_maps_alone():
    metric = Smoothness()
    metric.update(MAPS + 0.1)
    assert metric.scores()["total_variation"].n == 3


def test_an_explained_stands_alone():
    explained = toy_explained()
    with pytest.raises(DataError, match=r"update\(explained\) alone"):
        EnergyInside().update(explained, explained.object_masks)


def test_parts_of_an_explained_give_what_it_gives():
    explained = toy_explained()
    for whole, parts in (
        (PerturbationCurve("insertion", steps=3), PerturbationCurve("insertion", steps=3)),
        (Infidelity(samples=4), Infidelity(samples=4)),
        (SensitivityMax(samples=2), SensitivityMax(samples=2)),
        (PointingGame(), PointingGame()),
    ):
        whole.update(explained)
        parts.update(
            explained.result,
            explained.object_masks,
            boxes=explained.boxes,
            images=explained.images,
            classifier=explained.classifier,
            query_class=explained.query_class,
            method=toy_map,
            image_ids=explained.image_ids,
        )
        assert whole.table().image_ids == parts.table().image_ids
        assert whole.table().rows.equal(parts.table().rows)


class Dropping(nn.Module):
    """A stranger's network, in training mode, with batch norm."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.body = nn.Sequential(
                nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )
            self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 4))

    def forward(self, images):
        return self.head(self.body(images))


@pytest.fixture
def images():
    return torch.rand(3, 3, 6, 8, generator=torch.Generator().manual_seed(0))


def test_the_class_is_the_predicted_one_and_the_network_stays_as_it_was(images):
    network = Dropping().train()
    running = network.body[1].running_mean.clone()
    predicted = network.eval()(images).argmax(dim=1)
    network.train()
    rows = []
    for query in (None, predicted, predicted.to(torch.int32)):
        metric = PerturbationCurve("insertion", steps=3)
        metric.update(MAPS, images=images, classifier=network, query_class=query)
        rows.append(metric.table().rows)
    assert rows[0].equal(rows[1])
    assert rows[0].equal(rows[2])
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())
    assert network.body[1].running_mean.equal(running)


def test_the_class_of_a_result_is_that_of_its_maps(images):
    network = Dropping().eval()
    query = (network(images).argmax(dim=1) + 1) % 4
    result = SaliencyResult(saliency=MAPS[:, None], raw=MAPS[:, None], query_class=query)
    said, known = PerturbationCurve("insertion", steps=3), PerturbationCurve("insertion", steps=3)
    said.update(MAPS, images=images, classifier=network, query_class=query)
    known.update(result, images=images, classifier=network)
    assert said.table().rows.equal(known.table().rows)


def test_one_class_is_that_class_for_every_image(images):
    network = Dropping().eval()
    one, each = PerturbationCurve("insertion", steps=3), PerturbationCurve("insertion", steps=3)
    one.update(MAPS, images=images, classifier=network, query_class=2)
    each.update(MAPS, images=images, classifier=network, query_class=torch.tensor([2, 2, 2]))
    assert one.table().rows.equal(each.table().rows)
    assert not one.table().rows.isnan().any()


def test_images_of_any_kind_are_scored(images):
    network, rounded = Dropping().eval(), images.half()
    found = []
    for given in (rounded.float(), rounded, rounded.double(), rounded.numpy()):
        metric = PerturbationCurve("insertion", steps=3)
        metric.update(MAPS, images=given, classifier=network)
        found.append(metric.table().rows)
    assert all(rows.equal(found[0]) for rows in found)


def test_a_function_that_needs_gradients_is_a_method_even_in_inference_mode(images):
    network = Dropping().eval()

    def gradient(images, query_class):
        images.requires_grad_()
        logits = network(images)
        chosen = logits.gather(1, query_class[:, None]).sum()
        return torch.autograd.grad(chosen, images)[0].abs().amax(dim=1).numpy()

    metric = SensitivityMax(samples=2, radius=0.1)
    maps = gradient(images.clone(), torch.tensor([0, 1, 2]))
    with torch.inference_mode():
        metric.update(
            maps,
            images=images.clone(),
            classifier=network,
            query_class=torch.tensor([0, 1, 2]),
            method=gradient,
        )
    found = metric.table().rows[:, 0]
    assert (found > 0).all()
    assert found.isfinite().all()


def test_numbers_name_images_and_begin_again_after_a_reset():
    metric = EnergyInside()
    for _ in range(2):
        metric.update(MAPS, MASKS)
    assert metric.table().image_ids == tuple(f"00000/00000000{number}" for number in range(6))
    metric.reset()
    metric.update(MAPS, MASKS)
    assert metric.table().image_ids == tuple(f"00000/00000000{number}" for number in range(3))


def test_without_a_class_the_pointing_game_is_a_mean_over_images():
    plain, classes = PointingGame(tolerance=0), PointingGame(tolerance=0)
    plain.update(MAPS, MASKS)
    classes.update(MAPS, MASKS, query_class=torch.tensor([0, 0, 1]))
    assert float(plain.compute()) == pytest.approx(2 / 3)
    assert float(classes.compute()) == pytest.approx(1 / 2)
