"""``verisal explain``: why a classifier says what it says about your images."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from verisal.cli._explain_batch import Explained, Setup, explained, explained_before
from verisal.cli._explain_done import Origin, causes_among, mark_of
from verisal.cli._explain_helpers import ALONE, Helpers, Job, helpers_for, helping, write_explanation
from verisal.cli._explain_inputs import Images, named_files, query_classes
from verisal.cli._explain_network import DEFAULT, Doubts, classifier_of
from verisal.cli._explain_sheets import ContactSheets
from verisal.cli._options import check_paths
from verisal.cli._settings import class_that_failed, parsed_settings, refused_settings
from verisal.cli._threads import THREADS_HELP, Threads
from verisal.data import ImageReader
from verisal.data.reading import ChannelRule
from verisal.detection.detector_file import DetectorFile, read_detector
from verisal.errors import ConfigError
from verisal.fingerprint import settings_of, state_hash
from verisal.functional.baselines import Baseline
from verisal.models import Classifier, ClassifierSource
from verisal.pictures import OPACITY, picked
from verisal.progress import progress_bar, tell
from verisal.saliency import EvidenceMasks, Saliency
from verisal.types import OutputKind, check_range


def main(args: Sequence[str], threads: Threads) -> int:
    """Run ``verisal explain``.

    Args:
        args: what follows ``explain`` on the command line.
        threads: that it computes on.

    Returns:
        0 if every image was explained, 1 if some could not be read.

    Raises:
        ConfigError: settings that cannot work.
        DataError: no image.
        CheckpointError: weights that cannot be loaded, or a detector of another classifier.
    """
    given = _parsed(args)
    if words := threads.use(given.threads):
        tell(words)
    output = Path(given.output)
    detector = None if given.detector is None else read_detector(Path(given.detector))
    files = named_files([Path(word) for word in given.images], output=output)
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
    setup = _setup(given, source.name, classifier, reader, detector)
    images = Images(files, classifier.height_and_width, reader)
    doubts = Doubts(classifier.height_and_width)
    done = _done_before(setup, files)
    for name, origin in done.items():
        images.note(name, origin.size)
        doubts.add(origin.likeliest, origin.size)
    count = helpers_for(
        len(files) - len(done),
        threads=torch.get_num_threads() if threads.own_process else 1,
        at_once=given.batch_size,
        on_gpu=classifier.mean.is_cuda,
    )
    with helping(count) as helpers:
        _explain(setup, given, images, done, doubts, helpers)
    if given.classifier is None and detector is None and (doubt := doubts.words()):
        tell(doubt)
    if images.cropped:
        height, width = classifier.height_and_width
        first = next(name for name in files if name in images.cropped)
        count = len(images.cropped)
        tell(
            f"{first} has other proportions than the network takes"
            if count == 1
            else f"{count} images have other proportions than the network takes, such as {first}"
        )
        whose = "its" if count == 1 else "their"
        tell(f"  {whose} middle is explained, at {height} x {width} px (--image_size sets another size)")
    for line in images.problems:
        tell(f"verisal: not read: {line}", error=True)
    return 1 if images.problems else 0


def _setup(
    given: Namespace,
    name: str,
    classifier: Classifier,
    reader: ImageReader,
    detector: DetectorFile | None,
) -> Setup:
    method = given.saliency or EvidenceMasks()
    shown_as = None if given.display_channels is None else tuple(given.display_channels)
    settings = {
        "verisal": version("verisal"),
        "classifier": name,
        "image_size": classifier.height_and_width,
        "stages": list(classifier.stages),
        "output": classifier.output,
        "saliency": settings_of(method),
    }
    figure = {"opacity": given.opacity, "display_channels": None if shown_as is None else list(shown_as)}
    decisive = {
        **settings,
        "weights": state_hash(classifier),
        "class_names": mark_of(list(classifier.class_names)),
        "query": given.query,
        "disturbed_query": given.disturbed_query,
        "channels and window": settings_of(reader),
        "detector": None if detector is None else mark_of(detector.settings, state_hash(detector.tensors)),
    }
    return Setup(
        classifier=classifier,
        method=method,
        query=given.query,
        disturbed_query=given.disturbed_query,
        alarm=None if detector is None else detector.alarm(classifier),
        output=Path(given.output),
        display_channels=shown_as,
        figure=None if given.maps_only else figure,
        settings=settings,
        made_with=decisive,
    )


def _done_before(setup: Setup, files: Mapping[str, Path]) -> dict[str, Origin]:
    """Names of the images that an earlier command explained in the same way; says how many, and why not."""
    done: dict[str, Origin] = {}
    others: Counter[str] = Counter()
    for name, file in files.items():
        origin, differs = setup.earlier(name, file)
        if origin is not None and not differs:
            done[name] = origin
        if differs:
            others[", ".join(causes_among(differs))] += 1
    if done:
        tell(f"{len(done)} of {len(files)} images are in {setup.output} already, and would come out the same")
    if others:
        why = "; ".join(f"{what} ({count} image{'s' * (count > 1)})" for what, count in others.items())
        tell(f"explained again, because earlier results in {setup.output} differ in {why}")
    return done


def _explain(
    setup: Setup,
    given: Namespace,
    images: Images,
    done: Mapping[str, Origin],
    doubts: Doubts,
    helpers: Helpers,
) -> None:
    """Explain, draw and write all images that are not done."""
    files = images.files
    sheets = ContactSheets(
        setup.output,
        given.sheet_images,
        opacity=given.opacity,
        names=list(files),
        done=done,
        again=lambda name: explained_before(setup, name, images.read(name)),
        helpers=helpers,
        shown=len(files) > 1 and not given.maps_only,
    )
    waiting: deque[tuple[Explained, Job[None]]] = deque()
    words = f"explaining {len(files)} image" + ("s" if len(files) > 1 else "")
    with progress_bar(words, len(files), done=len(done), shown=True) as advance:

        def finish() -> None:
            one, job = waiting.popleft()
            job.result()
            name = one.shown.name
            tell(f"{one.words} -> {setup.maps_of(name) if given.maps_only else setup.figure_of(name)}")
            sheets.add(one.shown, one.origin)
            doubts.add(one.origin.likeliest, one.origin.size)
            advance(1)

        written = unread = 0
        for batch in images.batches(given.batch_size, helpers, without=done):
            for one in explained(setup, batch, images):
                name = one.shown.name
                figure = None if given.maps_only else (one.shown, setup.figure_of(name), given.opacity)
                # By whoever is free: nobody waits for helpers that are busy, or yet to start.
                busy = not written or len(waiting) >= 2 * helpers.number
                written += 1
                by = ALONE if busy else helpers
                job = by.job(write_explanation, figure, setup.maps_of(name), one.arrays)
                if busy:
                    job.result()
                waiting.append((one, job))
                while waiting and waiting[0][1].done:
                    finish()
            if len(images.problems) > unread:
                advance(len(images.problems) - unread)
                unread = len(images.problems)
        while waiting:
            finish()
        sheets.finish()


def _parsed(args: Sequence[str]) -> Namespace:
    # A default that is an instance of one of these keeps its class, although the class is final.
    set_parsing_settings(subclasses_enabled=[Baseline, Saliency])
    parser = _parser()
    known = [action.dest for action in parser._actions if action.dest != "help"]
    words = list(args)
    if any(word.startswith("--saliency.") for word in words) and not any(
        word == "--saliency" or word.startswith(("--saliency=", "--saliency.class_path")) for word in words
    ):
        # Settings of the method that is taken where none is named.
        words = [f"--saliency={EvidenceMasks.__name__}", *words]
    parsed = parsed_settings(parser, words, known)
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
        help="Run or export with a detector or an alarm, or its file, that judges every image.",
    )
    parser.add_argument("--output", type=str, default="explanations", help="Folder for figures and maps.")
    parser.add_argument("--batch_size", type=int, default=8, help="Images that are explained at once.")
    parser.add_argument(
        "--maps_only",
        "--maps-only",
        action="store_true",
        help="Write maps, and draw neither figures nor contact sheets.",
    )
    parser.add_argument("--sheet_images", type=int, default=12, help="Images on one contact sheet.")
    parser.add_argument(
        "--device",
        type=Literal["auto", "cpu", "cuda"],
        default="auto",
        help="Where to compute; auto takes a GPU where there is one.",
    )
    parser.add_argument("--threads", type=int | None, default=None, help=THREADS_HELP)
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
        tell(f"classifier: {own.name}, for which the detector was trained")
        named = {name: value for name, value in settings.items() if value != getattr(usual, name)}
        return replace(own, **named)
    return ClassifierSource(name=given.classifier or DEFAULT, **settings)
