"""Tiny data sets in the on-disk formats of the real ones."""

import json
import zlib
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image
from torch import nn

from helpers.normalizations import CENTRED
from verisal.models import Classifier

WIDTH, HEIGHT = 40, 30


def classifier_of(class_names, size=20):
    """An untrained classifier of these classes; only its names and its size are of interest."""

    class Tiny(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(4, len(class_names))

        def forward(self, images):
            return self.head(self.two(self.one(images).relu()).relu().mean(dim=(2, 3)))

    network = Classifier(
        Tiny(), ["one", "two"], class_names=class_names, image_size=size, normalization=CENTRED
    )
    return network.eval().requires_grad_(False)


def write_image(path, colour=None, size=(WIDTH, HEIGHT), box=None, **settings):
    """One colour, by default of its name, with a white rectangle ``box`` (half-open xyxy) for the object."""
    if colour is None:
        number = zlib.crc32(Path(path).name.encode())
        colour = (200, number % 251, number // 251 % 251)
    pixels = np.full((size[1], size[0], 3), colour, dtype=np.uint8)
    if box is not None:
        left, top, right, bottom = box
        pixels[top:bottom, left:right] = 255
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **settings)
    return path


def write_numbers(path, boxes, size=(WIDTH, HEIGHT), palette=False):
    """A picture of numbers: ``boxes`` maps a number to the half-open rectangle that it fills."""
    numbers = np.zeros((size[1], size[0]), dtype=np.uint8)
    for number, (left, top, right, bottom) in boxes.items():
        numbers[top:bottom, left:right] = number
    image = Image.fromarray(numbers)
    if palette:
        image = image.convert("P")
        image.putdata(numbers.ravel().tolist())
        # Colours that have nothing to do with the numbers.
        image.putpalette([value for index in range(256) for value in (255 - index, index, 7)])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def write_xml(path, objects, size=(WIDTH, HEIGHT), filename="a.jpg"):
    """A file of Pascal VOC: ``objects`` are pairs of a name and a box as it is written."""
    body = "".join(
        f"<object><name>{escape(name)}</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>"
        f"<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>"
        "</object>"
        for name, box in objects
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><folder>x</folder><filename>{filename}</filename>"
        f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
        f"<segmented>0</segmented>{body}</annotation>"
    )
    return path


def make_folder(root, classes=("cat", "dog"), count=3, **settings):
    """``root/cat/cat0.png`` and so on."""
    for number, name in enumerate(classes):
        for index in range(count):
            write_image(
                Path(root) / name / f"{name}{index}.png", (10 * index + 5, 90 * number, 40), **settings
            )
    return str(root)


def make_voc(root, year="2012"):
    """Two images of ``VOCdevkit``: a dog and a smaller person with masks, and a lone cat without."""
    base = Path(root) / "VOCdevkit" / f"VOC{year}"
    write_image(base / "JPEGImages" / "2007_000027.jpg")
    write_image(base / "JPEGImages" / "2007_000032.jpg")
    write_xml(base / "Annotations" / "2007_000027.xml", [("person", (1, 1, 4, 4)), ("dog", (11, 11, 30, 20))])
    write_xml(base / "Annotations" / "2007_000032.xml", [("cat", (6, 6, 40, 30))])
    write_numbers(
        base / "SegmentationObject" / "2007_000027.png",
        {1: (0, 0, 4, 4), 2: (11, 10, 29, 20), 255: (30, 0, 32, 5)},
        palette=True,
    )
    (base / "ImageSets" / "Main").mkdir(parents=True)
    (base / "ImageSets" / "Main" / "val.txt").write_text("2007_000027\n2007_000032\n")
    return str(root)


def make_coco(root):
    """Three images, of which one has no annotation; polygon, run lengths (plain and compressed), a crowd."""
    root = Path(root)
    for name in ("000000000009", "000000000025", "000000000030"):
        write_image(root / "val2017" / f"{name}.jpg")
    images = [
        {"id": int(name), "file_name": f"{name}.jpg", "width": WIDTH, "height": HEIGHT}
        for name in ("000000000009", "000000000025", "000000000030")
    ]
    # Columns 10 and 11 are marked: 300 zeros, 60 ones, the rest zeros.
    plain = {"size": [HEIGHT, WIDTH], "counts": [300, 60, 840]}
    packed = {"size": [HEIGHT, WIDTH], "counts": r"\9l1Xj0"}
    annotations = [
        {
            "id": 1,
            "image_id": 9,
            "category_id": 18,
            "iscrowd": 0,
            "bbox": [10, 5, 20, 10],
            "segmentation": [[10, 5, 30, 5, 30, 15, 10, 15]],
        },
        {
            "id": 2,
            "image_id": 9,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [10, 0, 2, 30],
            "segmentation": plain,
        },
        {
            "id": 3,
            "image_id": 25,
            "category_id": 1,
            "iscrowd": 0,
            "bbox": [10, 0, 2, 30],
            "segmentation": packed,
        },
        {
            "id": 4,
            "image_id": 25,
            "category_id": 18,
            "iscrowd": 1,
            "bbox": [0, 0, 40, 30],
            "segmentation": plain,
        },
    ]
    categories = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}]
    path = root / "annotations" / "instances_val2017.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return str(root / "val2017"), str(path)


