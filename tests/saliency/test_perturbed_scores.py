"""An image that is in a batch with several queries is perturbed and passed once."""

import pytest
import torch

from verisal.functional.baselines import Constant, Inpaint, OtherImage, UniformNoise
from verisal.saliency import RISE, Occlusion

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
# The first image is asked about three classes, the second about two.
ROWS, QUERY = torch.tensor([0, 1, 0, 2, 1, 0]), torch.tensor([0, 1, 1, 2, 0, 3])
WEIGHTS = torch.randn(4, 192, generator=torch.Generator().manual_seed(1)) / 4


class Network:
    """Four classes; notes how many images it was shown."""

    def __init__(self):
        self.shown = 0

    def __call__(self, images):
        self.shown += len(images)
        return images.flatten(1) @ WEIGHTS.T


def assert_as_alone(method, *, shown):
    """Maps and diagnostics of the batch are those of its rows, and the network sees ``shown`` images."""
    together = Network()
    found = method(together, IMAGES[ROWS], QUERY)
    for place, (row, query) in enumerate(zip(ROWS.tolist(), QUERY.tolist(), strict=True)):
        alone = method(Network(), IMAGES[row : row + 1], torch.tensor([query]))
        torch.testing.assert_close(found.attribution[place], alone.attribution[0], rtol=1e-4, atol=1e-6)
        for name, values in alone.diagnostics.items():
            torch.testing.assert_close(
                found.diagnostics[name][place], values[0], rtol=1e-4, atol=1e-6, equal_nan=True
            )
    assert together.shown == shown


@pytest.mark.parametrize("baseline", [Constant(level=0.5), UniformNoise()], ids=lambda one: one.name)
@pytest.mark.parametrize("score", ["probability", "logit"])
@pytest.mark.parametrize("chunk_size", [1, 5, 64])
def test_three_images_with_six_queries_are_passed_as_three(baseline, score, chunk_size):
    settings = {"baseline": baseline, "score": score, "chunk_size": chunk_size}
    assert_as_alone(Occlusion(window=4, stride=2, **settings), shown=3 * (9 + 1))
    assert_as_alone(RISE(cells=2, masks=6, **settings), shown=3 * 6)


def test_one_channel_at_a_time():
    settings = {"baseline": Constant(), "per_channel": True}
    assert_as_alone(Occlusion(window=4, stride=4, **settings), shown=3 * (3 * 4 + 1))
    assert_as_alone(RISE(cells=2, masks=6, **settings), shown=3 * 3 * (6 + 1))


def test_what_is_done_leaves_alone():
    """Images are asked about until each of their queries is done."""
    method = RISE(cells=4, masks=512, sampling="orthogonal", until=0.35, baseline=Constant())
    taken = method(Network(), IMAGES[ROWS], QUERY).diagnostics["masks"]
    assert len(set(taken.tolist())) > 1
    longest = [int(taken[row == ROWS].max()) for row in range(3)]
    assert_as_alone(method, shown=sum(longest))


def test_windows_that_are_refined_are_those_of_the_query():
    network = Network()
    method = Occlusion(window=4, stride=2, refine=0.9, baseline=Constant())
    taken = method(network, IMAGES[ROWS], QUERY).diagnostics["windows"]
    assert len(set(taken.tolist())) > 1
    # Four coarse windows and the image itself are shared, the others are of a query.
    assert_as_alone(method, shown=3 * (4 + 1) + int((taken - 4).sum()))


def test_fillings_of_the_mask_or_the_query_are_made_for_each_row():
    assert_as_alone(Occlusion(window=4, stride=4, baseline=Inpaint()), shown=6 * (4 + 1))
    pool = OtherImage(images=torch.rand(4, 3, 8, 8), labels=torch.arange(4))
    fills = pool(IMAGES[ROWS], query_class=QUERY).flatten(1)
    distinct = {(int(row), tuple(fill.tolist())) for row, fill in zip(ROWS, fills, strict=True)}
    assert len(distinct) > 3
    assert_as_alone(RISE(cells=2, masks=6, baseline=pool), shown=6 * len(distinct))
