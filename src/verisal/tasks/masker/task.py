"""Training of the network that predicts hierarchical masks in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from verisal.errors import ConfigError
from verisal.functional.outputs import require_softmax
from verisal.functional.scopes import frozen, gradient_scope
from verisal.functional.seeding import derive_seed
from verisal.functional.statistics import Bootstrap
from verisal.metrics import ImageRows, ImageTable
from verisal.models import Classifier
from verisal.results import Evaluation
from verisal.saliency import HierarchicalMasks, MaskNetwork
from verisal.saliency.gates.descent import GateDescent, GateProblem, Objective
from verisal.saliency.gates.learned import classifier_fingerprint
from verisal.saliency.gates.masks import GatePenalty
from verisal.tasks.masker.base import MaskTask
from verisal.tasks.masker.evaluation import (
    COLUMNS,
    build_evaluation,
    judged_rows,
    milliseconds_per_image,
    shuffled_gates,
)
from verisal.tasks.masker.lessons import drawn_queries
from verisal.types import Batch, StageOutputs, check_range


@final
class MaskerTask(MaskTask):
    r"""Trains a :class:`MaskNetwork` under the objective of the per-image optimisation.

    The loss is :math:`J = D + \lambda R` of :class:`HierarchicalMasks`, averaged over images; no targets are
    needed. :math:`\lambda` rises from a small share of its value over the first part of training: with the
    full weight from the start the gates fall to 0 before they have learned to keep anything. Queries: the
    predicted class for half of the images, else the second, the least likely, or a random class outside the
    five likeliest, equally often. Where the optimisation refuses an iterate whose prediction has changed, the
    network pays for the logits by which another class is ahead.

    Validation and test compare the network with the per-image optimisation of the same objective on the same
    images: what is kept, where the evidence lies, and the cost. The test adds a few steps of descent that
    start from the prediction, and a random map as the control.

    Args:
        classifier: name or path of the frozen classifier whose activations are read.
        objective: what the gates keep.
        reg_weight: lambda. The network needs a smaller one than the optimisation to keep the output as well.
        penalty: form of the penalty.
        width_ratio: size of the network; see :class:`MaskNetwork`.
        learning_rate: peak rate of AdamW under a one-cycle schedule.
        weight_decay: of AdamW.
        reg_start: share of lambda at the start.
        reg_ramp: share of the training steps over which lambda rises, evenly in its logarithm.
        distil_weight: weight of the mean absolute difference to optimised gates, the mean over stages of the
            means over gates; 0 needs none.
        distil_images: optimised gates are made for so many training images, when each is first met, and kept
            in memory with their query: about as many half-precision numbers as the gates have.
        optimised_steps: steps of the per-image optimisations that the test compares with; validation
            compares with the last of them.
        optimised_reg_weight: their lambda.
        compare_images: images of the comparison in validation; the test compares all of its images.
        refine_steps: numbers of descent steps after the prediction whose result the test reports.
        resamples: bootstrap resamples of the test's intervals.
        seed: of the network's first weights and of the bootstrap.

    Raises:
        ConfigError: values out of range.
    """

    monitor, monitor_mode = "val/masker/objective", "min"
    warm_up = 0.15

    def __init__(
        self,
        *,
        classifier: str = "emoji_scenes_64",
        objective: Objective = "evidence",
        reg_weight: float = 0.2,
        penalty: GatePenalty = "per_channel",
        width_ratio: float = 1.0,
        learning_rate: float = 0.006,
        weight_decay: float = 0.001,
        reg_start: float = 0.1,
        reg_ramp: float = 0.7,
        distil_weight: float = 0.0,
        distil_images: int = 6000,
        optimised_steps: Sequence[int] = (30,),
        optimised_reg_weight: float = 4.0,
        compare_images: int = 128,
        refine_steps: Sequence[int] = (1, 3, 10),
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
        check_range(0, above=True, reg_weight=reg_weight, width_ratio=width_ratio)
        check_range(0, 1, above=True, reg_start=reg_start)
        check_range(0, 1, reg_ramp=reg_ramp)
        check_range(0, distil_weight=distil_weight, optimised_reg_weight=optimised_reg_weight)
        check_range(1, distil_images=distil_images, optimised_steps=optimised_steps)
        if not optimised_steps:
            raise ConfigError("optimised_steps must not be empty: the predicted masks are compared with them")
        self.save_hyperparameters(logger=False)
        self.objective, self.penalty = objective, penalty
        self.reg_weight, self.reg_start, self.reg_ramp = reg_weight, reg_start, reg_ramp
        self.width_ratio = width_ratio
        self.distil_weight, self.distil_images = distil_weight, distil_images
        self.optimised_steps, self.optimised_reg_weight = tuple(optimised_steps), optimised_reg_weight
        self.network: MaskNetwork | None = None
        # Rows of the optimisation on validation images: the same in every epoch.
        self._known: dict[str, Tensor] = {}

    def accept(self, classifier: Classifier) -> None:
        """Raise for a classifier whose labels are decided one by one."""
        require_softmax(classifier, "a mask model")

    @property
    def row_names(self) -> tuple[str, ...]:
        """Rows of the test table."""
        refined = tuple(f"masker_{steps}_steps" for steps in self.refine_steps)
        optimised = tuple(f"optimised_{steps}_steps" for steps in self.optimised_steps)
        return ("masker", *refined, "random", *optimised)

    @property
    def validated_rows(self) -> tuple[str, ...]:
        """The prediction, and the last of the optimisations."""
        return ("masker", self.row_names[-1])

    @property
    def taught(self) -> int:
        """The first so many images, where there is distillation."""
        return self.distil_images if self.distil_weight else 0

    def configure_model(self) -> None:
        """Build the network for the classifier's stages."""
        if self.network is not None:
            return
        channels = self.channels()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, "masker"))
            network = MaskNetwork(channels, self.classifier.num_classes, width_ratio=self.width_ratio)
        self.network = network.to(memory_format=torch.channels_last)
        for row in self.row_names:
            self._tables[row] = ImageTable(COLUMNS)

    @property
    def _network(self) -> MaskNetwork:
        if self.network is None:
            raise RuntimeError("configure_model has not run")
        return self.network

    def card(self) -> dict[str, object]:
        """Facts that a checkpoint must agree with to be loaded: what its mask network is made for."""
        return {
            "task": self.task_name,
            "network": "MaskNetwork",
            "channels": list(self._network.channels),
            "num_classes": self._network.num_classes,
            "width_ratio": self.width_ratio,
            "classifier": classifier_fingerprint(self.classifier),
            "objective": self.objective,
            "penalty": self.penalty,
            "reg_weight": self.reg_weight,
        }

    def forward(self, outputs: StageOutputs, query: Tensor) -> list[Tensor]:
        """Gates of every stage for ``query (B,)``, from the ungated classifier's activations."""
        asked = query if self.objective != "output" else torch.full_like(query, self._network.num_classes)
        gates: list[Tensor] = self._network(outputs.activations, asked)
        return gates

    def _outputs(self, images: Tensor) -> StageOutputs:
        with torch.no_grad():
            return self.classifier.stage_outputs(images.contiguous(memory_format=torch.channels_last))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean J over images, with the lambda of this step."""
        with frozen(self.classifier):
            outputs = self._outputs(batch.images)
            query = drawn_queries(outputs.logits)
            taught = self.teach(batch, query) if self.taught else {}
            problem = GateProblem(self.objective, self.penalty, self.classifier, outputs, query)
            gates = self(outputs, query)
            logits = problem.gated(gates)
        distance, penalty = problem.distance(logits).mean(), problem.penalty(gates).mean()
        reg_weight = self._current_reg_weight()
        loss = distance + reg_weight * penalty + problem.inadmissibility(logits).mean()
        if taught:
            goals = [torch.stack(stage) for stage in zip(*taught.values(), strict=True)]
            pairs = zip((gate[[*taught]] for gate in gates), goals, strict=True)
            gaps = [(gate - goal.to(gate)).abs().mean() for gate, goal in pairs]
            loss = loss + self.distil_weight * torch.stack(gaps).mean() * len(taught) / len(batch)
        settings: dict[str, Any] = {"on_step": False, "on_epoch": True, "sync_dist": True}
        parts: dict[str, Any] = {"distance": distance, "penalty": penalty, "reg_weight": reg_weight}
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch), **settings)
        for name, value in parts.items():
            self.log(f"train/{name}", value, batch_size=len(batch), **settings)
        return loss

    def _current_reg_weight(self) -> float:
        """Lambda now: from ``reg_start`` of it to all of it over the ramp, evenly in its logarithm."""
        # A resumed run may have another length: then the learning rate and lambda have it together.
        planned = self._schedule.total_steps if self._schedule else self.trainer.estimated_stepping_batches
        total = max(1.0, self.reg_ramp * float(planned))
        done = min(1.0, self.global_step / total) if self.reg_ramp else 1.0
        return float(self.reg_weight * self.reg_start ** (1 - done))

    def lesson(self, part: Batch, asked: Tensor) -> Sequence[Tensor]:
        """Optimised gates."""
        return self._optimised(self.optimised_steps[0]).gates(self.classifier, part.images, asked)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Judge the predicted gates of every image, and the optimised ones of the first few."""
        goal = self.row_names[-1]
        self.table("masker").update(batch.image_ids, self._judged(batch, ["masker"])["masker"])
        first = self.compared(batch)
        new = first.rows([index for index, name in enumerate(first.image_ids) if name not in self._known])
        if len(new):
            self._known |= zip(new.image_ids, self._judged(new, [goal])[goal], strict=True)
        if len(first):
            known = torch.stack([self._known[name] for name in first.image_ids])
            self.table(goal).update(first.image_ids, known)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Judge every row on every image; the cost is measured on the first batch."""
        for row, values in self._judged(batch, self.row_names, deletion=True).items():
            self.table(row).update(batch.image_ids, values)
        if batch_idx == 0:
            self._timings = self._cost(batch)

    def _judged(self, batch: Batch, rows: Sequence[str], *, deletion: bool = False) -> dict[str, Tensor]:
        """``(B, columns)`` of the gates of several rows, for the predicted class."""
        with frozen(self.classifier), gradient_scope(self.device.type):
            outputs = self._outputs(batch.images.clone())
            problem = GateProblem(
                self.objective, self.penalty, self.classifier, outputs, outputs.logits.argmax(dim=1)
            )
            judged = {}
            for row in rows:
                gates = self._gates_of(row, batch, outputs, problem)
                judged[row] = judged_rows(problem, gates, batch, self.reg_weight, deletion=deletion)
            return judged

    def _gates_of(
        self, row: str, batch: Batch, outputs: StageOutputs, problem: GateProblem
    ) -> Sequence[Tensor]:
        if row.startswith("optimised"):
            return self._optimised(_steps_of(row)).gates(self.classifier, batch.images, problem.query)
        with torch.no_grad():
            predicted: list[Tensor] = self(outputs, problem.query)
        if row == "random":
            return shuffled_gates(predicted, seed=self.seed, image_ids=batch.image_ids)
        if row == "masker":
            return predicted
        descent = GateDescent(reg_weight=self.reg_weight, steps=_steps_of(row), learning_rate=0.05)
        return descent.run(problem, start=predicted).gates

    def _optimised(self, steps: int) -> HierarchicalMasks:
        return HierarchicalMasks(
            objective=self.objective, penalty=self.penalty, reg_weight=self.optimised_reg_weight, steps=steps
        )

    def _cost(self, batch: Batch) -> dict[str, float]:
        """Milliseconds per image of every way to the gates, beside a pass of the classifier."""
        images = batch.images.contiguous(memory_format=torch.channels_last)
        outputs = self._outputs(images)
        query = outputs.logits.argmax(dim=1)

        def predict() -> None:
            with torch.no_grad():
                self(self.classifier.stage_outputs(images), query)

        def classify() -> None:
            with torch.no_grad():
                self.classifier(images)

        calls: dict[str, Callable[[], object]] = {"classifier": classify, "masker": predict}
        for steps in self.optimised_steps:
            method = self._optimised(steps)
            calls[f"optimised_{steps}_steps"] = partial(method.gates, self.classifier, images, query)
        return milliseconds_per_image(calls, len(batch))

    def report(
        self, split: str, tables: Mapping[str, ImageRows], timings: Mapping[str, float], bootstrap: Bootstrap
    ) -> Evaluation:
        """Means of all rows, and what the prediction keeps of the optimisations."""
        return build_evaluation(split, tables, timings=timings, bootstrap=bootstrap)

    def trained(self) -> MaskNetwork:
        """The network."""
        return self._network


def _steps_of(row: str) -> int:
    """The number in ``masker_3_steps`` and ``optimised_30_steps``."""
    return int(row.split("_")[1])
