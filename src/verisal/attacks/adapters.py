"""Attacks of others: any callable, and attack objects of the known libraries, which are never imported."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, final

import numpy as np
import torch
from torch import Tensor, nn

from verisal.attacks._base import SLACK, Attack, Draw, check_settings, require
from verisal.attacks._victim import Victim
from verisal.errors import ConfigError, NumericError
from verisal.functional.adversarial import noise_norm
from verisal.functional.seeding import derive_seed
from verisal.types import Norm

ForeignAttack = Callable[[nn.Module, Tensor, Tensor], Tensor]


@final
@dataclass(frozen=True)
class AdaptedAttack(Attack):
    """Any function ``(model, x, y) -> x_adv`` under the same checks, verdict and bookkeeping as our attacks.

    The function gets a module that maps images in [0, 1] to logits and counts passes, images
    ``(n, C, H, W)`` and labels ``(n,)``. Meanwhile the global random states of torch, numpy and Python are
    seeded from the samples' ids, and they are put back afterwards; the classifier is frozen as ever.

    ``per_image`` calls the function for one image at a time: the result then depends on no batch mates, and
    passes are exact. ``per_chunk`` is faster, but neither holds: early stops, schedules and random numbers of
    the function may depend on the whole chunk, and passes are the chunk's mean, rounded up. Attacks that keep
    a state between calls are not reproducible either way.

    Args:
        function: the attack, e.g. :class:`FoolboxCall`, :class:`TorchattacksCall` or :class:`ARTCall`.
        name: stands for the function and *all* its settings in :meth:`settings`; another setting needs
            another name, or stored results of one would be taken for the other's.
        norm: norm that bounds or measures the noise.
        eps: budget in that norm, checked; None where the attack has none.
        calls: ``per_image`` or ``per_chunk``.
        targeted: the function takes the class to reach as ``y``.

    Raises:
        ConfigError: settings out of range; a result of another shape or dtype, outside [0, 1], or with noise
            above ``eps``.
        NumericError: a result that is not finite.
    """

    function: ForeignAttack
    name: str
    norm: Norm = "linf"
    eps: float | None = None
    calls: Literal["per_image", "per_chunk"] = "per_image"
    targeted: bool = False

    def _decisive(self) -> dict[str, Any]:
        # The name stands for the function.
        return {name: value for name, value in super()._decisive().items() if name != "function"}

    def __post_init__(self) -> None:
        require(bool(self.name), "AdaptedAttack.name", self.name, "the attack's name with its settings")
        require(self.norm in ("linf", "l2"), "AdaptedAttack.norm", self.norm, "'linf' or 'l2'")
        check_settings(self, "eps", least=0)
        choices = "'per_image' or 'per_chunk'"
        require(self.calls in ("per_image", "per_chunk"), "AdaptedAttack.calls", self.calls, choices)

    def _perturb(self, victim: Victim, images: Tensor, *, draw: Draw) -> Tensor:
        seeds = draw(lambda rng: torch.randint(2**31, (), generator=rng), stream=self.name).tolist()
        parts = torch.split(victim.rows, 1 if self.calls == "per_image" else len(images))
        return torch.cat([self._called(victim, images[part], part, seeds) for part in parts])

    def _called(self, victim: Victim, images: Tensor, rows: Tensor, seeds: list[int]) -> Tensor:
        model = _Counted(victim, rows)
        with _seeded(derive_seed(*(seeds[row] for row in rows.tolist()))):
            attacked = self.function(model, images.clone(), victim.labels[rows].clone())
        model.settle()
        return self._checked(attacked, images)

    def _checked(self, given: object, images: Tensor) -> Tensor:
        if not isinstance(given, Tensor) or given.shape != images.shape or not given.is_floating_point():
            what = (
                f"{tuple(given.shape)} {given.dtype}" if isinstance(given, Tensor) else type(given).__name__
            )
            raise ConfigError(
                f"{self.name}: the attack must return float images {tuple(images.shape)}, found {what}"
            )
        attacked = given.detach().to(images)
        if not bool(attacked.isfinite().all()):
            raise NumericError(f"{self.name}: the attack returned values that are not finite")
        low, high = float(attacked.min()), float(attacked.max())
        if low < -SLACK or high > 1 + SLACK:
            raise ConfigError(
                f"{self.name}: attacked images must lie in [0, 1], found [{low:.4g}, {high:.4g}]"
            )
        attacked = attacked.clamp(0, 1)
        largest = float(noise_norm(attacked.double() - images.double(), self.norm).max())
        if self.eps is not None and largest > self.eps + SLACK:
            raise ConfigError(
                f"{self.name}: noise of {self.norm} norm {largest:.6g} found, {self.eps:.6g} allowed;"
                " set the eps that the attack was built with, in [0, 1] pixel units"
            )
        return attacked


@final
@dataclass(frozen=True)
class FoolboxCall:
    """A foolbox attack, such as ``LinfPGD(steps=10)`` or ``L2CarliniWagnerAttack()``.

    Args:
        attack: the attack object; its criterion is misclassification of the labels.
        eps: its epsilon; None for attacks of least noise.
    """

    attack: Callable[..., Any]
    eps: float | None = None

    def __post_init__(self) -> None:
        check_settings(self, "eps", least=0)

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Attacked images, clipped to the budget by the library."""
        clipped: Tensor = self.attack(_FoolboxModel(model), images, labels, epsilons=self.eps)[1]
        return clipped


