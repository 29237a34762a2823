"""``verisal data check``: read a whole data set and list every problem."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from verisal.cli._settings import Options, count, path_word
from verisal.data import (
    CIFAR10,
    CIFAR100,
    COCO,
    CUB200,
    MNIST,
    STL10,
    SVHN,
    FashionMNIST,
    ImageFolder,
    Imagenette,
    ImageNetValidation,
    ImageSet,
    OxfordPet,
    PascalVOC,
    check_data,
)
from verisal.data.files import find_images
from verisal.errors import ConfigError
from verisal.models import load_classifier

_ANNOTATIONS = ("csv", "coco", "voc", "masks")
# Sets that lie in one folder, each in the part that is used to evaluate.
_KNOWN: dict[str, Callable[[str], ImageSet]] = {
    "cifar10": lambda path: CIFAR10(root=path),
    "cifar100": lambda path: CIFAR100(root=path),
    "cub": lambda path: CUB200(root=path, part="all"),
    "fashion-mnist": lambda path: FashionMNIST(root=path),
    "imagenette": lambda path: Imagenette(root=path),
    "mnist": lambda path: MNIST(root=path),
    "pascal-voc": lambda path: PascalVOC(root=path),
    "pet": lambda path: OxfordPet(root=path),
    "stl10": lambda path: STL10(root=path),
    "svhn": lambda path: SVHN(root=path),
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
        others=[ImageFolder(root=folder, labels="none") for folder in parsed.against],
        progress=True,
        **({} if parsed.max_pixels is None else {"max_pixels": parsed.max_pixels}),
    )
    # A name may hold bytes that are no text, which not every terminal takes.
    sys.stdout.write(report.text().encode("utf-8", "backslashreplace").decode("utf-8") + "\n")
    return 1 if report.problems else 0


def _parser() -> Options:
    parser = Options("verisal data", allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser(
        "check", help="read every image and annotation and list every problem", allow_abbrev=False
    )
    check.add_argument("path", type=path_word, help="folder of the images, or of a known data set")
    check.add_argument("--annotations", type=path_word, help="file or folder of boxes, masks or labels")
    check.add_argument(
        "--format",
        choices=(*_ANNOTATIONS, "imagenet", *_KNOWN),
        help="of the annotations, or the name of a known data set",
    )
    check.add_argument(
        "--labels",
        choices=("folders", "annotations", "none"),
        help="where classes come from (default: the class folders; where there are none, the annotations)",
    )
    check.add_argument("--classifier", help="compare the classes with those of this classifier")
    check.add_argument(
        "--against",
        nargs="+",
        type=path_word,
        default=[],
        metavar="FOLDER",
        help="folders of images for other splits, with which the data set may share no picture",
    )
    check.add_argument("--max-pixels", type=count, help="largest width times height that is decoded")
    return parser


def _images(path: Path, annotations: str | None, form: str | None, labels: str | None) -> ImageSet:
    if form in _KNOWN:
        if annotations is not None:
            raise ConfigError(f"--format {form} knows where its annotations are; leave out --annotations")
        return _KNOWN[form](str(path))
    if form == "imagenet":
        return ImageNetValidation(images=str(path), boxes=annotations)
    if labels is None:
        labels = "folders"
        if annotations is not None and form is not None and not _in_folders(path, Path(annotations)):
            # COCO's own images have no classes but those of their objects, and some have none.
            if form == "coco":
                return COCO(images=str(path), annotations=annotations)
            # Pictures of masks name no classes.
            labels = "none" if form == "masks" else "annotations"
            sys.stdout.write(f"labels: {labels}, for {path} has no class folders\n")
    settings = {"labels": labels, "annotations": annotations, "format": form}
    return ImageFolder(root=str(path), **settings)  # type: ignore[arg-type]  # choices of the parser


def _in_folders(path: Path, annotations: Path) -> bool:
    """True if an image lies in a folder below ``path``, other than that of the annotations."""
    if not path.is_dir():
        return False
    return any(file.parent != path for file in find_images(path, without=annotations).paths)
