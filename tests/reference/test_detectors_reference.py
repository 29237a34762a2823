"""Slow, literal forms of what detectors compute fast."""

import math

import numpy as np
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier

from helpers.replicates import replicates
from verisal.detectors import Logits, LogitTrees
from verisal.detectors.consistency import consistency_numbers
from verisal.detectors.squeezing import non_local_means
from verisal.detectors.statistical import local_intrinsic_dimension
from verisal.functional.filters import mean_filter, median_filter, scale_down_and_up
from verisal.functional.seeding import derive_seed


def at(image, row, column):
    """Pixel ``(C,)``, edge pixels repeated outwards."""
    height, width = image.shape[-2:]
    return image[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]


@replicates(median_filter)
def slow_median(images, size):
    result = torch.empty_like(images)
    window = range(-(size // 2), size - size // 2)
    for image, filled in zip(images, result, strict=True):
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                around = torch.stack([at(image, row + y, column + x) for y in window for x in window])
                filled[:, row, column] = around.sort(dim=0).values[size**2 // 2]
    return result


@replicates(mean_filter)
def slow_mean(images, size):
    result = torch.empty_like(images)
    window = range(-(size // 2), size - size // 2)
    for image, filled in zip(images, result, strict=True):
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                around = [at(image, row + y, column + x) for y in window for x in window]
                filled[:, row, column] = sum(around) / size**2
    return result


def slow_axis(length, other):
    """``(other, length)``: weights of a triangle as wide as the larger pixel, cut off at the ends."""
    scale = length / other
    reach = max(scale, 1.0)
    rows = []
    for target in range(other):
        centre = (target + 0.5) * scale
        near = [max(0.0, 1 - abs(source + 0.5 - centre) / reach) for source in range(length)]
        rows.append([weight / sum(near) for weight in near])
    return torch.tensor(rows)


@replicates(scale_down_and_up)
def slow_scaled(images, factor):
    height, width = images.shape[2:]
    small = max(round(height * factor), 1), max(round(width * factor), 1)
    result = images
    for sides in (small, (height, width)):
        down, across = (slow_axis(*pair) for pair in zip(result.shape[2:], sides, strict=True))
        result = torch.einsum("ij,bcjk,lk->bcil", down, result, across)
    return result


@replicates(consistency_numbers)
def slow_consistency(logits, views):
    """By probabilities in double precision, image by image."""
    rows = []
    for number, own in enumerate(logits):
        first = [math.exp(value) for value in own.double().log_softmax(dim=0).tolist()]
        top = first.index(max(first))
        row = [math.log(first[top] / (1 - first[top]))]
        for view in views:
            other = [math.exp(value) for value in view[number].double().log_softmax(dim=0).tolist()]
            pairs = list(zip(first, other, strict=True))
            change = sum((math.log(one) - math.log(two)) ** 2 for one, two in pairs) / len(pairs)
            row += [
                math.log(other[top] / (1 - other[top])),
                sum(abs(one - two) for one, two in pairs),
                math.log(max(change, 1e-8)),
            ]
        rows.append(row)
    return torch.tensor(rows)


@replicates(non_local_means)
def slow_non_local_means(images, *, search, patch, strength):
    result = torch.empty_like(images)
    reach, border = range(-(search // 2), search // 2 + 1), range(-(patch // 2), patch // 2 + 1)
    offsets = [(y, x) for y in border for x in border]
    for image, filled in zip(images, result, strict=True):
        for row in range(image.shape[1]):
            for column in range(image.shape[2]):
                total, weights = torch.zeros(image.shape[0]), 0.0
                for p, q in ((row + y, column + x) for y in reach for x in reach):
                    apart = [
                        (at(image, p + y, q + x) - at(image, row + y, column + x)).square().mean().item()
                        for y, x in offsets
                    ]
                    weight = math.exp(-sum(apart) / len(apart) / strength**2)
                    total += weight * at(image, p, q)
                    weights += weight
                filled[:, row, column] = total / weights
    return result


@replicates(local_intrinsic_dimension)
def slow_dimension(sorted_distances):
    logarithms = [[math.log(near / row[-1]) for near in row] for row in sorted_distances.tolist()]
    return torch.tensor([-len(row) / sum(row) for row in logarithms], dtype=sorted_distances.dtype)


def images(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_median(size):
    assert median_filter(images(2, 3, 5, 7), size).equal(slow_median(images(2, 3, 5, 7), size))


@pytest.mark.parametrize(("search", "patch"), [(3, 1), (5, 3), (3, 5)])
def test_non_local_means(search, patch):
    given = {"search": search, "patch": patch, "strength": 0.3}
    fast, slow = (
        non_local_means(images(1, 2, 4, 5), **given),
        slow_non_local_means(images(1, 2, 4, 5), **given),
    )
    torch.testing.assert_close(fast, slow)


def test_dimension():
    rows = images(6, 9).sort(dim=1).values
    torch.testing.assert_close(local_intrinsic_dimension(rows), slow_dimension(rows))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_mean(size):
    torch.testing.assert_close(mean_filter(images(2, 3, 5, 7), size), slow_mean(images(2, 3, 5, 7), size))


@pytest.mark.parametrize("factor", [0.1, 0.4, 0.5, 0.75])
def test_scaled(factor):
    given = images(2, 3, 8, 9)
    torch.testing.assert_close(scale_down_and_up(given, factor), slow_scaled(given, factor))


def test_consistency():
    rng = torch.Generator().manual_seed(3)
    logits, *views = 3 * torch.randn(4, 20, 5, generator=rng)
    fast, slow = consistency_numbers(logits, views), slow_consistency(logits, views)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


def rows_of_views(count, *, classes, seed):
    """Logits of an image and two views, whose answers turn on the second half."""
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, classes, generator=rng)
    noise = torch.randn(2, count, classes, generator=rng)
    size = torch.where(torch.arange(count) >= count // 2, 1.0, 0.3)[:, None]
    return {"logits": logits, "a/logits": logits + size * noise[0], "b/logits": logits + size * noise[1]}


@pytest.mark.parametrize(("classes", "ranks"), [(3, 10), (12, 4)])
def test_boosted_trees_score_as_the_library_does_on_numbers_put_in_order_by_hand(classes, ranks):
    fit, new = (rows_of_views(90, classes=classes, seed=seed) for seed in (0, 1))
    adversarial = torch.arange(90) >= 45
    # Classes as many as each other have no weights.
    clean = ~adversarial
    detector = LogitTrees(source=Logits(), trees=30, depth=3, learning_rate=0.2, ranks=ranks, share=0.4)
    detector.fit(fit, adversarial, clean, seed=5)

    def table(measured):
        rows = []
        for number in range(90):
            parts = [measured[name][number].log_softmax(dim=0) for name in ("logits", "a/logits", "b/logits")]
            order = sorted(range(classes), key=lambda k: -parts[0][k].item())[:ranks]
            rows.append([part[k].item() for part in parts for k in order])
        return np.array(rows, dtype=np.float32)

    library = GradientBoostingClassifier(
        init="zero", n_estimators=30, max_depth=3, learning_rate=0.2, max_features=0.4,
        random_state=derive_seed(5, "logit trees") % 2**32,
    )  # fmt: skip
    library.fit(table(fit), adversarial.numpy())
    expected = torch.from_numpy(library.decision_function(table(new)))
    torch.testing.assert_close(detector.judge(new), expected, rtol=1e-9, atol=1e-9)


def test_classes_of_unequal_size_weigh_the_same_in_boosted_trees():
    fit = rows_of_views(90, classes=5, seed=0)
    adversarial = torch.arange(90) >= 80
    detector = LogitTrees(source=Logits(), trees=1, depth=1, learning_rate=1.0)
    detector.fit(fit, adversarial, ~adversarial)
    # One Newton step from even odds, leaf by leaf: residuals over a quarter of the weights.
    weight = torch.where(adversarial, 90 / 20, 90 / 160)
    scores = detector.judge(fit)
    for answer in scores.unique():
        here = scores == answer
        step = ((adversarial.double() - 0.5) * weight)[here].sum() / (0.25 * weight[here].sum())
        assert answer.item() == pytest.approx(step.item(), rel=1e-6)
    assert len(scores.unique()) == 2


def test_a_class_that_is_ruled_out_is_read_as_very_unlikely():
    fit = rows_of_views(40, classes=5, seed=0)
    adversarial = torch.arange(40) >= 20
    detector = LogitTrees(source=Logits(), trees=5)
    fit["a/logits"][3, 1] = -math.inf
    detector.fit(fit, adversarial, ~adversarial)
    assert bool(detector.judge(fit).isfinite().all())
