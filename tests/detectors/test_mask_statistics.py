import math

import pytest
import torch

from helpers.detector_cases import ToyGates, ToyMasks, toy_classifier, toy_images
from verisal.detectors import ChannelGates, MaskForest, MaskStatistics, SalientPixels
from verisal.detectors.masks import map_dispersion, ranked_rows
from verisal.errors import ConfigError, DataError
from verisal.functional.statistics import auroc
from verisal.types import SaliencyResult


def test_dispersion_of_a_map_worked_by_hand():
    found = map_dispersion(torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]))[0].tolist()
    entropy = -sum(p * math.log(p) for p in (1 / 6, 2 / 6, 3 / 6))
    # Neighbours differ by 1 across (twice) and by 2 down (twice).
    assert found == pytest.approx([1.5, 3.0, math.sqrt(1.25), 1.5, entropy, 1.5])


def test_dispersion_of_an_empty_map_and_of_one_pixel_is_finite():
    assert map_dispersion(torch.zeros(1, 3, 3)).tolist() == [[0.0] * 6]
    assert map_dispersion(torch.full((1, 1, 1), 2.0)).tolist() == [[2.0, 2.0, 0.0, 0.0, 0.0, 0.0]]


def test_quartiles_are_those_of_linear_interpolation():
    maps = torch.rand(5, 3, 7, generator=torch.Generator().manual_seed(0))
    low, high = maps.flatten(1).quantile(torch.tensor([0.25, 0.75]), dim=1)
    torch.testing.assert_close(map_dispersion(maps)[:, 3], high - low)


def planted(count=80, *, seed=0):
    """Attacked rows have spread-out masks of the same mean, and a higher second channel gate."""
    rng = torch.Generator().manual_seed(seed)
    adversarial = torch.arange(count) >= count // 2
    width = torch.where(adversarial, 0.4, 0.1)[:, None, None, None]
    masks = 1 + width * (torch.rand(count, 3, 5, 5, generator=rng) - 0.5)
    gates = torch.rand(count, 4, generator=rng)
    gates[adversarial, 1] += 1.2
    return {"masks/prediction/1": masks.half(), "gates/1": gates}, adversarial


@pytest.mark.parametrize("make", [MaskStatistics, MaskForest])
def test_planted_difference_is_found_on_new_images(make):
    detector = make(source=ToyMasks())
    measured, adversarial = planted()
    detector.fit(measured, adversarial, ~adversarial, seed=1)
    asked, truth = planted(seed=9)
    scores = detector.judge(asked)
    assert auroc(scores[truth], scores[~truth]) > 0.97


def test_forest_answers_with_shares_not_with_hard_predictions():
    detector = MaskForest(source=ToyMasks())
    measured, adversarial = planted()
    detector.fit(measured, adversarial, ~adversarial)
    assert len(detector.judge(planted(seed=9)[0]).unique()) > 20


def test_forest_grows_by_its_seed():
    measured, adversarial = planted()
    scores = []
    for seed in (0, 0, 1):
        detector = MaskForest(source=ToyMasks(), trees=20)
        detector.fit(measured, adversarial, ~adversarial, seed=seed)
        scores.append(detector.judge(planted(seed=9)[0]))
    assert scores[0].equal(scores[1])
    assert not scores[0].equal(scores[2])


def test_first_channel_alone_is_read():
    measured, adversarial = planted()
    detector = MaskStatistics(source=ToyMasks())
    detector.fit(measured, adversarial, ~adversarial)
    changed = measured["masks/prediction/1"].clone()
    changed[:, 1:] = 7
    assert detector.judge(measured).equal(detector.judge({"masks/prediction/1": changed}))


def test_a_name_that_matches_nothing_is_refused_with_what_there_is():
    measured, adversarial = planted()
    with pytest.raises(ConfigError, match=r"named like 'mask/\*'; measured are gates/1, masks/prediction/1"):
        MaskStatistics(source=ToyMasks(), reads=("mask/*",)).fit(measured, adversarial, ~adversarial)


def test_too_few_images_and_settings_out_of_range_are_refused():
    measured, adversarial = planted()
    for make in (MaskStatistics, MaskForest):
        with pytest.raises(DataError, match="at least 4 clean images to fit, found 0"):
            make(source=ToyMasks()).fit(measured, adversarial, torch.zeros_like(adversarial))
        with pytest.raises(ConfigError, match="name"):
            make(source=ToyMasks(), reads=())
    with pytest.raises(ConfigError, match="at least 1 tree"):
        MaskForest(source=ToyMasks(), trees=0)


class Asked:
    """Remembers which class it was asked for; its map is 0.5 on the left half."""

    def __init__(self):
        self.query = None

    def gate_settings(self):
        return {}

    def find(self, classifier, images, query_class):
        self.query = query_class
        return ToyGates().find(classifier, images, query_class)

    def __call__(self, classifier, images, query_class):
        self.query = query_class
        maps = torch.zeros(len(images), 1, 12, 12)
        maps[..., :6] = 0.5
        return SaliencyResult(saliency=maps, raw=maps)


@pytest.mark.parametrize("make", [ChannelGates, SalientPixels])
def test_class_that_is_explained_is_the_prediction_on_that_very_input(make):
    classifier, images, saliency = toy_classifier(), toy_images(6), Asked()
    make(saliency=saliency)(classifier, images)
    with torch.no_grad():
        assert saliency.query.equal(classifier(images).argmax(dim=1))


def test_channel_gates_are_means_over_positions():
    classifier, images = toy_classifier(), toy_images(3)
    found = ChannelGates(saliency=ToyGates())(classifier, images)
    gates = ToyGates().gates(classifier, images, torch.zeros(3, dtype=torch.int64))
    assert list(found) == ["gates/1", "gates/2"]
    torch.testing.assert_close(found["gates/2"], gates[1].mean(dim=(2, 3)))


def test_salient_pixels_are_the_image_times_its_map():
    images = toy_images(2)
    found = SalientPixels(saliency=Asked())(toy_classifier(), images)["salient/image"]
    assert found[..., :6].equal((images[..., :6] * 0.5).half())
    assert not found[..., 6:].any()


def test_rows_are_ranked_alike_in_any_number_of_threads(monkeypatch):
    values = torch.rand(5, 40_000, generator=torch.Generator().manual_seed(0))
    for threads in (1, 2, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert ranked_rows(values).equal(values.sort(dim=1).values)
