"""Logits ``(B, K)`` from what a network returns, and what they say about classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import functional as F

from verisal.errors import ConfigError, NumericError
from verisal.functional.label_sets import set_decision
from verisal.functional.networks import plain_network
from verisal.types import OutputKind, StagedClassifier

NO_GRADIENT = (
    "the classifier's logits carry no gradient to the image, which is needed here; remove no_grad,"
    " inference_mode, detach, quantised layers and conversions to numpy from the classifier's forward"
)

_SAY_SIGMOID = (
    "say output: sigmoid where the classifier is loaded (Classifier(..., output='sigmoid')), or set the"
    " attribute output = 'sigmoid' on a network or function of your own"
)


@runtime_checkable
class SaysOutput(Protocol):
    """A classifier that says what its logits are; one that does not say is taken to have a softmax."""

    output: OutputKind


@runtime_checkable
class _HasLogits(Protocol):
    logits: Any


def ask(classifier: Callable[[Tensor], Any], images: Tensor, *, allow_nan: bool = False) -> Tensor:
    """Logits ``(B, K)`` of ``images (B, C, H, W)``, whatever the classifier returns and does to its input.

    Every pass of a network that somebody else handed over goes through here. The classifier gets a copy of
    the images, so that one that normalises in place is like any other. Without gradients around the call the
    logits carry none.

    Args:
        classifier: any callable, called once.
        images: in [0, 1].
        allow_nan: True for those who count images whose logits are no numbers as undefined.

    Raises:
        ConfigError: as of :func:`logits_of`; one logit per image where nothing says that it is a sigmoid's;
            logits that do not depend on images that ask for gradients.
        NumericError: logits that are NaN or infinite; minus infinity is allowed beside others.
    """
    wants_gradient = torch.is_grad_enabled() and images.requires_grad
    # One with stages leaves its images as they are, so that no copy is needed, which would cost some percent.
    given = images if isinstance(classifier, StagedClassifier) else images.clone()
    # Before the call, in which a network may change what it was given.
    source = _node(given) if wants_gradient else None
    logits = logits_of(classifier(given), len(images), source=name_of(classifier))
    if logits.shape[1] == 1 and output_of(classifier) == "softmax":
        raise ConfigError(
            f"{name_of(classifier)} gives one logit per image, and the softmax over one class is 1 whatever"
            f" the image; {_SAY_SIGMOID}, or return two logits"
        )
    if logits.is_meta and not images.is_meta:
        raise ConfigError(
            f"{name_of(classifier)} returns logits on the meta device, which have a shape and no values; load"
            " its weights onto the device of the images"
        )
    # Some networks hand their answer to the processor.
    logits = logits.to(images.device)
    if wants_gradient and not _depends_on(logits, source):
        raise ConfigError(NO_GRADIENT)
    if not allow_nan:
        check_logits(logits, name_of(classifier))
    return logits if torch.is_grad_enabled() else logits.detach()


def sound_logits(logits: Tensor) -> Tensor:
    """``()`` bool: what :func:`check_logits` asks for, for those who wait for the answer later."""
    return logits.amax(dim=1).isfinite().all()


def check_logits(logits: Tensor, source: str) -> None:
    """Raise :class:`NumericError` unless every image of ``logits (B, K)`` has a largest logit, a number.

    Others may be minus infinity. Of NaN logits the largest is no prediction, though ``argmax`` names one.
    """
    broken = ~logits.amax(dim=1).isfinite()
    if bool(broken.any()):
        raise NumericError(
            f"{source} gives logits that are not finite (NaN or infinite) for {int(broken.sum())}"
            f" of {len(logits)} images; check its weights and its normalisation"
        )


class Answering(nn.Module):
    """A network as the code of others calls it: logits ``(B, K)`` alone, its input left as it is.

    Args:
        network: whose modules and other attributes are found through this one, too.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits as of :func:`ask`."""
        return ask(self.network, images)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the network has
        """An attribute of the network that this module has not itself."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


def logits_of(
    output: object, batch: int | None = None, *, classes: int | None = None, source: str = "the classifier"
) -> Tensor:
    """Logits ``(B, K)`` from what a network returns.

    Taken are a tensor ``(B, K)``, ``(B, K, 1, 1)`` or, as one logit per image, ``(B,)``; what an object,
    named tuple, dataclass or dictionary calls ``logits``; the only tensor of such a shape in any of these
    or in a tuple or list; and the first of several equally large ones in a tuple or list, which is the main
    head before the auxiliary ones. Half precision becomes float32.

    Args:
        output: what the network returned.
        batch: number of images B, or None where it is not known.
        classes: K where it is known; decides among tensors of several widths.
        source: named in the errors.

    Raises:
        ConfigError: one sentence that names what was found and what to return instead.
    """
    chosen = _chosen(output, batch, classes, source)
    if not chosen.is_floating_point():
        raise ConfigError(
            f"{source} returns {_described(chosen)}, and logits are floating-point scores of all classes;"
            " return them before argmax, rounding or comparison"
        )
    rows = _rows(chosen.to_dense() if chosen.layout != torch.strided else chosen)
    if rows is None or (batch is not None and len(rows) != batch):
        raise ConfigError(
            f"{source} returns {_described(chosen)} for {'some' if batch is None else batch} images; expected"
            " logits (B, K), one row per image; keep the batch dimension, and pool maps to one value per"
            " class"
        )
    if rows.shape[1] == 0:
        raise ConfigError(f"{source} returns {_described(chosen)}: there is no class; expected logits (B, K)")
    return rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows


