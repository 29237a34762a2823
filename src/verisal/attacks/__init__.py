"""Attacks: pure, per sample, seeded; one call signature for all."""

from ._base import Attack as Attack
from .aa_light import AALight as AALight
from .apgd import APGD as APGD
from .bim import BIM as BIM
from .carlini_wagner import CarliniWagnerL2 as CarliniWagnerL2
from .corruptions import JPEG as JPEG
from .corruptions import Brightness as Brightness
from .corruptions import GaussianBlur as GaussianBlur
from .corruptions import Shift as Shift
from .ddn import DDN as DDN
from .deepfool import DeepFoolL2 as DeepFoolL2
from .fgsm import FGSM as FGSM
from .hop_skip_jump import HopSkipJumpL2 as HopSkipJumpL2
from .noise import GaussianNoise as GaussianNoise
from .noise import SignNoise as SignNoise
from .pgd import PGD as PGD
from .square import SquareAttack as SquareAttack

__all__ = [
    "APGD",
    "BIM",
    "DDN",
    "FGSM",
    "JPEG",
    "PGD",
    "AALight",
    "Attack",
    "Brightness",
    "CarliniWagnerL2",
    "DeepFoolL2",
    "GaussianBlur",
    "GaussianNoise",
    "HopSkipJumpL2",
    "Shift",
    "SignNoise",
    "SquareAttack",
]
