"""Accuracy under attack during training, and how often a fitted alarm reports the attacked images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import Tensor

from verisal.attacks import FGSM, PGD, AttackResult, named_attacks
from verisal.attacks.names import Attacks
from verisal.callbacks.explaining.callback import ScoringCallback
from verisal.callbacks.explaining.epoch import Epoch, Seen
from verisal.callbacks.explaining.names import LogsScores, typed_rows
from verisal.callbacks.explaining.rows import row_evaluation
from verisal.callbacks.explaining.subset import Everything
from verisal.callbacks.panels import by_name, gathered, name_of_class
from verisal.data.guard import ImageDigests
from verisal.detection import Alarm
from verisal.detection.detector_file import read_detector
from verisal.errors import ConfigError
from verisal.functional.adversarial import round_to_8bit
from verisal.functional.outputs import ask, decision, output_of
from verisal.metrics import ImageTable
from verisal.models import Classifier
from verisal.reporting.publication import merge_evaluations
from verisal.reporting.wandb_layout import Best
from verisal.results import Evaluation, SaliencyPanel, ScoreName
from verisal.saliency import Saliency
from verisal.types import check_range

_NOISE_GAIN = 10
_NAME, _CLEAN, _KNOWN = "robust", "clean", "known to the alarm"


@final
@dataclass(eq=False, repr=False)
class RobustValidation(ScoringCallback):
    """Accuracy on clean and attacked images and, with an alarm, the share of them that it reports.

    Rows are ``clean`` and the attacks. ``accuracy`` is the share of images that the classifier gets right,
    under attack as the attack left them; an image that was wrong from the start counts as wrong under every
    attack. ``alarms`` is the share that the alarm reports, of images in 8 bits, as files hold them: in the
    row ``clean`` of those that the classifier gets right, in an attack's row of those that it turned.
    Logged as ``val/robust/<row>/accuracy`` and ``val/robust/<row>/alarms``.

    Random starts follow seed and content of each image. Images without a label are left out, and counted.
    Options as of :class:`ExplainingCallback`, but for the methods; rows per image are not kept.

    Args:
        attacks: a list, or name to attack; by default FGSM, and PGD with ten steps, both at 8 / 255.
        alarm: fitted, or its file; None for no alarm. It belongs to the weights that it was fitted to: on
            others, such as those of the next epoch, it is used all the same, and the notes say so.
        pictures: show this many attacked images with their noise.

    Raises:
        ConfigError: settings out of range, no attack, or an attack called ``clean``; while running, an alarm
            of a classifier with other classes or stages, or of images of another size.
        CheckpointError: a file that holds no alarm.
    """

    methods: Mapping[str, Saliency] | Sequence[Saliency] = field(default=(), init=False)
    attacks: Attacks | None = None
    _: KW_ONLY
    alarm: Alarm | str | PathLike[str] | None = None
    pictures: int = 4

    does = "attacks"
    controlled: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(0, pictures=self.pictures)
        self._attacks = named_attacks((FGSM(8 / 255), PGD(8 / 255)) if self.attacks is None else self.attacks)
        if not self._attacks or _CLEAN in self._attacks:
            raise ConfigError(
                f"attacks must be at least one, none of them called {_CLEAN!r}, found {list(self._attacks)}"
            )
        typed_rows(self.row_names)
        given = self.alarm
        self._kept = given if given is None or isinstance(given, Alarm) else read_detector(Path(given))

    @property
    def row_names(self) -> tuple[str, ...]:
        """``clean`` and the attacks."""
        return (_CLEAN, *self._attacks)

    @property
    def headline(self) -> Mapping[str, str]:
        """Accuracy, and the share of alarms where there is one."""
        own = {"robust accuracy ↑": f"{_NAME}/accuracy"}
        return own if self.alarm is None else own | {"alarms": f"{_NAME}/alarms"}

    def main_figures(self, *, after: Sequence[LogsScores] = ()) -> dict[str, Best]:
        """Accuracy under every attack; that of clean images is the task's own."""
        names = typed_rows(self.row_names)
        return {f"val/{_NAME}/{names[row]}/accuracy": "max" for row in self._attacks}

    def typed_scores(self, split: str, *, after: Sequence[LogsScores] = ()) -> dict[ScoreName, str]:
        """``<split>/robust/<row>/accuracy`` and ``alarms``, whatever the other callbacks log."""
        return {
            ScoreName(split, row, column): f"{split}/{_NAME}/{short}/{column.removeprefix(f'{_NAME}/')}"
            for row, short in typed_rows(self.row_names).items()
            for column in self.headline.values()
        }

    def begin(self, epoch: Epoch) -> None:
        """An empty table, and the alarm beside the classifier as it is now."""
        super().begin(epoch)
        self._beside = self._alarm_beside(epoch)
        scores = ("accuracy",) if self._beside is None else ("accuracy", "alarms")
        columns = [f"{row}/{score}" for row in self.row_names for score in scores]
        self._table = ImageTable((*columns, _KNOWN)).to(epoch.device)
        self._shown: dict[str, list[SaliencyPanel]] = {}

    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Attack the images of one batch that have a label, and judge all of them."""
        labelled = seen.rows((seen.batch.labels >= 0).nonzero()[:, 0].tolist())
        ids, images, labels = labelled.batch.image_ids, labelled.batch.images, labelled.batch.labels
        right = _right(labelled.logits, labels, epoch)
        columns = self._judged(epoch, right, images, labels, _CLEAN)
        epoch.step(_CLEAN)
        results: dict[str, AttackResult] = {}
        for name, attack in self._attacks.items():
            rng = torch.Generator().manual_seed(self.seed)
            results[name] = attack(epoch.classifier, images, labels, generator=rng)
            fooled = results[name].success
            columns |= self._judged(epoch, right & ~fooled, results[name].images, labels, name, turned=right)
            epoch.step(name)
        columns[_KNOWN] = self._known(images)
        values = [columns[name].double().to(images.device) for name in self._table.columns]
        self._table.update(ids, torch.stack(values, dim=1))
        without = [name for name in seen.batch.image_ids if name not in ids]
        nothing = torch.full((len(without), len(values)), torch.nan, dtype=torch.float64)
        self._table.update(without, nothing)
        self._show(epoch, labelled, results)

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Scores and values per image of every row, pictures, and what a reader of them must know."""
        table = self._table.compute()
        if not len(table.image_ids):
            return None
        columns = dict(zip(self._table.columns, table.rows.T, strict=True))
        known = columns.pop(_KNOWN)
        self._tell(epoch, unlabelled=int(known.isnan().sum()), known=int(known.nansum()), of=len(known))
        parts = []
        for row in self.row_names:
            own = {
                name.partition("/")[2]: values
                for name, values in columns.items()
                if name.partition("/")[0] == row
            }
            scores, ids = self.means(epoch, own), table.image_ids
            parts.append(row_evaluation(epoch.split, row, _NAME, scores, image_ids=ids, columns=own))
        settings = {f"attack {name}": repr(attack) for name, attack in self._attacks.items()}
        settings |= {} if self._beside is None else {"alarms": repr(self._beside)}
        counts = {"attacked images": len(known) - int(known.isnan().sum())}
        shown = sorted(
            gathered(list(chain(*self._shown.values()))), key=lambda panel: by_name(panel.image_id)
        )
        panels = tuple(shown[: self.pictures * len(self._attacks)])
        told = _summary({row: float(columns[f"{row}/accuracy"].nanmean()) for row in self.row_names})
        whole = Evaluation(
            epoch.split,
            {},
            counts=counts,
            panels=panels,
            summary=(told,) if told else (),
            settings=settings,
        )
        return merge_evaluations([*parts, whole])

    def _alarm_beside(self, epoch: Epoch) -> Alarm | None:
        """The alarm beside the classifier of the epoch, and a word where it was fitted to other weights."""
        kept = self._kept
        if kept is None:
            return None
        if not isinstance(epoch.classifier, Classifier):
            raise ConfigError(
                f"an alarm judges by a verisal.models.Classifier, found {type(epoch.classifier).__name__};"
                " make the module's classifier one, or leave alarm= out"
            )
        if isinstance(kept, Alarm):
            alarm = kept.beside(epoch.classifier)
        else:
            alarm = kept.alarm(epoch.classifier, other_weights=True)
        other = (
            "RobustValidation: the alarm was fitted to other weights, or another normalisation, than the"
            f" classifier has now; its threshold was made for {100 * alarm.false_alarms:g} % of alarms on"
            f" clean images, {epoch.split}/{_NAME}/{_CLEAN}/alarms says what is left of it"
        )
        epoch.notice("alarm of other weights", "" if alarm.fits() else other)
        return alarm

    def _judged(
        self,
        epoch: Epoch,
        right: Tensor,
        images: Tensor,
        labels: Tensor,
        row: str,
        *,
        turned: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Columns of a row: which of its images are right, and which of those that count are reported."""
        columns = {f"{row}/accuracy": right}
        if self._beside is None:
            return columns
        size, found = self._beside.classifier.height_and_width, tuple(images.shape[-2:])
        if found != size:
            raise ConfigError(
                f"the alarm was fitted on images of {size[0]} x {size[1]} px, found {found[0]} x {found[1]}"
                " px; fit one on images like these"
            )
        stored = round_to_8bit(images).float() / 255
        still = _right(ask(epoch.classifier, stored), labels, epoch)
        counted = (still if turned is None else turned & ~still).nonzero()[:, 0]
        alarms = torch.full((len(images),), torch.nan, dtype=torch.float64, device=images.device)
        if len(counted):
            scores, rung = self._beside(stored[counted])
            alarms[counted] = rung.double().masked_fill(scores.isnan(), torch.nan)
        return columns | {f"{row}/alarms": alarms}

    def _known(self, images: Tensor) -> Tensor:
        """1 for images that the alarm learned from or took its threshold from, else 0."""
        seen = {} if self._beside is None else self._beside.seen
        if not seen or not len(images):
            return torch.zeros(len(images))
        own = ImageDigests.of(round_to_8bit(images).cpu(), [""] * len(images)).values
        return torch.isin(own, torch.cat(list(seen.values()))).double()

    def _tell(self, epoch: Epoch, *, unlabelled: int, known: int, of: int) -> None:
        """What the numbers leave out, and what makes them too good."""
        words = f"RobustValidation: {unlabelled} of {of} images have no label; they are not attacked"
        epoch.notice("attacked without label", words if unlabelled else "")
        some = (
            ""
            if isinstance(self.subset, Everything)
            else (
                f"RobustValidation: every accuracy, {epoch.split}/{_NAME}/{_CLEAN}/accuracy too, is that of"
                f" {of - unlabelled} images of a subset; what the module logs itself may be that of all"
            )
        )
        epoch.notice("attacked subset", some)
        words = (
            f"RobustValidation: the alarm was fitted on {known} of {of} of these images; on them it reports"
            " fewer clean and more attacked ones than on new images"
        )
        epoch.notice("alarm knows images", words if known else "")

    def _show(self, epoch: Epoch, seen: Seen, results: Mapping[str, AttackResult]) -> None:
        """Keep pictures of the images whose names come first."""
        ids = seen.batch.image_ids
        kept = sorted({*self._shown, *ids}, key=by_name)[: self.pictures]
        self._shown = {
            image_id: self._shown.get(image_id) or self._drawn(epoch, seen, results, ids.index(image_id))
            for image_id in kept
        }

    def _drawn(
        self, epoch: Epoch, seen: Seen, results: Mapping[str, AttackResult], row: int
    ) -> list[SaliencyPanel]:
        clean, label = seen.batch.images[row].cpu(), seen.batch.labels[[row]]
        right = bool(_right(seen.logits[[row]], label, epoch)[0])
        before = _answer(epoch, seen.logits[[row]], label)
        panels = []
        for name, result in results.items():
            attacked = result.images[row].cpu()
            noise = (0.5 + _NOISE_GAIN * (attacked - clean)).clamp(0, 1)
            shown = {"attacked": attacked, f"noise x {_NOISE_GAIN}, around grey": noise}
            logits = ask(epoch.classifier, result.images[[row]], allow_nan=True)
            after = _answer(epoch, logits, label)
            fooled = "fools the classifier" if bool(result.success[row]) else "does not fool it"
            fate = fooled if right else "wrong from the start"
            known = name_of_class(epoch, int(label[0]))
            caption = f"labelled {known}, predicted {before} without noise and {after} under {name}: {fate}"
            image_id = f"{epoch.title(seen.batch.image_ids[row])} {name}"
            panels.append(SaliencyPanel(image_id, clean, shown, caption, figure="attacked_images"))
        return panels


def _summary(accuracies: Mapping[str, float]) -> str:
    """A sentence on the share of images that the classifier gets right, without and under attack."""
    attacked = {row: share for row, share in accuracies.items() if row != _CLEAN and share == share}
    clean = accuracies[_CLEAN]
    if not attacked or clean != clean:
        return ""
    worst = min(attacked, key=lambda row: attacked[row])
    among = f", the worst of {len(attacked)} attacks" if len(attacked) > 1 else ""
    found = f"the classifier is right on {100 * attacked[worst]:.0f} % of the images"
    return f"Under {worst}{among}, {found} (without noise on {100 * clean:.0f} %)."


def _answer(epoch: Epoch, logits: Tensor, label: Tensor) -> str:
    """What the classifier says of one image: its class, or of labels that are decided alone this one."""
    if output_of(epoch.classifier) == "sigmoid":
        return "yes" if bool(_right(logits, label, epoch)[0]) else "no"
    return name_of_class(epoch, int(logits.argmax(dim=1)[0]))


def _right(logits: Tensor, labels: Tensor, epoch: Epoch) -> Tensor:
    """``(B,)`` bool: the classifier's decision about the label is right."""
    logits, labels = decision(logits, labels, output_of(epoch.classifier))
    return logits.argmax(dim=1) == labels
