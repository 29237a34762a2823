"""What is told and found about a network before it is asked: its channels, normalisation and output."""

from __future__ import annotations

from torch import nn

from verisal.errors import ConfigError
from verisal.models._layout import channels_of
from verisal.models.bounds import Bounds
from verisal.models.normalization import HOW_TO_SAY, Normalization


def normalization_of(network: nn.Module, told: object, bounds: Bounds | None) -> Normalization:
    """What a user says, else what the network says of itself; with bounds the values as they are.

    Raises:
        ConfigError: neither says anything.
    """
    if bounds is not None:
        return Normalization.of(told, bounds=bounds)
    if told is not None:
        return Normalization.of(told)
    found = Normalization.found_in(network)
    if found is None:
        raise ConfigError(
            f"the network {type(network).__name__} does not say how it normalises; {HOW_TO_SAY}"
        )
    return found


def check_network(network: object) -> None:
    """Raise ``ConfigError`` for what is no network, with the way to one."""
    if isinstance(network, nn.Module):
        return
    way = ""
    if isinstance(network, str):
        way = "; load_classifier takes names"
    elif callable(network):
        way = "; call it where it builds one, or give FunctionNetwork(module, function) where it takes images"
    found = getattr(network, "__name__", type(network).__name__)
    raise ConfigError(f"expected a network (an nn.Module), found {found}{way}")


def input_channels(network: nn.Module, normalization: Normalization, told: int | None) -> int | None:
    """Channels as told, of the first convolution, or of a normalisation with one number for each.

    Raises:
        ConfigError: these differ.
    """
    several = len(normalization.mean) if len(normalization.mean) > 1 else None
    found = told or channels_of(network)
    if found and several and found != several:
        who = "as said by channels=" if told else f"of the first convolution of {type(network).__name__}"
        raise ConfigError(
            f"the normalisation has {several} numbers, {normalization}, and there are {found} channels,"
            f" {who}; give normalization= one number for all channels or one for each"
            + ("" if told else f", or say channels={several} if the network takes so many")
        )
    return found or several


def way_to_channels(found: int, taken: int) -> str:
    """What to do with images of another number of channels than a network takes."""
    if found == 1:
        return f"repeat the grey channel, if the network was trained so: images.repeat(1, {taken}, 1, 1)"
    if taken == 1:
        return "make them grey as in training, e.g. images.mean(1, keepdim=True)"
    return "choose the bands that it was trained on: images[:, [...]]"


def check_output(output: str, num_classes: int | None) -> None:
    """Raise ``ConfigError`` for another word than the three, or one logit with ``softmax``."""
    if output not in ("softmax", "sigmoid", "score"):
        raise ConfigError(f"output must be 'softmax', 'sigmoid' or 'score', found {output!r}")
    if output == "softmax" and num_classes == 1:
        raise ConfigError(
            "output: softmax needs at least two classes, as the softmax over one is 1 whatever the image; say"
            " output: sigmoid (verisal explain: --classifier_output=sigmoid) for a network with one logit"
        )
