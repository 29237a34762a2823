from dataclasses import dataclass, field, replace

import pytest
import torch

from helpers.saliency_cases import toy_classifier, toy_images
from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, Constant, DatasetMean, GaussianNoise
from verisal.saliency import ExtremalPerturbation
from verisal.saliency.perturbation import extremal

QUERY = torch.tensor([0, 1])


def planted(images):
    """Logit of class 0: the light in rows 8..15, columns 10..21; of class 1: its opposite."""
    light = images[:, :, 8:16, 10:22].mean(dim=(1, 2, 3))
    return torch.stack([20 * light, -20 * light], dim=1)


def scene():
    """Light in the planted region, and elsewhere nothing but a light frame that no logit sees."""
    images = torch.zeros(1, 3, 32, 32)
    images[:, :, 8:16, 10:22] = 1
    images[:, :, 0] = images[:, :, -1] = 1
    return images


@pytest.mark.parametrize("variant", ["preserve", "delete", "dual"])
def test_planted_evidence_is_found_at_the_asked_area(variant):
    area = 8 * 12 / 32**2
    method = ExtremalPerturbation(
        areas=(area,), variant=variant, steps=150, learning_rate=0.05, baseline=Constant()
    )
    mask = method(planted, scene(), QUERY[:1]).saliency[0, 0]
    inside = torch.zeros(32, 32, dtype=torch.bool)
    # The mirrored steps see column 31 - x: the evidence of an image and of its mirror image is 10..21.
    inside[8:16, 10:22] = True
    chosen = mask > 0.5
    assert float((chosen & inside).sum() / (chosen | inside).sum()) > 0.6
    assert float(mask.mean()) == pytest.approx(area, abs=0.05)


