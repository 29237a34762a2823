"""Networks only: the classifier wrapper and the shipped classifier's network."""

from ._architecture import Architecture as Architecture
from ._split import SplitNetwork as SplitNetwork
from ._split import split_network as split_network
from ._stages import find_stages as find_stages
from .classifier import Classifier as Classifier
from .resnet import SmallResNet as SmallResNet
from .zoo import ClassifierSource as ClassifierSource
from .zoo import export_classifier as export_classifier
from .zoo import load_classifier as load_classifier
from .zoo import shipped_classifiers as shipped_classifiers

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
