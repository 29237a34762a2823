from dataclasses import dataclass, field

import pytest
import torch

from helpers.saliency_cases import toy_classifier, toy_images
from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, Constant, DatasetMean
from verisal.functional.seeding import derive_seed
from verisal.saliency import MeaningfulPerturbation
from verisal.saliency.perturbation.meaningful import _shifted

QUERY = torch.tensor([0, 1])


def planted(images):
    """Logit of class 0: the light in rows 8..15, columns 8..19; of class 1: zero."""
    light = images[:, :, 8:16, 8:20].mean(dim=(1, 2, 3))
    return torch.stack([8 * light - 4, 0 * light], dim=1)


def test_planted_evidence_is_removed_and_little_else():
    images = torch.ones(1, 3, 32, 32)
    method = MeaningfulPerturbation(
        steps=80, mask_scale=14, l1_weight=2e-3, tv_weight=1e-3, jitter=7, baseline=Constant()
    )
    found = method(planted, images, QUERY[:1]).saliency[0, 0]
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[8:16, 8:20] = True
    assert float(found[inside].mean()) > 0.5
    assert float(found[~inside].mean()) < 0.1


def test_without_evidence_nothing_is_removed():
    method = MeaningfulPerturbation(steps=3)
    result = method(lambda images: 0 * images.mean(dim=(2, 3)), torch.rand(2, 3, 32, 32), QUERY)
    assert float(result.saliency.max()) < 1e-6
    assert (result.n_forward, result.n_backward, result.baseline) == (3, 3, "blur10")


def test_first_step_of_adam_lowers_every_cell_that_matters_by_the_rate():
    # The mean of the image is the only evidence, so every cell has a gradient of one sign.
    def classifier(images):
        return torch.stack([images.mean(dim=(1, 2, 3)), images.new_zeros(len(images))], dim=1)

    method = MeaningfulPerturbation(steps=1, learning_rate=0.3, jitter=0, baseline=Constant())
    found = method(classifier, torch.ones(1, 3, 32, 32), QUERY[:1]).saliency
    torch.testing.assert_close(found, torch.full_like(found, 0.3), rtol=0, atol=1e-4)


def seen_by(method, images):
    """What the classifier is shown."""
    seen = []

    def classifier(shown):
        seen.append(shown.detach().clone())
        return planted(shown)

    method(classifier, images, torch.zeros(len(images), dtype=torch.int64))
    return seen


def test_jitter_shifts_by_whole_pixels_and_repeats_the_border():
    images = torch.rand(1, 3, 28, 28)
    steps = seen_by(MeaningfulPerturbation(steps=12, jitter=16, learning_rate=1e-9), images)
    rows = torch.arange(28)
    shifts = set()
    for shown in steps:
        for down in (-1, 0, 1):
            for across in (-1, 0, 1):
                moved = images[:, :, (rows + down).clamp(0, 27)][..., (rows + across).clamp(0, 27)]
                if (moved - shown).abs().max() < 1e-4:
                    shifts.add((down, across))
                    break
    assert len(shifts) >= 5
    assert {down for down, _ in shifts} == {across for _, across in shifts} == {-1, 0, 1}


