"""Data sets of torchvision as strangers use them, read from disk."""

import sys
from functools import partial
from types import ModuleType

import pytest
import torch
from torch.utils.data import DataLoader, default_collate
from torchvision import datasets, tv_tensors
from torchvision.transforms import v2

from helpers.torchvision_data import BOXES, CLASSES, SIZE, CocoIndex, coco, image_folder, pets, pictures, voc
from verisal.callbacks.formats.batches import as_batch, read
from verisal.callbacks.formats.first_samples import first_samples
from verisal.errors import ConfigError, DataError
from verisal.models import Normalization
from verisal.types import Batch

IMAGE = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
MASK = v2.PILToTensor()
NONE = Normalization((0.0,), (1.0,))


def zipped(samples):
    return tuple(zip(*samples, strict=True))


def batch_of(raw, names=None) -> Batch:
    return as_batch(read(raw, class_names=names), NONE)


def of_loader(data, collate=None, names=None) -> Batch:
    (raw,) = DataLoader(data, batch_size=3, collate_fn=collate)
    return batch_of(raw, names)


def check_images(batch: Batch) -> None:
    assert torch.equal(batch.images, torch.stack([IMAGE(picture) for picture in pictures()]))


def check_objects(batch: Batch, *, shift: int = 0, first: int = 0) -> None:
    """Classes and boxes as they were written; ``first`` is taken off the corners at the upper left."""
    assert [labels.tolist() for labels in batch.object_labels] == [
        [label + shift for label, _ in objects] for objects in BOXES
    ]
    for boxes, objects in zip(batch.boxes, BOXES, strict=True):
        expected = [[left + first, top + first, right, bottom] for _, (left, top, right, bottom) in objects]
        assert boxes.tolist() == expected
    assert batch.labels.tolist() == [2 + shift, 3 + shift, -1]


def check_masks(batch: Batch) -> None:
    for masks, objects in zip(batch.object_masks, BOXES, strict=True):
        for mask, (_, (left, top, right, bottom)) in zip(masks, objects, strict=True):
            expected = torch.zeros(SIZE, dtype=torch.bool)
            expected[top:bottom, left:right] = True
            assert torch.equal(mask, expected)


def test_image_folder(tmp_path):
    data = datasets.ImageFolder(image_folder(tmp_path), transform=IMAGE)
    for batch in (of_loader(data), first_samples(data, 3, batch_of)):
        check_images(batch)
        assert batch.labels.tolist() == [0, 1, 2]
    with pytest.raises(
        ConfigError, match=r"must be tensors .* found .* x Image; give the data set a transform"
    ):
        first_samples(datasets.ImageFolder(tmp_path), 3, batch_of)


def test_voc_detection(tmp_path):
    data = datasets.VOCDetection(voc(tmp_path), image_set="train", transform=IMAGE)
    named = partial(batch_of, names=CLASSES)
    for batch in (of_loader(data, zipped, CLASSES), first_samples(data, 3, named)):
        check_images(batch)
        check_objects(batch)
        assert batch.image_ids == tuple(f"2012_00000{number}.jpg" for number in range(3))
        assert [hard.tolist() for hard in batch.difficult] == [[False], [False, True], []]
    with pytest.raises(ConfigError, match="is the word 'cat', and no names are known; pass class_names="):
        of_loader(data, zipped)
    with pytest.raises(ConfigError, match=r"nothing is known of the names in .* tuple\(zip\(\*samples\)\)"):
        batch_of(default_collate([data[0]]))
    larger = datasets.VOCDetection(
        tmp_path, "2012", "train", transform=v2.Compose([IMAGE, v2.Resize((24, 32))])
    )
    with pytest.raises(
        DataError, match=r"of 16 x 12 pixels, found one of 32 x 24.*wrap_dataset_for_transforms_v2"
    ):
        of_loader(larger, zipped, CLASSES)


def test_voc_detection_wrapped(tmp_path, monkeypatch):
    numbers = {name: number for number, name in enumerate(CLASSES)}
    module = sys.modules[datasets.wrap_dataset_for_transforms_v2.__module__]
    monkeypatch.setattr(module, "VOC_DETECTION_CATEGORY_TO_IDX", numbers)
    moved = v2.Compose([IMAGE, v2.RandomHorizontalFlip(1)])
    # The wrapper wants an object in every image.
    data = datasets.VOCDetection(voc(tmp_path), image_set="train", transforms=moved)
    wrapped = datasets.wrap_dataset_for_transforms_v2(data)
    batch = batch_of([wrapped[0], wrapped[1]])
    assert [labels.tolist() for labels in batch.object_labels] == [[2], [3, 1]]
    # It takes corners as they are written, which count from 1.
    assert batch.boxes[0].tolist() == [[10, 3, 14, 8]]
    assert torch.equal(batch.images[0], IMAGE(pictures()[0]).flip(2))


