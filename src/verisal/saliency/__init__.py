"""Saliency methods: gates, gradients, decoys, perturbations, controls and adapters."""

from verisal.saliency._base import Saliency
from verisal.saliency.adapters import CallableAdapter, CaptumAdapter, GradCamAdapter, TorchCamAdapter
from verisal.saliency.controls import (
    BlurredLike,
    CentrePrior,
    EdgeDetector,
    OfProbability,
    OneLayer,
    RandomMap,
)
from verisal.saliency.decoy.decoy import Decoy, Decoys
from verisal.saliency.decoy.problem import DecoyReport
from verisal.saliency.explainer import Explainer
from verisal.saliency.gates.descent import GateDescent, GateProblem, GateResult, Objective
from verisal.saliency.gates.differentiable import (
    DifferentiableGates,
    FrozenGates,
    GateFunction,
    PredictedGates,
    UnrolledGates,
)
from verisal.saliency.gates.hierarchical import Calibration, HierarchicalMasks, calibrate_reg_weight
from verisal.saliency.gates.learned import (
    LearnedMask,
    MaskCard,
    MaskNetwork,
    classifier_fingerprint,
    load_mask_network,
    save_mask_network,
)
from verisal.saliency.gates.masks import Shown, fused_maps, maps_of_gates, raw_maps
from verisal.saliency.gates.method import FoundGates, GateMethod
from verisal.saliency.gradients.gradient import Attribution, GradCAM, Gradient, GradientMethod, InputXGradient
from verisal.saliency.gradients.rules import DeepLift, GuidedBackpropagation
from verisal.saliency.gradients.sampled import GradientSHAP, IntegratedGradients, SmoothGrad, VarGrad
from verisal.saliency.perturbation.extremal import ExtremalPerturbation
from verisal.saliency.perturbation.meaningful import MeaningfulPerturbation
from verisal.saliency.perturbation.occlusion import Occlusion
from verisal.saliency.perturbation.rise import RISE

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
    "Explainer",
    "ExtremalPerturbation",
    "FoundGates",
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
