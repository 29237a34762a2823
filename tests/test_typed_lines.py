"""What a newcomer types first, on a network that nobody has told us about."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MetricCollection
from torchvision.models import resnet18

import verisal
from verisal.attacks import PGD
from verisal.detectors import DetectorFeatures
from verisal.errors import ConfigError, DataError
from verisal.metrics import EnergyInside, PointingGame
from verisal.models import Classifier, Normalization, load_classifier
from verisal.saliency import GradCAM, Gradient


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True).stdout  # noqa: S603


def test_rooms_are_found_after_import_verisal():
    code = "import sys, verisal; print('torch' in sys.modules, 'saliency' in dir(verisal))"
    assert python(code) == "False True\n"
    assert python("import verisal; print(verisal.saliency.GradCAM())") == "GradCAM(stage=None)\n"


def test_rooms_are_ordinary_modules():
    rooms = [name for name in dir(verisal) if not name.startswith("_")]
    assert {"saliency", "attacks", "metrics", "callbacks", "types", "errors"} <= set(rooms)
    for name in rooms:
        assert getattr(verisal, name) is sys.modules[f"verisal.{name}"]
    method = verisal.saliency.SmoothGrad(samples=3)
    assert pickle.loads(pickle.dumps(method)) == copy.deepcopy(method) == method  # noqa: S301 - our own
    with pytest.raises(AttributeError, match=r"no attribute 'salency'; did you mean verisal\.saliency"):
        _ = verisal.salency
    with pytest.raises(AttributeError, match="no attribute 'resnet18'; its parts are attacks, "):
        _ = verisal.resnet18
    assert not hasattr(verisal, "__wrapped__")


def test_type_checkers_know_every_room():
    """They do not run ``__getattr__``."""
    source = Path(verisal.__file__).read_text()
    for name in dir(verisal):
        if not name.startswith("_"):
            assert f"from verisal import {name} as {name}\n" in source


x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
y = torch.tensor([0, 3])


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return resnet18(num_classes=5).eval()


@pytest.mark.parametrize("method", [Gradient(), GradCAM()], ids=["Gradient", "GradCAM"])
def test_method_net_images(method, net):
    result = method(net, x)
    predicted = net(x).argmax(dim=1)
    assert result.query_class.equal(predicted)
    torch.testing.assert_close(result.saliency, method(net, x, predicted).saliency)
    assert float(result.saliency.std()) > 0


def test_one_class_for_every_image(net):
    result = Gradient()(net, x, 3)
    images = x.clone().requires_grad_()
    gradient = torch.autograd.grad(net(images)[:, 3].sum(), images)[0]
    torch.testing.assert_close(result.attribution, gradient)
    assert result.query_class.tolist() == [3, 3]


@pytest.mark.parametrize("around", [Classifier, load_classifier])
def test_a_classifier_asks_for_the_normalisation(around, net):
    with pytest.raises(
        ConfigError, match=r"^the network ResNet does not say how it normalises; give norm"
    ) as said:
        around(net)
    assert "0.5" not in str(said.value)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    named, told = around(net, normalization="imagenet"), around(net, normalization=(mean, std))
    expected = net((x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))
    torch.testing.assert_close(named(x), expected)
    torch.testing.assert_close(told(x), expected)
    torch.testing.assert_close(around(net, normalization="none")(x), net(x))
    assert named.num_classes == 5


def test_normalised_images_are_not_taken_for_images(net):
    normalised = Normalization((0.5,), (0.25,)).apply(x)
    for line in (lambda: Gradient()(net, normalised), lambda: PGD(eps=8 / 255)(net, normalised, y)):
        with pytest.raises(DataError, match=r"look normalised: .*Classifier"):
            line()


def test_an_attack_needs_no_generator(net):
    result = PGD(eps=8 / 255)(net, x, y)
    assert result.images.equal(PGD(eps=8 / 255)(net, x, y, generator=torch.Generator().manual_seed(0)).images)
    assert float((result.images - x).abs().max()) <= 8 / 255 + 1e-6
    assert not result.images.equal(x)


def test_metrics_take_maps_and_masks(net):
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    maps = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    row, column = divmod(int(maps[0].argmax()), 64)
    masks[0, row, column] = True
    masks[1, :4] = maps[1, 0, :4] < 0
    masks[1, 0, 0] = True
    metric = PointingGame()
    metric.update(maps, masks)
    assert float(metric.compute()) == 0.5
    both = MetricCollection([PointingGame(), EnergyInside()])
    both.update(maps, masks)
    assert float(both.compute()["PointingGame"]) == 0.5

    class Logs(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.metric = PointingGame()

        def validation_step(self, batch: list[Tensor]) -> None:
            self.metric.update(*batch)
            self.log("pointing", self.metric)

    loader = DataLoader(TensorDataset(maps, masks), batch_size=1)
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    assert trainer.validate(Logs(), loader, verbose=False) == [{"pointing": 0.5}]


def test_views_may_be_a_list():
    assert DetectorFeatures(views=["original", "shifted"]) == DetectorFeatures(views=("original", "shifted"))


def test_a_result_is_a_picture(net):
    result = GradCAM()(net, x)
    assert len(repr(result)) < 250
    assert result._repr_png_().startswith(b"\x89PNG")
    pictures = result.overlay(x)
    assert (pictures.shape, str(pictures.dtype)) == ((2, 64, 64, 3), "uint8")
    assert isinstance(result.plot(x), Figure)
