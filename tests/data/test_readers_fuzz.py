"""Annotation files damaged at random: every fault is one sentence, and the rest is read."""

import copy
import csv
import io
import json
import random
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from helpers.make_data_sets import HEIGHT, WIDTH, make_cub, make_imagenet, make_pets, make_voc, write_image
from verisal.data import CUB200, ImageFolder, ImageNetValidation, OxfordPet, PascalVOC
from verisal.errors import DataError

COUNT = 6
ODD = (
    *(None, True, False, "", "x", "1", -1, 0, 0.5, 1e300, 10**400, float("nan"), float("inf")),
    *([], {}, [[]], [None], {"a": 1}, "\x00", "9" * 300),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    for index in range(COUNT):
        write_image(folder / "images" / f"i{index}.png")
    return folder


def listed(root, form, annotations):
    """Objects by image, and the problems; what else leaves than DataError fails the test."""
    images = ImageFolder(
        root=str(root / "images"), labels="none", format=form, annotations=str(root / annotations)
    )
    try:
        listing = images.listing()
    except DataError as error:
        return None, [str(error)]
    for problem in listing.problems:
        # No repr of an exception, and one line.
        assert "Error(" not in str(problem)
        assert "\n" not in str(problem)
    return {record.image_id: len(record.objects) for record in listing.records}, listing.problems


class Pairs(list):
    """An object of JSON, whose keys may stand twice."""


def paired(node):
    if isinstance(node, dict):
        return Pairs([key, paired(value)] for key, value in node.items())
    return [paired(value) for value in node] if isinstance(node, list) else node


def written(node):
    if isinstance(node, Pairs):
        return "{" + ", ".join(f"{json.dumps(key)}: {written(value)}" for key, value in node) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(written, node)) + "]"
    return json.dumps(node)


def spots(node, path=()):
    """Every list and position in it, with the way there."""
    if isinstance(node, list):
        for index, value in enumerate(node):
            yield node, index, (*path, value[0] if isinstance(node, Pairs) else index)
            inner = value[1] if isinstance(node, Pairs) else value
            yield from spots(inner, (*path, value[0] if isinstance(node, Pairs) else index))


def damage(node, rng):
    """Replace, delete or repeat one thing; the way to it."""
    where, index, path = rng.choice(list(spots(node)))
    action = rng.choice(("replace", "replace", "delete", "repeat"))
    if action == "delete":
        del where[index]
    elif action == "repeat":
        where.insert(index, copy.deepcopy(where[index]))
    elif isinstance(where, Pairs):
        where[index] = [where[index][0], paired(rng.choice(ODD))]
    else:
        where[index] = paired(rng.choice(ODD))
    return action, path


