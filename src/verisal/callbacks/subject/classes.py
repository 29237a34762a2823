"""Names of classes, where a loader's data sets say them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_DEPTH = 8
# As data sets of the datasets package call the column of labels.
_COLUMNS = ("label", "labels")


def classes_in(datasets: Sequence[object], count: int) -> tuple[str, ...] | None:
    """The names that data sets give to this many classes, None where they give none or other ones.

    Looked for are ``classes``, as data sets of torchvision have it, and the names of a column of labels, as
    those of the datasets package have it, also in what a ``Subset`` or ``ConcatDataset`` is made of.

    Args:
        datasets: of the loaders.
        count: logits of the network, in the order of the names.
    """
    found = {names for dataset in datasets for names in _names(dataset, _DEPTH) if len(names) == count}
    return found.pop() if len(found) == 1 else None


def _names(dataset: Any, depth: int) -> Iterator[tuple[str, ...]]:  # noqa: ANN401 - anybody's
    if depth == 0 or dataset is None:
        return
    features = getattr(dataset, "features", None)
    columns = [features.get(name) for name in _COLUMNS] if isinstance(features, Mapping) else []
    for names in (getattr(dataset, "classes", None), *(getattr(each, "names", None) for each in columns)):
        if isinstance(names, Sequence) and names and all(isinstance(name, str) for name in names):
            yield tuple(names)
    inner = getattr(dataset, "datasets", None)
    for held in (getattr(dataset, "dataset", None), *(inner if isinstance(inner, Sequence) else ())):
        yield from _names(held, depth - 1)