@pytest.mark.parametrize("side", [32, 46])  # 46 px are no whole number of cells
def test_evidence_in_the_middle_leaves_the_border_dark_at_the_default_area_weight(side):
    images = torch.rand(1, 3, side, side) / 4
    middle = (..., slice(side // 2 - 5, side // 2 + 5), slice(side // 2 - 5, side // 2 + 5))
    images[middle] = 1

    def classifier(shown):
        light = shown[middle].mean(dim=(1, 2, 3))
        return torch.stack([5 * light, -5 * light], dim=1)

    method = ExtremalPerturbation(areas=(100 / side**2,), grid_step=14, steps=100, baseline=Constant())
    mask = method(classifier, images, QUERY[:1]).saliency[0, 0]
    assert float(mask[middle].mean()) > 0.75
    border = torch.cat(
        [mask[:2].flatten(), mask[-2:].flatten(), mask[:, :2].flatten(), mask[:, -2:].flatten()]
    )
    assert float(border.max()) < 0.2


def test_several_areas_are_the_mean_of_each_alone():
    classifier, images = toy_classifier(), toy_images(2)
    areas = (0.1, 0.25, 0.6)
    together = ExtremalPerturbation(areas=areas, steps=4)
    masks = together.masks(classifier, images, QUERY)
    assert masks.shape == (2, 3, 16, 12)
    for column, area in enumerate(areas):
        alone = ExtremalPerturbation(areas=(area,), steps=4).masks(classifier, images, QUERY)
        torch.testing.assert_close(masks[:, column : column + 1], alone, rtol=0, atol=1e-5)
    result = together(classifier, images, QUERY)
    torch.testing.assert_close(result.saliency, masks.mean(dim=1, keepdim=True))
    assert result.n_forward == result.n_backward == 12


@pytest.mark.parametrize(
    "settings", [{}, {"areas": (0.2, 0.5), "grid_step": 40, "sigma": 60.0}], ids=["fine", "two areas"]
)
def test_rounding_stays_rounding(monkeypatch, settings):
    """Other processors and batch sizes round otherwise: errors of 2e-6 in the mask may not grow to jumps."""
    method = ExtremalPerturbation(steps=6, learning_rate=0.5, area_weight=20.0, **settings)
    classifier, images, query = toy_classifier(), toy_images(3), torch.tensor([0, 3, 1])
    exact, pooled = method(classifier, images, query).saliency, extremal.smooth_max
    generator = torch.Generator().manual_seed(6)

    def rounded(*inputs, **given):
        plane = pooled(*inputs, **given)
        return plane * (1 + 2e-6 * torch.randn(plane.shape, generator=generator))

    monkeypatch.setattr(extremal, "smooth_max", rounded)
    for _ in range(6):
        found = method(classifier, images, query).saliency
        torch.testing.assert_close(found, exact, rtol=0, atol=2e-4)


def test_whole_area_keeps_the_whole_image():
    mask = ExtremalPerturbation(areas=(1.0,), steps=3)(planted, scene(), QUERY[:1]).saliency
    assert float(mask.min()) > 0.9


def test_every_second_step_shows_the_mirror_image():
    seen = []

    def classifier(images):
        seen.append(images.detach().clone())
        return planted(images)

    image = torch.rand(1, 3, 32, 32)
    ExtremalPerturbation(steps=4, learning_rate=1e-9)(classifier, image, QUERY[:1])
    assert seen[1].equal(seen[3])
    assert seen[0].flip(3).equal(seen[1])


@pytest.mark.parametrize(("variant", "largest"), [("preserve", 3), ("dual", 6)])
def test_no_more_masks_at_once_than_the_chunk_size(variant, largest):
    sizes = []

    def classifier(images):
        sizes.append(len(images))
        return planted(images)

    method = ExtremalPerturbation(areas=(0.1, 0.2), variant=variant, steps=2, chunk_size=3)
    method(classifier, torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64))
    assert max(sizes) == largest
    assert sum(sizes) == 4 * 2 * 2 * (largest // 3)


@dataclass(frozen=True, kw_only=True)
class Recorded(Baseline):
    """Grey where removed, which is noted."""

    masks: list = field(default_factory=list)
    needs_mask = True
    name = "recorded"

    def __call__(self, images, masks=None, *, query_class=None):
        assert not masks.requires_grad
        assert query_class is not None
        self.masks.append(masks.clone())
        return torch.where(masks < 0.5, 0.5, images)


def test_baseline_that_needs_the_mask_is_made_anew_every_step():
    baseline = Recorded()
    result = ExtremalPerturbation(steps=3, baseline=baseline)(planted, scene(), QUERY[:1])
    assert len(baseline.masks) == 3
    assert not baseline.masks[0].equal(baseline.masks[1])
    assert result.baseline == "recorded"


def test_baselines_are_bound_to_the_classifier_and_named():
    classifier, images = toy_classifier(), toy_images(2)
    for baseline, name in ((DatasetMean(), "dataset_mean"), (GaussianNoise(seed=3), "gauss_seed3")):
        result = ExtremalPerturbation(steps=1, baseline=baseline)(classifier, images, QUERY)
        assert result.baseline == name
    with pytest.raises(ConfigError, match="function has none"):
        ExtremalPerturbation(steps=1, baseline=DatasetMean())(planted, scene(), QUERY[:1])


def test_parameters_are_not_left_frozen():
    classifier = toy_classifier().train()
    ExtremalPerturbation(steps=1)(classifier, toy_images(2), QUERY)
    assert all(parameter.requires_grad for parameter in classifier.parameters())
    assert all(module.training for module in classifier.modules())


def test_lengths_scale_with_the_shorter_side():
    method = ExtremalPerturbation()
    assert method.sizes(224, 500) == {"grid_step": 7, "sigma": 21, "pyramid_sigma": 20}
    assert method.sizes(128, 112) == {"grid_step": 4, "sigma": 10.5, "pyramid_sigma": 10}
    assert method.sizes(32, 32)["grid_step"] == 1


@pytest.mark.parametrize(
    "areas", [(), (0.0,), (-0.1, 0.5), (0.5, 1.01), (0.2, 0.1), (0.1, 0.1), (float("nan"),)]
)
def test_areas_that_are_none_are_refused(areas):
    with pytest.raises(ConfigError, match=r"shares in \(0, 1\], rising; found"):
        ExtremalPerturbation(areas=areas)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"until": 0.0}, "until must be positive, found 0"),
        ({"steps": 0}, r"steps must be .*, found 0$"),
        ({"chunk_size": 0}, r"chunk_size must be .*, found 0$"),
        ({"grid_step": 0}, r"grid_step must be .*, found 0$"),
        ({"pyramid_levels": 1}, r"pyramid_levels must be .*, found 1$"),
        ({"learning_rate": 0.0}, r"learning_rate must be .*, found 0.0$"),
        ({"sigma": 0.0}, r"sigma must be .*, found 0.0$"),
        ({"area_growth": 0.0}, r"area_growth must be .*, found 0.0$"),
        ({"area_weight": -1.0}, r"area_weight must be .*, found -1.0$"),
        ({"pyramid_sigma": -1.0}, r"pyramid_sigma must be .*, found -1.0$"),
        ({"variant": "keep"}, "'preserve', 'delete', 'dual'.*found 'keep'"),
    ],
)
def test_settings_out_of_range_are_refused(setting, words):
    with pytest.raises(ConfigError, match=words):
        ExtremalPerturbation(**setting)


