"""Batches of strangers' loaders, read as our own."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors

from helpers.batch_formats import CLASSES, FORMATS, OWN, SIZE
from verisal.callbacks.formats.batches import KnownIds, as_batch, read
from verisal.errors import ConfigError, DataError
from verisal.models import Normalization

NONE, CENTRED = Normalization((0.0,), (1.0,)), Normalization((0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_the_same_batch(name, count):
    case, own = FORMATS[name], OWN.rows(range(count))
    batch = as_batch(read(case.made(own), class_names=CLASSES), NONE)
    assert torch.equal(batch.images, own.images)
    assert batch.images.dtype == torch.float32
    assert torch.equal(batch.labels, own.labels if case.labels else torch.full_like(own.labels, -1))
    assert batch.labels.dtype == torch.int64
    if case.ids:
        assert batch.image_ids == own.image_ids
    else:
        assert len(set(batch.image_ids)) == count
    for row in range(count):
        objects = len(own.object_labels[row]) if case.objects else 0
        assert batch.object_labels[row].tolist() == own.object_labels[row].tolist()[:objects]
        assert torch.equal(batch.boxes[row], own.boxes[row][:objects])
        masks, hard = own.object_masks[row][:objects], own.difficult[row][:objects]
        assert torch.equal(batch.object_masks[row], masks if case.masks else torch.zeros_like(masks))
        assert torch.equal(batch.difficult[row], hard if case.difficult else torch.zeros_like(hard))


def test_one_hot_labels():
    images = OWN.images
    rows = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    assert read((images, rows)).labels.tolist() == [2, 0, 1]
    assert read((images, rows.float())).labels.tolist() == [2, 0, 1]


def test_a_mask_of_the_object_alone_is_of_the_image_s_class():
    mask = torch.zeros(2, *SIZE, dtype=torch.bool)
    mask[:, 3:5, 2:9] = True
    for masks in (mask, mask[:, None], mask[:, None].float(), list(mask), [tv_tensors.Mask(m) for m in mask]):
        found = read((OWN.images[:2], torch.tensor([3, 1]), masks))
        assert [labels.tolist() for labels in found.object_labels] == [[3], [1]]
        assert found.boxes[1].tolist() == [[2, 3, 9, 5]]
        assert torch.equal(found.object_masks[0], mask[:1])


def test_boxes_of_the_image_s_class():
    boxes = torch.tensor([[1.0, 2, 6, 8], [0, 1, 4, 4]])
    found = read({"image": OWN.images[:2], "label": torch.tensor([3, 1]), "bbox": boxes})
    assert [labels.tolist() for labels in found.object_labels] == [[3], [1]]
    assert torch.equal(torch.cat(found.boxes), boxes)


def test_boxes_of_torchvision_for_a_whole_batch():
    boxes = tv_tensors.BoundingBoxes([[1.0, 2, 5, 6], [0, 1, 4, 3]], format="XYWH", canvas_size=SIZE)
    found = read({"image": OWN.images[:2], "label": [3, 1], "boxes": boxes})
    assert torch.cat(found.boxes).tolist() == [[1, 2, 6, 8], [0, 1, 4, 4]]


def test_the_label_of_an_image_is_the_class_of_its_largest_object():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 9, 9], [0, 0, 5, 5]])
    target = {"boxes": boxes, "labels": torch.tensor([1, 2, 3])}
    crowd = {**target, "iscrowd": torch.tensor([0, 1, 0])}
    named = {**target, "label": 1}
    found = read((OWN.images, [target, crowd, named]))
    assert found.labels.tolist() == [2, 3, 1]
    assert [labels.tolist() for labels in found.object_labels] == [[2, 1, 3], [3, 1, 2], [1, 2, 3]]
    assert found.difficult[1].tolist() == [False, False, True]


def test_objects_that_left_the_picture_are_left_out():
    boxes = torch.tensor([[3.0, 3, 3, 8], [1, 1, 4, 4], [-1, -1, -1, -1]])
    found = read((OWN.images[:1], [{"boxes": boxes, "labels": torch.tensor([0, 1, 2])}]))
    assert found.object_labels[0].tolist() == [1]
    masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    masks[1, 2, 3] = True
    found = read((OWN.images[:1], [{"masks": masks, "labels": torch.tensor([0, 1])}]))
    assert found.boxes[0].tolist() == [[3, 2, 4, 3]]
    assert found.labels.tolist() == [1]


def test_unknown_labels_are_below_zero():
    assert read((OWN.images, torch.tensor([-100, 4, -1]))).labels.tolist() == [-1, 4, -1]


def test_a_function_of_the_user_s():
    odd = {"left": OWN.images, "right": OWN.images.flip(3), "n": [5, 6, 7]}
    found = read(odd, lambda batch: (batch["left"], batch["n"]))
    assert torch.equal(found.images, OWN.images)
    assert found.labels.tolist() == [5, 6, 7]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_normalisation_is_undone(dtype):
    images = torch.cat([OWN.images, torch.zeros(1, 3, *SIZE), torch.ones(1, 3, *SIZE)])
    batch = as_batch(read(((images - 0.5) / 0.25).to(dtype)), CENTRED)
    assert batch.images.dtype == torch.float32
    assert 0 <= float(batch.images.min()) <= float(batch.images.max()) <= 1
    torch.testing.assert_close(batch.images, images, rtol=0, atol=max(1e-6, torch.finfo(dtype).eps))


def test_images_of_8_bits_have_no_normalisation():
    found = read((OWN.images * 255).to(torch.uint8))
    assert found.eight_bit
    assert torch.equal(found.pixels, OWN.images)
    assert torch.equal(as_batch(found, CENTRED).images, OWN.images)


def test_own_batches_stay_the_same_object():
    found = read(OWN)
    assert as_batch(found, CENTRED) is OWN


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (
            OWN.images * 1.1 - 0.05,
            "found values from -0.05 to 1.05; resizing of float .* clamp them after it",
        ),
        ((OWN.images - 0.5) / 0.25, "found values from -2 to 2; pass normalization="),
        (OWN.images * 255, "found values from 0 to 255; pass normalization="),
        (OWN.images.clone().fill_(torch.nan), "found values from nan to nan"),
    ],
)
def test_pixels_that_are_refused(images, words):
    with pytest.raises(DataError, match=words):
        as_batch(read(images), NONE)


IMAGES, LABELS = OWN.images, torch.tensor([2, 3, 1])
BOX, CLASS = torch.tensor([[1.0, 2, 6, 8]]), torch.tensor([1])
PICTURE = Image.new("RGB", (16, 12))


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (None, "must hold images and their labels, found NoneType; pass batch="),
        ([], "found list; pass batch="),
        (LABELS, r"found int64 tensor \(3,\)"),
        ((LABELS, LABELS), r"found a tuple of int64 tensor \(3,\), int64 tensor \(3,\)"),
        ({"picture": LABELS}, "under a name such as image or pixel_values, found dict with keys picture"),
        (SimpleNamespace(pictures=IMAGES), "found SimpleNamespace"),
        ((IMAGES, IMAGES.flip(3), LABELS), r"item 0 \(float32 .*\) and item 1 \(.*\) may both be the images"),
        (([IMAGES, IMAGES.flip(3)], LABELS), "in one list may both be the images"),
        ({"view1": IMAGES, "view2": IMAGES, "label": LABELS}, "'view1' and 'view2' may both be the images"),
        ({"image": IMAGES, "x": IMAGES}, "'image' and 'x' may both be the images"),
        ((IMAGES, {"image": IMAGES}), "may both be the images"),
        ({"image": IMAGES, "label": LABELS, "target": LABELS}, "'label' and 'target' may both be the labels"),
        ((IMAGES, LABELS, LABELS, LABELS), "may both be the ids"),
        ((IMAGES.permute(0, 2, 3, 1), LABELS), r"channels second.* found \(3, 12, 16, 3\); permute"),
        (([IMAGES[0], IMAGES[0, :, :5]], [1, 2]), r"equally large, found \(3, 12, 16\) and \(3, 5, 16\)"),
        (
            [(PICTURE, 1), (PICTURE, 2)],
            "must be tensors .*found tuple of 2 x Image; give the data set a trans",
        ),
        ((IMAGES.long(), LABELS), "found a tuple of int64 tensor"),
        ((IMAGES[None], LABELS), r"found a tuple of float32 tensor \(1, 3, 3, 12, 16\)"),
        ((IMAGES, LABELS[:2]), "labels must be 3 class numbers"),
        ((IMAGES, LABELS + 0.5), r"must be class numbers, found \[2.5, 3.5, 1.5\]"),
        ((IMAGES, torch.eye(3) * 0.5), "neither class numbers nor one-hot, as if classes were mixed"),
        ((IMAGES, torch.ones(3, 4)), "several classes of an image or none; say output='sigmoid'"),
        ((IMAGES, [torch.tensor([1, 2])] * 3), "a label must be one class number"),
        ((IMAGES, ["a", "b", "c"]), "is the word 'a', and no names are known; pass class_names="),
        ((IMAGES, LABELS, torch.tensor([0.5, 0.1, 0.2])), "ids must be 3 words or whole numbers"),
        ((IMAGES, [{"boxes": BOX, "labels": CLASS}]), r"targets of a batch must be 3, one per image"),
        ((IMAGES, {"annotation": {"object": []}}), "nothing is known of the names in dict with keys annot"),
        ((IMAGES[:1], [{"class_labels": CLASS, "boxes": BOX}]), "without a class"),
        ((IMAGES[:1], [{"objects": 3}]), "nothing is known of the names in dict with keys objects"),
        ((IMAGES[:1], [{"boxes": BOX, "labels": LABELS}]), "has 3 objects and 1 boxes of objects"),
        ((IMAGES[:1], [{"boxes": BOX[:, :3], "labels": CLASS}]), r"must be \(N, 4\)"),
        (({"image": IMAGES[:1], "mask": torch.ones(1, *SIZE) / 2, "label": [2]}), "from 0.5 to 0.5; compare"),
        ((IMAGES[:1], torch.ones(1, *SIZE, dtype=torch.bool)), "without a class"),
        (
            (IMAGES[:1], CLASS, torch.ones(1, *SIZE).long()),
            "of the whole numbers 0 and 1 may hold class numbe",
        ),
        (
            (IMAGES[:1], CLASS, torch.full((1, *SIZE), 2)),
            "of class 1 has a mask of the class numbers 2, with",
        ),
        (
            {"image": IMAGES[:1], "mask": torch.full((1, *SIZE), 2), "boxes": [BOX]},
            "cannot be divided among boxes",
        ),
        (
            [(IMAGES[0], [{"caption": "a dog"}])],
            "must hold those of COCO, with bbox and category_id, found dict",
        ),
        ([(IMAGES[0], {"annotation": {"object": {}}})], "must be that of Pascal VOC"),
    ],
)
def test_batches_that_are_refused(batch, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read(batch)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            {"boxes": torch.tensor([[9.0, 2, 6, 8]])},
            r"left, top, right, bottom, found \(9, 2, 6, 8\); convert",
        ),
        ({"boxes": torch.tensor([[torch.nan, 2, 6, 8]])}, r"found \(nan, 2, 6, 8\)"),
        (
            {"boxes": BOX / 16},
            r"must be in pixels, found \(0.0625, 0.125, 0.375, 0.5\), which seem to be sha",
        ),
        (
            {"boxes": BOX * 3},
            r"box \(3, 6, 18, 24\) reaches outside its image of 16 x 12 pixels; let the tran",
        ),
        (
            {"masks": torch.ones(1, 9, 16, dtype=torch.uint8)},
            "found 16 x 9 and 16 x 12 pixels; let the trans",
        ),
        (
            {"boxes": tv_tensors.BoundingBoxes(BOX, format="XYXY", canvas_size=(24, 32))},
            "of an image of 32 x 24 pixels, found one of 16 x 12",
        ),
        (
            {"annotation": {"size": {"height": "24", "width": "32"}}},
            "of an image of 32 x 24 pixels, found one",
        ),
    ],
)
def test_annotations_that_do_not_fit_their_image(target, words):
    with pytest.raises(DataError, match=words):
        read((IMAGES[:1], [{"labels": CLASS, **target}]))


def test_boxes_of_torchvision_that_are_rotated_are_refused():
    boxes = tv_tensors.BoundingBoxes([[5.0, 5, 2, 2, 30]], format="CXCYWHR", canvas_size=SIZE)
    with pytest.raises(ConfigError, match="must be upright, found the format CXCYWHR"):
        read((IMAGES[:1], [{"boxes": boxes, "labels": CLASS}]))


def test_boxes_a_pixel_outside_are_cut_off():
    found = read((IMAGES[:1], [{"boxes": torch.tensor([[-0.5, 2, 16.5, 12]]), "labels": CLASS}]))
    assert found.boxes[0].tolist() == [[0, 2, 16, 12]]


def test_an_id_of_two_images_is_said():
    known = KnownIds()
    for names in (("a", "b"), ("b", "a")):
        batch = replace(OWN.rows([0, 1] if names[0] == "a" else [1, 0]), image_ids=names)
        known.check(batch)
    with pytest.raises(DataError, match="the id 'a' stands for two images of the evaluation that differ"):
        known.check(replace(OWN.rows([2]), image_ids=("a",)))


@given(st.permutations(range(3)), st.integers(1, 3), st.sampled_from(["float32", "float64", "uint8"]))
def test_ids_of_content_are_the_same_in_any_order_batch_and_type(order, size, dtype):
    whole = as_batch(read((IMAGES, _targets())), NONE).image_ids
    images = (IMAGES * 255).to(torch.uint8) if dtype == "uint8" else IMAGES.to(getattr(torch, dtype))
    found = []
    for start in range(0, 3, size):
        rows = order[start : start + size]
        batch = (images[rows], [_targets()[row] for row in rows])
        found += as_batch(read(batch), NONE).image_ids
    assert found == [whole[row] for row in order]


@given(st.integers(0, 2), st.integers(0, 11), st.integers(0, 15))
def test_ids_of_content_tell_images_labels_and_objects_apart(channel, row, column):
    other = IMAGES[0].clone()
    other[channel, row, column] = (other[channel, row, column] + 0.25) % 1
    targets = [_targets()[0], {**_targets()[0], "label": 3}, {**_targets()[0], "boxes": BOX + 1}]
    batches = [(IMAGES[:1], [target]) for target in targets] + [(other[None], targets[:1])]
    ids = [as_batch(read(batch), NONE).image_ids[0] for batch in batches]
    assert len(set(ids)) == 4


def _targets() -> list[dict[str, torch.Tensor]]:
    pairs = zip(OWN.boxes, OWN.object_labels, strict=True)
    return [{"boxes": boxes, "labels": labels} for boxes, labels in pairs]
