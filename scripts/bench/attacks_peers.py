"""Quality and time of attacks beside foolbox and torchattacks, at equal passes.

Run ``python scripts/bench/attacks_peers.py --count 48`` from the repository's root, with foolbox and
torchattacks installed. Each row is paired: the same network, images and passes.

- Minimal-norm attacks without random numbers: ratio of the noise's L2 norms, ours by the peer's, as the
  geometric mean over the images that both fool, with its 95 % interval over images, and on how many images
  ours is longer.
- Attacks within a ball, and those with random numbers: difference of the success rates, ours less the peer's,
  as the mean over seeds with its 95 % interval (Student's t over seeds: the peers draw the same windows for
  all images of a seed, so that images are no independent trials); HopSkipJump the ratio of the norms.

Ours is *weaker* where the whole interval is on the wrong side (of the ratio: of 1.01), or where it fools
significantly fewer images (exact sign test, 5 %). The script then ends with status 1.

Seconds are those of the processor on one thread, in order A B B A; the column is the median over repeats of
the peer's time by ours. Passes are images forwarded per image attacked, by a counter in the network.

``--network other`` is any other classifier: ``--classifier module:function --weights FILE --images FOLDER
--mean ... --std ...``.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import foolbox  # type: ignore[import-not-found,import-untyped,unused-ignore]  # not a dependency
import torch
import torchattacks  # type: ignore[import-not-found,import-untyped,unused-ignore]  # not a dependency
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from verisal.attacks import APGD, DDN, Attack, CarliniWagnerL2, DeepFoolL2, HopSkipJumpL2, SquareAttack
from verisal.data import AnnotatedImages, EmojiScenes, ImageFolder, ImageSplits
from verisal.models import load_classifier

Problem = tuple[nn.Module, Tensor, Tensor]
#: Attacked images for a seed.
Call = Callable[[int], Tensor]


@dataclass(frozen=True)
class Row:
    """One comparison: names, both calls, and what is compared."""

    attack: str
    peer: str
    ours: Call
    theirs: Call
    random: bool = False
    minimal: bool = True


class Counted(nn.Module):
    """A classifier that counts the images it is shown."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.shown = inner, 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        self.shown += len(images)
        logits: Tensor = self.inner(images)
        return logits


def _right(model: nn.Module, images: Tensor, labels: Tensor, count: int) -> Problem:
    with torch.no_grad():
        right = torch.cat([model(part).argmax(dim=1) for part in torch.split(images, 64)]) == labels
    return model, images[right][:count], labels[right][:count]


def _scenes(count: int, *, black_and_white: bool = False) -> Problem:
    """The shipped classifier and scenes that it gets right."""
    model = load_classifier("emoji_scenes_64")
    data = EmojiScenes("det_test", 2 * count)
    samples = [data[index] for index in range(2 * count)]
    images = torch.stack([sample.image for sample in samples])
    labels = torch.tensor([int(sample.label) for sample in samples])
    if black_and_white:
        images = (images > 0.5).float()
        with torch.no_grad():
            labels = model(images).argmax(dim=1)
    return _right(model, images, labels, count)


