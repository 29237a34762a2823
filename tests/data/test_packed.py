"""Data sets of packed images, read in their own forms on disk."""

import pytest
import torch

from helpers.make_packed import CIFAR_NAMES, STL_NAMES, make_packed, pictures
from verisal.cli import main
from verisal.data import (
    CIFAR10,
    CIFAR100,
    MNIST,
    STL10,
    SVHN,
    AnnotatedImages,
    FashionMNIST,
    ImagesLike,
    ImageSplits,
    check_data,
)
from verisal.errors import DataError

SETS = {kind.__name__: kind for kind in (CIFAR10, CIFAR100, SVHN, STL10, MNIST, FashionMNIST)}
SHAPES = {"STL10": (3, 96), "MNIST": (1, 28), "FashionMNIST": (1, 28)}


@pytest.mark.parametrize("name", SETS)
def test_images_and_labels_of_the_test_part_are_those_of_the_files(name, tmp_path, monkeypatch):
    root = make_packed(tmp_path, name, monkeypatch)
    channels, side = SHAPES.get(name, (3, 32))
    listing = SETS[name](root=root).listing()
    images, labels = pictures(20, channels, side, seed=99)
    assert len(listing.records) == 20
    for number, record in enumerate(listing.records):
        assert record.image_id == f"test-{number}"
        assert record.pixels.equal(images[number])
        assert record.class_name == listing.class_names[labels[number]]
    assert len(listing.class_names) == (100 if name == "CIFAR100" else 10)


def test_names_of_classes_are_those_of_the_set(tmp_path, monkeypatch):
    def names(name):
        return SETS[name](root=make_packed(tmp_path / name, name, monkeypatch)).listing().class_names

    assert names("CIFAR10") == CIFAR_NAMES
    assert names("STL10") == STL_NAMES
    # Written as 10 in the file, read as the digit 0.
    assert names("SVHN") == names("MNIST") == tuple("0123456789")
    assert names("FashionMNIST")[0] == "T-shirt/top"


def test_the_training_part_joins_its_files(tmp_path, monkeypatch):
    found = CIFAR10(root=make_packed(tmp_path, "CIFAR10", monkeypatch, count=10), part="train").listing()
    assert [record.image_id for record in found.records] == [f"train-{number}" for number in range(50)]
    for number in range(5):
        images, _ = pictures(10, 3, 32, seed=number)
        assert torch.stack([r.pixels for r in found.records[10 * number : 10 * (number + 1)]]).equal(images)


def test_splits_check_and_command_line_take_them_as_any_set(tmp_path, monkeypatch, capsys):
    root = make_packed(tmp_path, "CIFAR10", monkeypatch)
    splits = ImageSplits(
        images=CIFAR10(root=root, part="train"), test_images=CIFAR10(root=root), ratios=(0.8, 0.2, 0)
    )
    like = ImagesLike(class_names=CIFAR_NAMES, image_size=32, channels=3)
    parts = {split: AnnotatedImages(splits, split, classifier=like) for split in ("fit", "val", "test")}
    assert len(parts["test"]) == 20
    assert len(parts["fit"]) + len(parts["val"]) == 100
    images, labels = pictures(20, 3, 32, seed=99)
    sample = parts["test"][3]
    number = int(sample.image_id.removeprefix("test-"))
    assert (sample.image * 255).round().byte().equal(images[number])
    assert sample.label == labels[number]
    report = check_data(CIFAR10(root=root))
    assert (report.images, report.problems) == (20, ())
    assert main(["data", "check", root, "--format", "cifar10"]) == 0
    assert "20" in capsys.readouterr().out


def test_a_folder_without_the_set_says_what_to_do(tmp_path):
    for kind in SETS.values():
        with pytest.raises(DataError, match="set download to fetch it, or give the folder"):
            kind(root=str(tmp_path)).listing()


def test_a_damaged_file_is_not_read(tmp_path, monkeypatch):
    root = make_packed(tmp_path, "CIFAR10", monkeypatch)
    file = tmp_path / "cifar-10-batches-py" / "test_batch"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="not found or corrupted"):
        CIFAR10(root=root).listing()
