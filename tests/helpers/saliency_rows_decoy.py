"""Rows of decoys around several base methods."""

from helpers.saliency_cases import SaliencyCase
from verisal.saliency import Decoy, IntegratedGradients, Occlusion, SmoothGrad


def _decoy(**settings: object) -> Decoy:
    # The layer has stride 2 and a field of 3 pixels; the images are small, the decoys few.
    return Decoy(patch=3, stride=6, epsilon=0.1, steps=5, rounds=2, **settings)


CASES = {
    "Decoy": SaliencyCase(_decoy, channels=3, late_call=2),
    "Decoy single mean": SaliencyCase(
        lambda: _decoy(masks="single", aggregate="mean", layer="two"), channels=3, late_call=2
    ),
    "Decoy of SmoothGrad": SaliencyCase(lambda: _decoy(base=SmoothGrad(samples=3)), channels=3, late_call=2),
    "Decoy of IntegratedGradients": SaliencyCase(
        lambda: _decoy(base=IntegratedGradients(steps=3), masks="single", perturbation="constant"),
        channels=3,
        late_call=2,
        baseline="black",
    ),
    "Decoy of Occlusion": SaliencyCase(
        lambda: _decoy(base=Occlusion(window=8, stride=4), perturbation="noise", max_deviation=0.3),
        channels=1,
        late_call=2,
        baseline="dataset_mean",
    ),
}
