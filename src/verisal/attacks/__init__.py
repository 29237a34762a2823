"""Attacks: pure, per sample, seeded; one call signature for all."""

from ._base import Attack as Attack
from .apgd import APGD as APGD
from .carlini_wagner import CarliniWagnerL2 as CarliniWagnerL2
from .ddn import DDN as DDN
from .deepfool import DeepFoolL2 as DeepFoolL2
from .fgsm import FGSM as FGSM
from .noise import GaussianNoise as GaussianNoise
from .noise import SignNoise as SignNoise
from .pgd import PGD as PGD
from .square import SquareAttack as SquareAttack

__all__ = [
    "APGD",
    "DDN",
    "FGSM",
    "PGD",
    "Attack",
    "CarliniWagnerL2",
    "DeepFoolL2",
    "GaussianNoise",
    "SignNoise",
    "SquareAttack",
]