def make_cub(root, segmentations=True):
    """Three birds of two classes; the second is of the training part."""
    base = Path(root) / "CUB_200_2011"
    names = (
        "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg",
        "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg",
        "002.Laysan_Albatross/Laysan_Albatross_0082_524.jpg",
    )
    for name in names:
        write_image(base / "images" / name)
        if segmentations:
            # 204 of 255: four of five annotators.
            write_numbers(
                Path(root) / "segmentations" / Path(name).with_suffix(".png"),
                {204: (8, 6, 20, 24), 51: (0, 0, 2, 2)},
            )
    lines = {
        "images": [f"{index} {name}" for index, name in enumerate(names, start=1)],
        "classes": ["1 001.Black_footed_Albatross", "2 002.Laysan_Albatross"],
        "image_class_labels": ["1 1", "2 1", "3 2"],
        "bounding_boxes": ["1 8.0 6.0 12.0 18.0", "2 0.0 0.0 40.0 30.0", "3 5.0 5.0 30.0 20.0"],
        "train_test_split": ["1 0", "2 1", "3 0"],
    }
    for name, rows in lines.items():
        (base / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return str(base)


def make_pets(root):
    """Two pets with trimaps: 1 is the animal, 2 the background, 3 the border between them."""
    base = Path(root) / "oxford-iiit-pet"
    rows = []
    for stem, label in (("Abyssinian_201", 1), ("american_bulldog_100", 2)):
        write_image(base / "images" / f"{stem}.jpg")
        write_numbers(
            base / "annotations" / "trimaps" / f"{stem}.png",
            {2: (0, 0, WIDTH, HEIGHT), 3: (9, 9, 31, 21), 1: (10, 10, 30, 20)},
        )
        rows.append(f"{stem} {label} 1 1")
    for part in ("test", "trainval"):
        (base / "annotations" / f"{part}.txt").write_text("\n".join(rows) + "\n")
    return str(root)


def make_imagenette(root):
    """One image of two classes in each part."""
    for part in ("train", "val"):
        for synset in ("n01440764", "n03888257"):
            write_image(Path(root) / "imagenette2-320" / part / synset / f"{synset}_1.JPEG")
    return str(root)


def make_imagenet(root, *, folders):
    """Two validation images with XML boxes, by WordNet id or in one folder."""
    root = Path(root)
    for name, synset, box in (
        ("ILSVRC2012_val_00000001", "n01751748", (10, 0, 40, 15)),
        ("ILSVRC2012_val_00000293", "n01440764", (0, 0, 20, 30)),
    ):
        write_image(root / "val" / (synset if folders else "") / f"{name}.JPEG")
        write_xml(root / "boxes" / "val" / f"{name}.xml", [(synset, box)], filename=name)
    # The archive holds the boxes of images that are not there.
    write_xml(root / "boxes" / "val" / "ILSVRC2012_val_00000777.xml", [("n01440764", (0, 0, 9, 9))])
    return str(root / "val"), str(root / "boxes")


def make_broken(tmp_path):
    """Seven images: two broken files, three bad rows of one image, one row of none."""
    root = Path(make_folder(tmp_path / "images"))
    (root / "cat" / "cat1.png").write_bytes(b"")
    (root / "dog" / "dog2.png").write_bytes((root / "dog" / "dog2.png").read_bytes()[:50])
    write_image(root / "dog" / "large.png", size=(60, 20))
    (tmp_path / "boxes.csv").write_text(
        "image,class,xmin,ymin,xmax,ymax\n"
        "cat0,cat,1,1,5,5\ncat0,cat,5,5,1,1\ncat0,cat,90,1,95,5\ncat0,dog,91,1,95,5\nnobody,cat,1,1,2,2\n"
    )
    return root, tmp_path / "boxes.csv"
