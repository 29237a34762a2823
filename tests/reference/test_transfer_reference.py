"""The leave-one-family-out table by explicit loops: a resample is a list of images, some repeated."""

import math

import pytest
import torch
from _replicates import replicates
from test_detection_reference import slow_auroc, slow_percentile

from verisal.functional import bootstrap_weights, resampled_auroc, resampled_rate
from verisal.metrics import DetectionTable, Families, transfer_report

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


@replicates(resampled_rate)
def slow_resampled_rate(events, weights):
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
        resampled_rate(positive > 0, weights),
        torch.tensor(slow_resampled_rate((positive > 0).tolist(), weights), dtype=torch.float64),
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
    resampled = [drawn_images(row) for row in bootstrap_weights(IMAGES, resamples=resamples, seed=seed)]
    every, found, kept = list(range(IMAGES)), {}, {}
    columns = {
        "mean_seen": (["a"], "mean"),
        "mean_unseen": (["b", "c"], "mean"),
        "worst_unseen": (["b", "c"], "worst"),
        "mean_unseen_strict": (["c"], "mean"),
    }
    for index, row in enumerate(ROWS):
        for metric, at in (("auroc", None), ("tpr_at_fpr5", thresholds[row])):
            for name, (families, which) in columns.items():
                of = [
                    column(scores["first"], families, index, images, at)[which]
                    for images in [every, *resampled]
                ]
                kept[row, metric, name] = of
                found[f"test/{row}/{metric}/{name}"] = of
        for name in ATTACKS:
            for fit in FITS:
                of = [column(scores[fit], [name], index, images)["mean"] for images in [every, *resampled]]
                found[f"test/{row}/auroc_fitted_on_{fit}/{name}"] = of
    for name in ("mean_unseen", "worst_unseen"):
        pairs = zip(kept["head", "auroc", name], kept["other", "auroc", name], strict=True)
        found[f"test/head_minus_other/difference/{name}"] = [head - other for head, other in pairs]
    return {
        name: (of[0], *ends([value for value in of[1:] if not math.isnan(value)]))
        for name, of in found.items()
    }


def ends(values):
    return slow_percentile(values, 0.025), slow_percentile(values, 0.975)


@pytest.mark.parametrize("draw", [0, 1])
def test_the_whole_table(draw):
    scores, at = drawn_scores(draw), {"head": 1.0, "other": 0.25}
    families = Families(ATTACKS, FITS, merged=("a", "b"))
    fast = transfer_report(
        tables(scores), families, split="test", rows=ROWS, groups=NAMES, clean=0,
        thresholds={fit: {row: {0.05: level} for row, level in at.items()} for fit in FITS},
        default="first", head="head", seed=SEED, resamples=RESAMPLES,
    )  # fmt: skip
    slow = slow_report(scores, thresholds=at, seed=SEED, resamples=RESAMPLES)
    assert slow.keys() <= fast.keys()
    for name, expected in slow.items():
        score = fast[name]
        assert (score.value, score.low, score.high) == pytest.approx(expected, abs=1e-9), name
