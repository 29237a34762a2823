"""What a row of the metric contract says, and the explained toy images that the suite scores.

Rows stand beside this file, one file a family: ``metric_rows_<family>.py``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from helpers.saliency_cases import NUM_CLASSES, SIZE, toy_classifier, toy_images
from verisal.metrics import SaliencyMetric
from verisal.types import Explained, SaliencyResult


@dataclass(frozen=True)
class MetricCase:
    """What the suite must know about a metric.

    ``make`` builds it, ``scores`` are the names that :meth:`compute` gives, ``undefined_if_constant`` whether
    an image with a constant map cannot be scored, ``undefined_without_object`` whether one with an empty
    object mask cannot, ``reads_map`` whether it asks anything of the map rather than of the attribution of
    each channel.
    """

    make: Callable[[], SaliencyMetric]
    scores: tuple[str, ...]
    undefined_if_constant: bool = True
    undefined_without_object: bool = False
    reads_map: bool = True


def toy_map(images, query_class):
    """A method that any metric can ask: smooth, different for every image and class, signed attribution."""
    waves = torch.linspace(0.5, 3.0, NUM_CLASSES)[query_class].view(-1, 1, 1, 1)
    attribution = (images * waves * 3).sin() - 0.3
    saliency = attribution.abs().amax(dim=1, keepdim=True)
    return SaliencyResult(saliency=saliency, raw=saliency, attribution=attribution)


def toy_explained(count=6):
    """Images of 16 x 12 px with an object of each image's query class in the left upper part."""
    images = toy_images(count)
    query = torch.arange(count) % NUM_CLASSES
    masks = torch.zeros(count, *SIZE, dtype=torch.bool)
    boxes = []
    for index in range(count):
        top, left = index % 4, index % 3
        masks[index, top : top + 7, left : left + 5] = True
        boxes.append(torch.tensor([[left, top, left + 5, top + 7]], dtype=torch.float32))
    return Explained(
        classifier=toy_classifier(),
        images=images,
        query_class=query,
        result=toy_map(images, query),
        image_ids=tuple(f"toy/{index:03d}" for index in range(count)),
        explain=toy_map,
        object_masks=masks,
        boxes=tuple(boxes),
    )


def part_of(explained, rows):
    """The images numbered ``rows`` of a batch."""
    index = torch.as_tensor(rows, dtype=torch.int64)
    result = explained.result
    attribution = None if result.attribution is None else result.attribution[index]
    return replace(
        explained,
        images=explained.images[index],
        query_class=explained.query_class[index],
        image_ids=tuple(explained.image_ids[row] for row in index.tolist()),
        object_masks=explained.object_masks[index],
        boxes=tuple(explained.boxes[row] for row in index.tolist()),
        result=replace(
            result, saliency=result.saliency[index], raw=result.raw[index], attribution=attribution
        ),
    )


def with_saliency(explained, saliency):
    """The same images with other maps, which are their own attribution."""
    result = replace(explained.result, saliency=saliency, raw=saliency, attribution=saliency)
    return replace(explained, result=result)
