"""Training of the network that predicts one gate per place, by what the evidence masks find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from verisal.functional.scopes import frozen, gradient_scope
from verisal.functional.seeding import derive_seed
from verisal.functional.statistics import Bootstrap
from verisal.metrics import ImageRows, ImageTable
from verisal.results import Evaluation
from verisal.saliency import EvidenceMasks, LearnedMask, PlaceNetwork
from verisal.saliency.gates.learned import classifier_fingerprint
from verisal.saliency.gates.places import PlaceCard, ungated
from verisal.tasks.masker.base import MaskTask
from verisal.tasks.masker.contributing import COLUMNS, Judge, report
from verisal.tasks.masker.learning import evidence_loss, place_loss
from verisal.tasks.masker.lessons import drawn_queries
from verisal.types import Batch, check_range


@final
class PlaceMaskerTask(MaskTask):
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

    monitor, monitor_mode = "val/masker/unlike", "min"
    warm_up = 0.1
    validated_rows = ("masker", "evidence_masks")

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
        super().__init__(
            classifier=classifier,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            compare_images=compare_images,
            refine_steps=refine_steps,
            resamples=resamples,
            seed=seed,
        )
        check_range(2, width=width)
        check_range(0, evidence_weight=evidence_weight)
        check_range(0, 1, average=average)
        check_range(1, taught_images=taught_images)
        self.save_hyperparameters(logger=False)
        self.width, self.evidence_weight = width, evidence_weight
        self.taught_images, self.average = taught_images, average
        self.network: PlaceNetwork | None = None
        self.learner: PlaceNetwork | None = None
        self._judge = Judge(self.refine_steps, seed=seed)

    @property
    def row_names(self) -> tuple[str, ...]:
        """Rows of the test table."""
        return self._judge.rows

    @property
    def taught(self) -> int:
        """Every image until there are so many."""
        return self.taught_images

    def configure_model(self) -> None:
        """Build the network for the classifier's stages."""
        if self.network is not None:
            return
        channels = self.channels()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "masker"))
            learner = PlaceNetwork(channels, width=self.width)
        average = PlaceNetwork(channels, width=self.width).requires_grad_(False)
        average.load_state_dict(learner.state_dict())
        self.learner = learner.to(memory_format=torch.channels_last)
        self.network = average.to(memory_format=torch.channels_last)
        for row in self.row_names:
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
            taught = self.teach(batch, query)
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

    def lesson(self, part: Batch, asked: Tensor) -> list[Tensor]:
        """Gates of places per stage."""
        found = EvidenceMasks().find(self.classifier, part.images, asked)
        return [gate[:, :1] for gate in found.gates]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Judge the predicted maps of the first images beside those of the evidence masks."""
        first = self.compared(batch)
        if len(first):
            self._judged(first, self.validated_rows, curves=False)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Judge every row on every image; the cost is measured on the first batch."""
        self._judged(batch, self.row_names, curves=True)
        if batch_idx == 0:
            self._judge.measure(self._masks(), self.classifier, batch)
            self._timings = self._judge.timings

    def _masks(self) -> LearnedMask:
        return LearnedMask.of(self._of(self.network), self._made_card())

    def _judged(self, batch: Batch, rows: Sequence[str], *, curves: bool) -> None:
        with gradient_scope(self.device.type):
            values = self._judge.values(self._masks(), self.classifier, batch, rows, curves=curves)
        for row, of_row in values.items():
            self.table(row).update(batch.image_ids, of_row)

    def report(
        self, split: str, tables: Mapping[str, ImageRows], timings: Mapping[str, float], bootstrap: Bootstrap
    ) -> Evaluation:
        """Means of all rows, and what the prediction keeps of the evidence masks."""
        return report(split, tables, timings=timings, bootstrap=bootstrap)

    def trained(self) -> PlaceNetwork:
        """The network in training, of which the one that is judged is the average."""
        return self._of(self.learner)


def _mean(values: Tensor, there: Tensor) -> Tensor:
    """Mean over images, of which those without evidence count as 0."""
    return torch.where(there, values, 0.0).mean()
