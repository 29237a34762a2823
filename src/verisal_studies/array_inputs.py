"""Inputs that are not images, as images of one row: networks with an early layer, their training, the scores.

A row of a table with D features is an image ``(1, 1, D)``; a text of T tokens whose embeddings have E numbers
is one ``(E, 1, T)``: a place is a feature, or a token with all its numbers. Values are scaled so that the
mean of every number over the training data is 0.5 and the value farthest from that is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal.errors import DataError
from verisal.functional.baselines import Constant
from verisal.functional.comparison.similarity import attribution_of, postprocess, spearman
from verisal.functional.removal import curve_area, perturbation_curve, saliency_fidelity
from verisal.functional.scopes import predicted_classes
from verisal.functional.shared_work import SharedWork
from verisal.metrics import AttackedSensitivity
from verisal.results import Evaluation
from verisal.saliency import Decoy, Gradient, Saliency
from verisal.types import SaliencyResult, check_range

# Of every number, in scaled units.
MEAN: Final = 0.5
_BYTES: Final = 2**28
_CURVES: Final[tuple[tuple[str, Literal["insert", "remove"]], ...]] = (
    ("insertion", "insert"),
    ("deletion", "remove"),
)
_SOLVED: Final[tuple[Literal["decoy", "noise"], ...]] = ("decoy", "noise")


@final
@dataclass(frozen=True)
class Scaling:
    """Scale of every number: its mean over some data, and the distance of the value farthest from it.

    Attributes:
        middle: ``(D,)``.
        reach: ``(D,)``, positive.
    """

    middle: Tensor
    reach: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Scaling:
        """The scale of ``(N, D)`` values; a number that never changes has the reach 1."""
        middle = values.mean(dim=0)
        reach = (values - middle).abs().amax(dim=0)
        return cls(middle, reach.where(reach > 0, 1.0))

    def to_unit(self, values: Tensor) -> Tensor:
        """``(..., D)`` in [0, 1]; values farther off than any in the data are clipped."""
        return (MEAN + (values - self.middle) / (2 * self.reach)).clamp(0, 1)

    def from_unit(self, values: Tensor) -> Tensor:
        """Values in their own units, from scaled ones."""
        return self.middle + 2 * self.reach * (values - MEAN)


@final
class ArrayNetwork(nn.Module):
    """Logits of ``late`` behind the features of ``early``, which decoys keep.

    Args:
        early: images ``(B, C, 1, W)`` to features ``(B, c, 1, w)``.
        late: those features to logits ``(B, K)``.
    """

    def __init__(self, early: nn.Module, late: nn.Module) -> None:
        super().__init__()
        self.early, self.late = early, late

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, K)``."""
        logits: Tensor = self.late(self.early(images))
        return logits