@pytest.mark.parametrize("jitter", [1, 2, 3, 4])
def test_shifts_are_centred_as_far_as_an_odd_width_allows(jitter):
    images = torch.rand(2, 3, 9, 7)
    for row in range(jitter + 1):
        for column in range(jitter + 1):
            down = (torch.arange(9) + row - jitter // 2).clamp(0, 8)
            across = (torch.arange(7) + column - jitter // 2).clamp(0, 6)
            assert _shifted(images, jitter, row, column).equal(images[:, :, down][..., across])
    assert _shifted(images, 0, 0, 0) is images


def test_every_step_has_the_shift_that_was_drawn_for_it():
    images = torch.rand(1, 3, 28, 28)
    shown = seen_by(MeaningfulPerturbation(steps=10, jitter=24, learning_rate=1e-9, seed=5), images)
    generator = torch.Generator().manual_seed(derive_seed(5, "meaningful", "jitter"))
    drawn = torch.randint(3 + 1, (10, 2), generator=generator).tolist()  # 24 px of 224 are 3 of 28
    assert len(shown) == 10
    for one, (row, column) in zip(shown, drawn, strict=True):
        torch.testing.assert_close(one, _shifted(images, 3, row, column), rtol=0, atol=1e-4)


def test_jitter_depends_on_the_seed_alone():
    images = torch.rand(3, 3, 28, 28)
    method = MeaningfulPerturbation(steps=8, jitter=16)
    whole = seen_by(method, images)
    alone = seen_by(method, images[1:2])
    for together, single in zip(whole, alone, strict=True):
        torch.testing.assert_close(together[1:2], single, rtol=0, atol=1e-5)
    other = seen_by(MeaningfulPerturbation(steps=8, jitter=16, seed=1), images)
    assert any((one - two).abs().max() > 0.1 for one, two in zip(whole, other, strict=True))


@dataclass(frozen=True, kw_only=True)
class Recorded(Baseline):
    """Black where removed, which is noted."""

    masks: list = field(default_factory=list)
    needs_mask = True
    name = "recorded"

    def __call__(self, images, masks=None, *, query_class=None):
        assert not masks.requires_grad
        self.masks.append(masks.clone())
        return torch.where(masks < 0.5, 0.0, images / 2)


def test_baseline_that_needs_the_mask_is_made_anew_every_step():
    baseline = Recorded()
    method = MeaningfulPerturbation(steps=3, jitter=0, baseline=baseline)
    result = method(planted, torch.rand(1, 3, 32, 32), QUERY[:1])
    assert len(baseline.masks) == 3
    assert not baseline.masks[1].equal(baseline.masks[2])
    assert result.baseline == "recorded"


def test_baseline_is_bound_to_the_classifier():
    method = MeaningfulPerturbation(steps=1, baseline=DatasetMean())
    assert method(toy_classifier(), toy_images(2), QUERY).baseline == "dataset_mean"
    with pytest.raises(ConfigError, match="function has none"):
        method(planted, torch.rand(1, 3, 32, 32), QUERY[:1])


def test_no_more_images_at_once_than_the_chunk_size():
    shown = seen_by(MeaningfulPerturbation(steps=2, chunk_size=2), torch.rand(5, 3, 32, 32))
    assert [len(images) for images in shown] == [2, 2, 2, 2, 1, 1]


def test_lengths_scale_with_the_shorter_side():
    method = MeaningfulPerturbation()
    assert method.sizes(224, 300) == {"mask_scale": 8, "mask_sigma": 5, "jitter": 4}
    assert method.sizes(112, 112) == {"mask_scale": 4, "mask_sigma": 2.5, "jitter": 2}
    assert method.sizes(16, 12)["mask_scale"] == 1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"steps": 0}, r"steps must be .*, found 0$"),
        ({"chunk_size": 0}, r"chunk_size must be .*, found 0$"),
        ({"mask_scale": 0}, r"mask_scale must be .*, found 0$"),
        ({"learning_rate": 0.0}, r"learning_rate must be .*, found 0.0$"),
        ({"l1_weight": -1.0}, r"l1_weight must be .*, found -1.0$"),
        ({"tv_weight": -1.0}, r"tv_weight must be .*, found -1.0$"),
        ({"tv_power": 0.5}, r"tv_power must be .*, found 0.5$"),
        ({"mask_sigma": -1.0}, r"mask_sigma must be .*, found -1.0$"),
        ({"jitter": -1}, r"jitter must be .*, found -1$"),
    ],
)
def test_settings_out_of_range_are_refused(setting, words):
    with pytest.raises(ConfigError, match=words):
        MeaningfulPerturbation(**setting)


def test_mask_cells_larger_than_the_image_are_refused():
    with pytest.raises(ConfigError, match=r"mask_scale=300 .* cells of 21 px, which a 16 x 16 px image"):
        MeaningfulPerturbation(mask_scale=300)(planted, torch.rand(1, 3, 16, 16), QUERY[:1])
