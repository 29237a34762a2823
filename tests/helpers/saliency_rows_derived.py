"""Rows of the methods made from others."""

from helpers.saliency_cases import SaliencyCase
from verisal.saliency import BlurredLike, Gradient, HierarchicalMasks, OfProbability, OneLayer, Tiled

MASKS = HierarchicalMasks(reg_weight=0.02, steps=8, learning_rate=0.2)

CASES = {
    "OneLayer": SaliencyCase(lambda: OneLayer(base=MASKS, layer=1), passes=(9, 8)),
    "BlurredLike": SaliencyCase(lambda: BlurredLike(base=Gradient(), like=MASKS), passes=(10, 9)),
    "OfProbability": SaliencyCase(
        lambda: OfProbability(base=Gradient()), passes=(1, 1), late_call=1, channels=3
    ),
    "Tiled": SaliencyCase(
        lambda: Tiled(base=Gradient(), tile=8, chunk_size=4), passes=(6, 6), late_call=2, channels=3
    ),
    "Tiled masks": SaliencyCase(lambda: Tiled(base=MASKS, tile=(16, 8)), layers=3, passes=(18, 16)),
}
