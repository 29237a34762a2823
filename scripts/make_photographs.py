"""Write a folder of photographs with ImageNet's classes and boxes, from pictures inside installed packages.

python scripts/make_photographs.py --output data/photographs

Eight pictures are far too few to learn anything about photographs from: cut in many ways they show that
everything runs, and no more. All that comes of one picture stays in one part.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch
from jsonargparse import auto_cli
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from verisal.data import AnnotatedImages, ImageFolder, ImageSplits
from verisal.functional.seeding import derive_seed
from verisal.models import load_classifier
from verisal.types import Batch

Box = tuple[float, float, float, float]
Part = Literal["fit", "val", "test"]
PARTS: tuple[Part, ...] = ("fit", "val", "test")
_COLUMNS = ("image", "class", "xmin", "ymin", "xmax", "ymax")
# Share of a thing's box that must be in the picture for it to be annotated.
_IN_SIGHT = 0.3


@dataclass(frozen=True)
class Photograph:
    """One picture of an installed package, and where in it a thing of one of ImageNet's classes is.

    Attributes:
        name: of the files that come of it.
        package: that it lies in.
        path: inside the package.
        label: the class.
        box: of the thing, half-open pixels of the picture.
        part: that it belongs to.
        region: part of the picture that is used, or None for all of it.
    """

    name: str
    package: str
    path: str
    label: str
    box: Box
    part: Part
    region: tuple[int, int, int, int] | None = None

    def read(self) -> tuple[Image.Image, Box]:
        """The region of the picture, and the box in it."""
        with Image.open(str(files(self.package) / self.path)) as opened:
            image = opened.convert("RGB")
        left, top, right, bottom = self.region or (0, 0, *image.size)
        x0, y0, x1, y1 = self.box
        return image.crop((left, top, right, bottom)), (x0 - left, y0 - top, x1 - left, y1 - top)


PHOTOGRAPHS = (
    # Which of ImageNet's five kinds of house cat this is, nobody can tell from a picture; the classifier of
    # the extra ``imagenet`` takes it for this one.
    Photograph("cat", "skimage", "data/chelsea.png", "Egyptian cat", (28, 0, 375, 300), "fit"),
    # The model behind the astronaut.
    Photograph(
        "shuttle",
        "skimage",
        "data/astronaut.png",
        "space shuttle",
        (370, 0, 458, 278),
        "fit",
        region=(300, 0, 512, 290),
    ),
    Photograph("camera", "skimage", "data/camera.png", "tripod", (228, 180, 410, 512), "val"),
    Photograph("coffee", "skimage", "data/coffee.png", "espresso", (168, 14, 424, 304), "val"),
    Photograph("rocket", "skimage", "data/rocket.jpg", "missile", (298, 124, 340, 408), "test"),
    Photograph(
        "hopper",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "military uniform",
        (20, 18, 512, 600),
        "test",
    ),
    # Two views of one scene.
    Photograph("motorcycle", "skimage", "data/motorcycle_left.png", "moped", (92, 110, 688, 456), "test"),
    Photograph("motorcycle_2", "skimage", "data/motorcycle_right.png", "moped", (50, 110, 632, 456), "test"),
)


@dataclass(frozen=True)
class Picture:
    """A picture of ours: its pixels, and the class and box of each thing in it, the main one first."""

    image: Image.Image
    things: tuple[tuple[str, Box], ...]


@dataclass
class Dice:
    """Random numbers that depend on the names they are asked with, not on what was drawn before."""

    generator: torch.Generator

    @staticmethod
    def of(*names: object) -> Dice:
        """A generator of its own for these names."""
        return Dice(torch.Generator().manual_seed(derive_seed("photographs", *map(str, names))))

    def between(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * float(torch.rand((), generator=self.generator, dtype=torch.float64))


def variant(image: Image.Image, things: Sequence[tuple[str, Box]], dice: Dice, size: int) -> Picture:
    """A square around the main thing, mirrored or not, with other light and colour."""
    (_, (x0, y0, x1, y1)), short = things[0], min(image.size)
    side = dice.between(max(0.6 * short, min(0.9 * short, 1.05 * max(x1 - x0, y1 - y0))), short)
    left, top = (
        min(max(dice.between(min(low, high - side), max(low, high - side)), 0.0), whole - side)
        for low, high, whole in ((x0, x1, image.width), (y0, y1, image.height))
    )
    scale = size / side
    cut = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    found = []
    for label, box in things:
        seen = tuple(
            min(max((corner - start) * scale, 0.0), float(size))
            for corner, start in zip(box, (left, top, left, top), strict=True)
        )
        if _area(seen) >= _IN_SIGHT * _area(box) * scale**2:
            found.append((label, (seen[0], seen[1], seen[2], seen[3])))
    if dice.between(0, 1) < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        found = [(label, (size - box[2], box[1], size - box[0], box[3])) for label, box in found]
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        cut = enhance(cut).enhance(dice.between(0.85, 1.15))
    return Picture(cut, tuple(found))


def pasted(first: Photograph, second: Photograph, dice: Dice, size: int) -> Picture:
    """Two photographs' things side by side: the second one, cut out as an ellipse, beside the first."""
    image, box = first.read()
    picture = variant(image, [(first.label, box)], dice, size)
    other, (x0, y0, x1, y1) = second.read()
    piece = other.crop((round(max(x0, 0)), round(max(y0, 0)), round(x1), round(y1)))
    longest = dice.between(0.4, 0.55) * size
    shrink = longest / max(piece.size)
    piece = piece.resize((max(1, round(piece.width * shrink)), max(1, round(piece.height * shrink))))
    mask = Image.new("L", piece.size)
    edge = round(0.03 * longest)
    ImageDraw.Draw(mask).ellipse((edge, edge, piece.width - edge, piece.height - edge), fill=255)
    mask = mask.filter(ImageFilter.GaussianBlur(edge / 2))
    # In the corner that hides least of the first thing.
    main = picture.things[0][1]
    corners = [(x, y) for x in (0, size - piece.width) for y in (0, size - piece.height)]
    x, y = min(corners, key=lambda at: _common(main, (*at, at[0] + piece.width, at[1] + piece.height)))
    picture.image.paste(piece, (x, y), mask)
    added: Box = (x + edge, y + edge, x + piece.width - edge, y + piece.height - edge)
    return Picture(picture.image, (*picture.things, (second.label, added)))


