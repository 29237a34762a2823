"""Normalisations of the toy networks."""

from verisal.models import Normalization

#: Of the networks that :class:`ClassifierTask` trains.
CENTRED = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
