"""The leave-one-family-out table by explicit loops: a resample is a list of images, some repeated."""

import math
import statistics

import pytest
import torch
from test_detection_reference import slow_auroc, slow_share

from helpers.replicates import replicates
from verisal.detection.families import Families, transfer_report
from verisal.detection.metric import DetectionTable
from verisal.functional.statistics import Bootstrap
from verisal.functional.statistics.detection import resampled_auroc, resampled_mean

ATTACKS = {"a": ["a1", "a2"], "b": ["b1"], "c": ["c1", "c2"]}
FITS = {"first": ["a1"], "last": ["c1", "c2"]}
NAMES = {0: "clean", 1: "a1", 2: "a2", 3: "b1", 4: "c1", 5: "c2"}
ROWS = ("head", "other")
IMAGES, RESAMPLES, SEED = 12, 40, 3


def drawn_images(weights):
    """The resample as a list."""
    return [image for image, times in enumerate(weights.tolist()) for _ in range(int(times))]


@replicates(resampled_auroc)
def slow_resampled_auroc(positive, negative, weights):
    found = []
    for row in weights:
        drawn = drawn_images(row)
        kept = [positive[image] for image in drawn], [negative[image] for image in drawn]
        found.append(slow_auroc(*kept) if drawn else math.nan)
    return found


@replicates(resampled_mean)
def slow_resampled_mean(events, weights):
    found = []
    for row in weights:
        drawn = [events[image] for image in drawn_images(row)]
        found.append(sum(drawn) / len(drawn) if drawn else math.nan)
    return found


@pytest.mark.parametrize("ties", [False, True])
def test_parts_of_a_resample(ties):
    rng = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(2, 5, generator=rng, dtype=torch.float64)
    if ties:
        positive, negative = (positive * 2).round(), (negative * 2).round()
    weights = torch.randint(4, (30, 5), generator=rng).float()
    weights[7] = 0  # none of them was drawn
    torch.testing.assert_close(
        resampled_auroc(positive, negative, weights),
        torch.tensor(
            slow_resampled_auroc(positive.tolist(), negative.tolist(), weights), dtype=torch.float64
        ),
        equal_nan=True,
    )
    torch.testing.assert_close(
        resampled_mean((positive > 0).double(), weights),
        torch.tensor(slow_resampled_mean((positive > 0).tolist(), weights), dtype=torch.float64),
        equal_nan=True,
    )


def drawn_scores(seed):
    """Fit to group to image to the score of each row; attacks succeed on some of the images only."""
    rng = torch.Generator().manual_seed(seed)
    reached = {group: torch.rand(IMAGES, generator=rng) < 0.7 for group in NAMES}
    reached[0][:] = True
    scores = {}
    for fit in FITS:
        scores[fit] = {}
        for group in NAMES:
            values = torch.randn(IMAGES, 2, generator=rng, dtype=torch.float64) + 0.4 * group
            images = reached[group].nonzero()[:, 0].tolist()
            scores[fit][group] = {image: (values[image] * 4).round().tolist() for image in images}
    return scores


def tables(scores):
    made = {}
    for fit, groups in scores.items():
        rows = [(group, image, pair) for group, of in groups.items() for image, pair in of.items()]
        made[fit] = DetectionTable(
            torch.tensor([pair for _, _, pair in rows], dtype=torch.float64).unsqueeze(2),
            image_index=torch.tensor([image for _, image, _ in rows]),
            group=torch.tensor([group for group, _, _ in rows]),
        )
    return made


def cell(groups, attack, row, images, threshold):
    """AUROC, or rate above the threshold, over a list of images; NaN where the attack reached none."""
    number = next(number for number, name in NAMES.items() if name == attack)
    kept = [image for image in images if image in groups[number]]
    if not kept:
        return math.nan
    positive = [groups[number][image][row] for image in kept]
    if threshold is not None:
        return sum(score > threshold for score in positive) / len(positive)
    return slow_auroc(positive, [groups[0][image][row] for image in kept])