def _digits(count: int) -> Problem:
    """A small network and handwritten digits: 90 % of the values are 0 or 1."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = torch.tensor(digits.images).float()[:, None] / 16
    grey = ((F.interpolate(grey, size=20, mode="bicubic") - 0.3) * 2.5).clamp(0, 1)
    images = (F.pad(grey, (4, 4, 4, 4)).expand(-1, 3, -1, -1) * 255).round() / 255
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(32 * 49, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for part in torch.split(torch.arange(1400).repeat(4), 50):
        optimizer.zero_grad()
        F.cross_entropy(model(images[part]), labels[part]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    model.eval().requires_grad_(False)
    return _right(model, images[1400:], labels[1400:], count)


def _folder(options: argparse.Namespace, count: int) -> Problem:
    """Any classifier, and images in folders that are named as its classes, in alphabetical order."""
    names = sorted(entry.name for entry in Path(options.images).iterdir() if entry.is_dir())
    model = load_classifier(
        options.classifier,
        weights=options.weights,
        image_size=options.size,
        class_names=names,
        mean=options.mean,
        std=options.std,
    )
    splits = ImageSplits(images=ImageFolder(root=options.images))
    data = AnnotatedImages(splits, "test", classifier=model, count=2 * count)
    samples = [data[index] for index in range(2 * count)]
    images = torch.stack([sample.image for sample in samples])
    return _right(model, images, torch.tensor([int(sample.label) for sample in samples]), count)


def _rows(model: nn.Module, images: Tensor, labels: Tensor, eps: tuple[float, float]) -> Iterator[Row]:
    """All comparisons; ``eps`` of Linf and L2 are such that some images of the network hold."""
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    criterion = foolbox.criteria.Misclassification(labels)
    linf, l2 = eps

    def ours(attack: Attack) -> Call:
        return lambda seed: (
            attack(model, images, labels, generator=torch.Generator().manual_seed(seed)).images
        )

    def fools(attack: foolbox.attacks.base.Attack) -> Call:
        def call(seed: int) -> Tensor:
            torch.manual_seed(seed)
            found: Tensor = attack.run(wrapped, images, criterion)
            return found

        return call

    def torchs(make: Callable[..., torchattacks.attack.Attack], **settings: object) -> Call:
        def call(seed: int) -> Tensor:
            torch.manual_seed(seed)
            seeded = (
                {"seed": seed} if make is not torchattacks.CW and make is not torchattacks.DeepFool else {}
            )
            found: Tensor = make(model, **settings, **seeded)(images, labels)
            return found

        return call

    cw, peers = ours(CarliniWagnerL2()), foolbox.attacks
    for size in (0.01, 0.03, 0.1):
        peer = peers.L2CarliniWagnerAttack(binary_search_steps=5, steps=30, stepsize=size)
        yield Row("CW-L2 5 x 30", f"foolbox 5 x 30, lr {size}", cw, fools(peer))
    long = peers.L2CarliniWagnerAttack(binary_search_steps=5, steps=200)
    yield Row("CW-L2 5 x 30", "foolbox 5 x 200", cw, fools(long))
    yield Row("CW-L2 5 x 30", "torchattacks c=1 150", cw, torchs(torchattacks.CW, steps=150))
    short = ours(CarliniWagnerL2(rounds=2))
    yield Row("CW-L2 2 x 30", "foolbox 5 x 200", short, fools(long))
    yield Row("CW-L2 2 x 30", "torchattacks c=1 60", short, torchs(torchattacks.CW, steps=60))
    yield Row("CW-L2 5 x 30", "foolbox DDN 150", cw, fools(peers.DDNAttack(steps=150)))
    yield Row("CW-L2 5 x 30", "our DDN 100", cw, ours(DDN()))
    yield Row("DDN 100", "foolbox", ours(DDN()), fools(peers.DDNAttack(steps=100)))
    yield Row("DeepFool", "foolbox", ours(DeepFoolL2()), fools(peers.L2DeepFoolAttack()))
    yield Row("DeepFool", "torchattacks", ours(DeepFoolL2()), torchs(torchattacks.DeepFool))
    hop = peers.HopSkipJumpAttack(steps=10, initial_gradient_eval_steps=30)
    yield Row("HopSkipJump 10", "foolbox", ours(HopSkipJumpL2()), fools(hop), random=True)
    for loss in ("ce", "dlr"):
        climb = APGD(linf / 2, loss=loss, steps=20, stop_when_fooled=True)
        peer = torchs(torchattacks.APGD, eps=linf / 2, steps=20, loss=loss)
        yield Row(f"APGD-{loss} 20", "torchattacks", ours(climb), peer, random=True, minimal=False)
    for norm, name, radius in (("linf", "Linf", linf), ("l2", "L2", l2)):
        square = SquareAttack(radius, norm, n_queries=200)  # type: ignore[arg-type]
        # The peer does not count the start among its queries.
        peer = torchs(torchattacks.Square, norm=name, eps=radius, n_queries=199)
        yield Row(f"Square {name} 200", "torchattacks", ours(square), peer, random=True, minimal=False)


@dataclass(frozen=True)
class Outcome:
    """What both attacks reached, and which way the comparison falls."""

    rate: float
    peer_rate: float
    passes: float
    peer_passes: float
    kind: str
    value: float
    low: float
    high: float
    longer: int | None
    weaker: bool


def _judged(problem: Problem, counted: Counted, call: Call, seed: int) -> tuple[Tensor, Tensor, float]:
    """Which images are fooled, the noise's lengths, and passes per image."""
    model, images, labels = problem
    counted.shown = 0
    attacked = call(seed).detach()
    passes = counted.shown / len(images)
    with torch.no_grad():
        fooled = model(attacked).argmax(dim=1) != labels
    return fooled, (attacked - images).flatten(1).norm(dim=1), passes