def test_voc_segmentation(tmp_path):
    data = datasets.VOCSegmentation(voc(tmp_path), image_set="train", transform=IMAGE, target_transform=MASK)
    wrapped = datasets.wrap_dataset_for_transforms_v2(
        datasets.VOCSegmentation(tmp_path, image_set="train", transforms=IMAGE)
    )
    assert isinstance(wrapped[0][1], tv_tensors.Mask)
    for batch in (of_loader(data), of_loader(wrapped), first_samples(data, 3, batch_of)):
        check_images(batch)
        check_masks(batch)
        assert [labels.tolist() for labels in batch.object_labels] == [[2], [3, 1], []]
        assert batch.labels.tolist() == [-1, -1, -1]


def test_oxford_pets(tmp_path):
    both = {"target_types": ["category", "segmentation"], "transform": IMAGE}
    raw = datasets.OxfordIIITPet(
        pets(tmp_path), target_transform=lambda pair: (pair[0], MASK(pair[1])), **both
    )
    with pytest.raises(
        ConfigError, match="of class 4 has a mask of the class numbers 1, 2, 3, without its own; m"
    ):
        of_loader(raw)
    own = datasets.OxfordIIITPet(
        tmp_path, target_transform=lambda pair: (pair[0], MASK(pair[1]) == 1), **both
    )
    for batch in (of_loader(own), of_loader(own, zipped), first_samples(own, 3, batch_of)):
        check_images(batch)
        assert batch.labels.tolist() == [4, 5, 6]
        assert [labels.tolist() for labels in batch.object_labels] == [[4], [5], [6]]
        assert batch.boxes[2].tolist() == [[4, 3, 8, 7]]
    labels = datasets.OxfordIIITPet(tmp_path, transform=IMAGE)
    assert of_loader(labels).labels.tolist() == [4, 5, 6]


@pytest.fixture
def cocotools(monkeypatch):
    module = ModuleType("pycocotools.coco")
    module.COCO = CocoIndex
    monkeypatch.setitem(sys.modules, "pycocotools", ModuleType("pycocotools"))
    monkeypatch.setitem(sys.modules, "pycocotools.coco", module)


def test_coco_detection(tmp_path, cocotools):
    coco(tmp_path)
    data = datasets.CocoDetection(tmp_path / "images", tmp_path / "instances.json", transform=IMAGE)
    for batch in (of_loader(data, zipped), first_samples(data, 3, batch_of)):
        check_images(batch)
        check_objects(batch)
        check_masks(batch)
        assert [hard.tolist() for hard in batch.difficult] == [[False], [False, True], []]
    with pytest.raises(ConfigError, match=r"targets of a batch must be 2, one per image, .* tuple\(zip"):
        batch_of(default_collate([data[0], data[0]]))
    smaller = v2.Compose([IMAGE, v2.Resize((6, 8))])
    data = datasets.CocoDetection(tmp_path / "images", tmp_path / "instances.json", transform=smaller)
    with pytest.raises(DataError, match="outside its image of 8 x 6 pixels; let the transform move"):
        batch_of([data[0]])
    with pytest.raises(DataError, match="of an image of 16 x 12 pixels, found one of 8 x 6: its objects may"):
        batch_of([data[1]])


def test_coco_detection_wrapped(tmp_path, cocotools):
    coco(tmp_path)
    moved = v2.Compose(
        [IMAGE, v2.Resize((24, 32), antialias=False, interpolation=v2.InterpolationMode.NEAREST)]
    )
    data = datasets.CocoDetection(tmp_path / "images", tmp_path / "instances.json", transforms=moved)
    batch = of_loader(datasets.wrap_dataset_for_transforms_v2(data), zipped)
    assert [labels.tolist() for labels in batch.object_labels] == [[2], [3, 1], []]
    assert batch.boxes[1].tolist() == [[8, 2, 30, 18], [0, 16, 8, 24]]
    assert batch.image_ids == ("0", "1", "2")
