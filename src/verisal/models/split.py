"""Cuts a network after its first stage and multiplies every stage by a gate, without editing the network."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, fx, nn

from verisal.errors import ConfigError
from verisal.functional.networks import uncompiled
from verisal.functional.outputs import logits_of
from verisal.models._layout import (
    Probe,
    StageLayout,
    apply_gate,
    check_stage_names,
    evaluating,
    from_map,
    image_like,
    probe_image,
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
    """What a network returns to logits; a module, which a tracer takes whole."""

    def __init__(self, classes: int | None) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, answer: object) -> Tensor:
        return logits_of(answer, classes=self.classes)


class _OneInput(nn.Module):
    """Hides the optional arguments of a network, which a tracer would take for further inputs."""

    def __init__(self, network: nn.Module, classes: int | None) -> None:
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


def split_network(network: nn.Module, stages: Sequence[str], *, probe: Probe | None = None) -> SplitNetwork:
    """Trace ``network`` once and cut it after ``stages[0]``.

    Args:
        network: maps one image tensor to one logit tensor.
        stages: names of sub-modules in the order in which they run, each called exactly once.
        probe: how the stages' outputs lie; without it all are maps, and a network that reads the size of
            its image after the first stage, as vision transformers do, is refused.

    Raises:
        ConfigError: a stage does not exist, is called more than once or out of order, the network cannot
            be traced, or the part after the first stage also reads something computed before it.
    """
    check_stage_names(network, stages)
    whole = _OneInput(network, probe.num_classes if probe else None)
    inner = tuple(f"network.{stage}" for stage in stages)
    try:
        with uncompiled():
            graph = _StageTracer(inner).trace(whole)
    # Whatever a network does with a stand-in for its image, it is not for this way of cutting.
    except Exception as error:
        raise ConfigError(
            f"{type(network).__name__} cannot be traced ({error}); gates need a network without"
            " data-dependent control flow outside its stages"
        ) from error
    calls = [
        str(node.target).removeprefix("network.")
        for node in graph.nodes
        if node.op == "call_module" and node.target in inner
    ]
    if calls != list(stages):
        raise ConfigError(
            f"stages must each run exactly once and in the given order; given {list(stages)},"
            f" the network runs {calls}"
        )
    layouts = probe.layouts if probe else (StageLayout(),) * len(stages)
    tails = _Tails(whole, graph, inner, layouts, probe)
    return SplitNetwork(
        prefix=_prefix(whole, graph, inner[0], layouts[0]), gated=tails.gated(), observed=tails.observed()
    )


def gives_same_logits(network: nn.Module, split: SplitNetwork, probe: Probe) -> bool:
    """Whether the views, one after the other, give the logits of the network itself on a random image."""
    generator = torch.Generator().manual_seed(0)
    blank = probe_image(network, probe.image_size)
    image = torch.rand(blank.shape, generator=generator).to(blank)
    with torch.no_grad(), evaluating(network), uncompiled():
        # Copies, as a network may work in place; seeded, as it may draw.
        torch.manual_seed(0)
        expected = logits_of(network(image.clone()), 1, classes=probe.num_classes)
        torch.manual_seed(0)
        found, _ = split.observed(split.prefix(image.clone()))
    return torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)


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
    layouts: tuple[StageLayout, ...]
    probe: Probe | None

    def gated(self) -> fx.GraphModule:
        """From ``(first, gates)`` to logits."""
        copied, first, nodes = self._start()
        grids = self._grids(copied, nodes)
        with copied.inserting_after(first):
            gates = copied.placeholder("gates")
        for index, (node, layout) in enumerate(zip(nodes, self.layouts, strict=True)):
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
                for node, layout in zip(nodes[1:], self.layouts[1:], strict=True)
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
        if self.layouts[0].kind == "channels_last":
            with copied.inserting_after(image):
                given = copied.call_function(from_map, (first, self.layouts[0].kind))
        nodes[0].replace_all_uses_with(given)
        nodes[0] = given
        return copied, first, nodes

    def _grids(self, graph: fx.Graph, nodes: Sequence[fx.Node]) -> list[fx.Node]:
        """Nodes with the heights and widths of the stages' maps; those of tokens are not read."""
        grids = []
        for node, layout in zip(nodes, self.layouts, strict=True):
            with graph.inserting_after(node):
                last = layout.kind == "channels_last"
                grids.append(_map_node(graph, node, layout, node) if last else node)
        return grids

    def _finish(self, graph: fx.Graph) -> fx.GraphModule:
        """Without the image, of which at most the shape may still be read."""
        module = _module(self.network, graph)
        image = [node for node in module.graph.nodes if node.op == "placeholder"][-1]
        first = next(iter(module.graph.nodes))
        if self.probe and all(_reads_shape(user) for user in image.users):
            with module.graph.inserting_before(image):
                stand_in = module.graph.call_function(
                    image_like, (first, self.probe.image_size, self.probe.grid)
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


class _FirstStageReached(Exception):  # noqa: N818 - no error: it ends a pass whose rest is not needed
    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def hooked_network(network: nn.Module, stages: Sequence[str], probe: Probe) -> SplitNetwork:
    """The three views of :class:`SplitNetwork`, made of passes through the network itself.

    The part before the first stage runs again in each pass, on a blank image: exact, but slower than a cut.

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

        def stop(output: Tensor) -> Tensor:
            raise _FirstStageReached(output)

        try:
            with self._exchanged({0: stop}):
                self.network(images)
        except _FirstStageReached as reached:
            return to_map(reached.output, self.probe.layouts[0].kind, reached.output)
        raise ConfigError(f"stage {self.stages[0]!r} did not run")

    def gated(self, first: Tensor, gates: tuple[Tensor, ...]) -> Tensor:
        """Logits with gates."""
        maps: list[Tensor] = []

        def exchange(index: int) -> Callable[[Tensor], Tensor]:
            layout = self.probe.layouts[index]

            def gate(output: Tensor) -> Tensor:
                value = from_map(first, layout.kind) if index == 0 else output
                maps.append(first if index == 0 else to_map(value, layout.kind, maps[layout.grid_of]))
                return apply_gate(value, gates[index], layout.kind, maps[layout.grid_of])

            return gate

        with self._exchanged({index: exchange(index) for index in range(len(self.stages))}):
            return self._run(first)

    def observed(self, first: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Logits and the maps of the later stages."""
        seen: list[Tensor] = []

        def observe(index: int) -> Callable[[Tensor], Tensor]:
            def look(output: Tensor) -> Tensor:
                seen.append(from_map(first, self.probe.layouts[0].kind) if index == 0 else output)
                return seen[index]

            return look

        with self._exchanged({index: observe(index) for index in range(len(self.stages))}):
            logits = self._run(first)
        return logits, to_maps(seen, self.probe.layouts)[1:]

    def _run(self, first: Tensor) -> Tensor:
        blank = torch.zeros_like(
            image_like(first, self.probe.image_size, self.probe.grid), device=first.device
        )
        return logits_of(self.network(blank), classes=self.probe.num_classes)

    @contextmanager
    def _exchanged(self, changes: dict[int, Callable[[Tensor], Tensor]]) -> Iterator[None]:
        handles = [
            self.network.get_submodule(self.stages[index]).register_forward_hook(
                lambda _module, _inputs, output, change=change: change(output)
            )
            for index, change in changes.items()
        ]
        try:
            with uncompiled():
                yield
        finally:
            for handle in handles:
                handle.remove()