@final
class _FromMean(nn.Module):
    """Scaled values as signed distances from the mean, in [-1, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * (images - MEAN)


def row_network(features: int, classes: int, *, hidden: int = 32, seed: int = 0) -> ArrayNetwork:
    """A network of two hidden layers for rows ``(B, 1, 1, features)``; the first one is ``early``."""
    check_range(1, features=features, hidden=hidden)
    check_range(2, classes=classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        early = nn.Sequential(_FromMean(), nn.Linear(features, hidden), nn.ReLU())
        late = nn.Sequential(nn.Flatten(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    return ArrayNetwork(early, late)


@final
class _FirstBlock(nn.Module):
    """Embeddings of tokens ``(B, E, 1, T)`` in [0, 1] to the output of the first block, of the same shape."""

    def __init__(self, scaling: Scaling, embed: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.register_buffer("middle", scaling.middle)
        self.register_buffer("reach", scaling.reach)
        self.embed, self.block = embed, block

    def forward(self, images: Tensor) -> Tensor:
        scaling = Scaling(self.get_buffer("middle"), self.get_buffer("reach"))
        words = scaling.from_unit(images[:, :, 0].mT)
        return _tokens(self.block(self.embed(inputs_embeds=words))).mT[:, :, None]


@final
class _OtherBlocks(nn.Module):
    """Features ``(B, E, 1, T)`` to logits of their mean over the tokens of the last block."""

    def __init__(self, blocks: Sequence[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(blocks), head

    def forward(self, features: Tensor) -> Tensor:
        tokens = features[:, :, 0].mT
        for block in self.blocks:
            tokens = _tokens(block(tokens))
        logits: Tensor = self.head(tokens.mean(dim=1))
        return logits


def _tokens(output: object) -> Tensor:
    """``(B, T, E)`` from the output of a block: the tensor itself, or the first one of a tuple."""
    first = output[0] if isinstance(output, tuple) else output
    if not isinstance(first, Tensor) or first.ndim != 3:
        raise DataError(f"a block of a text network must return (B, T, E), found {type(first).__name__}")
    return first


def text_network(
    scaling: Scaling, embed: nn.Module, blocks: Sequence[nn.Module], head: nn.Module
) -> ArrayNetwork:
    """An encoder of texts with a linear head, for embeddings ``(B, E, 1, T)``; ``early`` is its first block.

    Args:
        scaling: of the embeddings of all words.
        embed: called with ``inputs_embeds (B, T, E)``, adds positions.
        blocks: ``(B, T, E)`` to the same, or to a tuple of it; at least two.
        head: ``(B, E)``, the mean over tokens, to logits.
    """
    check_range(2, blocks=len(blocks))
    return ArrayNetwork(_FirstBlock(scaling, embed, blocks[0]), _OtherBlocks(blocks[1:], head))


def train(
    network: nn.Module, inputs: Tensor, labels: Tensor, *, steps: int, learning_rate: float, decay: float
) -> None:
    """Steps of AdamW on all inputs at once, by cross-entropy; the network is in eval mode afterwards."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=decay)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(inputs), labels).backward()  # type: ignore[no-untyped-call]  # of torch
        optimizer.step()
    network.requires_grad_(requires_grad=False).eval()


@final
@dataclass(frozen=True)
class ArrayData:
    """What is explained: a network and groups of inputs of one shape each.

    Attributes:
        name: of the data set.
        network: images to logits.
        groups: ids and images ``(B, C, 1, W)`` in [0, 1].
        decoy: settings of the decoys, with any base method.
        epsilons: tolerances of the table that says how far decoys can go.
    """

    name: str
    network: ArrayNetwork
    groups: tuple[tuple[tuple[str, ...], Tensor], ...]
    decoy: Decoy
    epsilons: tuple[float, ...]


@final
class Samples:
    """Scores of single inputs, collected."""

    def __init__(self) -> None:
        self._columns: dict[str, list[str | float]] = {
            key: [] for key in ("image_id", "row", "score", "value")
        }

    def add(self, row: str, score: str, ids: Sequence[str], values: Tensor) -> None:
        """One value per input."""
        for image, value in zip(ids, values.tolist(), strict=True):
            for column, entry in zip(self._columns.values(), (image, row, score, value), strict=True):
                column.append(entry)

    def evaluation(self) -> Evaluation:
        """All of them."""
        return Evaluation("test", {}, samples=self._columns)


def methods_of(decoy: Decoy, bases: Mapping[str, Saliency]) -> dict[str, Saliency]:
    """Every base method, range and mean over its decoys, and ranges over the controls, by row."""
    kinds: dict[str, dict[str, Any]] = {
        "_range_decoy": {},
        "_mean_decoy": {"aggregate": "mean"},
        "_range_constant": {"perturbation": "constant"},
        "_range_noise": {"perturbation": "noise"},
    }
    found: dict[str, Saliency] = {}
    for name, base in bases.items():
        found[name] = base
        found |= {name + suffix: replace(decoy, base=base, **changed) for suffix, changed in kinds.items()}
    return found


