"""Saliency methods: gates, gradients, decoys, perturbations, controls and adapters."""

from verisal.saliency._base import Saliency
from verisal.saliency.adapters import CallableAdapter, CaptumAdapter, GradCamAdapter, TorchCamAdapter
from verisal.saliency.controls import (
    BlurredLike,
    CentrePrior,
    EdgeDetector,
    OfProbability,
    OneLayer,
    PixelResidual,
    RandomMap,
)
from verisal.saliency.decoy.decoy import Decoy, Decoys
from verisal.saliency.decoy.problem import DecoyReport
from verisal.saliency.explainer import Explainer
from verisal.saliency.gates.differentiable import FrozenGates, PredictedGates, UnrolledGates
from verisal.saliency.gates.evidence import EvidenceMasks
from verisal.saliency.gates.hierarchical import HierarchicalMasks, calibrate_reg_weight
from verisal.saliency.gates.learned import LearnedMask, MaskNetwork
from verisal.saliency.gates.method import FoundGates, GateMethod
from verisal.saliency.gates.places import PlaceNetwork
from verisal.saliency.gates.ungated import UngatedContributions
from verisal.saliency.gradients.gradient import Attribution, GradCAM, Gradient, GradientMethod, InputXGradient
from verisal.saliency.gradients.rules import DeepLift, GuidedBackpropagation
from verisal.saliency.gradients.sampled import GradientSHAP, IntegratedGradients, SmoothGrad, VarGrad
from verisal.saliency.perturbation.extremal import ExtremalPerturbation
from verisal.saliency.perturbation.meaningful import MeaningfulPerturbation
from verisal.saliency.perturbation.occlusion import Occlusion
from verisal.saliency.perturbation.rise import RISE
from verisal.saliency.tiled import Tiled

__all__ = [
    "RISE",
    "Attribution",
    "BlurredLike",
    "CallableAdapter",
    "CaptumAdapter",
    "CentrePrior",
    "Decoy",
    "DecoyReport",
    "Decoys",
    "DeepLift",
    "EdgeDetector",
    "EvidenceMasks",
    "Explainer",
    "ExtremalPerturbation",
    "FoundGates",
    "FrozenGates",
    "GateMethod",
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
    "MaskNetwork",
    "MeaningfulPerturbation",
    "Occlusion",
    "OfProbability",
    "OneLayer",
    "PixelResidual",
    "PlaceNetwork",
    "PredictedGates",
    "RandomMap",
    "Saliency",
    "SmoothGrad",
    "Tiled",
    "TorchCamAdapter",
    "UngatedContributions",
    "UnrolledGates",
    "VarGrad",
    "calibrate_reg_weight",
]
