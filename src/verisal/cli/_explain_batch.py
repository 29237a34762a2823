"""What ``verisal explain`` finds for a batch of images, ready to be drawn and written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verisal._plain import plain
from verisal.cli._explain_done import Origin, file_identity
from verisal.cli._explain_inputs import Images, other_classes, query_classes
from verisal.detection import Alarm
from verisal.functional.outputs import ask, probabilities
from verisal.models import Classifier
from verisal.pictures import DisplayChannels, displayed
from verisal.reporting import Explanation
from verisal.saliency import HierarchicalMasks, Saliency
from verisal.types import SaliencyResult

_TOP = 5


@final
@dataclass(frozen=True)
class Setup:
    """How images are explained.

    Attributes:
        classifier: what is explained.
        method: by what.
        query: the class that is asked for, in words.
        disturbed_query: the class beside it.
        alarm: judges every image, if there is one.
        output: folder.
        display_channels: that figures show.
        figure: settings of the figures; None for no figures.
        settings: written beside all maps.
        made_with: all that decides what the maps are.
    """

    classifier: Classifier
    method: Saliency
    query: str
    disturbed_query: str
    alarm: Alarm | None
    output: Path
    display_channels: DisplayChannels
    figure: Mapping[str, Any] | None
    settings: Mapping[str, Any]
    made_with: Mapping[str, Any]

    def maps_of(self, name: str) -> Path:
        """File of the maps of an image."""
        return self.output / f"{name}.npz"

    def figure_of(self, name: str) -> Path:
        """File of the figure of an image."""
        return self.output / f"{name}.explained.png"

    def earlier(self, name: str, file: Path) -> tuple[Origin | None, list[str]]:
        """What there is of an image already; and in which settings it differs, or ``figure`` is missing."""
        found = Origin.of(self.maps_of(name))
        if found is None:
            return None, []
        differs = found.differs(self.made_with, file_identity(file))
        if self.figure is not None and (found.figure != self.figure or not self.figure_of(name).is_file()):
            differs.append("figure")
        # Of thousands of images one copy of the settings is enough.
        return replace(found, made_with=self.made_with), differs


@final
@dataclass(frozen=True)
class Explained:
    """One image, explained.

    Attributes:
        shown: what is drawn of it.
        arrays: name to what its maps file holds.
        origin: what it was made of.
        words: on it, for the terminal.
    """

    shown: Explanation
    arrays: Mapping[str, NDArray[Any]]
    origin: Origin
    words: str


def explained(setup: Setup, batch: Mapping[str, Tensor], images: Images) -> Iterator[Explained]:
    """Explain a batch.

    Args:
        setup: how.
        batch: name to image.
        images: whose they are.
    """
    names = list(batch)
    classifier = setup.classifier
    stacked = torch.stack(list(batch.values())).to(classifier.mean.device)
    with torch.no_grad():
        logits = ask(classifier, stacked)
    query = query_classes(setup.query, logits, classifier.class_names)
    asked = [query]
    # One logit is the only label there is.
    if classifier.num_classes > 1:
        asked.append(other_classes(setup.disturbed_query, logits, classifier.class_names, taken=query))
    # Both queries in one call: methods that run in batches take less time for it.
    both = setup.method(classifier, torch.cat([stacked] * len(asked)), torch.cat(asked))
    verdicts = None if setup.alarm is None else setup.alarm(stacked)
    likely = probabilities(logits, classifier.output)
    for row, name in enumerate(names):
        shown = _shown(setup, name, stacked[row], likely[row], asked, both, row)
        if setup.alarm is not None and verdicts is not None:
            (verdict,) = setup.alarm.words(verdicts.scores[row : row + 1])
            shown = replace(shown, verdict=verdict, alarm=bool(verdicts.alarms[row]))
        score = None if verdicts is None else float(verdicts.scores[row])
        size, file = images.facts.pop(name)
        origin = Origin(setup.made_with, file, setup.figure, size, float(likely[row].max()))
        arrays = _arrays(setup, both, row, asked, logits, score)
        said = f"{name}: {shown.query} {float(likely[row, query[row]]):.2f}"
        words = plain(f"{said}{', ' + shown.verdict if shown.verdict else ''}")
        yield Explained(shown, {**arrays, "origin": np.array(origin.text())}, origin, words)


def _shown(
    setup: Setup,
    name: str,
    image: Tensor,
    probabilities: Tensor,
    asked: Sequence[Tensor],
    both: SaliencyResult,
    row: int,
) -> Explanation:
    names, count = setup.classifier.class_names, len(asked[0])
    best = probabilities.topk(min(_TOP, len(names))).indices.tolist()
    queries = [int(classes[row]) for classes in asked]
    listed = [*best, *(index for index in queries if index not in best)]
    return Explanation(
        name=name,
        image=_apart(displayed(image[None], setup.display_channels)[0]),
        query=names[queries[0]],
        disturbed="" if len(asked) == 1 else names[queries[1]],
        saliency=_apart(both.saliency[row, 0]),
        disturbed_saliency=None if len(asked) == 1 else _apart(both.saliency[row + count, 0]),
        layers={
            stage: _apart(layer[row, 0])
            for stage, layer in zip(setup.classifier.stages, both.raw_layers, strict=False)
        },
        classes=[(names[index], float(probabilities[index])) for index in listed],
        method=_method_words(setup.method),
    )


def _apart(part: Tensor) -> Tensor:
    """A copy in memory of its own: what waits to be drawn keeps no batch, and nothing on a GPU."""
    return part.detach().cpu().clone()


def _method_words(method: Saliency) -> str:
    if isinstance(method, HierarchicalMasks):
        return f"HierarchicalMasks ({method.objective}, lambda {method.reg_weight:g})"
    return type(method).__name__


def _arrays(
    setup: Setup,
    both: SaliencyResult,
    row: int,
    asked: Sequence[Tensor],
    logits: Tensor,
    score: float | None,
) -> dict[str, NDArray[Any]]:
    """Raw maps of the queries as they came from the method, and all that is needed to read them."""
    queries = [int(classes[row]) for classes in asked]
    names = [setup.classifier.class_names[query] for query in queries]
    settings = {
        **setup.settings,
        **dict(zip(("query", "disturbed_query"), names, strict=False)),
        "detector_score": score,
    }
    arrays = {
        "query": np.array(queries),
        "logits": logits[row].cpu().numpy(),
        "probabilities": probabilities(logits[row : row + 1], setup.classifier.output)[0].cpu().numpy(),
        "settings": np.array(json.dumps(settings, default=str)),
    }
    parts = {"saliency": both.saliency, "raw": both.raw, "attribution": both.attribution}
    if both.raw_layers:
        parts["raw_layers"] = torch.cat(both.raw_layers, dim=1)
    places = [row + number * len(classes) for number, classes in enumerate(asked)]
    for name, tensor in parts.items():
        if tensor is not None:
            arrays[name] = tensor[places].detach().cpu().numpy()
    return arrays


def explained_before(setup: Setup, name: str, image: Tensor) -> Explanation:
    """What a contact sheet shows of an image whose maps are there already.

    Args:
        setup: how it was explained.
        name: of the image.
        image: ``(C, H, W)``, as the classifier takes it.
    """
    with np.load(setup.maps_of(name), allow_pickle=False) as arrays:
        settings = json.loads(str(arrays["settings"]))
        query, saliency = int(arrays["query"][0]), torch.from_numpy(arrays["saliency"][0, 0])
        probability = float(arrays["probabilities"][query])
    score, verdict, alarm = settings["detector_score"], "", False
    if setup.alarm is not None and score is not None:
        (verdict,) = setup.alarm.words(torch.tensor([score]))
        alarm = score > setup.alarm.threshold
    return Explanation(
        name=name,
        image=displayed(image[None], setup.display_channels)[0],
        query=settings["query"],
        disturbed="",
        saliency=saliency,
        disturbed_saliency=None,
        layers={},
        classes=[(settings["query"], probability)],
        method=_method_words(setup.method),
        verdict=verdict,
        alarm=alarm,
    )
