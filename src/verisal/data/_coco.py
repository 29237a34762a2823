"""Boxes and masks from the JSON files of COCO."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verisal.data._files import NameIndex, read_text
from verisal.data._mask_sources import MaskSource, PolygonMask, RunLengthMask, counts_of_text
from verisal.data.listing import Annotations, ObjectRecord, Problem

__all__ = ["read_coco"]


def read_coco(path: Path, names: NameIndex) -> Annotations:
    """``images``, ``annotations`` and ``categories``; boxes are left, top, width, height from 0.

    Polygons and run lengths, plain or compressed, become masks. Regions of a crowd are no single object and
    are left out. Images of the file that are not on disk are a problem only if the file says something of
    them.

    Raises:
        DataError: the file is missing or no text.
    """
    found = Annotations()
    try:
        content = json.loads(read_text(path, "a JSON file of COCO"))
        images = {image["id"]: image for image in content["images"]}
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
        annotations = content["annotations"]
    except ValueError as error:
        found.problems.append(Problem(str(path), f"is no whole JSON ({error})"))
        return found
    except (KeyError, TypeError) as error:
        words = f"is no COCO file: expected images, annotations and categories ({error!r})"
        found.problems.append(Problem(str(path), words))
        return found
    for _, name in sorted(categories.items()):
        found.add_class(name)
    for number, annotation in enumerate(annotations):
        place = f"{path} annotation {number}"
        try:
            _add(found, place, annotation, images, categories, names)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            found.problems.append(Problem(place, f"cannot be read ({error!r})"))
    return found


def _add(
    found: Annotations,
    place: str,
    annotation: Mapping[str, Any],
    images: Mapping[Any, Mapping[str, Any]],
    categories: Mapping[Any, str],
    names: NameIndex,
) -> None:
    if annotation.get("iscrowd"):
        return
    image, category = images.get(annotation["image_id"]), categories.get(annotation["category_id"])
    if image is None or category is None:
        words = f"image {annotation['image_id']} or category {annotation['category_id']} is not in the file"
        found.problems.append(Problem(place, words))
        return
    if problem := names.problem(image["file_name"]):
        found.problems.append(Problem(place, problem))
        return
    (image_id,) = names.find(image["file_name"])
    width, height = int(image["width"]), int(image["height"])
    found.sizes[image_id] = (width, height)
    left, top, wide, high = map(float, annotation["bbox"])
    mask = _mask(annotation.get("segmentation"), place)
    found.add(image_id, ObjectRecord(place, category, (left, top, left + wide, top + high), mask))


def _mask(segmentation: Mapping[str, Any] | Sequence[Any] | None, place: str) -> MaskSource | None:
    if not segmentation:
        return None
    if isinstance(segmentation, Mapping):
        counts, (height, width) = segmentation["counts"], segmentation["size"]
        runs = counts_of_text(counts) if isinstance(counts, str) else tuple(int(count) for count in counts)
        if any(count < 0 for count in runs):
            raise ValueError("negative run length")
        return RunLengthMask(runs, int(height), int(width), place)
    polygons = tuple(tuple(float(value) for value in polygon) for polygon in segmentation)
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon needs three corners or more, two numbers each")
    return PolygonMask(polygons)
