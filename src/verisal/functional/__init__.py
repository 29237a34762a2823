"""Stateless functions on tensors, and the context managers that own side effects."""

from ._adversarial import noise_norm as noise_norm
from ._adversarial import project_noise as project_noise
from ._adversarial import round_to_8bit as round_to_8bit
from ._scopes import frozen as frozen
from ._scopes import gradient_scope as gradient_scope
from ._seeding import derive_seed as derive_seed
from ._seeding import per_sample as per_sample

__all__ = [
    "derive_seed",
    "frozen",
    "gradient_scope",
    "noise_norm",
    "per_sample",
    "project_noise",
    "round_to_8bit",
]
