"""Occlusion that asks near large coarse falls alone, window by window, as it is written down."""

import pytest
import torch

from verisal.functional.baselines import Constant, ImageMean, Inpaint
from verisal.saliency import Occlusion

SIZE = (17, 22)


def classify(images):
    """Two bright places, of which the second counts only with the first."""
    first, second = images[:, 0, 2:6, 3:8].mean(dim=(1, 2)), images[:, 1, 10:13, 12:20].mean(dim=(1, 2))
    return torch.stack([3 * first + 4 * first * second - 2, torch.zeros(len(images))], dim=1)


def probability(image):
    return float(classify(image[None]).softmax(dim=1)[0, 0])


def starts(length, side, stride):
    found = list(range(0, length - side + 1, stride))
    return found if found[-1] == length - side else [*found, length - side]


def around(index, coarse):
    """Coarse places on both sides of a window, with their weights; one place if it is coarse itself."""
    if index in coarse:
        return [(index, 1.0)]
    low = max(place for place in coarse if place < index)
    high = min(place for place in coarse if place > index)
    return [(low, (high - index) / (high - low)), (high, (index - low) / (high - low))]


def slow_refined(method, image, channels):
    """Map and number of windows of one image."""
    baseline, (tall, wide) = method.baseline(image[None])[0], method.window
    tops, lefts = starts(SIZE[0], tall, method.stride), starts(SIZE[1], wide, method.stride)
    spacing = min(method.window) // method.stride
    coarse = [sorted({*range(0, len(axis), spacing), len(axis) - 1}) for axis in (tops, lefts)]
    asked = {}

    def fall(row, column):
        if (row, column) not in asked:
            changed = image.clone()
            place = (slice(tops[row], tops[row] + tall), slice(lefts[column], lefts[column] + wide))
            changed[(channels, *place)] = baseline[(channels, *place)]
            asked[row, column] = probability(image) - probability(changed)
        return asked[row, column]

    largest = max(abs(fall(row, column)) for row in coarse[0] for column in coarse[1])
    falls = [[[] for _ in range(SIZE[1])] for _ in range(SIZE[0])]
    for row in range(len(tops)):
        for column in range(len(lefts)):
            near = [
                (fall(one, other), weight * share)
                for one, weight in around(row, coarse[0])
                for other, share in around(column, coarse[1])
            ]
            value = sum(found * weight for found, weight in near)
            if max(abs(found) for found, _ in near) >= method.refine * largest:
                value = fall(row, column)
            for y in range(tops[row], tops[row] + tall):
                for x in range(lefts[column], lefts[column] + wide):
                    falls[y][x].append(value)
    found = torch.tensor([[sum(pixel) / len(pixel) for pixel in row] for row in falls])
    return found, len(asked)


@pytest.mark.parametrize(("window", "stride"), [((4, 4), 2), ((7, 5), 1), ((6, 8), 2), ((4, 4), 4)])
@pytest.mark.parametrize("refine", [0.05, 0.6])
@pytest.mark.parametrize("chunk_size", [5, 64])
def test_refined_occlusion_equals_the_literal_loop(window, stride, refine, chunk_size):
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    images[1, 1] /= 4
    method = Occlusion(
        window=window, stride=stride, refine=refine, baseline=Constant(), chunk_size=chunk_size
    )
    result = method(classify, images, 0)
    counts = []
    for index, image in enumerate(images):
        slow, count = slow_refined(method, image, slice(None))
        torch.testing.assert_close(result.attribution[index, 0], slow, rtol=0, atol=1e-6)
        counts.append(count)
    assert result.diagnostics["windows"].tolist() == counts
    assert result.n_forward == sum(counts) / 2 + 1


def test_refined_occlusion_of_one_channel_equals_the_literal_loop():
    images = torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(2))
    method = Occlusion(window=(6, 6), stride=2, refine=0.4, baseline=ImageMean(), per_channel=True)
    result = method(classify, images, 0)
    for index, image in enumerate(images):
        slow = [slow_refined(method, image, channel) for channel in range(3)]
        maps = torch.stack([found for found, _ in slow])
        torch.testing.assert_close(result.attribution[index], maps, rtol=0, atol=1e-6)
        assert int(result.diagnostics["windows"][index]) == sum(count for _, count in slow)


def test_least_share_asks_about_nearly_all_windows_and_gives_nearly_the_plain_map():
    images = torch.rand(2, 3, *SIZE)
    for baseline in (Constant(), Inpaint()):
        settings = {"window": 6, "stride": 2, "baseline": baseline}
        plain = Occlusion(**settings)(classify, images, 0)
        refined = Occlusion(**settings, refine=1e-9)(classify, images, 0)
        assert refined.n_forward <= plain.n_forward
        torch.testing.assert_close(refined.attribution, plain.attribution, rtol=0, atol=1e-4)
