"""``verisal data check``: read a whole data set and list every problem."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path

from verisal.data import (
    COCO,
    CUB200,
    ImageFolder,
    Imagenette,
    ImageNetValidation,
    ImageSet,
    OxfordPet,
    PascalVOC,
    check_data,
)
from verisal.errors import ConfigError
from verisal.models import load_classifier

__all__ = ["main"]

_ANNOTATIONS = ("csv", "coco", "voc", "masks")
# Sets that lie in one folder, each in the part that is used to evaluate.
_KNOWN: dict[str, Callable[[str], ImageSet]] = {
    "cub": lambda path: CUB200(root=path, part="all"),
    "imagenette": lambda path: Imagenette(root=path),
    "pascal-voc": lambda path: PascalVOC(root=path),
    "pet": lambda path: OxfordPet(root=path),
}


def main(args: Sequence[str]) -> int:
    """Run ``verisal data``.

    Args:
        args: what follows ``data`` on the command line.

    Returns:
        0 if all is well, 1 if there are problems.

    Raises:
        ConfigError: options that do not go together, or an unknown classifier.
    """
    parsed = _parser().parse_args(list(args))
    classifier = None if parsed.classifier is None else load_classifier(parsed.classifier)
    report = check_data(
        _images(Path(parsed.path), parsed.annotations, parsed.format, parsed.labels),
        classifier=classifier,
        progress=True,
        **({} if parsed.max_pixels is None else {"max_pixels": parsed.max_pixels}),
    )
    sys.stdout.write(report.text() + "\n")
    return 1 if report.problems else 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser("verisal data", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="read every image and annotation and list every problem")
    check.add_argument("path", help="folder of the images, or of a known data set")
    check.add_argument("--annotations", help="file or folder of boxes, masks or labels")
    check.add_argument(
        "--format",
        choices=(*_ANNOTATIONS, "imagenet", *_KNOWN),
        help="of the annotations, or the name of a known data set",
    )
    check.add_argument(
        "--labels",
        choices=("folders", "annotations", "none"),
        default="folders",
        help="where classes come from (default: %(default)s)",
    )
    check.add_argument("--classifier", help="compare the classes with those of this classifier")
    check.add_argument("--max-pixels", type=int, help="largest width times height that is decoded")
    return parser


def _images(path: Path, annotations: str | None, form: str | None, labels: str) -> ImageSet:
    if form in _KNOWN:
        if annotations is not None:
            raise ConfigError(f"--format {form} knows where its annotations are; leave out --annotations")
        return _KNOWN[form](str(path))
    if form == "imagenet":
        return ImageNetValidation(images=str(path), boxes=annotations)
    # COCO's folders have no classes of their own.
    if form == "coco" and labels == "folders" and not any(item.is_dir() for item in _items(path)):
        return COCO(images=str(path), annotations=annotations or "")
    settings = {"labels": labels, "annotations": annotations, "format": form}
    return ImageFolder(root=str(path), **settings)  # type: ignore[arg-type]  # choices of the parser


def _items(path: Path) -> list[Path]:
    return list(path.iterdir()) if path.is_dir() else []
