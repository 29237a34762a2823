"""Where a run goes at Weights & Biases: decided before it starts, without a prompt."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Final, Literal

from lightning.pytorch.utilities import rank_zero_only

from verisal._checks import as_tuples
from verisal.errors import ConfigError

_REACH_SECONDS = 3.0
# Values of the variable WANDB_MODE.
_MODES: Final[dict[str, Literal["online", "offline", "disabled"]]] = {
    "online": "online",
    "offline": "offline",
    "dryrun": "offline",
    "disabled": "disabled",
}


@dataclass(frozen=True)
class WandbSettings:
    """Settings of logging to Weights & Biases.

    Attributes:
        project: project name.
        name: display name of the run; what it is on, its task and its folder when None.
        group: runs that belong together; the study, or else what the data are of, when None.
        job_type: what is done; the command, ``benchmark`` or ``study`` when None.
        notes: words about the run; the command when None.
        mode: ``auto`` goes online when logged in and the server answers, offline otherwise; ``online`` is an
            error where that fails; ``offline`` writes files for a later ``wandb sync``; ``disabled`` logs
            nothing. With ``auto`` the variable ``WANDB_MODE`` decides when it is set.
        tags: tags of the run, beside the name of its task.
        charts: logged names that become charts whatever else does, such as the metric of a sweep; ``*``
            stands for anything.
        checkpoint: what W&B knows of the best checkpoint of a fit: its place and checksum (``reference``),
            the file itself (``upload``), or ``none``.
        features: True to say which stored features a run has used, by their places; nothing is uploaded.
    """

    project: str = "verisal"
    name: str | None = None
    group: str | None = None
    job_type: str | None = None
    notes: str | None = None
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    tags: tuple[str, ...] = ()
    charts: tuple[str, ...] = ()
    checkpoint: Literal["none", "reference", "upload"] = "reference"
    features: bool = False

    def __post_init__(self) -> None:
        as_tuples(self)


@rank_zero_only
def decided(settings: WandbSettings) -> tuple[Literal["online", "offline", "disabled"], str]:
    """Where a run goes, and why; asked on rank zero alone.

    Args:
        settings: the mode that is asked for.

    Raises:
        ConfigError: mode ``online``, and not logged in or no answer from the server.
    """
    asked, reason = settings.mode, "as configured"
    if asked == "auto":
        wish = os.environ.get("WANDB_MODE", "")
        if wish in _MODES:
            asked, reason = _MODES[wish], f"WANDB_MODE={wish}"
    if asked in ("offline", "disabled"):
        return asked, reason
    problem = _login_problem() or _reach_problem()
    if problem is None:
        return "online", reason
    if settings.mode == "online":
        raise ConfigError(
            f"Weights & Biases: mode is online, but {problem}; run `wandb login`, check the network,"
            " or set the mode to auto or offline"
        )
    return "offline", problem


def _login_problem() -> str | None:
    import wandb

    wandb.setup(settings=wandb.Settings(silent=True))
    try:
        known = wandb.login(prompt=False, verify=False)
    except Exception as error:
        return f"login failed: {error}"
    return None if known else "not logged in"


def _reach_problem() -> str | None:
    """Ask the server for its health, in a thread: a name look-up without network has no time limit."""
    import wandb

    address = wandb.setup().settings.base_url
    answers: list[str | None] = []
    thread = threading.Thread(target=lambda: answers.append(_ask(address)), daemon=True)
    thread.start()
    thread.join(_REACH_SECONDS + 0.5)
    return answers[0] if answers else f"no answer from {address} in {_REACH_SECONDS:.0f} s"


def _ask(address: str) -> str | None:
    if not address.startswith(("http://", "https://")):
        return f"server address {address!r} is not http(s)"
    try:
        urllib.request.urlopen(f"{address}/healthz", timeout=_REACH_SECONDS).close()  # noqa: S310 - checked above
    except urllib.error.HTTPError:
        return None  # It answered, which is all that is asked.
    except OSError as error:
        return f"no answer from {address} ({getattr(error, 'reason', error)})"
    return None
