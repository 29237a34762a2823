"""Publications to loggers whose packages are not installed: what their documented calls are given."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loggers.logger import DummyLogger
from PIL import Image

from verisal.reporting.loggers import folder_of, publish
from verisal.reporting.publication import Picture, Publication, Table
from verisal.results import Curve

PIXELS = np.zeros((4, 5, 3), dtype=np.uint8)
PUBLICATION = Publication(
    {"Insertion[gauss]": (Curve("a", "one", torch.tensor([0.0, 1.0]), torch.tensor([0.5, 1.0]), "x", "y"),)},
    {"saliency": (Picture(PIXELS, "cat"),)},
    {"main": Table(("", "value"), (("one", 0.5),))},
)


class Given(Logger):
    """With an experiment of a kind."""

    name, version, save_dir = "given", "7", None

    def __init__(self, experiment=None):
        super().__init__()
        self.experiment = experiment

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


class Field:
    def __init__(self, calls, path):
        self.calls, self.path = calls, path

    def append(self, value, *, step=None, description=None):
        self.calls[self.path] = (value, step, description)

    def upload(self, value):
        self.calls[self.path] = value


class Neptune(dict):
    def __getitem__(self, path):
        return Field(self, path)

    def get_structure(self):
        return dict(self)


def published(experiment, tmp_path):
    return publish(Given(experiment), PUBLICATION, step=6, epoch=1, folder=tmp_path)


def test_neptune_gets_series_of_pictures_and_files_of_tables(tmp_path, monkeypatch):
    file = SimpleNamespace(from_content=lambda content, *, extension: (content, extension))
    monkeypatch.setitem(sys.modules, "neptune.types", SimpleNamespace(File=file))
    run = Neptune()
    assert published(run, tmp_path) is None
    assert list(run) == [
        "verisal/curves/insertion_gauss",
        "verisal/panels/saliency_0",
        "verisal/tables/main",
    ]
    assert run.get("verisal/tables/main") == (",value\none,0.5\n", "csv")
    picture, step, caption = run.get("verisal/panels/saliency_0")
    assert isinstance(picture, Image.Image)
    assert (picture.size, step, caption) == ((5, 4), 6, "cat")


def test_neptune_of_the_third_kind_gets_files(tmp_path):
    calls = []
    published(SimpleNamespace(log_files=lambda files, step: calls.append((files, step))), tmp_path)
    ((files, step),) = calls
    assert step == 6
    assert files["panels/saliency_0"].startswith(b"\x89PNG")
    assert files["tables/main.csv"] == b",value\none,0.5\n"


def test_comet_gets_images_and_tables(tmp_path):
    images, tables = [], []
    experiment = SimpleNamespace(
        log_image=lambda image_data, name, *, step: images.append((image_data.shape, name, step)),
        log_table=lambda filename, tabular_data, headers: tables.append((filename, tabular_data, headers)),
    )
    published(experiment, tmp_path)
    assert [name for _, name, _ in images] == ["curves/insertion_gauss", "panels/saliency_0"]
    assert images[1] == ((4, 5, 3), "panels/saliency_0", 6)
    assert tables == [("tables/main.csv", [["one", 0.5]], ["", "value"])]


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({}, "given/7"),
        ({"version": 2}, "given/version_2"),
        ({"name": None, "version": None}, ""),
        ({"name": "", "version": ""}, ""),
    ],
)
def test_the_folder_of_a_logger_is_where_lightning_keeps_its_checkpoints(tmp_path, settings, place):
    logger = type("Other", (Given,), settings)()
    assert folder_of(logger, tmp_path) == tmp_path / place
    assert folder_of(type("Saving", (Given,), {"save_dir": "runs", **settings})(), tmp_path) == (
        type(tmp_path)("runs") / place
    )


def test_a_fast_development_run_publishes_nothing(tmp_path):
    assert publish(DummyLogger(), PUBLICATION, step=1, epoch=0, folder=tmp_path) is None
    assert list(tmp_path.iterdir()) == []
