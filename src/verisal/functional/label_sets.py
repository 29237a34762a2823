"""Sets of labels ``(B, K)`` of networks for several: what they hold, and the decision about all of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from verisal.errors import ConfigError

_SHOWN = 8


def label_sets(rows: Tensor, *, advice: str = "") -> Tensor:
    """``(B, K)`` int64 of images with several labels: 1 is there, 0 is not, -1 (or NaN) is not known.

    Args:
        rows: ``(B, K)`` of any type.
        advice: ends the error.

    Raises:
        ConfigError: other values.
    """
    known = rows.double().nan_to_num(nan=-1)
    if not bool(((known == 0) | (known == 1) | (known == -1)).all()):
        raise ConfigError(
            "labels of images with several must be 1, 0, or -1 or NaN where that is not known, found"
            f" {sorted(set(known.flatten().tolist()))[:_SHOWN]}{advice}"
        )
    return known.long()


def set_decision(logits: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    r"""Logits and labels of the decision whether all asked labels of an image are as given.

    Class 0 is "all are", with the logit 0; class :math:`k + 1` is "label k is not", with the logit
    :math:`-z_k` where the label is there and :math:`z_k` where it is not, and the least float where it is not
    asked. So the largest logit says whether any asked label is decided otherwise, the margin is that of the
    label that is nearest to it, and each further class has the border of one label.

    Args:
        logits: ``(B, K)`` of the labels.
        sets: ``(B, K)`` 1, 0 or -1.

    Returns:
        ``(B, 1 + K)``, and ``(B,)`` zeros.
    """
    # A label is there above 0 and not at 0: the smallest number tells the tie, and changes no other logit.
    # What is not asked stays finite, as codes of others subtract logits from each other.
    number = torch.finfo(logits.dtype)
    against = torch.where(sets == 1, number.tiny - logits, logits).masked_fill(sets < 0, number.min)
    return F.pad(against, (1, 0)), sets.new_zeros(len(sets))


def set_cross_entropy(decisions: Tensor) -> Tensor:
    """Mean binary cross-entropy ``(B,)`` of the asked labels, from the logits of :func:`set_decision`."""
    against = decisions[:, 1:]
    asked = against > torch.finfo(against.dtype).min
    return F.softplus(against).sum(dim=1) / asked.sum(dim=1)
