"""Maps of every class that is in an image at a known place, and of classes that are not in it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import final

import torch
from torch import Tensor

from verisal.callbacks.explaining.epoch import Epoch, Seen
from verisal.callbacks.explaining.names import snake_case
from verisal.callbacks.explaining.queries import Samples, chunks
from verisal.callbacks.explaining.rows import row_evaluation
from verisal.callbacks.saliency_metrics import MetricsCallback, check_metrics, titled
from verisal.data import AnnotatedImages, Composition, DiskSplit, EmojiScenes
from verisal.errors import ConfigError
from verisal.functional.outputs import require_classes
from verisal.functional.regions.disturbed import absent_queries, present_queries
from verisal.functional.seeding import derive_seed
from verisal.functional.statistics import Bootstrap
from verisal.metrics import ClassRankScores, SaliencyMetric
from verisal.reporting.publication import merge_evaluations
from verisal.results import Evaluation
from verisal.saliency import Saliency
from verisal.types import Batch, check_range

_ABSENT = ("likely", "random")
_SEPARATOR = " class "


@final
@dataclass(eq=False, repr=False)
class SceneQueries(MetricsCallback):
    """Every metric of maps of each class that is in a scene, and the response to classes that are not.

    Each class that the scene has an object of is a query of its own, if it is among the classifier's first
    logits: a map cannot find what the network does not see. Rows of one scene are resampled together, so that
    intervals are over scenes and not over queries.

    Two further classes are asked for in each scene with a query: the most likely one that is not there, and
    a random one that is not there and not among the five most likely. Their response is the sum of the raw
    map's magnitudes over that of the most likely class that is there. Options as of
    :class:`ExplainingCallback`; ``max_images`` is of the evaluation's own images.

    Args:
        metrics: of the maps of the classes that are there; their names and settings name the scores.
        scenes: how they are made of the evaluation's own photographs; or annotated samples: a data set or a
            loader, read as the evaluation's own, or another split of the evaluation's own data set on disk;
            None for the evaluation's own images.
        scenes_count: at most this many of them, the first ones.
        among_first: a class that is there is asked for if it is among so many first logits; None for all.
        called: stands before the metrics' names; None for the kind of the scenes, such as ``mosaics``.
        absent: False leaves out the classes that are not there, which cost two or three maps a scene.

    Raises:
        ConfigError: settings out of range, something else than a metric, two of one name, or a name that
            says nothing.
    """

    metrics: Sequence[SaliencyMetric]
    _: KW_ONLY
    # The command line reads settings of all kinds but the last; that comes from Python.
    scenes: EmojiScenes | AnnotatedImages | Composition | DiskSplit | Samples | None = None
    scenes_count: int = 100
    among_first: int | None = 10
    called: str | None = None
    absent: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(1, scenes_count=self.scenes_count, among_first=self.among_first)
        check_metrics(self.metrics)
        if self.called is not None and (not self.called.strip() or "/" in self.called):
            raise ConfigError(f"called must be words without a slash, found {self.called!r}")
        kind = self.scenes if isinstance(self.scenes, str) else snake_case(type(self.scenes).__name__)
        kind = "present" if self.scenes is None else kind
        self._called = (self.called or kind.replace("_", " ")).strip()
        self._absent_name = f"{self._called} absent classes"
        self._scenes: Batch | None = None
        self.takes_images = self.scenes is None

    @property
    def headline(self) -> Mapping[str, str]:
        """The main score of every metric, and the responses."""
        own = {
            f"{self._called} {titled(metric)}": f"{self._called} {metric.name}/{metric.main}"
            for metric in self.metrics
        }
        responses = {
            f"{self._called} response, {query} absent ↓": f"{self._absent_name}/response[{query}]"
            for query in _ABSENT
        }
        return own | (responses if self.absent else {})

    def metrics_of(self, name: str, epoch: Epoch) -> list[SaliencyMetric]:
        """Copies of all metrics, under their names here."""
        own = [copy.deepcopy(metric) for metric in self.metrics]
        for metric in own:
            metric.name = f"{self._called} {metric.name}"
        return own

    def resampled(self, bootstrap: Bootstrap, image_ids: Sequence[str]) -> Bootstrap:
        """Resamples of whole scenes."""
        scenes = [name.rpartition(_SEPARATOR)[0] for name in image_ids]
        places = {scene: place for place, scene in enumerate(dict.fromkeys(scenes))}
        groups = torch.tensor([places[scene] for scene in scenes], dtype=torch.int64)
        return Bootstrap(bootstrap.resamples, seed=bootstrap.seed, groups=groups)

    def begin(self, epoch: Epoch) -> None:
        """Tables of its own for the absent classes, too."""
        require_classes(epoch.classifier, type(self).__name__)
        super().begin(epoch)
        self._of_absent = {name: ClassRankScores(_ABSENT) for name in self.by_name if self.absent}
        for scores in self._of_absent.values():
            scores.table.to(epoch.device)

    def start(self, epoch: Epoch) -> None:
        """Explain this process's share of the scenes."""
        if self.scenes is None:
            return
        if self._scenes is None:
            self._scenes = epoch.samples(self.scenes, self.scenes_count)
        most = min(self.at_most(epoch, self.scenes_count), len(self._scenes))
        parts = chunks(self._scenes.rows(range(epoch.rank, most, epoch.processes)).to(epoch.device))
        epoch.expect(len(parts) * len(self.by_name))
        for part in parts:
            epoch.open(part)
            self.add(epoch, epoch.seen(part))

    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Rows of the classes that are there and of those that are not."""
        shown = self._with_queries(seen)
        asked = _named(shown, *self._present(shown))
        if len(asked.batch):
            super().add(epoch, asked)
        else:
            for name in self.by_name:
                epoch.step(name)
        if self.absent and len(shown.batch):
            self._ask_absent(epoch, shown)

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Scores of every method, and how many queries there were."""
        asked = len(next(iter(self.measured.values()))[0].table().rows)
        if not asked:
            epoch.notice(f"{self._called} nothing", f"{self._called}: {self._nothing()}")
            return None
        evaluation, bootstrap = super().finish(epoch), self.bootstrap_in(epoch)
        if evaluation is None:
            return None
        parts = [replace(evaluation, counts={f"queries of present classes, {self._called}": asked})]
        for name, own in self._of_absent.items():
            image_ids, columns = own.columns()
            kept = {
                key: values for key, values in columns.items() if key.startswith(("response", "spearman"))
            }
            scores = own.scores_of(kept, bootstrap)
            parts.append(
                row_evaluation(
                    epoch.split, name, self._absent_name, scores, image_ids=image_ids, columns=kept
                )
            )
        first = "" if self.among_first is None else f" that is among the first {self.among_first} logits"
        note = (
            f"{self._called}: every class of a scene{first} is a query of its own; intervals are over scenes."
        )
        return merge_evaluations([*parts, Evaluation(epoch.split, {}, notes=(note,))])

    def _nothing(self) -> str:
        first = "" if self.among_first is None else f" that is among the first {self.among_first} logits"
        return f"no scene has an object of a class{first}; nothing is scored"

    def _present(self, seen: Seen) -> tuple[list[int], Tensor]:
        """Position of the scene and class ``(N,)`` of every query."""
        position, query = present_queries([labels.cpu() for labels in seen.batch.asked_labels()])
        rank = seen.logits.argsort(dim=1, descending=True, stable=True).argsort(dim=1).cpu()
        most = seen.logits.shape[1] if self.among_first is None else self.among_first
        kept = rank[position, query] < most
        return position[kept].tolist(), query[kept].to(seen.query_class)

    def _with_queries(self, seen: Seen) -> Seen:
        """The scenes that have a query."""
        return seen.rows(sorted(set(self._present(seen)[0])))

    def _ask_absent(self, epoch: Epoch, seen: Seen) -> None:
        batch, everyone = seen.batch, list(range(len(seen.batch)))
        first, absent, there = absent_queries(
            seen.logits, self._label_sets(seen), image_ids=batch.image_ids, seed=self.seed
        )
        asked, valid = [first, *absent[: len(_ABSENT)]], there[: len(_ABSENT)]
        boxes = batch.boxes_of(first)
        for name, own in self._of_absent.items():

            def rows(own: ClassRankScores = own, method: Saliency = self.by_name[name]) -> Tensor:
                named = [_named(seen, everyone, query) for query in asked]
                results = [epoch.explain(method, one.batch, one.query_class)[0] for one in named]
                return own.rows_of(results, boxes, valid=valid)

            queries = torch.stack(asked).flatten().tolist()
            key = f"absent {derive_seed(self.seed, self._called, *queries):x}"
            known = epoch.rows(name, [self.by_name[name]], batch, {key: rows}, objects=True)
            own.table.update(batch.image_ids, known[key])

    def _label_sets(self, seen: Seen) -> Tensor:
        """``(B, K)``: 1 for the queries of a scene, 0 for what is not there, -1 for what is there unasked."""
        sets = torch.zeros_like(seen.logits, dtype=torch.int64)
        for row, labels in zip(sets, seen.batch.object_labels, strict=True):
            row[labels.to(row.device)] = -1
        position, query = self._present(seen)
        sets[torch.tensor(position, device=sets.device), query] = 1
        return sets


def _named(seen: Seen, position: Sequence[int], query: Tensor) -> Seen:
    """Scenes with a query each, under names that say both."""
    rows = seen.rows(position)
    pairs = zip(rows.batch.image_ids, query.tolist(), strict=True)
    names = tuple(f"{image_id}{_SEPARATOR}{label}" for image_id, label in pairs)
    return replace(rows, batch=replace(rows.batch, image_ids=names), query_class=query)
