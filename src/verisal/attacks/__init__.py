"""Attacks: pure, per sample, seeded; one call signature for all."""

from ._adaptive_aims import Aim as Aim
from ._adaptive_aims import FeatureMatching as FeatureMatching
from ._adaptive_aims import Orthogonal as Orthogonal
from ._adaptive_aims import Selective as Selective
from ._adaptive_aims import Weighted as Weighted
from ._adaptive_target import Defence as Defence
from ._base import Attack as Attack
from .aa_light import AALight as AALight
from .adapters import AdaptedAttack as AdaptedAttack
from .adapters import ARTCall as ARTCall
from .adapters import FoolboxCall as FoolboxCall
from .adapters import TorchattacksCall as TorchattacksCall
from .adaptive import AdaptivePGD as AdaptivePGD
from .adaptive import AdaptiveResult as AdaptiveResult
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
    "ARTCall",
    "AdaptedAttack",
    "AdaptivePGD",
    "AdaptiveResult",
    "Aim",
    "Attack",
    "Brightness",
    "CarliniWagnerL2",
    "DeepFoolL2",
    "Defence",
    "FeatureMatching",
    "FoolboxCall",
    "GaussianBlur",
    "GaussianNoise",
    "HopSkipJumpL2",
    "Orthogonal",
    "Selective",
    "Shift",
    "SignNoise",
    "SquareAttack",
    "TorchattacksCall",
    "Weighted",
]