def test_grid_larger_than_the_image_is_refused():
    with pytest.raises(ConfigError, match=r"grid_step=300 .* cells of 21 px, which a 16 x 16 px image"):
        ExtremalPerturbation(grid_step=300)(planted, torch.rand(1, 3, 16, 16), QUERY[:1])


def swift(**settings):
    return ExtremalPerturbation(
        areas=(0.1, 0.4), steps=400, learning_rate=0.2, area_weight=30.0, area_growth=1.0, **settings
    )


def test_a_mask_that_rests_is_done_whatever_its_batch(monkeypatch):
    monkeypatch.setattr(extremal, "_WINDOW", 5)
    classifier, images, query = toy_classifier(), toy_images(4), torch.tensor([0, 3, 1, 2])
    method = swift(until=0.05)
    whole = method(classifier, images, query)
    steps, change = whole.diagnostics["steps"], whole.diagnostics["change"]
    assert len(set(steps.tolist())) > 1
    assert float(steps.max()) < 400
    assert bool((change <= 0.05).all())
    assert whole.n_forward == whole.n_backward == pytest.approx(2 * float(steps.mean()))
    for row in range(4):
        alone = method(classifier, images[row : row + 1], query[row : row + 1])
        torch.testing.assert_close(alone.saliency, whole.saliency[row : row + 1], rtol=0, atol=1e-4)
        assert alone.diagnostics["steps"].item() == steps[row].item()
        assert alone.diagnostics["change"].item() == pytest.approx(change[row].item(), rel=1e-2)
    small = replace(method, chunk_size=3)(classifier, images, query)
    torch.testing.assert_close(small.saliency, whole.saliency, rtol=0, atol=1e-4)
    assert small.diagnostics["steps"].equal(steps)


def test_a_mask_that_is_done_is_that_of_as_many_steps(monkeypatch):
    monkeypatch.setattr(extremal, "_WINDOW", 5)
    classifier, images = toy_classifier(), toy_images(3)
    query = torch.tensor([0, 3, 1])
    method = swift(until=0.05)
    masks = method.masks(classifier, images, query)
    for column, area in enumerate(method.areas):
        alone = replace(method, areas=(area,))(classifier, images, query)
        torch.testing.assert_close(masks[:, column : column + 1], alone.saliency, rtol=0, atol=1e-4)
        for row, steps in enumerate(alone.diagnostics["steps"].int().tolist()):
            plain = replace(method, areas=(area,), until=None, steps=steps)
            now, earlier = (
                each.masks(classifier, images[row : row + 1], query[row : row + 1])
                for each in (plain, replace(plain, steps=steps - 5))
            )
            torch.testing.assert_close(masks[row, column], now[0, 0], rtol=0, atol=2e-3)
            moved = float((now - earlier).norm() / now.norm())
            assert alone.diagnostics["change"][row].item() == pytest.approx(moved, rel=2e-2)
            assert moved <= 0.05 * 1.02


def test_without_a_stop_the_change_of_the_last_full_window_is_told(monkeypatch):
    monkeypatch.setattr(extremal, "_WINDOW", 3)
    classifier, images = toy_classifier(), toy_images(2)
    for steps, known in ((5, False), (6, True), (7, True)):
        result = ExtremalPerturbation(steps=steps)(classifier, images, QUERY)
        assert result.diagnostics["steps"].tolist() == [steps, steps]
        assert bool(result.diagnostics["change"].isnan().any()) is not known


def test_progress_tells_of_the_change_and_is_no_setting_of_the_map(capsys, monkeypatch):
    monkeypatch.setattr(extremal, "_WINDOW", 2)
    monkeypatch.setattr("verisal.progress.shown._SECONDS_BETWEEN_LINES", 0.0)
    told = ExtremalPerturbation(steps=6, progress=True)
    told(toy_classifier(), toy_images(2), QUERY)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("ExtremalPerturbation, 2/12, ")
    assert lines[-1].startswith("ExtremalPerturbation, 12/12, change 0.")
    plain = ExtremalPerturbation(steps=6)
    assert told == plain
    assert told.settings() == plain.settings()
    assert "until" not in plain.settings()
    assert replace(plain, until=0.1).settings()["until"] == 0.1
