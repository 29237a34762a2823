"""Classifiers from anywhere, their stages, and gates on them."""

from verisal.models._stages import find_stages
from verisal.models.bounds import Bounds
from verisal.models.classifier import Classifier
from verisal.models.function_network import FunctionNetwork
from verisal.models.normalization import Normalization
from verisal.models.sources.libraries import Architecture
from verisal.models.sources.shipped import SmallResNet
from verisal.models.sources.zoo import ClassifierSource, export_classifier, load_classifier
from verisal.models.targets import (
    ClassLogit,
    Contrast,
    Probability,
    Region,
    Similarity,
    Target,
    targeted,
)
from verisal.models.with_inputs import WithInputs

__all__ = [
    "Architecture",
    "Bounds",
    "ClassLogit",
    "Classifier",
    "ClassifierSource",
    "Contrast",
    "FunctionNetwork",
    "Normalization",
    "Probability",
    "Region",
    "Similarity",
    "SmallResNet",
    "Target",
    "WithInputs",
    "export_classifier",
    "find_stages",
    "load_classifier",
    "targeted",
]
