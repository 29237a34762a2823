"""Hand-made evaluations of baselines: every number of every image is a function of a few knobs."""

from collections.abc import Callable
from itertools import combinations

import torch

from verisal.results import Evaluation, SaliencyPanel, Score

GENERATORS = ("rise", "occlusion", "extremal")
BASELINES = ("dataset_mean", "grey", "black", "shuffle", "blur5", "linear")
RANKED = ("a", "b", "c", "d")
IMAGES = 12
# On the mean of 24 classes 1/24 is neutral; grey is the data set's mean.
I1 = {"dataset_mean": 0.03, "grey": 0.03, "black": 0.02, "shuffle": 0.04, "blur5": 0.9, "linear": torch.nan}


class Table:
    """Samples and scores under construction."""

    def __init__(self) -> None:
        self.samples: dict[str, list[object]] = {key: [] for key in ("image_id", "row", "score", "value")}
        self.scores: dict[str, Score] = {}

    def add(self, row: str, score: str, value: Callable[[int], float]) -> None:
        for image in range(IMAGES):
            line = {"image_id": f"{image:02d}", "row": row, "score": score, "value": value(image)}
            for key, part in line.items():
                self.samples[key].append(part)

    def number(self, row: str, score: str, value: float) -> None:
        self.scores[f"val/{row}/{score}"] = Score(value, torch.nan, torch.nan, n=IMAGES)


def jitter(image: int) -> float:
    """Small, of mean 0, different for neighbours."""
    return 0.004 * ((image * 7) % IMAGES - (IMAGES - 1) / 2)


def evaluation(
    *,
    similarity: Callable[[str], float] = lambda group: 0.5,
    area: Callable[[str, str, str], float] = lambda method, kind, baseline: 0.5,
    road: Callable[[str, str], float] = lambda method, order: 0.5,
    left_out: tuple[str, ...] = (),
) -> Evaluation:
    """An evaluation of which each part is a function.

    ``similarity`` of a group of maps; ``area`` by method, kind and baseline; ``road`` by method and order.
    Floors of RISE are 0.8, of the others 1. Images differ by a little.
    """
    table = Table()
    for name, value in I1.items():
        for key in ("query_probability", "max_probability", "entropy", "change"):
            table.add(name, f"neutrality/{key}", lambda image, value=value: value + jitter(image) / 10)
        table.number(name, "neutrality/limit", 1 / 24)
    groups = {f"{one} baselines": [f"{one}_{name}" for name in BASELINES] for one in GENERATORS}
    groups |= {"rise cells": ["rise_dataset_mean", "x"], "occlusion window": ["occlusion_dataset_mean", "y"]}
    for group, members in groups.items():
        random = group.startswith("rise")
        pairs = [f"{one} ~ {other}" for one, other in combinations(members, 2)]
        for key in ("similarity", *pairs):
            table.add(group, f"map_agreement/{key}", lambda image, g=group: similarity(g) + jitter(image))
        table.add(
            group, "map_agreement/floor", lambda image, random=random: 0.8 + jitter(image) if random else 1.0
        )
        table.add(group, "map_agreement/control", jitter)
        table.number(group, "map_agreement/repeats", float(random))
    maps = [f"{one}_{name}" for one in GENERATORS for name in BASELINES]
    for row in (*maps, *RANKED, "random", "centre"):
        for kind in ("insertion", "deletion"):
            for name in BASELINES:
                value = area(row, kind, name)
                score = f"{kind}[{name}]_steps4/auc"
                if score not in left_out:
                    table.add(row, score, lambda image, value=value: value + jitter(image))
    for row in RANKED:
        for order in ("morf", "lerf"):
            value = road(row, order)
            table.add(
                row, f"road_{order}[linear]/probability", lambda image, value=value: value + jitter(image)
            )
    shades = torch.linspace(0, 1, 64).view(8, 8)
    panel = SaliencyPanel("00", torch.rand(3, 8, 8), dict.fromkeys(maps, shades), "class 1")
    return Evaluation(
        "val", table.scores, counts={"explained images": IMAGES}, panels=(panel,), samples=table.samples
    )
