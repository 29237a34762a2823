"""``verisal data check``: read a whole data set and list every problem."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from verisal import data
from verisal.cli._threads import Threads
from verisal.data import COCO, ImageFolder, ImageNetValidation, ImageSet, check_data
from verisal.data.files import find_images
from verisal.errors import ConfigError
from verisal.models import load_classifier
from verisal.progress import tell

# Sets that lie in one folder, each in the part that is used to evaluate.
_READERS: dict[str, Callable[[str], ImageSet]] = {
    "cifar10": lambda path: data.CIFAR10(root=path),
    "cifar100": lambda path: data.CIFAR100(root=path),
    "cub": lambda path: data.CUB200(root=path, part="all"),
    "fashion-mnist": lambda path: data.FashionMNIST(root=path),
    "imagenette": lambda path: data.Imagenette(root=path),
    "mnist": lambda path: data.MNIST(root=path),
    "pascal-voc": lambda path: data.PascalVOC(root=path),
    "pet": lambda path: data.OxfordPet(root=path),
    "stl10": lambda path: data.STL10(root=path),
    "svhn": lambda path: data.SVHN(root=path),
}


def check(given: Namespace, threads: Threads) -> int:
    """Run ``verisal data check``.

    Args:
        given: what its parser read.
        threads: that it computes on.

    Returns:
        0 if all is well, 1 if there are problems.

    Raises:
        ConfigError: options that do not go together, or an unknown classifier.
    """
    if words := threads.use(given.threads):
        tell(words)
    classifier = None if given.classifier is None else load_classifier(given.classifier)
    report = check_data(
        _images(Path(given.path), given.annotations, given.format, given.labels),
        classifier=classifier,
        others=[ImageFolder(root=folder, labels="none") for folder in given.against],
        progress=True,
        **({} if given.max_pixels is None else {"max_pixels": given.max_pixels}),
    )
    tell(report.text())
    return 1 if report.problems else 0


def _images(path: Path, annotations: str | None, form: str | None, labels: str | None) -> ImageSet:
    if form in _READERS:
        if annotations is not None:
            raise ConfigError(f"--format {form} knows where its annotations are; leave out --annotations")
        return _READERS[form](str(path))
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
            tell(f"labels: {labels}, for {path} has no class folders")
    settings = {"labels": labels, "annotations": annotations, "format": form}
    return ImageFolder(root=str(path), **settings)  # type: ignore[arg-type]  # choices of the parser


def _in_folders(path: Path, annotations: Path) -> bool:
    """True if an image lies in a folder below ``path``, other than that of the annotations."""
    if not path.is_dir():
        return False
    return any(file.parent != path for file in find_images(path, without=annotations).paths)