def output_of(classifier: object) -> OutputKind:
    """Kind of a classifier's logits: ``softmax`` unless it says ``sigmoid`` or ``score``."""
    inner = plain_network(classifier) if isinstance(classifier, nn.Module) else classifier
    said = inner.output if isinstance(inner, SaysOutput) else None
    # A network may call one of its modules so.
    if not isinstance(said, str):
        return "softmax"
    return "sigmoid" if said == "sigmoid" else "score" if said == "score" else "softmax"


def require_classes(classifier: object, who: str, *, instead: str = "") -> None:
    """Raise :class:`ConfigError` for a classifier whose logits are scores; ``instead`` is the advice."""
    if output_of(classifier) == "score":
        raise ConfigError(
            f"{who} needs classes, and what is asked here is one score (target=, output: score), which has"
            f" none; {instead or 'leave the target out, or ask a classifier'}"
        )


def require_softmax(classifier: object, who: str, *, instead: str = "") -> None:
    """Raise :class:`ConfigError` unless the logits are those of a softmax; ``instead`` is the advice."""
    require_classes(classifier, who, instead=instead)
    if output_of(classifier) == "sigmoid":
        raise ConfigError(
            f"{who} compares classes that exclude each other, and the classifier says output: sigmoid, where"
            f" each label is decided by itself; {instead or 'it serves output: softmax only'}"
        )


def probabilities(logits: Tensor, output: OutputKind) -> Tensor:
    """``(B, K)``: softmax over the classes, the sigmoid of each logit by itself, or scores as they are."""
    if output == "score":
        return logits
    return logits.sigmoid() if output == "sigmoid" else logits.softmax(dim=1)


def log_probabilities(logits: Tensor, output: OutputKind) -> Tensor:
    """``(B, K)``: logarithms of :func:`probabilities`, without underflow.

    Raises:
        ConfigError: scores, which are no probabilities.
    """
    if output == "score":
        raise ConfigError(
            "the logarithm of a probability was asked for, and a target's score (output: score) is none;"
            " leave the target out, or take a metric of the score itself, such as a perturbation curve"
        )
    return F.logsigmoid(logits) if output == "sigmoid" else logits.log_softmax(dim=1)


def softmax_distance(logits: Tensor, other: Tensor) -> Tensor:
    """L1 distance ``(B,)`` of two softmax outputs, in [0, 2], from logits ``(B, K)``."""
    return (logits.softmax(dim=1) - other.softmax(dim=1)).abs().sum(dim=1)


def decides_for(logits: Tensor, query_class: Tensor, output: OutputKind) -> Tensor:
    """``(B,)`` bool: the query class is the largest logit or, for a sigmoid, more probable than not."""
    if output == "sigmoid":
        return logits.gather(1, query_class[:, None])[:, 0] > 0
    return logits.argmax(dim=1) == query_class


def decision(logits: Tensor, labels: Tensor, output: OutputKind) -> tuple[Tensor, Tensor]:
    r"""Logits and labels of the one decision that an attack on each image's label is about.

    For a softmax both as they are. For a sigmoid the decision about the label alone, as two logits
    :math:`(0, z)`, whose softmax is :math:`(1 - \sigma(z), \sigma(z))`: with one logit the labels are 0
    and 1; with several a label names the logit whose class is present, and becomes 1. Of sets of labels
    ``(B, K)`` see :func:`.set_decision`.

    Args:
        logits: ``(B, K)``.
        labels: ``(B,)`` int64, or for a sigmoid ``(B, K)`` 1, 0 and -1.
        output: what the logits are.

    Raises:
        ConfigError: scores, about which nothing is decided.
    """
    if output == "score":
        raise ConfigError(
            "an attack needs classes, a decision to turn, and a target's score (output: score) has none;"
            " attack the classifier without the target"
        )
    if output == "softmax":
        if labels.ndim > 1:
            raise ConfigError(
                f"labels {tuple(labels.shape)} say of every label whether it is there, which a softmax does"
                f" not decide; give one class per image, labels.argmax(dim=1), or {_SAY_SIGMOID}"
            )
        return logits, labels
    if labels.ndim > 1:
        return set_decision(logits, labels)
    if logits.shape[1] > 1:
        logits, labels = logits.gather(1, labels[:, None]), torch.ones_like(labels)
    return torch.cat([torch.zeros_like(logits), logits], dim=1), labels


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Raise :class:`ConfigError` unless every label is a class, or 0 or 1 where there is one logit alone.

    Sets ``(B, K)`` must have a column for each class.
    """
    if labels.ndim > 1:
        if labels.shape[1] != num_classes:
            raise ConfigError(
                f"labels {tuple(labels.shape)} must have one column for each of the classifier's"
                f" {num_classes} labels; put -1 or NaN where a label is not asked"
            )
        return
    most = max(2, num_classes) - 1
    if len(labels) and int(labels.max()) > most:
        what = f"has {num_classes} classes" if num_classes > 1 else "decides between 0 and 1"
        raise ConfigError(
            f"labels must lie in 0..{most}, as the classifier {what}, found {int(labels.max())}"
        )


def _node(given: Tensor) -> Node | None:
    """Node at which the gradient of a network's input arrives; of a leaf, the node that takes it up."""
    return given.grad_fn or given.view_as(given).grad_fn.next_functions[0][0]  # type: ignore[union-attr]


