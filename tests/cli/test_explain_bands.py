"""``verisal explain`` of a network of 13 bands, on TIFF files that the test writes."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import timm
import torch
from PIL import Image

from verisal.cli import main
from verisal.data import ImageReader
from verisal.models import Classifier
from verisal.saliency import Gradient, Occlusion

BANDS = 13


@pytest.fixture
def scenes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet", in_chans=BANDS, num_classes=4).state_dict(), "network.pt")
    generator = np.random.default_rng(0)
    Path("scenes").mkdir()
    for number in range(2):
        bands = generator.integers(0, 3000, (BANDS, 48, 48)).astype(np.uint16)
        # Reflectances: the fourth band is bright at the top, the eighth at the left.
        bands[3, :24] += 6000
        bands[7, :, :24] += 4000
        tifffile.imwrite(f"scenes/{number}.tif", bands, photometric="minisblack")
    return tmp_path


WORDS = [
    "explain", "scenes", "--classifier=timm:test_resnet", "--weights=network.pt",
    f'--arguments={{"in_chans":{BANDS},"num_classes":4}}', "--class_names=[crop,forest,sea,town]",
    f"--channels={BANDS}", "--bounds=[0,10000]", "--mean=[1500]", "--std=[1500]", "--image_size=48",
    "--saliency=Occlusion", "--saliency.window=12", "--saliency.stride=12", "--device=cpu",
]  # fmt: skip


def test_bands_are_explained_and_shown_as_the_three_that_are_asked_for(scenes, capsys):
    assert main([*WORDS, "--output=default"]) == 0
    assert main([*WORDS, "--display_channels=[3,7,3]", "--output=chosen"]) == 0
    assert "0.tif: " in capsys.readouterr().out
    for output in ("default", "chosen"):
        assert np.load(f"{output}/0.tif.npz")["saliency"].shape == (2, 1, 48, 48)
    figures = [
        np.asarray(Image.open(f"{name}/0.tif.explained.png").convert("RGB")) for name in ("default", "chosen")
    ]
    assert not np.array_equal(*figures)
    # Where only the fourth band is bright, magenta is; where only the eighth is, green.
    colours = figures[1].reshape(-1, 3).astype(int)
    assert ((colours[:, 0] > 150) & (colours[:, 1] < 100) & (colours[:, 2] > 150)).sum() > 200
    assert ((colours[:, 1] > 150) & (colours[:, 0] < 100) & (colours[:, 2] < 100)).sum() > 200


def test_channels_that_there_are_not_are_refused_before_anything_is_written(scenes, capsys):
    assert main([*WORDS, "--display_channels=[3,7,13]"]) == 2
    assert "display_channels must be three numbers of channels from 0 to 12" in capsys.readouterr().err
    assert not Path("explanations").exists()


def test_python_gives_the_maps_of_the_command(scenes):
    assert main([*WORDS, "--output=out"]) == 0
    network = timm.create_model("test_resnet", in_chans=BANDS, num_classes=4)
    network.load_state_dict(torch.load("network.pt"))
    classifier = Classifier(network.eval(), normalization=(1500, 1500), bounds=(0, 10000), image_size=48)
    image = ImageReader.of(classifier)("scenes/0.tif")[None]
    assert image.shape == (1, BANDS, 48, 48)
    found = np.load("out/0.tif.npz")
    query = torch.from_numpy(found["query"])[:1]
    own = Occlusion(window=12, stride=12)(classifier, image, query)
    assert np.allclose(own.saliency[0].numpy(), found["saliency"][0], atol=1e-5)
    assert Gradient()(classifier, image, query).attribution.shape == image.shape
