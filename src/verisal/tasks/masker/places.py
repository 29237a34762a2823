"""Training of the network that predicts one gate per place, by what the evidence masks find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, final

import lightning as L
import torch
from torch import Tensor, nn

from verisal.functional.scopes import frozen, gradient_scope, rng_preserved
from verisal.functional.seeding import derive_seed
from verisal.functional.statistics import Bootstrap
from verisal.metrics import ImageTable
from verisal.models import Classifier, load_classifier
from verisal.results import Evaluation
from verisal.saliency import EvidenceMasks, LearnedMask, PlaceNetwork
from verisal.saliency.gates.learned import classifier_fingerprint
from verisal.saliency.gates.places import PlaceCard, ungated
from verisal.tasks._training import OneCycle, agree_on_buffers, check_planned
from verisal.tasks.masker.contributing import COLUMNS, Judge, report
from verisal.tasks.masker.learning import evidence_loss, place_loss
from verisal.tasks.masker.lessons import Group, Lessons, batches_of, drawn_queries
from verisal.types import Batch, check_range


@final
class PlaceMaskerTask(L.LightningModule):
    r"""Trains a :class:`PlaceNetwork` to say in two passes what :class:`EvidenceMasks` find in a dozen.

    For every taught image and its query, the gates of the evidence masks are made once. The loss is a
    weighted sum of two parts, each a mean over the images whose query has evidence: the gates against theirs
    (cross-entropy), and the evidence that the gated network keeps against all of it (relative square), since
    gates in doubt multiply to nothing. Queries: the predicted class for half of the images, else the second,
    the least likely, or a random class outside the five likeliest. No label and no box is read.

    The network that is judged and exported is a moving average of the one in training.

    Validation judges the maps of contributions where the data says which pixels are of the predicted class;
    the test adds insertion, deletion, steps of the evidence masks after the prediction, evidence masks with
    as few passes, those with all, masks by descent, contributions without gates, and shuffled gates.

    Args:
        classifier: name or path of the frozen classifier whose activations are read.
        width: channels of the network's path; see :class:`PlaceNetwork`.
        learning_rate: peak rate of AdamW under a one-cycle schedule.
        weight_decay: of AdamW.
        evidence_weight: of the evidence's part of the loss; the gates' part has weight 1.
        taught_images: images with gates to learn from, made when each is first met and kept in memory: a
            half-precision number for every place. The others teach the evidence alone.
        average: share of the moving average that a step keeps; fewer at the start.
        compare_images: images of the evidence masks in validation.
        refine_steps: numbers of steps after the prediction whose maps the test reports.
        resamples: bootstrap resamples of the test's intervals.
        seed: of the network's first weights and of the bootstrap.

    Raises:
        ConfigError: values out of range.
    """

    task_name = "masker"
    monitor, monitor_mode = "val/masker/unlike", "min"

    def __init__(
        self,
        *,
        classifier: str = "emoji_scenes_64",
        width: int = 32,
        learning_rate: float = 0.004,
        weight_decay: float = 0.001,
        evidence_weight: float = 0.3,
        taught_images: int = 8192,
        average: float = 0.98,
        compare_images: int = 128,
        refine_steps: Sequence[int] = (1, 2, 4, 8),
        resamples: int = 2000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_range(2, width=width)
        check_range(0, evidence_weight=evidence_weight)
        check_range(0, learning_rate=learning_rate, weight_decay=weight_decay, resamples=resamples, seed=seed)
        check_range(0, 1, average=average)
        check_range(1, compare_images=compare_images, taught_images=taught_images)
        check_range(1, refine_steps=refine_steps)
        self.save_hyperparameters(logger=False)
        self.source, self.width = classifier, width
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.evidence_weight = evidence_weight
        self.taught_images, self.average = taught_images, average
        self.compare_images, self.refine_steps = compare_images, tuple(refine_steps)
        self.resamples, self.seed = resamples, seed
        self.network: PlaceNetwork | None = None
        self.learner: PlaceNetwork | None = None
        self._schedule: OneCycle | None = None
        self.evaluation: Evaluation | None = None
        self._tables = nn.ModuleDict()
        # Not a sub-module: it is no part of a checkpoint and never leaves eval mode.
        self._frozen: tuple[Classifier, ...] = ()
        self._judge: Judge | None = None
        self._seen = 0
        self._lessons, self._made = Lessons(), list[list[Group]]()

    @property
    def classifier(self) -> Classifier:
        """The frozen classifier, on the device of the task."""
        if not self._frozen:
            self._frozen = (load_classifier(self.source).to(memory_format=torch.channels_last),)
        return self._frozen[0].to(self.device)

    def configure_model(self) -> None:
        """Build the network for the classifier's stages."""
        if self.network is not None:
            return
        classifier = self.classifier
        blank = torch.zeros(1, classifier.channels, *classifier.height_and_width, device=self.device)
        with torch.no_grad():
            shapes = classifier.stage_outputs(blank).activations
        channels = [activation.shape[1] for activation in shapes]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "masker"))
            learner = PlaceNetwork(channels, width=self.width)
        average = PlaceNetwork(channels, width=self.width).requires_grad_(False)
        average.load_state_dict(learner.state_dict())
        self.learner = learner.to(memory_format=torch.channels_last)
        self.network = average.to(memory_format=torch.channels_last)
        self._judge = Judge(self.refine_steps, seed=self.seed)
        for row in self._judge.rows:
            self._tables[row] = ImageTable(COLUMNS)

    def _made_card(self) -> PlaceCard:
        channels = self._of(self.network).channels
        return PlaceCard(
            channels=channels, width=self.width, classifier=classifier_fingerprint(self.classifier)
        )

    @staticmethod
    def _of(network: PlaceNetwork | None) -> PlaceNetwork:
        if network is None:
            raise RuntimeError("configure_model has not run")
        return network

    def check_trainer(self, trainer: L.Trainer) -> None:
        """Raise where the trainer has no end, before anything is prepared."""
        check_planned(trainer)

    def card(self) -> dict[str, object]:
        """Facts that a checkpoint must agree with to be loaded: what its mask network is made for."""
        card = self._made_card()
        return {
            "task": self.task_name,
            "network": "PlaceNetwork",
            "channels": list(card.channels),
            "width": card.width,
            "classifier": card.classifier,
        }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Weighted sum of the two parts, each a mean over images with evidence."""
        classifier = self.classifier
        images = batch.images.contiguous(memory_format=torch.channels_last)
        with frozen(classifier):
            with torch.no_grad():
                query = drawn_queries(classifier(images))
            taught = self._teach(batch, query)
            outputs, contributed, _ = ungated(classifier, images, query)
            logits = self._of(self.learner)(outputs.activations, contributed)
            gates = [part.sigmoid() for part in logits]
            asked = classifier.gated(outputs.activations[0], gates).gather(1, query[:, None])[:, 0]
            plain = outputs.logits.gather(1, query[:, None])[:, 0]
            there = contributed.kept > 0
            kept = asked - (plain - contributed.kept)
            # Little evidence is told by that of the first class, whatever the scale of the logits.
            scale = outputs.logits.amax(dim=1) - outputs.logits.mean(dim=1)
            least = 0.1 * float(scale.mean())
            parts = {"evidence": _mean(evidence_loss(kept, contributed.kept, least=least), there)}
            if taught:
                rows = torch.tensor([*taught], device=query.device)
                goals = [torch.stack(part).to(query.device) for part in zip(*taught.values(), strict=True)]
                found = place_loss([part[rows] for part in logits], goals)
                parts["place"] = _mean(found, there[rows])
        loss = parts.get("place", 0) + self.evidence_weight * parts["evidence"]
        settings: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True}
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch), **settings)
        for name, part in parts.items():
            self.log(f"train/{name}", part, batch_size=len(batch), **settings)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:  # noqa: ANN401
        """Move the average towards the network in training."""
        kept = min(self.average, (1 + self.global_step) / (10 + self.global_step))
        pairs = zip(self._of(self.network).parameters(), self._of(self.learner).parameters(), strict=True)
        with torch.no_grad():
            for mean, now in pairs:
                mean.lerp_(now, 1 - kept)

    def _teach(self, batch: Batch, query: Tensor) -> dict[int, list[Tensor]]:
        """Gates and maps to learn from by row of the batch; ``query`` is set to theirs in place."""
        whole, rest = divmod(self.taught_images, self.trainer.world_size)
        room = whole + (self.trainer.global_rank < rest)
        return self._lessons.teach(batch, query, room=room, make=self._lesson)

    def _lesson(self, part: Batch, asked: Tensor) -> list[Tensor]:
        """Gates of places per stage."""
        found = EvidenceMasks().find(self.classifier, part.images, asked)
        return [gate[:, :1] for gate in found.gates]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say which images have lessons, so that a resumed run has the same ones."""
        checkpoint["lessons"] = self._lessons.groups()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note what is to be made again when training starts."""
        self._made = checkpoint.get("lessons", [])

    def on_train_start(self) -> None:
        """Make the lessons of a resumed run again."""
        groups, self._made = self._made, []
        own = [
            group for part in groups[self.trainer.global_rank :: self.trainer.world_size] for group in part
        ]
        if own:
            with rng_preserved(self.device), frozen(self.classifier):
                for part, classes in batches_of(own, self.trainer.train_dataloader):
                    part, asked = part.to(self.device), classes.to(self.device)
                    self._lessons.add(part.image_ids, asked.tolist(), self._lesson(part, asked))

    def on_validation_start(self) -> None:
        """Judge one network, whatever the number of processes."""
        agree_on_buffers(self)
        self._seen = 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Judge the predicted maps of the first images beside those of the evidence masks."""
        processes = self.trainer.world_size
        places = [(self._seen + row) * processes + self.trainer.global_rank for row in range(len(batch))]
        self._seen += len(batch)
        first = batch.rows([row for row, place in enumerate(places) if place < self.compare_images])
        if len(first):
            self._judged(first, ("masker", "evidence_masks"), curves=False)

    def on_validation_epoch_end(self) -> None:
        """Log the means, and report them in a run that only validates."""
        fitting = self.trainer.state.fn == "fit"
        self._finish("val", ("masker", "evidence_masks"), resamples=0 if fitting else self.resamples)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Judge every row on every image; the cost is measured on the first batch."""
        judge = cast(Judge, self._judge)
        self._judged(batch, judge.rows, curves=True)
        if batch_idx == 0:
            judge.measure(self._masks(), self.classifier, batch)

    def on_test_epoch_end(self) -> None:
        """Report all rows with intervals, and what the prediction keeps of the evidence masks."""
        self._finish("test", cast(Judge, self._judge).rows, resamples=self.resamples)

    def _masks(self) -> LearnedMask:
        return LearnedMask.of(self._of(self.network), self._made_card())

    def _judged(self, batch: Batch, rows: Sequence[str], *, curves: bool) -> None:
        judge = cast(Judge, self._judge)
        with gradient_scope(self.device.type):
            values = judge.values(self._masks(), self.classifier, batch, rows, curves=curves)
        for row, of_row in values.items():
            cast(ImageTable, self._tables[row]).update(batch.image_ids, of_row)

    def _finish(self, split: str, rows: Sequence[str], *, resamples: int) -> None:
        tables = {row: cast(ImageTable, self._tables[row]).compute() for row in rows}
        for row in rows:
            cast(ImageTable, self._tables[row]).reset()
        timings = cast(Judge, self._judge).timings if split == "test" else {}
        bootstrap = Bootstrap(resamples, seed=self.seed)
        self.evaluation = report(split, tables, timings=timings, bootstrap=bootstrap)
        values = {str(name): score.value for name, score in self.evaluation.scores.items()}
        self.log_dict({name: value for name, value in values.items() if value == value}, batch_size=1)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union of eight shapes
        """AdamW with a one-cycle schedule per step."""
        optimizer = torch.optim.AdamW(
            self._of(self.learner).parameters(),
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            fused=True,
        )
        self._schedule = OneCycle(optimizer, self.trainer, max_lr=self.learning_rate, pct_start=0.1)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._schedule, "interval": "step"}}


def _mean(values: Tensor, there: Tensor) -> Tensor:
    """Mean over images, of which those without evidence count as 0."""
    return torch.where(there, values, 0.0).mean()
