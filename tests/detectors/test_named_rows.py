"""Forests, neighbour terms, spectra and numbers of gradients."""

import math

import pytest
import torch
from torch import nn

from helpers.detector_cases import ToyGates, ToyMasks, toy_classifier, toy_images
from verisal.detectors import (
    ChannelGates,
    Forest,
    GradientScalars,
    LocalIntrinsicDimension,
    Logits,
    MaskForest,
    MultiLID,
    MultiLIDForest,
    PooledActivations,
    Spectrum,
    StageSpectrum,
)
from verisal.detectors.gradients import gradient_statistics
from verisal.detectors.spectrum import log_spectrum
from verisal.detectors.statistical import growth, local_intrinsic_dimension
from verisal.errors import ConfigError, DataError
from verisal.functional.filters import shift_one_pixel
from verisal.functional.statistics import auroc

COLUMNS = 42


def planted(count=80, *, seed=0):
    """Attacked rows have a larger second value."""
    rng = torch.Generator().manual_seed(seed)
    adversarial = torch.arange(count) >= count // 2
    values = torch.rand(count, 4, generator=rng)
    values[adversarial, 1] += 1.2
    return {"gates/1": values, "one": values[:, 1], "map": values[:, :, None, None]}, adversarial


def test_forests_on_equal_vectors_are_the_same_forest():
    measured, adversarial = planted()
    forests = [Forest(source=ToyMasks(), reads=("gates/*",)), MaskForest(source=ToyMasks())]
    for forest in forests:
        forest.fit(measured, adversarial, ~adversarial, seed=3)
    asked, truth = planted(seed=9)
    scores = [forest.judge(asked) for forest in forests]
    assert scores[0].equal(scores[1])
    assert auroc(scores[0][truth], scores[0][~truth]) > 0.97


def test_a_forest_reads_vectors_and_single_values_and_no_map():
    measured, adversarial = planted()
    forest = Forest(source=ToyMasks(), reads=("one",), trees=20)
    forest.fit(measured, adversarial, ~adversarial)
    assert forest.judge(measured).shape == (80,)
    with pytest.raises(ConfigError, match=r"map is \(80, 4, 1, 1\), not a vector \(B, F\)"):
        Forest(source=ToyMasks(), reads=("map",)).fit(measured, adversarial, ~adversarial)
    with pytest.raises(ConfigError, match=r"Forest\.reads must name a measured tensor"):
        Forest(source=ToyMasks(), reads=())
    with pytest.raises(ConfigError, match="Forest needs at least 1 tree"):
        Forest(source=ToyMasks(), reads=("one",), trees=0)


def test_mask_forest_has_the_settings_that_it_had():
    settings = MaskForest(source=ChannelGates(saliency=ToyGates())).settings()
    assert settings.keys() == {"class", "source", "reads", "trees", "least_leaf"}


def test_growth_worked_by_hand_and_what_its_mean_is():
    found = growth(torch.tensor([[1.0, 2.0, 4.0], [3.0, 3.0, 3.0]]))
    assert found[0].tolist() == pytest.approx([math.log(4), math.log(2), 0.0])
    assert not found[1].any()
    rows = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    torch.testing.assert_close(local_intrinsic_dimension(rows), 1 / growth(rows).mean(dim=1))


def clouds(count=120, *, seed=0):
    """Clean rows lie on a line in three dimensions, attacked ones around it."""
    rng = torch.Generator().manual_seed(seed)
    adversarial = torch.arange(count) >= count // 2
    line = torch.rand(count, 1, generator=rng) * torch.tensor([3.0, 2.0, 1.0])
    away = torch.randn(count, 3, generator=rng) * torch.where(adversarial, 0.2, 0.002)[:, None]
    return {"pooled/1": line + away, "logits": torch.zeros(count, 2)}, adversarial


@pytest.mark.parametrize("make", [MultiLID, MultiLIDForest])
def test_images_beside_the_clean_ones_are_found(make):
    measured, adversarial = clouds()
    detector = make(neighbours=10)
    detector.fit(measured, adversarial, ~adversarial)
    asked, truth = clouds(seed=5)
    scores = detector.judge(asked)
    assert auroc(scores[truth], scores[~truth]) > 0.97


@pytest.mark.parametrize("make", [MultiLID, MultiLIDForest])
def test_neighbours_are_clean_images_and_do_not_move_with_what_is_judged(make):
    measured, adversarial = clouds()
    detector = make(neighbours=10)
    detector.fit(measured, adversarial, ~adversarial)
    asked, _ = clouds(seed=6)
    alone = detector.judge({name: tensor[:2] for name, tensor in asked.items()})
    beside = {name: torch.cat([tensor[:2], 1e3 + tensor[2:]]) for name, tensor in asked.items()}
    torch.testing.assert_close(detector.judge(beside)[:2], alone)
    few = torch.zeros_like(adversarial)
    few[:10] = True
    with pytest.raises(DataError, match="at least 11 clean images to fit, found 10"):
        make(neighbours=10).fit(measured, adversarial, few)
    with pytest.raises(ConfigError, match=f"{make.__name__}.neighbours must be at least 2, found 1"):
        make(neighbours=1)


def test_terms_are_those_of_the_dimension_stage_by_stage():
    detector, plain = MultiLID(neighbours=6), LocalIntrinsicDimension(neighbours=6)
    images, adversarial = toy_images(60), torch.arange(60) >= 30
    measured = PooledActivations()(toy_classifier(), images)
    for each in (detector, plain):
        each.fit(measured, adversarial, ~adversarial)
    terms = detector._numbers(measured).unflatten(1, (2, 5))
    torch.testing.assert_close(6 / terms.sum(dim=2), plain._numbers(measured))