def _depends_on(logits: Tensor, source: Node | None) -> bool:
    """True if autograd leads from the logits to the input; a gradient may be that of parameters alone."""
    seen, waiting = {logits.grad_fn}, [logits.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is source:
            return True
        # What an operator without a derivative leaves in the graph: it passes nothing on.
        if node is None or node.name().endswith("NotImplemented"):
            continue
        inputs = [before for before, _ in node.next_functions if before not in seen]
        seen.update(inputs)
        # The first input is the data as a rule, and is followed first.
        waiting += reversed(inputs)
    return False


def name_of(classifier: object) -> str:
    """What errors call a classifier."""
    inner = plain_network(classifier) if isinstance(classifier, nn.Module) else None
    return f"the network {type(inner).__name__}" if inner is not None else "the classifier"


def _chosen(output: object, batch: int | None, classes: int | None, source: str) -> Tensor:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, _HasLogits):
        return _named_logits(output.logits, batch, classes, source, output)
    parts = _parts(output)
    if parts is None:
        raise ConfigError(
            f"{source} returns {_described(output)}; expected a tensor of logits (B, K), or a tuple,"
            " dictionary or object that holds them as logits"
        )
    if "logits" in parts:
        return _named_logits(parts["logits"], batch, classes, source, output)
    if len(parts) == 1:
        return _chosen(next(iter(parts.values())), batch, classes, source)
    tensors = [part for part in parts.values() if isinstance(part, Tensor) and part.is_floating_point()]
    fitting = [
        part
        for part in tensors
        if part.ndim > 1 and (rows := _rows(part)) is not None and batch in (None, len(rows))
    ]
    if classes is not None:
        fitting = [part for part in fitting if part.shape[1] == classes] or fitting
    alike = len({tuple(part.shape) for part in fitting}) == 1
    if len(fitting) == 1 or (alike and isinstance(output, Sequence)):
        return fitting[0]
    listed = ", ".join(f"{name}: {_described(part)}" for name, part in parts.items()) or "nothing"
    why = "which of them are the logits is not said" if fitting else "none of them are logits (B, K)"
    raise ConfigError(
        f"{source} returns {type(output).__name__} of {listed}, and {why}; return the logits alone, or under"
        " the name logits"
    )


def _named_logits(
    logits: object, batch: int | None, classes: int | None, source: str, output: object
) -> Tensor:
    if logits is None:
        raise ConfigError(
            f"{source} returns {type(output).__name__} whose logits are None; return logits (B, K) there"
        )
    return _chosen(logits, batch, classes, source)


def _parts(output: object) -> dict[str, Any] | None:
    """Named parts of a container, None for anything else."""
    if isinstance(output, Mapping):
        return {str(name): part for name, part in output.items()}
    if isinstance(output, (tuple, list)):
        return {str(index): part for index, part in enumerate(output)}
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    return None


def _rows(values: Tensor) -> Tensor | None:
    """``(B, K)``, or None where the shape says something else."""
    if values.ndim == 1:
        return values[:, None]
    if values.ndim >= 2 and values.shape[2:].numel() == 1:
        return values.flatten(1)
    return None


def _described(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if value is None:
        return "None"
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def log_odds(logits: Tensor) -> Tensor:
    r"""Log odds of the largest softmax probability, :math:`\log p - \log(1 - p)`.

    A rising function of the largest probability, which itself rounds to 1 for confident predictions and so
    makes ties.

    Args:
        logits: ``(B, K)``, K at least 2.

    Returns:
        ``(B,)``.

    >>> log_odds(torch.tensor([[2.0, 0.0]]))
    tensor([2.])
    """
    top = logits.argmax(dim=1, keepdim=True)
    rest = logits.scatter(1, top, -torch.inf).logsumexp(dim=1)
    return logits.gather(1, top)[:, 0] - rest
