"""Cuts a network after its first stage and multiplies every stage by a gate, without editing the network."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from verisal.errors import ConfigError

from ._layout import StageLayout, apply_gate, check_stage_names, to_map

__all__ = ["NotTraceableError", "SplitNetwork", "split_network"]


class NotTraceableError(ConfigError):
    """The network's way through its stages depends on data, or is written in a way that cannot be read."""


@dataclass(frozen=True)
class SplitNetwork:
    """Three views of one network that share its parameters.

    Attributes:
        prefix: normalised images to the activation of the first stage.
        gated: that activation and one gate per stage to logits.
        observed: that activation to ``(logits, activations of the later stages)``.
    """

    prefix: Callable[[Tensor], Tensor]
    gated: Callable[[Tensor, tuple[Tensor, ...]], Tensor]
    observed: Callable[[Tensor], tuple[Tensor, tuple[Tensor, ...]]]


class _StageTracer(fx.Tracer):
    """Looks only into modules that contain a stage.

    All others stay whole: hooks on them still fire, and what they do with shapes need not be traceable.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        super().__init__()
        self._stages = tuple(stages)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(stage.startswith(f"{module_qualified_name}.") for stage in self._stages)


def split_network(
    network: nn.Module,
    stages: Sequence[str],
    *,
    layouts: Sequence[StageLayout] | None = None,
    image_size: int = 0,
) -> SplitNetwork:
    """Trace ``network`` once and cut it after ``stages[0]``.

    Args:
        network: maps one image tensor to one logit tensor.
        stages: names of sub-modules in the order in which they run, each called exactly once.
        layouts: how the stages' outputs lie; maps by default.
        image_size: where the network reads the size of its image after the first stage (vision
            transformers do), the one size that it takes; 0 refuses such networks.

    Raises:
        ConfigError: a stage does not exist, is called more than once or out of order, the network cannot
            be traced, or the part after the first stage also reads something computed before it.
    """
    check_stage_names(network, stages)
    try:
        graph = _StageTracer(stages).trace(network)
    # Whatever a network does with a stand-in for its image, it is not for this way of cutting.
    except Exception as error:
        raise NotTraceableError(
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
    chosen = tuple(layouts) if layouts is not None else (StageLayout(),) * len(stages)
    tails = _Tails(network, graph, tuple(stages), chosen, image_size)
    return SplitNetwork(
        prefix=_prefix(network, graph, stages[0]), gated=tails.gated(), observed=tails.observed()
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


@dataclass(frozen=True)
class _Tails:
    """Makes the graphs that start at the first stage's activation."""

    network: nn.Module
    graph: fx.Graph
    stages: tuple[str, ...]
    layouts: tuple[StageLayout, ...]
    image_size: int

    def gated(self) -> fx.GraphModule:
        """From ``(first, gates)`` to logits."""
        copied, nodes = self._start()
        with copied.inserting_after(nodes[0]):
            gates = copied.placeholder("gates")
        grids = list(nodes)
        for index, (node, layout) in enumerate(zip(nodes, self.layouts, strict=True)):
            # Read and multiply right after the stage; the product takes over all of its uses.
            with copied.inserting_after(gates if index == 0 else node):
                gate = copied.call_function(operator.getitem, (gates, index))
            with copied.inserting_after(gate):
                product = (
                    copied.call_function(torch.mul, (node, gate))
                    if layout.kind == "map"
                    else copied.call_function(apply_gate, (node, gate, layout, grids[layout.grid_of]))
                )
            node.replace_all_uses_with(
                product,
                delete_user_cb=lambda user, product=product: user is not product,
            )
        return self._finish(copied)

    def observed(self) -> fx.GraphModule:
        """From ``first`` to ``(logits, maps of the later stages)``."""
        copied, nodes = self._start()
        output = next(node for node in copied.nodes if node.op == "output")
        maps = list(nodes)
        with copied.inserting_before(output):
            for index, (node, layout) in enumerate(zip(nodes, self.layouts, strict=True)):
                if layout.kind != "map" and index:
                    maps[index] = copied.call_function(to_map, (node, layout, maps[layout.grid_of]))
        output.args = ((output.args[0], tuple(maps[1:])),)
        return self._finish(copied)

    def _start(self) -> tuple[fx.Graph, list[fx.Node]]:
        copied = _copy(self.graph)
        image = next(node for node in copied.nodes if node.op == "placeholder")
        nodes = [next(node for node in copied.nodes if node.target == stage) for stage in self.stages]
        with copied.inserting_before(image):
            first = copied.placeholder("first")
        nodes[0].replace_all_uses_with(first)
        nodes[0] = first
        return copied, nodes

    def _finish(self, graph: fx.Graph) -> fx.GraphModule:
        module = _module(self.network, graph)
        _, *inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
        image = inputs[-1]
        if self.image_size and all(_reads_shape(user) for user in image.users):
            with module.graph.inserting_before(image):
                ...
        return module


def _module(network: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    module = fx.GraphModule(network, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module
