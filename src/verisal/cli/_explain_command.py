"""``verisal explain``: why a classifier says what it says about your images."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from torch import Tensor

from verisal._files import write_atomic
from verisal._plain import plain
from verisal.cli._explain_inputs import ContactSheets, Images, named_files, other_classes, query_classes
from verisal.cli._explain_network import DEFAULT, Doubts, classifier_of
from verisal.cli._options import check_paths
from verisal.cli._settings import class_that_failed, parsed_settings, refused_settings
from verisal.data import ImageReader
from verisal.data.reading import ChannelRule
from verisal.detection import Alarm
from verisal.detection.detector_file import DetectorFile, read_detector
from verisal.errors import ConfigError
from verisal.fingerprint import settings_of
from verisal.functional.baselines import Baseline
from verisal.functional.outputs import ask, probabilities
from verisal.models import Classifier, ClassifierSource
from verisal.pictures import OPACITY, DisplayChannels, displayed, picked
from verisal.progress import progress_bar, tell
from verisal.reporting import Explanation, draw_explanation
from verisal.saliency import EvidenceMasks, HierarchicalMasks, Saliency
from verisal.types import OutputKind, SaliencyResult, check_range

_TOP = 5


@final
@dataclass(frozen=True)
class _Setup:
    classifier: Classifier
    method: Saliency
    query: str
    disturbed_query: str
    alarm: Alarm | None
    output: Path
    display_channels: DisplayChannels
    opacity: float
    settings: dict[str, Any]


def main(args: Sequence[str]) -> int:
    """Run ``verisal explain``.

    Args:
        args: what follows ``explain`` on the command line.

    Returns:
        0 if every image was explained, 1 if some could not be read.

    Raises:
        ConfigError: settings that cannot work.
        DataError: no image.
        CheckpointError: weights that cannot be loaded, or a detector of another classifier.
    """
    given = _parsed(args)
    files = named_files([Path(word) for word in given.images])
    detector = None if given.detector is None else read_detector(Path(given.detector))
    source = _source(given, detector)
    classifier = _on_device(source, given.device)
    # Asked for once before anything is computed, so that a misspelt class ends the command at once.
    blank = torch.zeros(1, classifier.num_classes)
    for word in (given.query, given.disturbed_query):
        query_classes(word, blank, classifier.class_names)
    if given.query == given.disturbed_query and classifier.num_classes > 1:
        raise ConfigError(f"query and disturbed_query are both {given.query!r}; name two classes or places")
    reader = ImageReader.of(classifier, rule=given.channel_rule, window=given.window)
    shown_as = None if given.display_channels is None else tuple(given.display_channels)
    picked(torch.zeros(1, classifier.channels, 1, 1), shown_as)
    images = Images(files, classifier.height_and_width, reader)
    method = given.saliency or EvidenceMasks()
    setup = _Setup(
        classifier=classifier,
        method=method,
        query=given.query,
        disturbed_query=given.disturbed_query,
        alarm=None if detector is None else detector.alarm(classifier),
        output=Path(given.output),
        display_channels=shown_as,
        opacity=given.opacity,
        settings={
            "verisal": version("verisal"),
            "classifier": source.name,
            "image_size": classifier.height_and_width,
            "stages": list(classifier.stages),
            "output": classifier.output,
            "saliency": settings_of(method),
        },
    )
    sheets = ContactSheets(setup.output, given.sheet_images, opacity=given.opacity, shown=len(files) > 1)
    doubts = Doubts(classifier.height_and_width)
    words = f"explaining {len(files)} image" + ("s" if len(files) > 1 else "")
    with progress_bar(words, len(files), done=0, shown=True) as advance:
        for batch in images.batches(given.batch_size):
            for name, shown in zip(batch, _explained(setup, batch), strict=True):
                sheets.add(shown)
                doubts.add(max(probability for _, probability in shown.classes), images.sizes[name])
                advance(1)
    sheets.finish()
    if given.classifier is None and detector is None and (doubt := doubts.words()):
        tell(doubt)
    if images.cropped:
        height, width = classifier.height_and_width
        tell(
            f"{len(images.cropped)} image(s) are of other proportions, such as {images.cropped[0]}: what is"
            f" explained is their middle, resized to {height} x {width} px; --image_size=[HEIGHT,WIDTH] is of"
            " networks that take others"
        )
    for line in images.problems:
        tell(f"verisal: not read: {line}", error=True)
    return 1 if images.problems else 0


def _parsed(args: Sequence[str]) -> Namespace:
    # A default that is an instance of one of these keeps its class, although the class is final.
    set_parsing_settings(subclasses_enabled=[Baseline, Saliency])
    parser = _parser()
    known = [action.dest for action in parser._actions if action.dest != "help"]
    parsed = parsed_settings(parser, list(args), known)
    with refused_settings(class_that_failed(parsed)):
        given: Namespace = parser.instantiate_classes(parsed)
    if not given.images:
        raise ConfigError("explain needs images: verisal explain PATH... (files or folders)")
    check_paths(images=given.images, output=given.output, detector=given.detector)
    if Path(given.output).is_file():
        raise ConfigError(f"output: {given.output} is a file; expected a folder for figures and maps")
    if given.batch_size < 1 or given.sheet_images < 1:
        raise ConfigError(
            "batch_size and sheet_images must be at least 1, found"
            f" {given.batch_size} and {given.sheet_images}"
        )
    check_range(0, 1, opacity=given.opacity)
    return given


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="verisal explain",
        description="Draw why a classifier says what it says about images.",
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("images", nargs="*", type=str, help="Image files, or folders of them.")
    parser.add_argument("--config", action="config", help="YAML file with any of these settings.")
    parser.add_argument(
        "--classifier",
        type=str | None,
        default=None,
        help=f"Name or path of the classifier. Default: that of the --detector, else {DEFAULT}.",
    )
    parser.add_argument(
        "--channel_rule",
        type=ChannelRule | None,
        default=None,
        help="For files of other channels than the classifier's: replicate a grey one, mean, or refuse.",
    )
    parser.add_argument(
        "--window",
        type=tuple[float, float] | Literal["file"] | None,
        default=None,
        help="Of DICOM files: centre and width of what is shown from black to white, or file for their own.",
    )
    parser.add_argument(
        "--display_channels",
        type=tuple[int, int, int] | None,
        default=None,
        help="Channels that figures show as red, green and blue, from 0, of images with others than 1 or 3.",
    )
    parser.add_argument(
        "--opacity",
        type=float,
        default=OPACITY,
        help="Of the map over the image, from 0 (no such picture) to 1.",
    )
    # Its output is not the folder's.
    parser.add_class_arguments(ClassifierSource, skip={"name", "output"})
    parser.add_argument(
        "--classifier_output",
        type=OutputKind | None,
        default=None,
        help="sigmoid for a classifier with several labels or one logit: its output.",
    )
    parser.add_argument(
        "--saliency",
        type=Saliency | None,
        default=None,
        help="Method, by class. Default: EvidenceMasks.",
    )
    parser.add_argument(
        "--query",
        type=str,
        default="top1",
        help="Class to explain: top1, second, least, its name or its number.",
    )
    parser.add_argument(
        "--disturbed_query",
        type=str,
        default="least",
        help="Class whose map stands beside it, to see whether the method invents evidence.",
    )
    parser.add_argument(
        "--detector",
        type=str | None,
        default=None,
        help="Run, checkpoint or export of a detector that judges every image.",
    )
    parser.add_argument("--output", type=str, default="explanations", help="Folder for figures and maps.")
    parser.add_argument("--batch_size", type=int, default=8, help="Images that are explained at once.")
    parser.add_argument("--sheet_images", type=int, default=12, help="Images on one contact sheet.")
    parser.add_argument(
        "--device",
        type=Literal["auto", "cpu", "cuda"],
        default="auto",
        help="Where to compute; auto takes a GPU where there is one.",
    )
    return parser


def _on_device(source: ClassifierSource, device: str) -> Classifier:
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is 'cuda', but torch finds no GPU; use auto or cpu")
    on_gpu = device != "cpu" and torch.cuda.is_available()
    classifier = source.load().to("cuda" if on_gpu else "cpu")
    # channels_last makes CPU convolutions about 1.4 times as fast.
    return classifier.to(memory_format=torch.channels_last)


def _source(given: Namespace, detector: DetectorFile | None) -> ClassifierSource:
    """The network that is named, else that of the detector, else the default; settings go before its own."""
    settings = {
        "weights": given.weights,
        "arguments": given.arguments,
        "factory": given.factory,
        "stages": given.stages,
        "class_names": given.class_names,
        "image_size": given.image_size,
        "channels": given.channels,
        "bounds": given.bounds,
        "mean": given.mean,
        "std": given.std,
        "output": given.classifier_output,
    }
    if given.classifier is None and detector is not None:
        own = classifier_of(detector)
        usual = ClassifierSource(name=own.name)
        tell(f"classifier: {own.name}, beside which the detector was trained")
        named = {name: value for name, value in settings.items() if value != getattr(usual, name)}
        return replace(own, **named)
    return ClassifierSource(name=given.classifier or DEFAULT, **settings)


def _explained(setup: _Setup, batch: dict[str, Tensor]) -> Iterator[Explanation]:
    """Explain a batch, write figures and maps, and say so."""
    names = list(batch)
    classifier = setup.classifier
    images = torch.stack(list(batch.values())).to(classifier.mean.device)
    with torch.no_grad():
        logits = ask(classifier, images)
    query = query_classes(setup.query, logits, classifier.class_names)
    asked = [query]
    # One logit is the only label there is.
    if classifier.num_classes > 1:
        asked.append(other_classes(setup.disturbed_query, logits, classifier.class_names, taken=query))
    # Both queries in one call: methods that run in batches take less time for it.
    both = setup.method(classifier, torch.cat([images] * len(asked)), torch.cat(asked))
    verdicts = None if setup.alarm is None else setup.alarm(images)
    likely = probabilities(logits, classifier.output)
    for row, name in enumerate(names):
        shown = _shown(setup, name, images[row], likely[row], asked, both, row)
        if setup.alarm is not None and verdicts is not None:
            (verdict,) = setup.alarm.words(verdicts.scores[row : row + 1])
            shown = replace(shown, verdict=verdict, alarm=bool(verdicts.alarms[row]))
        target = setup.output / name
        figure = target.with_name(target.name + ".explained.png")
        draw_explanation(shown, figure, opacity=setup.opacity)
        maps = target.with_name(target.name + ".npz")
        score = None if verdicts is None else float(verdicts.scores[row])
        _save_maps(setup, maps, both, row, asked, logits, score)
        said = f"{name}: {shown.query} {float(likely[row, query[row]]):.2f}"
        tell(plain(f"{said}{', ' + shown.verdict if shown.verdict else ''} -> {figure}"))
        yield shown


def _shown(
    setup: _Setup,
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
        image=displayed(image[None], setup.display_channels)[0],
        query=names[queries[0]],
        disturbed="" if len(asked) == 1 else names[queries[1]],
        saliency=both.saliency[row, 0],
        disturbed_saliency=None if len(asked) == 1 else both.saliency[row + count, 0],
        layers={
            stage: layer[row, 0]
            for stage, layer in zip(setup.classifier.stages, both.raw_layers, strict=False)
        },
        classes=[(names[index], float(probabilities[index])) for index in listed],
        method=_method_words(setup.method),
    )


def _method_words(method: Saliency) -> str:
    if isinstance(method, HierarchicalMasks):
        return f"HierarchicalMasks ({method.objective}, lambda {method.reg_weight:g})"
    return type(method).__name__


def _save_maps(
    setup: _Setup,
    path: Path,
    both: SaliencyResult,
    row: int,
    asked: Sequence[Tensor],
    logits: Tensor,
    score: float | None,
) -> None:
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
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]  # its stub takes no mapping of arrays
    write_atomic(path, content.getvalue())
