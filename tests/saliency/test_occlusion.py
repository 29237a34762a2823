from dataclasses import dataclass, field
from typing import ClassVar, final

import pytest
import torch

from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline, Constant, ImageMean, Inpaint, UniformNoise
from verisal.saliency import RISE, Occlusion

QUERY = torch.tensor([0])


def linear(weights):
    """Logits: the weighted sum of the red channel, and 0."""

    def classify(images):
        total = (images[:, 0] * weights).sum(dim=(1, 2))
        return torch.stack([total, torch.zeros_like(total)], dim=1)

    return classify


def black(**settings):
    return Occlusion(baseline=Constant(), score="logit", **settings)


@final
@dataclass(frozen=True, kw_only=True)
class Negative(Baseline):
    """The image turned round in brightness inside what is removed; keeps what it was asked."""

    asked: list = field(default_factory=list)
    needs_mask: ClassVar[bool] = True

    @property
    def name(self):
        return "negative"

    def __call__(self, images, masks=None, *, query_class=None):
        self.asked.append((images, masks, query_class))
        return torch.where(masks < 0.5, 1 - images, images)


def test_values_by_hand():
    weights = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    result = black(window=2, stride=1)(linear(weights), torch.ones(1, 3, 3, 3), QUERY)
    # Falls of the four windows: 12, 16, 24, 28.
    expected = torch.tensor([[12.0, 14.0, 16.0], [18.0, 20.0, 22.0], [24.0, 26.0, 28.0]])
    assert result.attribution[0, 0].allclose(expected)
    assert result.saliency.equal(result.attribution)
    assert (result.n_forward, result.n_backward, result.baseline) == (5, 0, "black")


def test_last_window_lies_flush_with_the_border():
    weights = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0]])
    result = black(window=(1, 2), stride=1)(linear(weights), torch.ones(1, 3, 1, 5), QUERY)
    assert result.attribution[0, 0].allclose(torch.tensor([[3, 4.5, 9, 18, 24]]))
    # Starts 0, 3 and then 4, not 6: the last window overlaps its neighbour.
    wide = black(window=(3, 3), stride=3)(linear(torch.ones(3, 7)), torch.ones(1, 3, 3, 7), QUERY)
    assert wide.n_forward == 1 + 3


def test_window_of_the_image_s_size_gives_the_whole_fall_everywhere():
    result = black(window=(2, 3), stride=1)(linear(torch.ones(2, 3)), torch.ones(1, 3, 2, 3), QUERY)
    assert result.attribution.eq(6).all()
    assert result.n_forward == 2


def test_attribution_is_signed_and_the_map_is_its_positive_part():
    weights = torch.tensor([[2.0, -3.0]])
    result = black(window=1, stride=1)(linear(weights), torch.ones(1, 3, 1, 2), QUERY)
    assert result.attribution[0, 0].equal(weights)
    assert result.saliency[0, 0].equal(torch.tensor([[2.0, 0.0]]))
    assert result.raw.equal(result.saliency)


def test_probability_is_softmax_over_the_classes():
    result = Occlusion(window=1, stride=1, baseline=Constant())(
        linear(torch.tensor([[2.0, 0.0]])), torch.ones(1, 3, 1, 2), QUERY
    )
    fall = torch.tensor(2.0).sigmoid() - 0.5  # two classes
    assert result.attribution[0, 0].allclose(torch.tensor([[fall, 0.0]]))


def test_planted_patch_is_found_for_its_class_only():
    images = torch.full((2, 3, 16, 24), 0.5)
    weights = torch.zeros(16, 24)
    weights[4:8, 16:20] = 1
    result = black(window=4, stride=4)(linear(weights), images, torch.tensor([0, 1]))
    assert result.saliency[0, 0].equal(weights * 8)
    assert result.saliency[1].eq(0).all()


def test_baseline_that_reads_the_mask_is_made_for_each_window_and_image():
    images = torch.rand(2, 3, 2, 2)
    query = torch.tensor([0, 1])
    baseline = Negative()
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    result = Occlusion(window=1, stride=1, baseline=baseline, score="logit", chunk_size=4)(
        linear(weights), images, query
    )
    # Removing a pixel of value v leaves 1 - v, so the score falls by its weight times 2 v - 1.
    assert result.attribution[0, 0].allclose(weights * (2 * images[0, 0] - 1), atol=1e-6)
    assert result.attribution[1].eq(0).all()
    assert result.baseline == "negative"
    assert [len(asked[0]) for asked in baseline.asked] == [4, 4]
    for asked_images, masks, asked_query in baseline.asked:
        assert asked_images.equal(images.repeat(2, 1, 1, 1))
        assert masks.shape == (4, 1, 2, 2)
        assert masks.sum(dim=(1, 2, 3)).tolist() == [3, 3, 3, 3]
        assert masks[0].equal(masks[1])
        assert asked_query.equal(query.repeat(2))