def score(
    data: ArrayData,
    bases: Mapping[str, Saliency],
    attacks: Mapping[str, Sequence[AttackedSensitivity]],
    samples: Samples,
    *,
    own: AttackedSensitivity,
    steps: int = 16,
    tell: Callable[[str], None] = lambda words: None,
) -> None:
    """Fidelity, insertion, deletion and S_S of every method on every input, and how far decoys go.

    Removed values are replaced by the mean. Rows are ``<data>/<method>``; the query is the predicted class.

    Args:
        data: network and inputs.
        bases: base methods by name.
        attacks: by base method, S_S under attacks aimed at its map.
        samples: collects the scores.
        own: S_S under an attack aimed at the scored map itself, for ranges over decoys.
        steps: of the curves.
        tell: called with a line of text for every group of inputs.
    """
    methods = methods_of(data.decoy, bases)
    for number, (ids, images) in enumerate(data.groups):
        tell(
            f"{data.name}: group {number + 1} of {len(data.groups)}, {len(ids)} inputs of"
            f" {tuple(images.shape[1:])}"
        )
        query = predicted_classes(data.network, images)
        # Attacks and decoys are found once for all methods.
        with SharedWork(max_bytes=_BYTES).sharing():
            maps = {name: method(data.network, images, query) for name, method in methods.items()}
            for name, result in maps.items():
                row = f"{data.name}/{name}"
                for key, values in _faithfulness(data.network, images, query, result, steps):
                    samples.add(row, key, ids, values)
                metrics = [one for base, some in attacks.items() if name in _rows_of(base) for one in some]
                for metric in [*metrics, *([own] if name.endswith("_range_decoy") else [])]:
                    metric.reset()
                    metric.update(
                        result,
                        images=images,
                        classifier=data.network,
                        query_class=query,
                        method=methods[name],
                        image_ids=ids,
                    )
                    table = metric.table()
                    values = table.rows[:, metric.columns.index("sensitivity")]
                    samples.add(row, f"{metric.name}/sensitivity", table.image_ids, values)
                constant = result.saliency.flatten(1).std(dim=1) == 0
                samples.add(row, "constant map", ids, constant.double())
            for base in bases:
                ranges = [maps[f"{base}_range_{kind}"].saliency for kind in ("decoy", "noise")]
                samples.add(f"{data.name}/{base}_range_decoy", "likeness to noise", ids, spearman(*ranges))
        for epsilon in data.epsilons:
            for perturbation in _SOLVED:
                found = replace(data.decoy, base=Gradient(), epsilon=epsilon, perturbation=perturbation)
                report = found(data.network, images, query).diagnostics
                for key in ("deviation", "infeasible", "top1_agreement"):
                    samples.add(f"{data.name}/{perturbation} {epsilon:g}", key, ids, report[key])


def _rows_of(base: str) -> tuple[str, ...]:
    return tuple(
        base + suffix for suffix in ("", "_range_decoy", "_mean_decoy", "_range_constant", "_range_noise")
    )


def _faithfulness(
    network: nn.Module, images: Tensor, query: Tensor, result: SaliencyResult, steps: int
) -> Iterator[tuple[str, Tensor]]:
    def moved(distances: Tensor) -> Tensor:
        logits: Tensor = network(distances + MEAN)
        return logits

    # Distances from the mean: what is multiplied by 0 is the mean.
    with torch.no_grad():
        fidelity = saliency_fidelity(
            moved, images - MEAN, maps=postprocess(attribution_of(result)), query_class=query
        )
    yield "saliency_fidelity[dataset_mean]/value", fidelity.values
    for kind, direction in _CURVES:
        fractions, scores = perturbation_curve(
            network,
            images,
            result.saliency,
            query,
            baseline=Constant(level=MEAN),
            direction=direction,
            steps=steps,
        )
        yield f"{kind}[dataset_mean]_steps{steps}/auc", curve_area(fractions, scores)
