"""Mosaics and pasted cuts of photographs that the test draws: pixels, places, classes and splits."""

import json
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from verisal.data import (
    AnnotatedImages,
    ImageData,
    ImageFolder,
    ImagesLike,
    ImageSplits,
    Mosaics,
    PastedCuts,
    decode_image,
    resize_image,
)
from verisal.errors import ConfigError, DataError
from verisal.models import Classifier, load_classifier

CLASSES = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen", "ibis")
SIZE = 32


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Five textures of each class, of several sizes, as PNG and JPEG files."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES * 5):
        (folder / name).mkdir(exist_ok=True)
        height, width = 40 + number % 5, 44 + number % 7
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(folder / name / f"{number:02}.{'png' if number % 2 else 'jpg'}")
    return folder


def photographs(root, split="val", *, size=SIZE, labels="folders", **settings):
    splits = ImageSplits(
        images=ImageFolder(root=str(root), labels=labels), **{"ratios": (1, 1, 1)} | settings
    )
    return AnnotatedImages(splits, split, classifier=ImagesLike(class_names=CLASSES, image_size=size))


def read(root, image_id, size):
    return resize_image(decode_image(root / image_id), size)


def test_a_mosaic_is_its_photographs_cell_by_cell(root):
    scenes = Mosaics(seed=3).of(photographs(root))
    assert len(scenes) >= 2
    half = SIZE // 2
    for index, scene in enumerate(scenes):
        names = scenes.sources(index)
        cells = [(0, 0), (0, half), (half, 0), (half, half)]
        for place, (name, (top, left)) in enumerate(zip(names, cells, strict=True)):
            cell = scene.image[:, top : top + half, left : left + half]
            assert torch.equal(cell, read(root, name, half))
            mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
            mask[top : top + half, left : left + half] = True
            assert torch.equal(scene.object_masks[place], mask)
            assert scene.boxes[place].tolist() == [left, top, left + half, top + half]
        assert scene.object_labels.tolist() == [CLASSES.index(name.partition("/")[0]) for name in names]
        assert scene.label == scene.object_labels[0] == scenes.labels[index]
        assert not scene.difficult.any()
        assert scene.image_id == f"Mosaics-3-val-{index}" == scenes.image_id(index)


