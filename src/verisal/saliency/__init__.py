"""Saliency methods: one family a file."""

from ._base import GateMethod as GateMethod
from ._base import GateResult as GateResult
from ._base import Saliency as Saliency
from ._decoy_report import DecoyReport as DecoyReport
from ._gate_descent import GateDescent as GateDescent
from ._gate_maps import Shown as Shown
from ._gate_maps import fused_maps as fused_maps
from ._gate_maps import maps_of_gates as maps_of_gates
from ._gate_maps import raw_maps as raw_maps
from ._gate_problem import GateProblem as GateProblem
from ._gate_problem import Objective as Objective
from ._gradient import Attribution as Attribution
from ._gradient import GradientMethod as GradientMethod
from .adapters import CallableAdapter as CallableAdapter
from .adapters import CaptumAdapter as CaptumAdapter
from .adapters import GradCamAdapter as GradCamAdapter
from .adapters import TorchCamAdapter as TorchCamAdapter
from .calibration import Calibration as Calibration
from .calibration import calibrate_reg_weight as calibrate_reg_weight
from .captum import DeepLift as DeepLift
from .captum import GradCAM as GradCAM
from .captum import Gradient as Gradient
from .captum import GuidedBackpropagation as GuidedBackpropagation
from .captum import InputXGradient as InputXGradient
from .captum import IntegratedGradients as IntegratedGradients
from .controls import CentrePrior as CentrePrior
from .controls import EdgeDetector as EdgeDetector
from .controls import RandomMap as RandomMap
from .decoy import Decoy as Decoy
from .decoy import Decoys as Decoys
from .derived import BlurredLike as BlurredLike
from .derived import OfProbability as OfProbability
from .derived import OneLayer as OneLayer
from .differentiable import DifferentiableGates as DifferentiableGates
from .differentiable import FrozenGates as FrozenGates
from .differentiable import GateFunction as GateFunction
from .differentiable import PredictedGates as PredictedGates
from .differentiable import UnrolledGates as UnrolledGates
from .extremal import ExtremalPerturbation as ExtremalPerturbation
from .hierarchical import HierarchicalMasks as HierarchicalMasks
from .learned import LearnedMask as LearnedMask
from .learned import MaskCard as MaskCard
from .learned import classifier_fingerprint as classifier_fingerprint
from .learned import load_mask_network as load_mask_network
from .learned import save_mask_network as save_mask_network
from .mask_network import MaskNetwork as MaskNetwork
from .meaningful import MeaningfulPerturbation as MeaningfulPerturbation
from .occlusion import Occlusion as Occlusion
from .rise import RISE as RISE
from .sampled import GradientSHAP as GradientSHAP
from .sampled import SmoothGrad as SmoothGrad
from .sampled import VarGrad as VarGrad

__all__ = [
    "RISE",
    "Attribution",
    "BlurredLike",
    "Calibration",
    "CallableAdapter",
    "CaptumAdapter",
    "CentrePrior",
    "Decoy",
    "DecoyReport",
    "Decoys",
    "DeepLift",
    "DifferentiableGates",
    "EdgeDetector",
    "ExtremalPerturbation",
    "FrozenGates",
    "GateDescent",
    "GateFunction",
    "GateMethod",
    "GateProblem",
    "GateResult",
    "GradCAM",
    "GradCamAdapter",
    "Gradient",
    "GradientMethod",
    "GradientSHAP",
    "GuidedBackpropagation",
    "HierarchicalMasks",
    "InputXGradient",
    "IntegratedGradients",
    "LearnedMask",
    "MaskCard",
    "MaskNetwork",
    "MeaningfulPerturbation",
    "Objective",
    "Occlusion",
    "OfProbability",
    "OneLayer",
    "PredictedGates",
    "RandomMap",
    "Saliency",
    "Shown",
    "SmoothGrad",
    "TorchCamAdapter",
    "UnrolledGates",
    "VarGrad",
    "calibrate_reg_weight",
    "classifier_fingerprint",
    "fused_maps",
    "load_mask_network",
    "maps_of_gates",
    "raw_maps",
    "save_mask_network",
]