def test_a_wave_stands_at_its_frequency():
    rows = torch.arange(8) / 8
    wave = torch.cos(2 * torch.pi * 3 * rows)[None, None, None].expand(1, 1, 8, 8)
    found = log_spectrum(wave, limit=1000).view(8, 5)
    # Frequencies down run from -4 to 3, those across from 0 to 4; half of the amplitude on each side.
    assert found.argmax().item() == 4 * 5 + 3
    assert found[4, 3].item() == pytest.approx(math.log(8 / 2))
    assert (found < math.log(1e-3) + 1e-3).sum().item() == 39


@pytest.mark.parametrize(
    ("channels", "limit", "count"), [(3, 1024, 1014), (1, 1024, 968), (64, 512, 512), (9, 4, 9)]
)
def test_there_are_no_more_numbers_than_asked_for_and_one_a_channel_at_least(channels, limit, count):
    found = log_spectrum(torch.rand(2, channels, 64, 64), limit=limit)
    assert found.shape == (2, count)
    assert log_spectrum(torch.rand(0, channels, 64, 64), limit=limit).shape == (0, count)


def test_spectra_are_of_the_image_and_of_the_stages():
    classifier, images = toy_classifier(), toy_images(3)
    found = Spectrum(limit=48)(classifier, images)
    assert found["spectrum"].equal(log_spectrum(images, limit=48))
    assert found["logits"].equal(classifier(images))
    found = StageSpectrum(limit=48)(classifier, images)
    assert found.keys() == {"logits", "spectrum/1", "spectrum/2"}
    activations = classifier.stage_outputs(images).activations
    torch.testing.assert_close(found["spectrum/2"], log_spectrum(activations[1], limit=48))
    for kind in (Spectrum, StageSpectrum):
        with pytest.raises(ConfigError, match="limit must be at least 1"):
            kind(limit=0)


class Linear(nn.Module):
    """Two logits: a sum with weights that differ from pixel to pixel, and nothing."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images):
        first = (images * self.weight).flatten(1).sum(dim=1)
        return torch.stack([first, torch.zeros_like(first)], dim=1)


def test_numbers_of_a_linear_classifier_are_known():
    """Its gradients are its weights, whatever the image; log odds of two classes are a difference."""
    rng = torch.Generator().manual_seed(0)
    weight = torch.rand(1, 2, 6, 6, generator=rng) - 0.45
    images = torch.rand(2, 2, 6, 6, generator=rng)
    found = GradientScalars()(Linear(weight), images)
    numbers, logits = found["gradient_scalars"], found["logits"]
    assert numbers.shape == (2, COLUMNS)
    assert bool((logits[:, 0] > 0).all())
    statistics = gradient_statistics(weight)[0]
    odds = logits[:, 0] - logits[:, 1]
    for start, view in ((0, images), (18, shift_one_pixel(images))):
        of_view = numbers[:, start : start + 18]
        torch.testing.assert_close(of_view[:, :7], statistics.expand(2, 7))
        torch.testing.assert_close(of_view[:, 7:14], statistics.expand(2, 7))
        odds = (view * weight).flatten(1).sum(dim=1).detach()
        torch.testing.assert_close(of_view[:, 14], (1 - odds.sigmoid()).log())
        for column, size in ((15, weight.abs().sum()), (16, weight.norm())):
            levels = 255 * odds / size
            torch.testing.assert_close(of_view[:, column], levels.sign() * levels.abs().log1p())
        torch.testing.assert_close(of_view[:, 17], torch.ones(2))
    # Between the views: the same weights, seen one pixel apart.
    one, two = weight[..., :-1, :-1], weight[..., 1:, 1:]
    cosine = float((one * two).sum() / one.norm() / two.norm())
    equal = float((one.sign() == two.sign()).float().mean())
    assert numbers[0, 36:].tolist() == pytest.approx([cosine, equal, cosine, equal, 0.0, 0.0], abs=1e-5)


def test_a_sure_prediction_and_a_dead_network_have_finite_numbers():
    for scale in (0.0, 1e-20, 1e6):
        found = GradientScalars()(Linear(torch.full((1, 1, 4, 4), scale)), torch.full((2, 1, 4, 4), 0.5))
        assert bool(found["gradient_scalars"].isfinite().all())
    of_a_pixel = GradientScalars()(Linear(torch.ones(1, 1, 1, 1)), torch.rand(3, 1, 1, 1))
    assert bool(of_a_pixel["gradient_scalars"].isfinite().all())


def test_the_class_is_the_one_of_the_image_in_both_views():
    """In the moved view another class may lead; its log odds for the image's class are then below 0."""
    weight = torch.zeros(1, 1, 4, 4)
    weight[0, 0, 3, 3], weight[0, 0, 2, 2] = 1.0, -0.1
    images = torch.zeros(1, 1, 4, 4)
    images[0, 0, 3, 3] = 1.0
    images[0, 0, 1, 1] = 1.0
    numbers = GradientScalars()(Linear(weight), images)["gradient_scalars"][0]
    assert numbers[15].item() > 0
    assert numbers[18 + 15].item() < 0


def test_logits_are_those_of_the_image():
    classifier, images = toy_classifier(), toy_images(4)
    expected = Logits()(classifier, images)["logits"]
    torch.testing.assert_close(GradientScalars()(classifier, images)["logits"], expected)


def test_a_spectrum_has_a_gradient_where_a_map_has_no_energy():
    leaf = torch.zeros(1, 2, 6, 6, requires_grad=True)
    (gradient,) = torch.autograd.grad((log_spectrum(leaf, limit=4096) + leaf.sum()).sum(), leaf)
    assert bool(gradient.isfinite().all())
