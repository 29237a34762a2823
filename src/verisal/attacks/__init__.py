"""Attacks: pure, per sample, seeded; one call signature for all."""

from verisal.attacks._base import Attack, AttackResult
from verisal.attacks.adapters import AdaptedAttack, ARTCall, FoolboxCall, TorchattacksCall
from verisal.attacks.adaptive.attack import AdaptivePGD
from verisal.attacks.adaptive.target import (
    Aim,
    Defence,
    EvidenceInside,
    FeatureMatching,
    Orthogonal,
    Selective,
    Weighted,
)
from verisal.attacks.black_box.hop_skip_jump import HopSkipJumpL2
from verisal.attacks.black_box.square import SquareAttack
from verisal.attacks.corruptions import JPEG, Brightness, GaussianBlur, GaussianNoise, Shift, SignNoise
from verisal.attacks.gradient.apgd import APGD, AALight
from verisal.attacks.gradient.pgd import BIM, FGSM, PGD
from verisal.attacks.minimal.carlini_wagner import CarliniWagnerL2
from verisal.attacks.minimal.ddn import DDN
from verisal.attacks.minimal.deepfool import DeepFoolL2
from verisal.attacks.names import named_attacks
from verisal.attacks.patch import AdversarialPatch

__all__ = [
    "APGD", "BIM", "DDN", "FGSM", "JPEG", "PGD", "AALight", "ARTCall", "AdaptedAttack", "AdaptivePGD",
    "AdversarialPatch", "Aim", "Attack", "AttackResult", "Brightness", "CarliniWagnerL2", "DeepFoolL2",
    "Defence", "EvidenceInside", "FeatureMatching", "FoolboxCall", "GaussianBlur", "GaussianNoise",
    "HopSkipJumpL2", "Orthogonal", "Selective", "Shift", "SignNoise", "SquareAttack", "TorchattacksCall",
    "Weighted", "named_attacks",
]  # fmt: skip
