"""What several detectors have learned, under the names that checkpoints and exports give it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from verisal.detectors.base import Detector


def states_of(detectors: Mapping[str, Detector]) -> dict[str, Tensor]:
    """What all rows have learned, under names that begin with ``detectors.<row>.``."""
    return {
        f"detectors.{row}.{name}": tensor
        for row, detector in detectors.items()
        for name, tensor in detector.state().items()
    }


def restore_states(detectors: Mapping[str, Detector], state: dict[str, Tensor]) -> None:
    """Take what :func:`states_of` gave out of a state, and give each row its own.

    Raises:
        ConfigError: as of :meth:`.Detector.restore`.
    """
    # A name may begin with that of another row.
    for row in sorted(detectors, key=len, reverse=True):
        prefix = f"detectors.{row}."
        names = [name for name in state if name.startswith(prefix)]
        detectors[row].restore({name.removeprefix(prefix): state.pop(name) for name in names})