def _compared(problem: Problem, counted: Counted, row: Row, seeds: int) -> Outcome:
    runs = [
        (_judged(problem, counted, row.ours, seed), _judged(problem, counted, row.theirs, seed))
        for seed in range(seeds if row.random else 1)
    ]
    hits, peer_hits = (torch.stack([run[side][0] for run in runs]).float() for side in (0, 1))
    lost, won = int((hits < peer_hits).sum()), int((hits > peer_hits).sum())
    # Significantly fewer images fooled; for random attacks the interval over seeds says so.
    weaker = not row.random and lost > won and stats.binomtest(lost, lost + won).pvalue < 0.05
    longer = None
    if row.minimal:
        logs = [(own[1] / peer[1]).log()[own[0] & peer[0] & (peer[1] > 0)] for own, peer in runs]
        longer = int(sum((part > 0).sum() for part in logs)) if not row.random else None
        parts = [part.mean() for part in logs] if row.random else list(logs[0])
        value, low, high = (math.exp(bound) for bound in _interval([float(part) for part in parts]))
        weaker = weaker or low > 1.01
    else:
        value, low, high = _interval((hits - peer_hits).mean(dim=1).tolist())
        weaker = weaker or high < 0
    return Outcome(
        rate=float(hits.mean()),
        peer_rate=float(peer_hits.mean()),
        passes=statistics.mean(run[0][2] for run in runs),
        peer_passes=statistics.mean(run[1][2] for run in runs),
        kind="length ratio" if row.minimal else "success difference",
        value=value,
        low=low,
        high=high,
        longer=longer,
        weaker=bool(weaker),
    )


def _interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t."""
    if len(values) < 2:
        return (values[0] if values else math.nan), math.nan, math.nan
    mean = statistics.mean(values)
    half = float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def _speed(row: Row, repeats: int) -> float:
    """Median over repeats of the peer's time by ours."""
    ratios = []
    for repeat in range(repeats):
        seconds: dict[bool, float] = {}
        for peer in (False, True) if repeat % 2 == 0 else (True, False):
            start = time.process_time()
            (row.theirs if peer else row.ours)(repeat)
            seconds[peer] = time.process_time() - start
        ratios.append(seconds[True] / seconds[False])
    return statistics.median(ratios) if ratios else math.nan


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=48, help="images attacked")
    parser.add_argument("--seeds", type=int, default=5, help="of attacks with random numbers")
    parser.add_argument("--repeats", type=int, default=0, help="pairs of timings; 0 for none")
    parser.add_argument("--only", default="", help="rows whose attack begins so")
    parser.add_argument(
        "--network",
        nargs="+",
        default=["scenes", "digits"],
        choices=["scenes", "scenes_bw", "digits", "other"],
    )
    parser.add_argument("--classifier", help="of the network `other`: a name for load_classifier")
    parser.add_argument("--weights", default="default", help="its state dict")
    parser.add_argument("--images", help="folder with a folder of images for each of its classes")
    parser.add_argument("--size", type=int, default=32, help="its image size")
    parser.add_argument("--mean", type=float, nargs=3, help="its normalisation")
    parser.add_argument("--std", type=float, nargs=3, help="its normalisation")
    parser.add_argument("--eps", type=float, nargs=2, default=[4 / 255, 0.5], help="Linf and L2 of `other`")
    parser.add_argument("--csv", help="file to write")
    return parser.parse_args()


def main() -> None:
    """Print a table; write it as CSV where asked."""
    options = _options()
    torch.set_num_threads(1)
    header = ["network", "attack", "peer", "success", "peer_success", "passes", "peer_passes", "compared"]
    header += ["value", "low", "high", "longer", "verdict", "times_as_fast"]
    print(*header, sep=" | ")
    rows: list[list[object]] = [list(header)]
    weaker = False
    problems: dict[str, tuple[Callable[[], Problem], tuple[float, float]]] = {
        "scenes": (lambda: _scenes(options.count), (4 / 255, 0.5)),
        "scenes_bw": (lambda: _scenes(options.count, black_and_white=True), (4 / 255, 0.5)),
        "digits": (lambda: _digits(options.count), (0.18, 2.4)),
        "other": (lambda: _folder(options, options.count), tuple(options.eps)),
    }
    for network in options.network:
        make, eps = problems[network]
        model, images, labels = make()
        counted = Counted(model).eval()
        for row in _rows(counted, images, labels, eps):
            if not row.attack.startswith(options.only):
                continue
            found = _compared((model, images, labels), counted, row, options.seeds)
            weaker = weaker or found.weaker
            figures = [found.rate, found.peer_rate, found.passes, found.peer_passes]
            line: list[object] = [network, row.attack, row.peer, *(round(figure, 3) for figure in figures)]
            line += [found.kind, *(round(figure, 3) for figure in (found.value, found.low, found.high))]
            line += ["" if found.longer is None else found.longer, "weaker" if found.weaker else "no weaker"]
            line.append(round(_speed(row, options.repeats), 2))
            rows.append(line)
            print(*line, sep=" | ", flush=True)
    if options.csv:
        with open(options.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    sys.exit(int(weaker))


if __name__ == "__main__":
    main()
