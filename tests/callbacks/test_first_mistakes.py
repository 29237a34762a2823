"""What newcomers write first, and the sentence that each of it gets."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import BinaryAccuracy

from helpers.strangers import Stranger, loader, normalised, trainer
from verisal.callbacks import SaliencyMetrics, SaliencyPanels
from verisal.errors import ConfigError
from verisal.metrics import PerturbationCurve, PointingGame
from verisal.saliency import Gradient


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        (Gradient(), "must be a list, or a dict of names and methods, found Gradient"),
        ([Gradient], "found the class Gradient"),
        ({"gradient": "Gradient"}, "found str 'Gradient'"),
        ([lambda classifier, images, query: images], "functions into CallableAdapter"),
    ],
)
def test_what_is_no_method_is_named(methods, words):
    with pytest.raises(ConfigError, match=words):
        SaliencyPanels(methods)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [
        (PointingGame(), r"must be a list .*found PointingGame"),
        ([PointingGame], "found the class PointingGame"),
        (["deletion"], "found str 'deletion'"),
        ([BinaryAccuracy()], "found BinaryAccuracy"),
    ],
)
def test_what_is_no_metric_is_named(metrics, words):
    with pytest.raises(ConfigError, match=words):
        SaliencyMetrics([Gradient()], metrics)


def _validated(module, images):
    data = DataLoader(TensorDataset(images, torch.arange(len(images)) % 3), 4)
    callback = SaliencyMetrics([Gradient()], [PerturbationCurve("deletion", steps=2)], resamples=0)
    trainer(callback).validate(module, data, verbose=False)
    return callback.evaluation


def test_grey_images_are_explained():
    module = Stranger()
    module.net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = _validated(module, torch.rand(4, 1, 16, 16))
    assert found.counts["explained images"] == 4
    assert 0 < found.logged_scores["val/gradient/deletion"].value < 1


def test_floats_of_0_to_255_get_the_normalisation_to_say():
    with pytest.raises(ConfigError, match=r"normalization=\(0.0, 1 / 255\)"):
        _validated(Stranger(), torch.randint(0, 256, (4, 3, 16, 16)).float())


@pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no:UserWarning")
@pytest.mark.parametrize("missing", ["a validation loader", "its turn"])
def test_a_fit_in_which_nothing_is_explained_says_so(missing):
    turn = 2 if missing == "its turn" else 1
    callback = SaliencyPanels([Gradient()], every_n_epochs=turn)
    loaders = (loader(normalised()),) * (2 if missing == "its turn" else 1)
    with pytest.warns(UserWarning, match="SaliencyPanels has explained nothing in this fit"):
        trainer(callback, max_epochs=1).fit(Stranger(), *loaders)
