"""Normalisations are read from whatever a project says them with, and never guessed."""

import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset
from torchvision import transforms
from torchvision.transforms import v2

from verisal.errors import ConfigError
from verisal.models import Classifier, Normalization, load_classifier

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET = Normalization(MEAN, STD)
OTHER = transforms.Normalize((0.5,), (0.5,))


def timm():
    return pytest.importorskip("timm")


def albumentations():
    return pytest.importorskip("albumentations")


def processor(**settings):
    known = {"image_mean": list(MEAN), "image_std": list(STD)}
    return pytest.importorskip("transformers").ViTImageProcessor(**{**known, **settings})


def data_set(transform):
    return torchvision.datasets.FakeData(4, (3, 8, 8), 2, transform=transform)


class Wrapped(Dataset):
    """A data set of a project's own: samples, a network for features, and others inside."""

    def __init__(self, inner, transform=None):
        self.samples = [("a.png", 0)] * 1000
        self.features = timm().create_model("resnet10t", channels=(4, 4, 4, 4), stem_width=4)
        self.mean, self.std = 0.1, 0.2
        self.inner, self.augment = inner, transform

    def __getitem__(self, index):
        return self.inner[index]


class Jointly:
    """Transforms of image and mask together, as segmentation scripts write them."""

    def __init__(self, *steps):
        self.transforms = steps

    def __call__(self, image, mask):
        return image, mask


TOLD = {
    "itself": lambda: IMAGENET,
    "word": lambda: "imagenet",
    "pair": lambda: (MEAN, STD),
    "pair of tensors": lambda: [torch.tensor(MEAN), torch.tensor(STD).numpy()],
    "mapping": lambda: {"mean": MEAN, "std": STD, "input_size": (3, 8, 8)},
    "timm config": lambda: timm().create_model("resnet10t").pretrained_cfg,
    "timm network": lambda: timm().create_model("resnet10t"),
    "timm transform": lambda: timm().data.create_transform((3, 32, 32), is_training=True),
    "weights": lambda: torchvision.models.ResNet18_Weights.DEFAULT,
    "preset": lambda: torchvision.models.ResNet18_Weights.DEFAULT.transforms(),
    "Normalize": lambda: transforms.Normalize(MEAN, STD),
    "Normalize v2": lambda: v2.Normalize(MEAN, STD),
    "Compose": lambda: transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)]),
    "Compose v2": lambda: v2.Compose([v2.ToImage(), v2.Compose([v2.Normalize(MEAN, STD)])]),
    "list": lambda: [transforms.ToTensor(), transforms.Normalize(MEAN, STD)],
    "Sequential": lambda: nn.Sequential(transforms.CenterCrop(8), transforms.Normalize(MEAN, STD)),
    "albumentations": lambda: albumentations().Compose(
        [albumentations().HorizontalFlip(), albumentations().Normalize(MEAN, STD)]
    ),
    "processor": processor,
    "data set": lambda: data_set(
        transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    ),
    "joint transform": lambda: Wrapped(None, Jointly(transforms.Normalize(MEAN, STD))),
    "parts of data sets": lambda: DataLoader(
        ConcatDataset([Subset(data_set(v2.Normalize(MEAN, STD)), [0, 1]), data_set(v2.Normalize(MEAN, STD))])
    ),
    "data set of one's own": lambda: Wrapped(Subset(data_set(v2.Normalize(MEAN, STD)), [0])),
}


@pytest.mark.parametrize("form", TOLD)
def test_every_form_says_the_same(form):
    assert Normalization.of(TOLD[form]()) == IMAGENET


def test_none_leaves_images_of_any_number_of_channels_as_they_are():
    images = torch.rand(2, 5, 4, 4)
    none = Normalization.of("none")
    assert none.apply(images).equal(images)
    assert none.undo(images).equal(images)


