import pytest
import torch

from verisal.errors import ConfigError
from verisal.functional.baselines import Constant, Inpaint
from verisal.saliency import RISE

WHITE = torch.ones(1, 3, 12, 16)


def constant(logits):
    return lambda images: torch.tensor(logits).expand(len(images), -1)


def masks_of(method, *, count=1):
    """What a classifier sees of bright images on black: the masks, ``(N, count, H, W)``."""
    # Different ones: equal images are shown once.
    levels = 1 - torch.arange(count).view(-1, 1, 1) / 8
    seen = []

    def watching(images):
        assert images.amin(dim=1).equal(images.amax(dim=1))
        seen.append(images[:, 0].clone())
        return images.new_zeros(len(images), 2)

    method(watching, WHITE * levels[:, None], torch.zeros(count, dtype=torch.int64))
    return torch.cat(seen).view(-1, count, 12, 16) / levels


def rise(**settings):
    return RISE(**{"baseline": Constant(), "cells": 4, "masks": 20} | settings)


@pytest.mark.parametrize("keep_probability", [0.1, 0.5, 0.9])
def test_constant_model_has_a_constant_expectation(keep_probability):
    method = rise(keep_probability=keep_probability, masks=4000, chunk_size=500)
    logits = torch.tensor([0.3, 0.5, 0.2]).log().tolist()
    result = method(constant(logits), WHITE, torch.tensor([1]))
    # The mask at a pixel has a deviation of at most sqrt(p (1 - p)); four standard errors of its mean.
    error = 0.5 * 4 * ((1 - keep_probability) / keep_probability / 4000) ** 0.5
    assert (result.saliency - 0.5).abs().max() < error


def test_every_cell_kept_gives_the_score_itself():
    result = rise(keep_probability=1.0)(constant([0.0, 0.0, 0.0, 0.0]), WHITE, torch.tensor([2]))
    assert result.saliency.allclose(torch.full((1, 1, 12, 16), 0.25))  # softmax, not a sigmoid


def test_map_by_hand_from_the_masks_that_the_classifier_saw():
    method = rise(masks=7, chunk_size=3, keep_probability=0.4, score="logit")
    masks = masks_of(method)[:, 0]

    def classify(images):  # the red value of one pixel, as logit of class 1
        return torch.stack([torch.zeros(len(images)), images[:, 0, 3, 5]], dim=1)

    result = method(classify, WHITE, torch.tensor([1]))
    expected = sum(mask[3, 5] * mask for mask in masks) / (7 * 0.4)
    assert result.attribution[0, 0].allclose(expected, atol=1e-6)
    assert (result.n_forward, result.n_backward, result.baseline) == (7, 0, "black")


def test_negative_logits_give_a_negative_attribution_and_an_empty_map():
    result = rise(score="logit")(constant([-2.0, 0.0]), WHITE, torch.tensor([0]))
    assert (result.attribution < 0).any()
    assert (result.attribution <= 0).all()
    assert result.saliency.eq(0).all()


def test_images_of_a_batch_share_their_masks():
    masks = masks_of(rise(chunk_size=8), count=3)
    assert masks.shape == (20, 3, 12, 16)
    torch.testing.assert_close(masks[:, 1], masks[:, 0])
    torch.testing.assert_close(masks[:, 2], masks[:, 0])
    assert masks_of(rise())[:, 0].equal(masks[:, 0])


def test_masks_are_smooth_grids_with_the_asked_mean():
    masks = masks_of(rise(masks=2000, keep_probability=0.3, chunk_size=500))
    assert masks.min() == 0
    assert masks.max() == 1
    assert float(masks.mean()) == pytest.approx(0.3, abs=0.01)
    # Cells are 3 x 4 px and 4 are enlarged to 5: a step of one pixel climbs by at most 4 / 15 and 4 / 20.
    assert float(masks.diff(dim=2).abs().max()) == pytest.approx(4 / 15, abs=1e-5)
    assert float(masks.diff(dim=3).abs().max()) == pytest.approx(4 / 20, abs=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 1000])
def test_masks_do_not_depend_on_the_chunk_size(chunk_size):
    assert masks_of(rise(masks=300, chunk_size=chunk_size)).allclose(masks_of(rise(masks=300)), atol=1e-6)


def test_more_masks_keep_the_first_ones_and_blocks_differ():
    few, many = masks_of(rise(masks=300)), masks_of(rise(masks=600))
    assert many[:300].allclose(few, atol=1e-6)
    assert not many[:44].allclose(many[256:300], atol=0.1)


def test_seed_alone_chooses_the_masks():
    first = masks_of(rise(seed=1))
    torch.manual_seed(99)
    assert masks_of(rise(seed=1)).equal(first)
    assert not masks_of(rise(seed=2)).allclose(first, atol=0.1)


@pytest.mark.parametrize("chunk_size", [1, 4, 10, 64])
def test_no_pass_is_larger_than_the_chunk_size_whatever_the_number_of_masks(chunk_size):
    passes = []

    def counting(images):
        passes.append(len(images))
        return images.new_zeros(len(images), 5)

    method = rise(masks=270, chunk_size=chunk_size)
    method(counting, torch.rand(3, 3, 5, 9), torch.tensor([0, 4, 2]))
    assert max(passes) <= chunk_size
    assert sum(passes) == 3 * 270


def test_planted_patch_has_the_highest_map():
    def classify(images):
        return torch.stack([8 * images[:, 1, 3:6, 8:12].mean(dim=(1, 2)), torch.zeros(len(images))], dim=1)

    result = rise(masks=500)(classify, WHITE, torch.tensor([0]))
    row, column = divmod(int(result.saliency[0, 0].argmax()), 16)
    assert 3 <= row < 6
    assert 8 <= column < 12


def test_baseline_that_reads_the_mask_fills_each_mask_of_each_image():
    images = torch.rand(2, 3, 8, 8)

    def classify(batch):
        return torch.stack([batch[:, 0].mean(dim=(1, 2)), torch.zeros(len(batch))], dim=1)

    method = rise(masks=6, baseline=Inpaint(), chunk_size=4)
    whole = method(classify, images, torch.tensor([0, 0]))
    assert whole.baseline == "inpaint"
    alone = method(classify, images[1:], torch.tensor([0]))
    assert alone.attribution.allclose(whole.attribution[1:], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cells": 0}, "cells=0"),
        ({"masks": 0}, "masks=0"),
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"keep_probability": 0.0}, r"above 0 and not above 1, found 0\.0"),
        ({"keep_probability": 1.5}, r"found 1\.5"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        RISE(**settings)


def test_more_cells_than_pixels_are_refused():
    with pytest.raises(ConfigError, match=r"found cells=13 for an image of 12 x 16 px"):
        rise(cells=13)(constant([0.0, 0.0]), WHITE, torch.tensor([0]))


def test_callable_that_names_no_classes_is_checked_against_its_logits():
    with pytest.raises(ConfigError, match=r"0\.\.1 \(K = 2\), found 3\.\.3"):
        rise()(constant([0.0, 0.0]), WHITE, torch.tensor([3]))
