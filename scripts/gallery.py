"""Draw the saliency maps of several methods for a few scenes.

python scripts/gallery.py --config configs/gallery.yaml

One method instead of those of the config: --saliency=SmoothGrad --saliency.base=Gradient
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli, set_parsing_settings

from verisal.data import EmojiScenes
from verisal.functional.baselines import Baseline
from verisal.models import load_classifier
from verisal.pictures import OPACITY
from verisal.reporting import draw_gallery
from verisal.saliency import Saliency


@dataclass(frozen=True, kw_only=True)
class Row:
    """One scene and the class that is explained.

    Attributes:
        index: of the scene.
        objects: in the scene.
        query: the classifier's prediction, or the class of an object by its number, 0 for the main one.
    """

    index: int
    objects: Literal["one", "several"] = "one"
    query: Literal["prediction"] | int = "prediction"


def gallery(
    *,
    methods: Mapping[str, Saliency],
    rows: Sequence[Row],
    saliency: Saliency | None = None,
    classifier: str = "emoji_scenes_64",
    output: str = "gallery.png",
    opacity: float = OPACITY,
) -> None:
    """Explain and draw.

    Args:
        methods: title to method.
        rows: scenes, of the split ``cls_val``.
        saliency: one method instead of all.
        classifier: name of shipped weights, or path of an export.
        output: PNG file to write.
        opacity: of the maps over the images, in [0, 1]; 0 for the maps alone.
    """
    network = load_classifier(classifier)
    chosen = methods if saliency is None else {type(saliency).__name__: saliency}
    samples = [
        EmojiScenes("cls_val", row.index + 1, size=network.image_size, objects=row.objects)[row.index]
        for row in rows
    ]
    images = torch.stack([sample.image for sample in samples])
    probabilities = network(images).softmax(dim=1)
    query = torch.tensor(
        [
            int(guess) if row.query == "prediction" else int(sample.object_labels[row.query])
            for row, sample, guess in zip(rows, samples, probabilities.argmax(dim=1), strict=True)
        ]
    )
    captions = [
        f"{network.class_names[label]} {float(row[label]):.2f}"
        for label, row in zip(query.tolist(), probabilities, strict=True)
    ]
    maps = {}
    for title, method in chosen.items():
        start = time.perf_counter()
        maps[title] = method(network, images, query).saliency
        print(f"{title:<24} {time.perf_counter() - start:6.2f} s")
    draw_gallery(images, maps, Path(output), captions=captions, opacity=opacity)
    print(f"wrote {output}")


def main(args: list[str] | None = None) -> None:
    """Parse, explain, draw."""
    set_parsing_settings(subclasses_enabled=[Saliency, Baseline])
    auto_cli(gallery, args=args, as_positional=False, description=__doc__)


if __name__ == "__main__":
    main()