@final
@dataclass(frozen=True)
class TorchattacksCall:
    """A torchattacks attack, which is built around its model: ``lambda model: PGD(model, eps=8 / 255)``.

    Args:
        make: model to attack object.
    """

    make: Callable[[nn.Module], Callable[[Tensor, Tensor], Tensor]]

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Attacked images."""
        return self.make(model)(images, labels)


@final
@dataclass(frozen=True)
class ARTCall:
    """An attack of the Adversarial Robustness Toolbox, which is built around an estimator around its model.

    Args:
        make: model to attack object with ``generate(x=, y=)`` on numpy arrays, e.g. ``lambda model:
            SquareAttack(PyTorchClassifier(model, loss, (3, 32, 32), 10, clip_values=(0, 1)))``.
    """

    make: Callable[[nn.Module], Any]

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Attacked images; they go through numpy, as the library works on it."""
        attacked = self.make(model).generate(x=images.cpu().numpy(), y=labels.cpu().numpy())
        return torch.from_numpy(attacked).to(images)


@final
class _Counted(nn.Module):
    """The victim as a module that counts images forward and backward.

    Libraries switch a module's mode; this one holds no other that a mode could change.
    """

    def __init__(self, victim: Victim, rows: Tensor) -> None:
        super().__init__()
        self._victim, self._rows = victim, rows
        self._forward_images = self._backward_images = 0
        # Empty: libraries read the device of the first parameter.
        self.place = nn.Parameter(torch.zeros(0, device=rows.device), requires_grad=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        # Booked once the call is over, as only the caller knows whose images these are.
        rows = self._rows.expand(len(images)) if len(self._rows) == 1 else self._rows[:0]
        logits = self._victim.uncounted(images.float(), rows)
        self._forward_images += len(images)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)  # type: ignore[no-untyped-call]  # of torch
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self._backward_images += len(gradient)

    def settle(self) -> None:
        """Book all passes to the samples, in equal parts."""
        self._victim.n_fwd[self._rows] += -(-self._forward_images // len(self._rows))
        self._victim.n_bwd[self._rows] += -(-self._backward_images // len(self._rows))


class _Bounds(NamedTuple):
    lower: float
    upper: float


@final
class _FoolboxModel:
    """A model as foolbox wants it: bounds, data format, and calls with its own tensors."""

    bounds = _Bounds(0.0, 1.0)
    data_format = "channels_first"

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, inputs: Any) -> Any:  # noqa: ANN401 - the library's tensors
        if isinstance(inputs, Tensor):
            return self._model(inputs)
        return type(inputs)(self._model(inputs.raw))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Global random states seeded inside; those of numpy and Python as before afterwards.

    That of torch is put back where every attack is called.
    """
    # For code of somebody else, which draws from them.
    python, arrays = random.getstate(), np.random.get_state()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