@pytest.mark.parametrize("baseline", [ImageMean(), UniformNoise(), Inpaint()], ids=lambda b: b.name)
def test_any_baseline_is_composed_in_the_window_alone(baseline):
    images, seen = torch.rand(1, 3, 8, 8), []

    def watching(batch):
        seen.append(batch.clone())
        return linear(torch.ones(8, 8))(batch)

    result = Occlusion(window=4, stride=4, baseline=baseline, chunk_size=8)(watching, images, QUERY)
    assert result.baseline == baseline.name
    for index, perturbed in enumerate(seen[1]):
        inside = torch.zeros(8, 8, dtype=torch.bool)
        inside[4 * (index // 2) :, 4 * (index % 2) :][:4, :4] = True
        assert perturbed[:, ~inside].allclose(images[0][:, ~inside], atol=1e-6)
        changed = (perturbed - images[0]).abs().amax(dim=0)[inside] > 1e-4
        assert changed.float().mean() > 0.9


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 64])
def test_no_pass_is_larger_than_the_chunk_size_and_none_is_idle(chunk_size):
    passes = []

    def counting(images):
        passes.append(len(images))
        return linear(torch.ones(4, 4))(images)

    black(window=2, stride=2, chunk_size=chunk_size)(counting, torch.rand(3, 3, 4, 4), QUERY.repeat(3))
    assert max(passes) <= chunk_size
    assert sum(passes) == 3 * (4 + 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"window": 0}, r"at least 1 px.*found 0 x 0 px"),
        ({"window": (4, 0)}, r"found 4 x 0 px"),
        ({"window": -2}, r"found -2 x -2 px"),
        ({"stride": 0}, r"between 1 and .*\(16 px\).*found 0"),
        ({"window": (16, 4), "stride": 5}, r"\(4 px\).*found 5"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, found 0"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        Occlusion(**settings)


@pytest.mark.parametrize(("window", "found"), [(9, "9 x 9"), ((4, 13), "4 x 13")])
def test_window_larger_than_the_image_is_refused(window, found):
    method = Occlusion(window=window, stride=4, baseline=Constant())
    with pytest.raises(ConfigError, match=rf"image of 8 x 12 px, found {found} px; choose a smaller window"):
        method(linear(torch.ones(8, 12)), torch.rand(1, 3, 8, 12), QUERY)


def test_callable_that_names_no_classes_is_checked_against_its_logits():
    method = black(window=2, stride=2)
    with pytest.raises(ConfigError, match=r"0\.\.1 \(K = 2\), found 2\.\.2"):
        method(linear(torch.ones(4, 4)), torch.rand(1, 3, 4, 4), torch.tensor([2]))


def test_callable_without_a_normalisation_is_told_to_name_the_mean():
    with pytest.raises(ConfigError, match="function has none; give mean"):
        Occlusion(window=2, stride=2)(linear(torch.ones(4, 4)), torch.rand(1, 3, 4, 4), QUERY)


@pytest.mark.parametrize("method", [Occlusion, RISE])
def test_a_choice_that_is_not_made_is_no_part_of_a_map_s_identity(method):
    assert "per_channel" not in method().settings()
    assert method(per_channel=True).settings() == {**method().settings(), "per_channel": True}


@pytest.mark.parametrize(
    "method",
    [
        black(window=2, stride=1, per_channel=True),
        RISE(baseline=Constant(), cells=2, masks=60, score="logit", per_channel=True),
    ],
    ids=["Occlusion", "RISE"],
)
def test_a_channel_without_use_has_no_attribution(method):
    for unused in (1.0, 0.0):
        images = torch.cat([torch.ones(1, 1, 4, 4), torch.full((1, 2, 4, 4), unused)], dim=1)
        attribution = method(linear(torch.ones(4, 4)), images, QUERY).attribution
        assert attribution[:, 0].gt(0).all()
        assert attribution[:, 1:].eq(0).all()


def test_a_baseline_that_reads_the_mask_fills_the_one_channel():
    images = torch.rand(1, 3, 2, 2)
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    method = Occlusion(window=1, stride=1, baseline=Negative(), score="logit", per_channel=True)
    attribution = method(linear(weights), images, QUERY).attribution
    assert attribution[0, 0].allclose(weights * (2 * images[0, 0] - 1), atol=1e-6)
    assert attribution[0, 1:].eq(0).all()