def test_coco(root):
    runs = {"size": [HEIGHT, WIDTH], "counts": [300, 60, 840]}
    polygon = [[10, 5, 30, 5, 30, 15, 10, 15]]
    sound = {
        "images": [
            {"id": index + 1, "file_name": f"i{index}.png", "width": WIDTH, "height": HEIGHT}
            for index in range(COUNT)
        ],
        "annotations": [
            {
                "id": index + 1,
                "image_id": index + 1,
                "category_id": index % 2 + 1,
                "iscrowd": 0,
                "bbox": [10, 5, 20, 10],
                "segmentation": (polygon, runs)[index % 2],
            }
            for index in range(COUNT)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    rng, told = random.Random(0), 0  # noqa: S311 - no secret
    for _ in range(800):
        node = paired(sound)
        action, path = damage(node, rng)
        (root / "a.json").write_text(written(node))
        objects, problems = listed(root, "coco", "a.json")
        assert all("a.json" in str(problem) for problem in problems)
        told += bool(problems)
        if objects is None or len(path) < 2:
            continue
        # One entry is damaged, so what cannot be used is an image or an entry, and not the file.
        assert all(problem.image_id is not None or problem.entry for problem in problems)
        kind, number = path[:2]
        if kind == "categories" or (action == "delete" and len(path) == 2):
            continue
        # It is named, or the entry of the image that it is about; 0, if its id became that of the first.
        entries = {int(re.search(r"a.json (?:image|annotation) (\d+)", str(found))[1]) for found in problems}
        assert entries <= {number, number + 1, 0}, (action, path, problems)
        # The others say what they said.
        others = [f"i{index}.png" for index in range(1, COUNT) if index != number]
        assert all(objects[name] == 1 for name in others), (action, path, problems)
    # Most damage cannot be read over.
    assert told > 500


def test_csv(root):
    head = ["image", "class", "xmin", "ymin", "xmax", "ymax", "difficult"]
    sound = [head, *([f"i{index}.png", "cat", "1", "2", f"{9 + index}", "12", "0"] for index in range(COUNT))]
    odd = ("", "x", "-1", "nan", "inf", "1e300", "1_0", '"', "\x00", "9" * 300, "0x10", "1,5", "null", "[]")
    rng, told = random.Random(1), 0  # noqa: S311 - no secret
    for _ in range(600):
        rows = copy.deepcopy(sound)
        number = rng.randrange(len(rows))
        action = rng.choice(("replace", "replace", "delete", "repeat", "repeat row"))
        if action == "repeat row":
            rows.insert(number, list(rows[number]))
        else:
            column = rng.randrange(len(head))
            cell = rows[number].pop(column)
            rows[number][column:column] = {"replace": [rng.choice(odd)], "repeat": [cell, cell]}.get(
                action, []
            )
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        (root / "a.csv").write_text(text.getvalue(), newline="")
        objects, problems = listed(root, "csv", "a.csv")
        told += bool(problems)
        if number == 0:
            assert all("a.csv" in str(problem) for problem in problems)
            continue
        row = number + 1 + (action == "repeat row")
        assert all(f"a.csv row {row}" in str(problem) for problem in problems)
        assert all(objects[f"i{index}.png"] == 1 for index in range(COUNT) if index != number - 1)
    assert told > 300


def test_voc(root):
    folder = root / "xml"
    folder.mkdir()
    body = (
        "<annotation><filename>i.png</filename><size><width>40</width><height>30</height></size>"
        "<object><name>cat</name><difficult>0</difficult><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>20</xmax>"
        "<ymax>16</ymax></bndbox></object></annotation>"
    )
    for index in range(COUNT):
        (folder / f"i{index}.xml").write_text(body)
    odd = ("", "x", "-1", "0", "nan", "inf", "1e300", "1_0", "9" * 300, "2.5", " 7 ", "null")
    rng, told = random.Random(2), 0  # noqa: S311 - no secret
    for _ in range(400):
        tree = ElementTree.fromstring(body)  # noqa: S314 - of the lines above
        parents = {child: parent for parent in tree.iter() for child in parent}
        element = rng.choice(list(parents))
        action = rng.choice(("text", "delete", "repeat", "rename", "empty"))
        if action == "text":
            element.text = rng.choice(odd)
        elif action == "delete":
            parents[element].remove(element)
        elif action == "repeat":
            parents[element].append(copy.deepcopy(element))
        elif action == "rename":
            element.tag = rng.choice(("name", "object", "bndbox", "size", "y"))
        else:
            for child in list(element):
                element.remove(child)
        text = ElementTree.tostring(tree, encoding="unicode")
        # Now and then the file ends early.
        (folder / "i2.xml").write_text(text if rng.random() < 0.9 else text[: rng.randrange(len(text))])
        objects, problems = listed(root, "voc", "xml")
        told += bool(problems)
        assert all(Path(problem.place.split(" object")[0]).name == "i2.xml" for problem in problems)
        assert all(problem.image_id == "i2.png" for problem in problems)
        assert all(objects[f"i{index}.png"] == 1 for index in range(COUNT) if index != 2)
    assert told > 200


def birds(folder):
    root = Path(make_cub(folder))
    return sorted(root.glob("*.txt")), CUB200(root=str(root))


def pets(folder):
    images = OxfordPet(root=make_pets(folder))
    return [folder / "oxford-iiit-pet" / "annotations" / "test.txt"], images


def voc(folder):
    images = PascalVOC(root=make_voc(folder))
    return [folder / "VOCdevkit" / "VOC2012" / "ImageSets" / "Main" / "val.txt"], images


def imagenet(folder, rows="{0} 65\n{1} 0\n"):
    images, _ = make_imagenet(folder, folders=False)
    listed = folder / "labels"
    listed.write_text(rows.format("ILSVRC2012_val_00000001", "ILSVRC2012_val_00000293"))
    return [listed], ImageNetValidation(images=images, labels=str(listed))


def kaggle(folder):
    return imagenet(folder, "ImageId,PredictionString\n{0},n01751748 1 2 3 4 \n{1},n01440764 1 2 3 4 \n")


@pytest.mark.parametrize("make", [birds, pets, voc, imagenet, kaggle])
def test_lists_of_known_data_sets(tmp_path, make):
    odd = (
        "",
        "x",
        "-1",
        "1 2 3 4 5 6",
        "nan nan nan nan",
        "\x00",
        "9" * 5000,
        "1",
        "0",
        '"a,b',
        "1e999 1 1 1",
    )
    files, images = make(tmp_path)
    sound = {file: file.read_text() for file in files}
    rng, told = random.Random(3), 0  # noqa: S311 - no secret
    for _ in range(120):
        file = rng.choice(files)
        lines = sound[file].splitlines()
        number = rng.randrange(len(lines))
        action = rng.choice(("replace", "delete", "repeat", "word"))
        if action == "repeat":
            lines.insert(number, lines[number])
        else:
            words = lines[number].split(" ")
            words[rng.randrange(len(words))] = rng.choice(odd)
            lines[number : number + 1] = {"replace": [rng.choice(odd)], "word": [" ".join(words)]}.get(
                action, []
            )
        file.write_text("\n".join(lines))
        try:
            problems = [str(problem) for problem in images.listing().problems]
        except DataError as error:
            problems = [str(error)]
        finally:
            file.write_text(sound[file])
        told += bool(problems)
        assert not any("Error(" in problem for problem in problems)
    assert told > 25