def column(groups, families, row, images, threshold=None):
    """Families to their means over attacks, and the least and the mean of these."""
    means = []
    for family in families:
        values = [cell(groups, attack, row, images, threshold) for attack in ATTACKS[family]]
        means.append(sum(values) / len(values))
    mean = sum(means) / len(means)
    return {"mean": mean, "worst": math.nan if math.isnan(mean) else min(means)}


@replicates(transfer_report)
def slow_report(scores, *, thresholds, seed, resamples):
    """Name to value, low and high, for the columns of the fit ``first`` and the difference of the rows."""
    resampled = [drawn_images(row) for row in Bootstrap(resamples, seed=seed).weights(IMAGES)]
    every, found, kept = list(range(IMAGES)), {}, {}
    columns = {
        "mean_seen": (["a"], "mean"),
        "mean_unseen": (["b", "c"], "mean"),
        "worst_unseen": (["b", "c"], "worst"),
        "mean_unseen_strict": (["c"], "mean"),
    }

    def values(fit, families, which, index, at=None):
        drawn = [every, *resampled]
        return [column(scores[fit], families, index, images, at)[which] for images in drawn]

    def limits(fit, families, index, at=None, miss=0.025):
        of = values(fit, families, "mean", index, at)
        defined = [value for value in of[1:] if not math.isnan(value)]
        return slow_share(of[0], defined, worth([of_family(scores[fit], one) for one in families]), miss)

    for index, row in enumerate(ROWS):
        for metric, at in (("auroc", None), ("tpr_at_fpr5", thresholds[row])):
            for name, (families, which) in columns.items():
                of = values("first", families, which, index, at)
                if which == "mean":
                    ends = limits("first", families, index, at)
                else:
                    wide = [limits("first", [one], index, at) for one in families]
                    part = [limits("first", [one], index, at, 0.025 / len(families)) for one in families]
                    ends = min(low for low, _ in wide), min(high for _, high in part)
                kept[row, metric, name] = of, ends
                found[f"test/{row}/{metric}/{name}"] = (of[0], *ends)
        for name in ATTACKS:
            for fit in FITS:
                value = values(fit, [name], "mean", index)[0]
                found[f"test/{row}/auroc_fitted_on_{fit}/{name}"] = (value, *limits(fit, [name], index))
    for name in ("mean_unseen", "worst_unseen"):
        (one, (l1, u1)), (two, (l2, u2)) = kept["head", "auroc", name], kept["other", "auroc", name]
        pairs = [pair for pair in zip(one[1:], two[1:], strict=True) if not math.isnan(sum(pair))]
        r = statistics.correlation(*zip(*pairs, strict=True))
        below, above = one[0] - l1, u2 - two[0]
        low = math.sqrt(below**2 + above**2 - 2 * r * below * above)
        below, above = two[0] - l2, u1 - one[0]
        high = math.sqrt(below**2 + above**2 - 2 * r * below * above)
        difference = one[0] - two[0]
        found[f"test/head_minus_other/difference/{name}"] = difference, difference - low, difference + high
    return found


def of_family(groups, family):
    numbers = [number for number, name in NAMES.items() if name in ATTACKS[family]]
    return worth([len(groups[number]) for number in numbers])


def worth(counts):
    """Of how many images the mean of rates on so many is worth if they err together."""
    return (sum(count**-0.5 for count in counts) / len(counts)) ** -2


@pytest.mark.parametrize("draw", [0, 1])
def test_the_whole_table(draw):
    scores, at = drawn_scores(draw), {"head": 1.0, "other": 0.25}
    families = Families(ATTACKS, FITS, merged=("a", "b"))
    fast = transfer_report(
        tables(scores), families, split="test", rows=ROWS, groups=NAMES, clean=0,
        thresholds={fit: {row: {0.05: level} for row, level in at.items()} for fit in FITS},
        default="first", head="head", bootstrap=Bootstrap(RESAMPLES, seed=SEED),
    )  # fmt: skip
    slow = slow_report(scores, thresholds=at, seed=SEED, resamples=RESAMPLES)
    assert slow.keys() <= fast.keys()
    for name, expected in slow.items():
        score = fast[name]
        assert (score.value, score.low, score.high) == pytest.approx(expected, abs=1e-9), name
