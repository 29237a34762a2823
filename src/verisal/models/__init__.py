"""Networks only: the classifier wrapper, the shipped classifier's network, the detector CNN."""

from ._split import SplitNetwork as SplitNetwork
from ._split import split_network as split_network
from .classifier import Classifier as Classifier
from .detector import AttributionCNN as AttributionCNN
from .resnet import SmallResNet as SmallResNet
from .zoo import export_classifier as export_classifier
from .zoo import load_classifier as load_classifier
from .zoo import shipped_classifiers as shipped_classifiers

__all__ = [
    "AttributionCNN",
    "Classifier",
    "SmallResNet",
    "SplitNetwork",
    "export_classifier",
    "load_classifier",
    "shipped_classifiers",
    "split_network",
]