def test_applied_and_undone():
    normalization = Normalization.of(((0.5, 0.25, 0.0), (0.5, 0.25, 2.0)))
    images = torch.tensor([1.0, 0.5, 1.0]).view(1, 3, 1, 1)
    assert normalization.apply(images).flatten().tolist() == [1.0, 1.0, 0.5]
    assert normalization.undo(normalization.apply(images)).equal(images)
    assert normalization.apply(images.half()).dtype == torch.float16


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [64.0] * 3},
        {"rescale_factor": 1 / 127.5},
        {"do_rescale": False, "do_normalize": False},
    ],
)
def test_an_image_processor_is_read_as_it_works(settings):
    made = processor(size={"height": 2, "width": 2}, do_resize=False, **settings)
    byte = torch.randint(0, 256, (1, 3, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = made(list(byte), return_tensors="pt")["pixel_values"].float()
    applied = Normalization.of(made).apply(byte / 255)
    torch.testing.assert_close(applied, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("mean", "std", "one"),
    [(MEAN, STD, 255.0), ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 1.0)],
)
def test_normalize_of_albumentations_is_read_as_it_works(mean, std, one):
    byte = torch.randint(0, 256, (4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = albumentations().Normalize(mean, std, max_pixel_value=one)
    expected = torch.from_numpy(made(image=byte.numpy())["image"]).permute(2, 0, 1)
    applied = Normalization.of(made).apply(byte.permute(2, 0, 1) / 255)
    torch.testing.assert_close(applied, expected, rtol=1e-4, atol=1e-4)


UNCLEAR = {
    "no normalisation was found in ToTensor": transforms.ToTensor,
    "no normalisation was found in this ResNet": torchvision.models.resnet18,
    "normalization 'image net' is not known": lambda: "image net",
    # What a network normalises inside of itself is done to images in [0, 1].
    "no normalisation was found in this Sequential": lambda: nn.Sequential(
        transforms.Normalize(MEAN, STD), nn.Conv2d(3, 3, 1)
    ),
    r"different normalisations: mean \[0.485.* and mean \[0.5\], std \[0.5\]": lambda: ConcatDataset(
        [data_set(v2.Normalize(MEAN, STD)), data_set(OTHER)]
    ),
    "normalises more than once": lambda: transforms.Compose([OTHER, OTHER]),
    "normalises a share of 0.5 of the images": lambda: transforms.RandomApply([OTHER]),
    "does not do the same to every image": lambda: albumentations().Normalize(normalization="image"),
    r"mean \[123.0, 116.0, 103.0\] is in units of 0 to 255": lambda: ((123, 116, 103), (58, 57, 57)),
    "mean and std must be finite numbers": lambda: ((0.5, 0.5, 0.5), (0.5, 0.5)),
    "std positive": lambda: {"mean": [0.5], "std": [0.0]},
    "no normalisation was found in None": lambda: None,
    "no normalisation was found in 0.5": lambda: 0.5,
}


@pytest.mark.parametrize("message", UNCLEAR)
def test_what_is_not_clear_is_a_question(message):
    with pytest.raises(ConfigError, match=message):
        Normalization.of(UNCLEAR[message]())


def test_a_classifier_has_no_normalisation_that_nobody_said():
    network = torchvision.models.resnet18(num_classes=3)
    for make in (Classifier, load_classifier):
        with pytest.raises(ConfigError, match="ResNet does not say how it normalises; give normalization="):
            make(network)
    with pytest.raises(ConfigError, match=r"2 numbers, .* 3 channels, of the first convolution of R"):
        Classifier(network, normalization=((0.1, 0.2), (0.3, 0.4)))


def test_a_network_of_timm_says_its_normalisation_itself():
    network = timm().create_model("resnet10t", channels=(4, 4, 4, 4), stem_width=4, num_classes=3).eval()
    images = torch.rand(2, 3, 32, 32)
    classifier = Classifier(network)
    assert classifier.normalization == IMAGENET
    torch.testing.assert_close(classifier(images), network((images - classifier.mean) / classifier.std))
