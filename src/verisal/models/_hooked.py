"""Gates for networks that cannot be traced: all of it runs, and hooks exchange what its stages give out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from verisal.errors import ConfigError
from verisal.functional.networks import uncompiled
from verisal.functional.outputs import logits_of
from verisal.models._layout import Probe, apply_gate, from_map, image_like, to_map, to_maps
from verisal.models._split import SplitNetwork, gives_same_logits

__all__ = ["hooked_network"]


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
