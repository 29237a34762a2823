"""CIFAR, SVHN, STL-10, MNIST and FashionMNIST in their forms on disk, with a few images of known content.

torchvision compares check sums of most files; ``written`` gives those of the files here in their place.
"""

import hashlib
import pickle
import struct

import numpy as np
import torch
from scipy.io import savemat
from torchvision import datasets

STL_NAMES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
CIFAR_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def pictures(count, channels, side, *, seed):
    """Pictures ``(N, C, side, side)`` uint8 with a bright bar at the place of the class, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 90, (count, channels, side, side), generator=generator, dtype=torch.uint8)
    labels = [number % 10 for number in range(count)]
    for image, label in zip(images, labels, strict=True):
        start = label * side // 11
        image[:, :, start : start + side // 8] += 150
    return images, labels


def make_cifar(root, name, *, count=20):
    """``CIFAR10`` or ``CIFAR100``; gives the check sums as changes to torchvision's class."""
    kind = getattr(datasets, name)
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    hundred = name == "CIFAR100"
    sums = {}

    def write(file, content):
        data = pickle.dumps(content, protocol=2)
        (folder / file).write_bytes(data)
        sums[file] = hashlib.md5(data, usedforsecurity=False).hexdigest()

    for part, files in (("train", kind.train_list), ("test", kind.test_list)):
        for number, (file, _) in enumerate(files):
            seed = number if part == "train" else 99
            images, labels = pictures(count, 3, 32, seed=seed)
            # Rows of 3072: all reds, greens and blues of a picture.
            write(file, {"data": images.flatten(1).numpy(), "fine_labels" if hundred else "labels": labels})
    names = [f"class {number}" for number in range(100)] if hundred else list(CIFAR_NAMES)
    write(kind.meta["filename"], {kind.meta["key"]: names})
    return {
        "train_list": [[file, sums[file]] for file, _ in kind.train_list],
        "test_list": [[file, sums[file]] for file, _ in kind.test_list],
        "meta": kind.meta | {"md5": sums[kind.meta["filename"]]},
    }


def make_svhn(root, *, count=20):
    """SVHN's files of training and test images; the digit 0 is written as 10."""
    root.mkdir(parents=True, exist_ok=True)
    listed = {}
    for part in ("train", "test"):
        images, labels = pictures(count, 3, 32, seed=1 if part == "train" else 99)
        written = np.array([[label or 10] for label in labels], dtype=np.uint8)
        url, file, _ = datasets.SVHN.split_list[part]
        savemat(root / file, {"X": images.permute(2, 3, 1, 0).numpy(), "y": written})
        listed[part] = [url, file, hashlib.md5((root / file).read_bytes(), usedforsecurity=False).hexdigest()]
    return {"split_list": datasets.SVHN.split_list | listed}


def make_stl(root, *, count=20):
    """STL-10's binary files: columns before rows, labels from 1."""
    folder = root / datasets.STL10.base_folder
    folder.mkdir(parents=True)
    changes = {}
    for name, seed in (("train_list", 1), ("test_list", 99)):
        listed = []
        images, labels = pictures(count, 3, 96, seed=seed)
        for file, _ in getattr(datasets.STL10, name):
            data = images.transpose(2, 3).contiguous().numpy() if "_X" in file else np.uint8(labels) + 1
            (folder / file).write_bytes(np.ascontiguousarray(data).tobytes())
            listed.append(
                [file, hashlib.md5((folder / file).read_bytes(), usedforsecurity=False).hexdigest()]
            )
        changes[name] = listed
    (folder / datasets.STL10.class_names_file).write_text("\n".join(STL_NAMES))
    return changes


def make_idx(root, name, *, count=20):
    """The four files of ``MNIST`` or ``FashionMNIST``, whose check sums are not compared."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    for part, seed in (("train", 1), ("t10k", 99)):
        images, labels = pictures(count, 1, 28, seed=seed)
        for kind, values in (("images-idx3", images[:, 0].numpy()), ("labels-idx1", np.uint8(labels))):
            head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + values.tobytes())
    return {}


def make_packed(root, name, patch, **settings):
    """The set of this name under ``root``; ``patch`` is pytest's monkeypatch."""
    makers = {"SVHN": make_svhn, "STL10": make_stl}
    if name in makers:
        changes = makers[name](root, **settings)
    else:
        changes = (make_cifar if name.startswith("CIFAR") else make_idx)(root, name, **settings)
    for attribute, value in changes.items():
        patch.setattr(getattr(datasets, name), attribute, value)
    return str(root)
