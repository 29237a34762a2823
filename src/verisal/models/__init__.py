"""Networks only: the classifier wrapper, the shipped classifier's network, the detector CNN."""

from ._split import SplitNetwork as SplitNetwork
from ._split import split_network as split_network
from .classifier import Classifier as Classifier
from .detector import AttributionCNN as AttributionCNN
from .resnet import SmallResNet as SmallResNet

__all__ = ["AttributionCNN", "Classifier", "SmallResNet", "SplitNetwork", "split_network"]