def write_part(folder: Path, part: Part, *, count: int, pasted_count: int, size: int, seed: int) -> None:
    """Write ``count`` pictures of one part, and ``pasted_count`` with two classes into ``<part>_pasted``."""
    sources = [photograph for photograph in PHOTOGRAPHS if photograph.part == part]
    labels = list(dict.fromkeys(photograph.label for photograph in sources))
    by_label = {label: [one for one in sources if one.label == label] for label in labels}
    rows: dict[str, list[tuple[object, ...]]] = {part: [], f"{part}_pasted": []}
    for number in range(count):
        among = by_label[labels[number % len(labels)]]
        photograph = among[number // len(labels) % len(among)]
        image, box = photograph.read()
        dice = Dice.of(seed, photograph.name, number)
        picture = variant(image, [(photograph.label, box)], dice, size)
        rows[part] += _written(folder / part, f"{photograph.name}_{number:03}", picture)
    pairs = [(one, two) for one in sources for two in sources if one.label != two.label]
    for number in range(pasted_count):
        one, two = pairs[number % len(pairs)]
        picture = pasted(one, two, Dice.of(seed, one.name, two.name, number), size)
        rows[f"{part}_pasted"] += _written(
            folder / f"{part}_pasted", f"{one.name}_{two.name}_{number:03}", picture
        )
    for name, lines in rows.items():
        if lines:
            with (folder / name / "boxes.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([_COLUMNS, *lines])


def _written(folder: Path, name: str, picture: Picture) -> list[tuple[object, ...]]:
    """Write one picture into the folder of its main class; the rows of its boxes."""
    path = folder / picture.things[0][0] / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.image.save(path, quality=95)
    image = path.relative_to(folder).as_posix()
    return [(image, label, *(round(corner, 1) for corner in box)) for label, box in picture.things]


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _common(one: Sequence[float], two: Sequence[float]) -> float:
    return _area((max(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]), min(one[3], two[3])))


def check(folder: Path, classifier: str) -> None:
    """Print per folder and class how many pictures the classifier reads right, and what else it sees."""
    network = load_classifier(classifier)
    for part in sorted(path.name for path in folder.iterdir() if (path / "boxes.csv").is_file()):
        root = folder / part
        splits = ImageSplits(
            images=ImageFolder(root=str(root), annotations=str(root / "boxes.csv"), format="csv"),
            ratios=(0, 1, 0),
        )
        images = AnnotatedImages(splits, "val", classifier=network)
        guesses = []
        for start in range(0, len(images), 16):
            batch = Batch.collate([images[index] for index in range(start, min(start + 16, len(images)))])
            guesses += network(batch.images).argmax(dim=1).tolist()
        for label in sorted(set(images.labels)):
            found = [guess for guess, true in zip(guesses, images.labels, strict=True) if true == label]
            wrong = [guess for guess in found if guess != label]
            most = max(set(wrong), key=wrong.count) if wrong else None
            told = "" if most is None else f", else mostly {network.class_names[most]}"
            right = f"{len(found) - len(wrong):>4} of {len(found)}"
            print(f"{part:<12} {network.class_names[label]:<18} {right}{told}")


def make(
    *,
    output: str = "data/photographs",
    fit_count: int = 32,
    val_count: int = 240,
    test_count: int = 48,
    pasted_count: int = 18,
    size: int = 288,
    seed: int = 0,
    classifier: str | None = "imagenet_efficientnet_lite0",
) -> None:
    """Write the folders ``fit``, ``val``, ``test`` and ``test_pasted``, each with its ``boxes.csv``.

    Args:
        output: folder to write to.
        fit_count: pictures of ``fit``.
        val_count: pictures of ``val``; a threshold for FPR 5 % asks for 200 that are classified correctly.
        test_count: pictures of ``test``.
        pasted_count: pictures with two classes.
        size: side of a picture in pixels.
        seed: of all that is random.
        classifier: that is asked what it sees in them; null asks none.
    """
    folder = Path(output)
    for part, count in zip(PARTS, (fit_count, val_count, test_count), strict=True):
        two = pasted_count if part == "test" else 0
        write_part(folder, part, count=count, pasted_count=two, size=size, seed=seed)
    print(f"wrote {fit_count + val_count + test_count + pasted_count} pictures to {folder}")
    if classifier is not None:
        check(folder, classifier)


def main(args: list[str] | None = None) -> None:
    """Parse, write, check."""
    auto_cli(make, args=args, as_positional=False, description=__doc__)


if __name__ == "__main__":
    main()
