"""Small evaluations with known numbers."""

import math

import torch

from verisal.results import Curve, Evaluation, Histogram, MaskPanel, Score


def panel(attack="cw_l2", caption="label dog; cat (0.98) when attacked"):
    clean = torch.full((3, 8, 8), 0.5)
    attacked = clean.clone()
    attacked[:, 2, 2] = 0.52
    maps = {"stage1": torch.ones(4, 4), "stage2": torch.ones(2, 2)}
    changed = {"stage1": torch.ones(4, 4), "stage2": torch.tensor([[1.0, 1.0], [3.0, 1.0]])}
    return MaskPanel(
        "image-7", attack, clean, attacked, maps, changed, torch.ones(8, 8), torch.ones(8, 8), caption
    )


def curve(figure, label, points=3):
    x = torch.linspace(0, 1, points)
    return Curve(figure, label, x, x.sqrt(), "false positive rate", "true positive rate")


def evaluation(split="test", *, panels=1, points=3):
    scores = {
        f"{split}/masks/auroc/cw_l2": Score(0.75, 0.7, 0.8, 40),
        f"{split}/masks/auroc/pgd_linf_4": Score(0.9375, 0.9, 0.95, 39, 1),
        f"{split}/gradient/auroc/cw_l2": Score(0.5, math.nan, math.nan, 40),
        f"{split}/gradient/auroc/pgd_linf_4": Score(math.nan, math.nan, math.nan, 0, 40),
        f"{split}/masks/tpr_at_fpr1/cw_l2": Score(math.nan, math.nan, math.nan, 0, 40),
        f"{split}/masks/fpr/clean": Score(0.0625, 0.03, 0.1, 64),
    }
    return Evaluation(
        split=split,
        scores=scores,
        counts={"clean": 64, "cw_l2": 40},
        curves=tuple(curve("roc_cw_l2", label, points) for label in ("masks", "gradient")),
        histograms=(
            Histogram(
                "scores_masks",
                {"clean": torch.arange(8.0), "cw_l2": torch.arange(4.0, 12.0)},
                "score",
                {"FPR 5 %": 6.5, "FPR 1 %": math.nan},
            ),
        ),
        panels=tuple(panel() for _ in range(panels)),
        samples={"image_id": ["a", "b"], "masks": [0.5, 1.5]},
        notes=("FPR 1 % not supported: 64 validation images, 1000 needed",),
    )
