"""Networks cut after their first stage, with a gate on every stage, without editing them.

Two ways: a traced network is cut, so that what lies before its first stage runs once per image and not in
each gated pass, which saves a fifth to a third of the time of small networks (``scripts/bench/gates.py``).
One that cannot be traced runs whole, with hooks that exchange what its stages give out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from verisal.errors import ConfigError
from verisal.functional.networks import hooked, stopped_at, uncompiled
from verisal.functional.outputs import logits_of
from verisal.models._layout import (
    Probe,
    StageLayout,
    apply_gate,
    evaluating,
    from_map,
    image_like,
    to_map,
    to_maps,
)

_TOLERANCE = 1e-4


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


class _Logits(nn.Module):
    """Logits of a network's answer; a module, which a tracer takes whole."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, answer: object) -> Tensor:
        return logits_of(answer, classes=self.classes)


class _OneInput(nn.Module):
    """Hides the optional arguments of a network, which a tracer would take for further inputs."""

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network = network
        self.logits = _Logits(classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.logits(self.network(images))
        return logits


class _StageTracer(fx.Tracer):
    """Looks only into modules that contain a stage.

    All others stay whole: hooks on them still fire, and what they do with shapes need not be traceable.
    """

    def __init__(self, stages: Sequence[str]) -> None:
        super().__init__()
        self._stages = tuple(stages)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(stage.startswith(f"{module_qualified_name}.") for stage in self._stages)


def split_network(network: nn.Module, stages: Sequence[str], probe: Probe) -> SplitNetwork:
    """Trace ``network`` once and cut it after ``stages[0]``.

    Raises:
        ConfigError: the network cannot be traced, or the part after the first stage also reads something
            computed before it.
    """
    whole = _OneInput(network, probe.num_classes)
    inner = tuple(f"network.{stage}" for stage in stages)
    try:
        # In eval mode, whatever mode the network is in: a graph has one of the two ways for good.
        with uncompiled(), evaluating(network):
            graph = _StageTracer(inner).trace(whole)
    # Whatever a network does with a stand-in for its image, it is not for this way of cutting.
    except Exception as error:
        raise ConfigError(
            f"{type(network).__name__} cannot be traced ({error}); gates need a network without"
            " data-dependent control flow outside its stages"
        ) from error
    tails = _Tails(whole, graph, inner, probe)
    return SplitNetwork(
        prefix=_Live(whole, _prefix(whole, graph, inner[0], probe.layouts[0])),
        gated=_Live(whole, tails.gated()),
        observed=_Live(whole, tails.observed()),
    )


@final
class _Live:
    """A cut part of a network that runs with the network's parts of the moment.

    The cut shares modules and tensors with the network; moving, casting, and loading by assignment put others
    in their place.
    """

    def __init__(self, network: nn.Module, cut: fx.GraphModule) -> None:
        self._network, self._cut = network, cut
        used = {str(node.target) for node in cut.graph.nodes if node.op in ("call_module", "get_attr")}
        self._parts = [target.rpartition(".")[::2] for target in sorted(used)]

    def __call__(self, *inputs: Any) -> Any:  # noqa: ANN401 - each part has its own
        for holder, name in self._parts:
            current = getattr(self._network.get_submodule(holder), name)
            own = self._cut.get_submodule(holder)
            if getattr(own, name) is not current:
                setattr(own, name, current)
        return self._cut(*inputs)


def gives_same_logits(network: nn.Module, split: SplitNetwork, probe: Probe) -> bool:
    """True if the views, one after the other, give the logits of the network itself on a random image."""
    generator = torch.Generator().manual_seed(0)
    blank = probe.input_shape.blank(network)
    image = torch.rand(blank.shape, generator=generator).to(blank)
    with torch.no_grad(), evaluating(network), uncompiled():
        # Copies, as a network may work in place; seeded, as it may draw.
        torch.manual_seed(0)
        expected = logits_of(network(image.clone()), 1, classes=probe.num_classes)
        torch.manual_seed(0)
        logits, _ = split.observed(split.prefix(image.clone()))
    return torch.allclose(logits, expected, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


def _copy(graph: fx.Graph) -> fx.Graph:
    copied = fx.Graph()
    output = copied.graph_copy(graph, {})
    copied.output(output)
    return copied


def _prefix(network: nn.Module, graph: fx.Graph, stage: str, layout: StageLayout) -> fx.GraphModule:
    copied = _copy(graph)
    first = next(node for node in copied.nodes if node.target == stage)
    output = next(node for node in copied.nodes if node.op == "output")
    with copied.inserting_after(first):
        output.args = (_map_node(copied, first, layout, first),)
    return _module(network, copied)


def _map_node(graph: fx.Graph, node: fx.Node, layout: StageLayout, grid: fx.Node) -> fx.Node:
    return node if layout.kind == "map" else graph.call_function(to_map, (node, layout.kind, grid))


@dataclass(frozen=True)
class _Tails:
    """Makes the graphs that start at the map of the first stage."""

    network: nn.Module
    graph: fx.Graph
    stages: tuple[str, ...]
    probe: Probe

    def gated(self) -> fx.GraphModule:
        """From ``(first, gates)`` to logits."""
        copied, first, nodes = self._start()
        grids = self._grids(copied, nodes)
        with copied.inserting_after(first):
            gates = copied.placeholder("gates")
        for index, (node, layout) in enumerate(zip(nodes, self.probe.layouts, strict=True)):
            # Read and multiply right after the stage; the product takes over all of its uses.
            with copied.inserting_after(gates if node is first else grids[index]):
                gate = copied.call_function(operator.getitem, (gates, index))
            with copied.inserting_after(gate):
                product = (
                    copied.call_function(torch.mul, (node, gate))
                    if layout.kind == "map"
                    else copied.call_function(apply_gate, (node, gate, layout.kind, grids[layout.grid_of]))
                )
            # Only the product itself still reads the stage, and what reads its height and width.
            node.replace_all_uses_with(product)
            for reader in {product, grids[index]} - {node}:
                reader.replace_input_with(product, node)
        return self._finish(copied)

    def observed(self) -> fx.GraphModule:
        """From ``first`` to ``(logits, maps of the later stages)``."""
        copied, _, nodes = self._start()
        grids = self._grids(copied, nodes)
        output = next(node for node in copied.nodes if node.op == "output")
        with copied.inserting_before(output):
            maps = tuple(
                _map_node(copied, node, layout, grids[layout.grid_of])
                for node, layout in zip(nodes[1:], self.probe.layouts[1:], strict=True)
            )
        output.args = ((output.args[0], maps),)
        return self._finish(copied)

    def _start(self) -> tuple[fx.Graph, fx.Node, list[fx.Node]]:
        """A copy that begins with the placeholder ``first``, and the nodes of the stages in it."""
        copied = _copy(self.graph)
        image = next(node for node in copied.nodes if node.op == "placeholder")
        nodes = [next(node for node in copied.nodes if node.target == stage) for stage in self.stages]
        with copied.inserting_before(image):
            first = copied.placeholder("first")
        given = first
        if self.probe.layouts[0].kind == "channels_last":
            with copied.inserting_after(image):
                given = copied.call_function(from_map, (first, self.probe.layouts[0].kind))
        nodes[0].replace_all_uses_with(given)
        nodes[0] = given
        return copied, first, nodes

    def _grids(self, graph: fx.Graph, nodes: Sequence[fx.Node]) -> list[fx.Node]:
        """Nodes with the heights and widths of the stages' maps; those of tokens are not read."""
        grids = []
        for node, layout in zip(nodes, self.probe.layouts, strict=True):
            with graph.inserting_after(node):
                last = layout.kind == "channels_last"
                grids.append(_map_node(graph, node, layout, node) if last else node)
        return grids

    def _finish(self, graph: fx.Graph) -> fx.GraphModule:
        """Without the image, of which at most the shape may still be read."""
        module = _module(self.network, graph)
        image = [node for node in module.graph.nodes if node.op == "placeholder"][-1]
        first = next(iter(module.graph.nodes))
        if all(_reads_shape(user) for user in image.users):
            shape = self.probe.input_shape
            with module.graph.inserting_before(image):
                stand_in = module.graph.call_function(
                    image_like, (first, shape.channels, (shape.height, shape.width), self.probe.grid)
                )
            image.replace_all_uses_with(stand_in)
        if image.users:
            stage = self.stages[0].removeprefix("network.")
            raise ConfigError(
                f"the network after stage {stage!r} also reads values computed before it"
                f" (through {next(iter(image.users)).name!r}); name an earlier stage first"
            )
        module.graph.erase_node(image)
        module.graph.eliminate_dead_code()
        module.recompile()
        return module


def _reads_shape(node: fx.Node) -> bool:
    return node.target in ("size", "dim") or (node.target is getattr and str(node.args[1]) == "shape")


def _module(network: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    module = fx.GraphModule(network, graph)
    module.graph.eliminate_dead_code()
    module.recompile()
    return module


def hooked_network(network: nn.Module, stages: Sequence[str], probe: Probe) -> SplitNetwork:
    """The three views of :class:`SplitNetwork`, made of passes through the network itself.

    For networks that cannot be traced. The part before the first stage runs again in each pass, on a blank
    image: exact, but a gated pass forward and back takes 1.1 to 1.5 times as long as that of a cut network.

    Raises:
        ConfigError: the part after the first stage also reads something computed before it.
    """
    views = _Hooked(network, tuple(stages), probe)
    split = SplitNetwork(prefix=views.prefix, gated=views.gated, observed=views.observed)
    if not gives_same_logits(network, split, probe):
        raise ConfigError(
            f"the network after stage {stages[0]!r} also reads values computed before it;"
            " name an earlier stage first"
        )
    return split


@final
class _Hooked:
    """Passes with hooks; they are removed after each, also after an exception."""

    def __init__(self, network: nn.Module, stages: tuple[str, ...], probe: Probe) -> None:
        self.network, self.stages, self.probe = network, stages, probe

    def prefix(self, images: Tensor) -> Tensor:
        """Map of the first stage."""
        with stopped_at(self.network, self.network.get_submodule(self.stages[0])) as first_stage:
            output = first_stage(images)
        return to_map(output, self.probe.layouts[0].kind, output)

    def gated(self, first: Tensor, gates: tuple[Tensor, ...]) -> Tensor:
        """Logits with gates."""
        maps: list[Tensor] = []

        def gate(name: str, output: Tensor) -> Tensor:
            index = self.stages.index(name)
            layout = self.probe.layouts[index]
            value = from_map(first, layout.kind) if index == 0 else output
            maps.append(first if index == 0 else to_map(value, layout.kind, maps[layout.grid_of]))
            return apply_gate(value, gates[index], layout.kind, maps[layout.grid_of])

        return self._run(first, gate)

    def observed(self, first: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits and the maps of the later stages."""
        seen: list[Tensor] = []

        def look(_: str, output: Tensor) -> Tensor:
            seen.append(output if seen else from_map(first, self.probe.layouts[0].kind))
            return seen[-1]

        logits = self._run(first, look)
        return logits, to_maps(seen, self.probe.layouts)[1:]

    def _run(self, first: Tensor, act: Callable[[str, Tensor], Tensor]) -> Tensor:
        """Logits of a pass on a blank image in which ``act`` exchanges what the stages give out."""
        shaped = self.probe.input_shape.like(first, self.probe.grid)
        with hooked({stage: self.network.get_submodule(stage) for stage in self.stages}, act):
            answer = self.network(torch.zeros_like(shaped, device=first.device))
        return logits_of(answer, classes=self.probe.num_classes)