def test_cells_that_do_not_divide_the_side_fill_it_all_the_same(root):
    scenes = Mosaics(cells=3).of(photographs(root, "fit", ratios=(1, 0, 0), size=34), count=1)
    (scene,), names = scenes, scenes.sources(0)
    edges = [0, 11, 23, 34]
    for place, name in enumerate(names):
        top, bottom = edges[place // 3 : place // 3 + 2]
        left, right = edges[place % 3 : place % 3 + 2]
        whole = read(root, name, 12)
        assert torch.equal(scene.image[:, top:bottom, left:right], whole[:, : bottom - top, : right - left])
        assert scene.boxes[place].tolist() == [left, top, right, bottom]
    assert scene.object_masks.sum(dim=0).eq(1).all()


@pytest.mark.parametrize("composition", [Mosaics(), PastedCuts()])
def test_no_photograph_is_in_two_scenes_nor_in_two_splits(root, composition):
    own = {}
    for split in ("fit", "val", "test"):
        scenes = composition.of(photographs(root, split))
        used = list(chain.from_iterable(scenes.sources(index) for index in range(len(scenes))))
        assert len(used) == len(set(used)) == len(scenes) * composition.photographs
        whole = photographs(root, split)
        assert set(used) <= {whole.image_id(index) for index in range(len(whole))}
        for index in range(len(scenes)):
            names = [name.partition("/")[0] for name in scenes.sources(index)]
            assert len(set(names)) == len(names)
        own[split] = set(used)
    assert not (own["fit"] & own["val"] | own["val"] & own["test"] | own["fit"] & own["test"])
    # Those of another split, from the photographs at hand.
    other = type(composition)(split="test").of(photographs(root, "val"))
    assert set(chain.from_iterable(map(other.sources, range(len(other))))) == own["test"]


def test_scenes_hang_on_the_seed_alone(root):
    for kind in (Mosaics, PastedCuts):
        first, again, other = (kind(seed=seed).of(photographs(root)) for seed in (1, 1, 2))
        assert json.dumps(first.identity()) == json.dumps(again.identity()) != json.dumps(other.identity())
        last = len(first) - 1
        assert torch.equal(first[last].image, again[last].image)
        assert first.sources(0) != other.sources(0)
        few = kind(seed=1).of(photographs(root), count=1)
        assert (len(few), few.sources(0)) == (1, first.sources(0))


@pytest.mark.parametrize("shape", ["rectangle", "ellipse"])
@pytest.mark.parametrize("fading", [0.0, 0.2])
def test_a_cut_is_the_middle_of_one_photograph_in_the_other(root, shape, fading):
    composition = PastedCuts(shape=shape, fading=fading, middle=0.8, sides=(0.4, 0.6))
    scenes = composition.of(photographs(root))
    places = set()
    for index, scene in enumerate(scenes):
        pasted, host = scenes.sources(index)
        around = read(root, host, SIZE)
        changed = (scene.image != around).any(dim=0)
        rows, columns = changed.any(dim=1).nonzero(), changed.any(dim=0).nonzero()
        mask = scene.object_masks[0]
        left, top, right, bottom = (int(edge) for edge in scene.boxes[0])
        assert mask[top:bottom, left:right].any()
        assert mask.sum() == mask[top:bottom, left:right].sum()
        assert rows.min() <= top
        assert bottom <= rows.max() + 1
        assert columns.min() <= left
        assert right <= columns.max() + 1
        side = (bottom - top) / (1 - fading)
        assert 0.4 * SIZE - 2.5 <= side <= 0.6 * SIZE + 2.5
        middle = ((top + bottom) // 2, (left + right) // 2)
        assert mask[middle]
        if not fading:
            whole = read(root, pasted, round((bottom - top) / 0.8))
            start = (whole.shape[1] - (bottom - top)) // 2
            cut = whole[:, start : start + bottom - top, start : start + bottom - top]
            own = mask[top:bottom, left:right]
            assert torch.equal(scene.image[:, top:bottom, left:right][:, own], cut[:, own])
        share = mask[top:bottom, left:right].float().mean()
        assert share == (1 if shape == "rectangle" else pytest.approx(np.pi / 4, abs=0.15))
        names = [name.partition("/")[0] for name in (pasted, host)]
        assert scene.object_labels.tolist() == [CLASSES.index(name) for name in names]
        assert scene.difficult.tolist() == [False, True]
        assert not (scene.object_masks[1] & mask).any()
        assert not (scene.object_masks[1] & changed).any()
        places.add((top, left))
    assert len(places) > 1


def test_a_fading_border_mixes_by_its_opacity_pixel_by_pixel(root):
    composition = PastedCuts(sides=(0.5, 0.5), middle=1.0, fading=0.25)
    scenes = composition.of(photographs(root))
    pasted, host = scenes.sources(0)
    side = SIZE // 2
    opacity = torch.zeros(side, side)
    for row in range(side):
        for column in range(side):
            to_border = min(row + 0.5, column + 0.5, side - row - 0.5, side - column - 0.5) / side
            opacity[row, column] = min(to_border / 0.25, 1.0)
    assert torch.allclose(composition.opacity(side), opacity, atol=1e-6)
    around, cut, scene = read(root, host, SIZE), read(root, pasted, side), scenes[0]
    left, top, right, bottom = (int(edge) for edge in scene.boxes[0])
    # Half opaque an eighth of the side from the border.
    assert (bottom - top, right - left) == (side - 4, side - 4)
    top, left = top - 2, left - 2
    part = around[:, top : top + side, left : left + side]
    mixed = opacity * cut + (1 - opacity) * part
    assert torch.allclose(scene.image[:, top : top + side, left : left + side], mixed, atol=1e-6)
    outside = torch.ones(SIZE, SIZE, dtype=torch.bool)
    outside[top : top + side, left : left + side] = False
    assert torch.equal(scene.image[:, outside], around[:, outside])


def test_no_photograph_keeps_the_pixels_of_its_file(tmp_path):
    rng = np.random.default_rng(1)
    for name in CLASSES[:4]:
        (tmp_path / name).mkdir()
        noise = rng.integers(0, 256, (SIZE // 2, SIZE // 2, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name / "a.jpg")
    images = photographs(tmp_path, ratios=(0, 1, 0))
    kept = decode_image(tmp_path / images.image_id(0))
    resized = images.resized(0, SIZE // 2).image
    assert resized.shape == kept.shape
    # Seventeen pixels for the sixteen of the file, of which the outer half pixels are cut off.
    assert (resized - kept).abs().mean() > 0.02
    scene = Mosaics().of(images)[0]
    names = Mosaics().of(images).sources(0)
    file = decode_image(tmp_path / names[0])
    assert (scene.image[:, : SIZE // 2, : SIZE // 2] - file).abs().mean() > 0.02


def test_what_a_cell_shows_besides_is_there_and_asked_of_no_map(tmp_path):
    for name in CLASSES[:4]:
        (tmp_path / name).mkdir()
        Image.new("RGB", (40, 40), "red").save(tmp_path / name / f"{name}.png")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"image,class,xmin,ymin,xmax,ymax\nant.png,{CLASSES[5]},2,2,20,20\n")
    splits = ImageSplits(
        images=ImageFolder(root=str(tmp_path), annotations=str(boxes), format="csv"), ratios=(0, 1, 0)
    )
    images = AnnotatedImages(splits, "val", classifier=ImagesLike(class_names=CLASSES, image_size=SIZE))
    (scene,) = Mosaics().of(images)
    assert scene.object_labels.tolist()[4:] == [5]
    assert scene.difficult.tolist() == [False] * 4 + [True]
    cell = scene.object_labels.tolist().index(0)
    assert torch.equal(scene.object_masks[4], scene.object_masks[cell])


def test_photographs_without_a_class_get_the_one_that_the_classifier_predicts(root):
    images = ImageFolder(root=str(root), labels="none")
    kept = ImageSplits(images=images, ratios=(0, 1, 0))
    without = AnnotatedImages(kept, "val", classifier="emoji_scenes_64", count=9)
    assert set(without.labels) == {-1}
    with pytest.raises(DataError, match="none of them has a class: set unlabelled"):
        Mosaics().of(without)
    splits = ImageSplits(images=images, ratios=(0, 1, 0), unlabelled="predict")
    network = load_classifier("emoji_scenes_64")
    predicted = AnnotatedImages(splits, "val", classifier=network, count=9)
    with torch.no_grad():
        answers = network(torch.stack([predicted[index].image for index in range(9)])).argmax(dim=1)
    assert list(predicted.labels) == answers.tolist()
    assert [predicted[index].label for index in range(9)] == answers.tolist()
    with pytest.raises(ConfigError, match="no classifier; give one"):
        photographs(root, unlabelled="predict", labels="none", class_map={})
    with pytest.raises(ConfigError, match="'keep' or 'predict', found 'guess'"):
        ImageSplits(images=images, unlabelled="guess")


def test_the_data_module_reads_scenes_in_the_place_of_photographs(root):
    splits = ImageSplits(images=ImageFolder(root=str(root)), ratios=(0, 1, 1))
    classes = list(CLASSES)
    data = ImageData(
        splits,
        composition=Mosaics(),
        image_size=SIZE,
        val_count=2,
        test_count=1,
        batch_size=2,
        num_workers=0,
    )
    assert list(data.class_names) == classes
    data.setup("validate")
    data.setup("test")
    (batch,) = data.val_dataloader()
    assert batch.image_ids == ("Mosaics-0-val-0", "Mosaics-0-val-1")
    assert [len(labels) for labels in batch.object_labels] == [4, 4]
    (test,) = data.test_dataloader()
    assert test.image_ids == ("Mosaics-0-test-0",)
    with pytest.raises(DataError, match=r"make \d scenes, 99 asked for; add photographs"):
        Mosaics().of(photographs(root), count=99)
    with pytest.raises(ConfigError, match="composition makes scenes of images on disk; give splits"):
        ImageData(composition=Mosaics())


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (Mosaics, {"cells": 1}, "cells"),
        (Mosaics, {"cells": 9}, "cells"),
        (Mosaics, {"seed": -1}, "seed"),
        (PastedCuts, {"sides": (0.6, 0.4)}, "two rising shares"),
        (PastedCuts, {"sides": (0.3,)}, "two rising shares"),
        (PastedCuts, {"middle": 0.05}, "middle"),
        (PastedCuts, {"fading": 0.6}, "fading"),
        (PastedCuts, {"shape": "star"}, "'rectangle' or 'ellipse', found 'star'"),
    ],
)
def test_settings_out_of_range_are_named(kind, settings, words):
    with pytest.raises(ConfigError, match=words):
        kind(**settings)


@pytest.mark.parametrize("composition", [Mosaics(), PastedCuts()])
def test_scenes_for_a_classifier_of_other_proportions(root, composition):
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 9))
    known = Classifier(network, class_names=CLASSES, normalization="none", image_size=(24, 40), channels=3)
    splits = ImageSplits(images=ImageFolder(root=str(root)), ratios=(1, 1, 1))
    scene = composition.of(AnnotatedImages(splits, "val", classifier=known))[0]
    assert scene.image.shape == (3, 24, 40)
    assert scene.object_masks.shape[1:] == (24, 40)
    if isinstance(composition, Mosaics):
        assert scene.boxes.tolist() == [[0, 0, 20, 12], [20, 0, 40, 12], [0, 12, 20, 24], [20, 12, 40, 24]]
