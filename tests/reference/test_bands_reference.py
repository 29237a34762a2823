"""Removal of bands one image, one order and one band after the other."""

import pytest
import torch
from torch import nn

from helpers.replicates import replicates
from verisal.functional.baselines import Blur, Constant, ImageMean, bound
from verisal.functional.removal import band_removal
from verisal.functional.seeding import content_ids, derive_seed


@replicates(band_removal)
def slow_bands(classifier, image, attribution, query, *, baseline, orders, score):
    """Curves by the attribution, as means over ``orders``, and by single bands, of one image."""
    fill = baseline(image[None])[0]

    def value(removed):
        version = image.clone()
        for band in removed:
            version[band] = fill[band]
        logits = classifier(version[None])[0]
        return float((logits if score == "logit" else logits.softmax(dim=0))[query])

    def curve(order):
        return [value(order[:count]) for count in range(len(order) + 1)]

    bands = range(len(image))
    sums = [float(attribution[band].abs().sum()) for band in bands]
    falls = [value([]) - value([band]) for band in bands]
    random = [curve(order) for order in orders]
    return {
        "evidence": [one / sum(sums) for one in sums],
        "scores": curve(sorted(bands, key=lambda band: -sums[band])),
        "random_scores": [sum(points) / len(points) for points in zip(*random, strict=True)],
        "falls": falls,
        "fall_scores": curve(sorted(bands, key=lambda band: -falls[band])),
    }


def orders_of(image, count, seed):
    named = derive_seed(seed, content_ids(image[None])[0], "orders of bands")
    generator = torch.Generator().manual_seed(named)
    return [torch.randperm(len(image), generator=generator).tolist() for _ in range(count)]


@pytest.mark.parametrize("score", ["probability", "logit"])
@pytest.mark.parametrize("baseline", [Constant(level=0.5), ImageMean(), Blur(sigma=20)], ids=lambda b: b.name)
@torch.no_grad()
def test_bands_equal_the_literal_ones(baseline, score):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Conv2d(5, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(60, 3)).eval()
        images, attribution = torch.rand(2, 5, 7, 5), torch.randn(2, 5, 7, 5)
    network[3].weight.mul_(4)
    query = torch.tensor([2, 0])
    settings = {"baseline": baseline, "score": score}
    fast = band_removal(
        network, images, attribution, query, random_orders=3, seed=7, chunk_size=4, **settings
    )
    for index in range(2):
        orders = orders_of(images[index], 3, 7)
        slow = slow_bands(
            network,
            images[index],
            attribution[index],
            int(query[index]),
            baseline=bound(baseline, network),
            orders=orders,
            score=score,
        )
        for name, values in slow.items():
            assert vars(fast)[name][index].tolist() == pytest.approx(values, abs=1e-5), name
