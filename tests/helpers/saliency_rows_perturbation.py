"""Rows of occlusion, RISE and the controls."""

from helpers.saliency_cases import SaliencyCase
from verisal.functional.baselines import Constant
from verisal.saliency import RISE, CentrePrior, EdgeDetector, Occlusion, PixelResidual, RandomMap

CASES = {
    "Occlusion": SaliencyCase(
        lambda: Occlusion(window=6, stride=3, chunk_size=12),
        passes=(5 * 3 + 1, 0),
        channels=1,
        baseline="dataset_mean",
    ),
    "Occlusion logit": SaliencyCase(
        lambda: Occlusion(window=(5, 4), stride=4, score="logit", baseline=Constant(), chunk_size=2),
        passes=(4 * 3 + 1, 0),
        channels=1,
        baseline="black",
    ),
    "Occlusion per channel": SaliencyCase(
        lambda: Occlusion(window=6, stride=3, chunk_size=12, per_channel=True),
        passes=(3 * 5 * 3 + 1, 0),
        channels=3,
        baseline="dataset_mean",
    ),
    "Occlusion refined": SaliencyCase(
        lambda: Occlusion(window=6, stride=2, chunk_size=12, refine=0.5),
        channels=1,
        baseline="dataset_mean",
    ),
    "RISE": SaliencyCase(
        lambda: RISE(cells=4, masks=40, chunk_size=16),
        passes=(40, 0),
        channels=1,
        baseline="dataset_mean",
    ),
    "RISE logit": SaliencyCase(
        lambda: RISE(cells=3, masks=300, keep_probability=0.3, score="logit", baseline=Constant(level=0.5)),
        passes=(300, 0),
        channels=1,
        baseline="grey",
    ),
    "RISE per channel": SaliencyCase(
        lambda: RISE(cells=4, masks=40, chunk_size=16, per_channel=True),
        passes=(3 * 41, 0),
        channels=3,
        baseline="dataset_mean",
    ),
    "RISE orthogonal until": SaliencyCase(
        lambda: RISE(cells=3, masks=128, chunk_size=16, sampling="orthogonal", until=0.15),
        channels=1,
        baseline="dataset_mean",
    ),
    "RISE sobol until per channel": SaliencyCase(
        lambda: RISE(cells=3, masks=256, keep_probability=0.4, sampling="sobol", until=0.3, per_channel=True),
        channels=3,
        baseline="dataset_mean",
    ),
    "RandomMap": SaliencyCase(RandomMap, passes=(0, 0), uses_query=False, uses_classifier=False, late_call=1),
    "CentrePrior": SaliencyCase(
        CentrePrior,
        passes=(0, 0),
        uses_query=False,
        uses_classifier=False,
        late_call=1,
        varies_with_image=False,
    ),
    "EdgeDetector": SaliencyCase(
        EdgeDetector, passes=(0, 0), uses_query=False, uses_classifier=False, late_call=1
    ),
    "PixelResidual": SaliencyCase(
        PixelResidual, passes=(0, 0), uses_query=False, uses_classifier=False, late_call=1
    ),
}
