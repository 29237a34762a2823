"""Networks only: the classifier wrapper and the shipped classifier's network."""

from verisal.models._architecture import Architecture
from verisal.models._split import SplitNetwork, split_network
from verisal.models._stages import find_stages
from verisal.models.classifier import Classifier
from verisal.models.resnet import SmallResNet
from verisal.models.zoo import ClassifierSource, export_classifier, load_classifier, shipped_classifiers

__all__ = [
    "Architecture",
    "Classifier",
    "ClassifierSource",
    "SmallResNet",
    "SplitNetwork",
    "export_classifier",
    "find_stages",
    "load_classifier",
    "shipped_classifiers",
    "split_network",
]
