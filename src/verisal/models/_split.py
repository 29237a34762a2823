"""Cuts a network after its first stage and multiplies every stage by a gate, without editing the network."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from verisal.errors import ConfigError

__all__ = ["SplitNetwork", "split_network"]


@dataclass(frozen=True)
class SplitNetwork:
    """Three views of one network that share its parameters.

    Attributes:
        prefix: normalised images to the activation of the first stage.
        gated: that activation and one gate per stage to logits.
        observed: that activation to ``(logits, activations of the later stages)``.
    """

    prefix: fx.GraphModule
    gated: fx.GraphModule
    observed: fx.GraphModule


class _StageTracer(fx.Tracer):
    """Keeps the named stages whole, so that hooks on them still fire and their names survive."""

    def __init__(self, stages: Sequence[str]) -> None:
        super().__init__()
        self._stages = frozenset(stages)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self._stages or super().is_leaf_module(m, module_qualified_name)


def split_network(network: nn.Module, stages: Sequence[str]) -> SplitNetwork:
    """Trace ``network`` once and cut it after ``stages[0]``.

    Args:
        network: maps one image tensor to one logit tensor.
        stages: names of sub-modules in the order in which they run, each called exactly once.

    Raises:
        ConfigError: a stage does not exist, is called more than once or out of order, the network cannot
            be traced, or the part after the first stage also reads something computed before it.
    """
    known = dict(network.named_modules())
    missing = [name for name in stages if name not in known]
    if missing or not stages:
        named = [name for name in known if name and name.count(".") <= 1]
        raise ConfigError(
            f"stages {missing or '(none)'} are not sub-modules of the network; known: {named[:30]}"
        )
    try:
        graph = _StageTracer(stages).trace(network)
    except (fx.proxy.TraceError, TypeError) as error:
        raise ConfigError(
            f"{type(network).__name__} cannot be traced ({error}); gates need a network without"
            " data-dependent control flow outside its stages"
        ) from error
    calls = [
        str(node.target) for node in graph.nodes if node.op == "call_module" and node.target in set(stages)
    ]
    if calls != list(stages):
        raise ConfigError(
            f"stages must each run exactly once and in the given order; given {list(stages)},"
            f" the network runs {calls}"
        )
    return SplitNetwork(
        prefix=_prefix(network, graph, stages[0]),
        gated=_tail(network, graph, stages, gated=True),
        observed=_tail(network, graph, stages, gated=False),
    )


def _copy(graph: fx.Graph) -> fx.Graph:
    copied = fx.Graph()
    output = copied.graph_copy(graph, {})
    copied.output(output)
    return copied


def _prefix(network: nn.Module, graph: fx.Graph, stage: str) -> fx.GraphModule:
    copied = _copy(graph)
    first = next(node for node in copied.nodes if node.target == stage)
    output = next(node for node in copied.nodes if node.op == "output")
    output.args = (first,)
    return _module(network, copied)


def _tail(network: nn.Module, graph: fx.Graph, stages: Sequence[str], *, gated: bool) -> fx.GraphModule:
    copied = _copy(graph)
    image = next(node for node in copied.nodes if node.op == "placeholder")
    nodes = [next(node for node in copied.nodes if node.target == stage) for stage in stages]
    with copied.inserting_before(image):
        first = copied.placeholder("first")
    nodes[0].replace_all_uses_with(first)
    nodes[0] = first
    if gated:
        with copied.inserting_after(first):
            gates = copied.placeholder("gates")
        for index, node in enumerate(nodes):
            # Read and multiply right after the stage; the product takes over all of its uses.
            with copied.inserting_after(gates if index == 0 else node):
                gate = copied.call_function(operator.getitem, (gates, index))
            with copied.inserting_after(gate):
                product = copied.call_function(torch.mul, (node, gate))
            node.replace_all_uses_with(
                product, delete_user_cb=lambda user, product=product: user is not product
            )
    else:
        output = next(node for node in copied.nodes if node.op == "output")
        output.args = ((output.args[0], tuple(nodes[1:])),)
    module = _module(network, copied)
    image = next(node for node in module.graph.nodes if node.name == image.name)
    if image.users:
        raise ConfigError(
            f"the network after stage {stages[0]!r} also reads values computed before it"
            f" (through {next(iter(image.users)).name!r}); name an earlier stage first"
        )
    module.graph.erase_node(image)
    module.recompile()
    return module


def _module(network: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    module = fx.GraphModule(network, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module
