"""Images of several sizes, and images that are not square, in a run: each is scored as it is alone."""

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from helpers.strangers import Stranger, trainer
from verisal.callbacks import PerturbationCurves, SaliencyMetrics, SaliencyPanels
from verisal.data import SizeGroups
from verisal.errors import ConfigError
from verisal.functional.baselines import Constant
from verisal.metrics import PerturbationCurve
from verisal.saliency import RISE, GradCAM, Gradient, Occlusion

SIZES = [(16, 16), (16, 24), (28, 16), (16, 24), (16, 16), (16, 24), (17, 19)]


class Mixed(Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(2)
        self.images = [torch.rand(3, *size, generator=generator) for size in SIZES]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index % 4


def evaluated(loader):
    methods = {
        "gradient": Gradient(),
        "grad_cam": GradCAM(),
        "occlusion": Occlusion(window=(8, 6), stride=4, baseline=Constant()),
        "rise": RISE(cells=3, masks=12, baseline=Constant()),
    }
    found = [
        SaliencyMetrics(methods, [PerturbationCurve("deletion", baseline=Constant(), steps=4)], resamples=10),
        PerturbationCurves({"gradient": Gradient()}, baselines=[Constant()], steps=3, resamples=10),
        SaliencyPanels({"occlusion": methods["occlusion"]}, max_images=len(SIZES)),
    ]
    trainer(*found).validate(Stranger(), loader, verbose=False)
    return [callback.evaluation for callback in found]


def test_batches_of_one_size_give_the_scores_of_every_image_alone():
    data = Mixed()
    grouped = evaluated(DataLoader(data, batch_sampler=SizeGroups(SIZES, batch_size=2)))
    alone = evaluated(DataLoader(data, batch_size=1))
    for found, expected in zip(grouped, alone, strict=True):
        assert found.scores.keys() == expected.scores.keys()
        for name, score in found.scores.items():
            assert score.value == pytest.approx(expected.scores[name].value, abs=1e-4, nan_ok=True), name
            assert score.n == expected.scores[name].n
    assert grouped[0].counts == {"explained images": len(SIZES)}
    shapes = {tuple(panel.maps["occlusion"].shape) for panel in grouped[2].panels}
    assert shapes == set(SIZES)


def test_batches_are_of_one_size_and_hold_every_image_once():
    batches = list(SizeGroups(SIZES, batch_size=2))
    assert batches == [[0, 4], [1, 3], [5], [2], [6]]
    assert len(SizeGroups(SIZES, batch_size=2)) == 5
    with pytest.raises(ConfigError, match="batch_size"):
        SizeGroups(SIZES, batch_size=0)


def test_a_batch_of_several_sizes_is_refused_with_the_way_out():
    loader = DataLoader(Mixed(), batch_size=3, collate_fn=lambda pairs: tuple(zip(*pairs, strict=True)))
    with pytest.raises(ConfigError, match=r"equally large.*group them.*SizeGroups.*never padded"):
        evaluated(loader)
