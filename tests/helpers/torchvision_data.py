"""Small data sets on disk in the formats that torchvision's classes read, written here."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (12, 16)
BOXES = [[(2, (1, 2, 6, 8))], [(3, (4, 1, 15, 9)), (1, (0, 8, 4, 12))], []]
"""Per image class and half-open box of its objects, the largest first."""
CLASSES = ("ant", "bee", "cat", "dog")


def pictures() -> list[np.ndarray]:
    """Three images ``(H, W, 3)`` of 8 bits."""
    generator = np.random.default_rng(4)
    return [generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for _ in range(3)]


def image_folder(root: Path) -> Path:
    """Of ``ImageFolder``: one image in each of three classes."""
    for name, picture in zip(CLASSES, pictures(), strict=False):
        (root / name).mkdir(parents=True)
        Image.fromarray(picture).save(root / name / "picture.png")
    return root


def voc(root: Path) -> Path:
    """Of ``VOCDetection`` and ``VOCSegmentation``; images of PNG under JPEG's name stay exact."""
    base = root / "VOCdevkit" / "VOC2012"
    for folder in (
        "JPEGImages",
        "Annotations",
        "ImageSets/Main",
        "ImageSets/Segmentation",
        "SegmentationClass",
    ):
        (base / folder).mkdir(parents=True)
    names = [f"2012_00000{number}" for number in range(3)]
    for part in ("Main", "Segmentation"):
        (base / "ImageSets" / part / "train.txt").write_text("\n".join(names))
    for name, picture, objects in zip(names, pictures(), BOXES, strict=True):
        Image.fromarray(picture).save(base / "JPEGImages" / f"{name}.jpg", format="PNG")
        numbers = np.full(SIZE, 255, dtype=np.uint8)
        written = []
        for number, (label, (left, top, right, bottom)) in enumerate(objects):
            numbers[top:bottom, left:right] = label
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (left + 1, top + 1, right, bottom), strict=True)
            box = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
            written.append(
                f"<object><name>{CLASSES[label]}</name><difficult>{number}</difficult>"
                f"<bndbox>{box}</bndbox></object>"
            )
        Image.fromarray(numbers).save(base / "SegmentationClass" / f"{name}.png")
        size = f"<size><width>{SIZE[1]}</width><height>{SIZE[0]}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}.jpg</filename>{size}{''.join(written)}</annotation>"
        (base / "Annotations" / f"{name}.xml").write_text(text)
    return root


def pets(root: Path) -> Path:
    """Of ``OxfordIIITPet``: trimaps with 1 for the pet, 2 for the rest, 3 between them."""
    base = root / "oxford-iiit-pet"
    for folder in ("images", "annotations/trimaps"):
        (base / folder).mkdir(parents=True)
    rows = []
    for number, picture in enumerate(pictures()):
        name = f"Breed_{number}"
        Image.fromarray(picture).save(base / "images" / f"{name}.jpg", format="PNG")
        trimap = np.full(SIZE, 2, dtype=np.uint8)
        trimap[2:8, 3:9] = 3
        trimap[3:7, 4:8] = 1
        Image.fromarray(trimap).save(base / "annotations" / "trimaps" / f"{name}.png")
        rows.append(f"{name} {number + 5} 1 1")
    (base / "annotations" / "trainval.txt").write_text("\n".join(rows))
    return root


def coco(root: Path) -> Path:
    """Of ``CocoDetection``: ``images`` and ``instances.json``, with polygons and a crowd in run lengths."""
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, (picture, objects) in enumerate(zip(pictures(), BOXES, strict=True)):
        Image.fromarray(picture).save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": SIZE[0], "width": SIZE[1]})
        for place, (label, (left, top, right, bottom)) in enumerate(objects):
            mask = np.zeros(SIZE, dtype=int)
            mask[top:bottom, left:right] = 1
            runs = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel()]))) if place else []
            counts = np.diff(np.concatenate([[0], runs, [mask.size]])).tolist()
            polygon = [left, top, right, top, right, bottom, left, bottom]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label,
                    "bbox": [left, top, right - left, bottom - top],
                    "segmentation": {"size": list(SIZE), "counts": counts} if place else [polygon],
                    "area": int(mask.sum()),
                    "iscrowd": place,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))
    return root


class CocoIndex:
    """What ``CocoDetection`` asks of pycocotools, which is not installed here."""

    def __init__(self, path: str) -> None:
        content = json.loads(Path(path).read_text())
        self.imgs = {image["id"]: image for image in content["images"]}
        self.anns = {entry["id"]: entry for entry in content["annotations"]}

    def getAnnIds(self, image: int) -> list[int]:  # noqa: N802
        return [number for number, entry in self.anns.items() if entry["image_id"] == image]

    def loadAnns(self, numbers: list[int]) -> list[dict]:  # noqa: N802
        return [self.anns[number] for number in numbers]

    def loadImgs(self, number: int) -> list[dict]:  # noqa: N802
        return [self.imgs[number]]
