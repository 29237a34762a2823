"""Maps of classes that are less and less likely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import final

import torch
from torch import Tensor

from verisal.callbacks.explaining.epoch import Epoch, Seen
from verisal.callbacks.explaining.queries import QueryCallback, Samples
from verisal.callbacks.explaining.rows import row_evaluation
from verisal.callbacks.panels import name_of_class
from verisal.data import AnnotatedImages, EmojiScenes
from verisal.errors import ConfigError
from verisal.metrics import ClassRankScores
from verisal.reporting.publication import merge_evaluations
from verisal.results import Evaluation, SaliencyPanel
from verisal.types import check_range

_NAME = "class ranks"
_LAST = "last"


@final
@dataclass(eq=False, repr=False)
class ClassRanks(QueryCallback):
    """Response, norm, similarity and false localisation of maps of classes by their rank.

    The first query is the predicted class; images where it is not the label do not count. The others are the
    classes of the given ranks and the least likely one, ``last``; a class that is annotated in the image does
    not count as a query. Values per image are kept, so that methods can be compared image by image.
    :class:`.ClassRankScores` says what is measured. Options as of :class:`ExplainingCallback`.

    Args:
        held_out: annotated samples of which nothing is reported, on which every method's threshold for boxes
            is chosen under the true class: a data set or a loader, read as the evaluation's own; None leaves
            out everything about boxes.
        ranks: of the queries, from 2; those beyond the number of classes are undefined.
        drawn: methods whose raw maps of all queries are drawn.
        drawn_images: images drawn, the first ones that count.

    Raises:
        ConfigError: settings out of range, or drawn methods that are none.
        DataError: while running, a held-out sample among those reported.
    """

    _: KW_ONLY
    # The command line reads settings of the first two kinds; anything else comes from Python.
    held_out: EmojiScenes | AnnotatedImages | Samples | None = None
    ranks: Sequence[int] = (2, 3, 5, 10)
    drawn: Sequence[str] = ()
    drawn_images: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(0, drawn_images=self.drawn_images)
        if list(self.ranks) != sorted({max(2, rank) for rank in self.ranks}):
            raise ConfigError(f"ranks must rise from 2, found {list(self.ranks)}")
        if unknown := [name for name in self.drawn if name not in self.by_name]:
            raise ConfigError(f"drawn names methods {unknown}; known: {list(self.by_name)}")

    @property
    def about_boxes(self) -> bool:
        """True where thresholds for boxes can be chosen."""
        return self.held_out is not None

    @property
    def headline(self) -> Mapping[str, str]:
        """Norm of the map of the least likely class over that of the first."""
        return {f"norm, class of last rank over first ({_NAME})": f"{_NAME}/norm[{_LAST}]"}

    def begin(self, epoch: Epoch) -> None:
        """Choose the thresholds, with the classifier as it is now."""
        super().begin(epoch)
        queries = [*(f"rank{rank}" for rank in self.ranks), _LAST]
        self._scores = {
            name: ClassRankScores(queries, threshold=tau) for name, tau in self.thresholds(epoch).items()
        }
        for scores in self._scores.values():
            scores.table.to(epoch.device)

    def add(self, epoch: Epoch, seen: Seen) -> None:
        """Rows of the images that are classified correctly, and pictures of the first ones."""
        batch = seen.batch
        self.check_apart(batch)
        right = seen.rows(torch.nonzero(self.count(seen))[:, 0].tolist())
        asked, valid = self._queries(right)
        self.ask(epoch, self._scores, right, asked, valid)
        for name in self.by_name:
            epoch.step(name)
        missing = self.drawn_images - len(self.panels)
        if self.drawn and missing > 0 and epoch.rank == 0:
            self._draw(epoch, right.rows(range(min(missing, len(right.batch)))), asked)

    def finish(self, epoch: Epoch) -> Evaluation | None:
        """Scores and values per image of every method, and the pictures."""
        counted, bootstrap = self.tell(epoch), self.bootstrap_in(epoch)
        if counted is None:
            return None
        parts = []
        for name, own in self._scores.items():
            image_ids, columns = own.columns()
            scores = {
                title: score
                for title, score in own.scores_of(columns, bootstrap).items()
                if self.about_boxes or not title.startswith(("right", "false", "margin"))
            }
            parts.append(
                row_evaluation(epoch.split, name, _NAME, scores, image_ids=image_ids, columns=columns)
            )
        whole = Evaluation(
            epoch.split,
            {},
            counts={"correctly classified images (class ranks)": counted},
            panels=tuple(self.panels),
        )
        return merge_evaluations([*parts, whole])

    def _queries(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """Classes ``(Q + 1, B)``, the predicted one first; True ``(Q, B)`` where a further one is absent."""
        order = seen.logits.sort(dim=1, descending=True, stable=True).indices
        classes = order.shape[1]
        further = torch.stack([order[:, min(rank, classes) - 1] for rank in (*self.ranks, classes)])
        exists = torch.tensor([rank <= classes for rank in (*self.ranks, classes)], device=order.device)
        annotated = torch.zeros_like(seen.logits, dtype=torch.bool)
        for row, labels in zip(annotated, seen.batch.object_labels, strict=True):
            row[labels.to(row.device)] = True
        sets = seen.batch.label_sets
        # Of several labels those that are known not to be there.
        away = ~annotated if sets is None else sets == 0
        absent = away.gather(1, further.t()).t()
        return torch.cat([seen.query_class[None], further]), absent & exists[:, None]

    def _draw(self, epoch: Epoch, seen: Seen, asked: Tensor) -> None:
        names = ["c0", *(f"rank {rank}" for rank in self.ranks), _LAST]
        for row, image_id in enumerate(seen.batch.image_ids):
            image, queries = seen.batch.images[[row]], asked[:, [row]]
            # Each image alone, not as part of what else is computed: after a stop that is another batch.
            maps = {
                f"{method}, {name}": self.by_name[method](epoch.classifier, image, query)
                .raw[0, 0]
                .abs()
                .cpu()
                for method in self.drawn
                for name, query in zip(names, queries, strict=True)
            }
            predicted = name_of_class(epoch, int(seen.query_class[row]))
            caption = f"raw maps of the predicted class {predicted} and of others by rank"
            self.panels.append(
                SaliencyPanel(epoch.title(image_id), image[0].cpu(), maps, caption, figure="class_ranks")
            )
