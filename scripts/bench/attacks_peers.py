"""Time of minimal-norm attacks and APGD beside foolbox and torchattacks, at equal success and noise.

Run ``python scripts/bench/attacks_peers.py --count 48`` from the repository's root, with foolbox and
torchattacks installed. Results are compared before they are timed: ours must not be weaker, that is, succeed
at most 2 points less often, with a median L2 norm at most 5 % larger; a weaker row is not timed, and the
script then ends with status 1. CPU seconds of one thread, in order A B B A; a ratio is the median over
repeats of the peer's time by ours.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable

import foolbox  # type: ignore[import-not-found,import-untyped,unused-ignore]  # not a dependency
import torch
import torchattacks  # type: ignore[import-not-found,import-untyped,unused-ignore]  # not a dependency
from torch import Tensor, nn
from torch.nn import functional as F

from verisal.attacks import APGD, Attack, CarliniWagnerL2, DeepFoolL2
from verisal.data import EmojiScenes
from verisal.models import load_classifier

Call = Callable[[], Tensor]


def _scenes(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The shipped classifier and scenes that it gets right."""
    model = load_classifier("emoji_scenes_64")
    data = EmojiScenes("det_test", 2 * count)
    samples = [data[index] for index in range(2 * count)]
    images = torch.stack([sample.image for sample in samples])
    labels = torch.tensor([int(sample.label) for sample in samples])
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    return model, images[right][:count], labels[right][:count]


def _small(count: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A small network trained on smooth patterns of 10 classes, 32 px."""
    patterns = torch.rand(10, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    labels = torch.randint(10, (512 + 2 * count,), generator=rng)
    coarse = 0.5 * patterns[labels] + 0.5 * torch.rand(len(labels), 3, 4, 4, generator=rng)
    images = F.interpolate(coarse, size=32, mode="bilinear")
    images = (images.clamp(0, 1) * 255).round() / 255
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(2048, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images[:512]), labels[:512])
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    model.eval().requires_grad_(False)
    images, labels = images[512:], labels[512:]
    right = model(images).argmax(dim=1) == labels
    return model, images[right][:count], labels[right][:count]


def _pairs(model: nn.Module, images: Tensor, labels: Tensor) -> list[tuple[str, str, Call, Call]]:
    """Attack, peer, our call, the peer's call."""
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    criterion = foolbox.criteria.Misclassification(labels)

    def ours(attack: Attack) -> Call:
        return lambda: attack(model, images, labels, generator=torch.Generator().manual_seed(0)).x_adv

    def foolbox_call(attack: foolbox.attacks.base.Attack) -> Call:
        return lambda: attack.run(wrapped, images, criterion)

    def torchattacks_call(attack: torchattacks.attack.Attack) -> Call:
        return lambda: attack(images, labels)

    search = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=5, steps=200)
    rows = [
        ("CW-L2 2 x 30", "foolbox 5 x 200", ours(CarliniWagnerL2(rounds=2, steps=30)), foolbox_call(search)),
        (
            "CW-L2 2 x 25",
            "torchattacks c=1 200",
            ours(CarliniWagnerL2(rounds=2, steps=25)),
            torchattacks_call(torchattacks.CW(model, steps=200)),
        ),
        ("DeepFool", "foolbox", ours(DeepFoolL2()), foolbox_call(foolbox.attacks.L2DeepFoolAttack())),
        ("DeepFool", "torchattacks", ours(DeepFoolL2()), torchattacks_call(torchattacks.DeepFool(model))),
    ]
    for loss in ("ce", "dlr"):
        peer = torchattacks.APGD(model, eps=1 / 255, steps=20, loss=loss)
        attack = APGD(1 / 255, loss=loss, steps=20, stop_when_fooled=True)
        rows.append((f"APGD-{loss}", "torchattacks", ours(attack), torchattacks_call(peer)))
    return rows


def _summary(model: nn.Module, images: Tensor, labels: Tensor, attacked: Tensor) -> tuple[float, float]:
    with torch.no_grad():
        hit = model(attacked).argmax(dim=1) != labels
    return float(hit.float().mean()), float((attacked - images).flatten(1).norm(dim=1)[hit].median())


def _seconds(call: Call) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    """Print a table; write it as CSV where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=48, help="images attacked")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of timings")
    parser.add_argument("--csv", help="file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    header = ["network", "attack", "peer", "asr", "peer_asr", "l2", "peer_l2", "seconds", "peer_s", "ratio"]
    rows: list[list[object]] = [list(header)]
    weaker = False
    print(*header, sep=" | ")
    for network, problem in (("emoji_scenes_64", _scenes), ("small", _small)):
        model, images, labels = problem(options.count)
        for name, peer, ours, theirs in _pairs(model, images, labels):
            rate, length = _summary(model, images, labels, ours())
            peer_rate, peer_length = _summary(model, images, labels, theirs())
            if rate < peer_rate - 0.02 or length > 1.05 * peer_length:
                print(f"{network}, {name} beside {peer}: weaker", rate, peer_rate, length, peer_length)
                weaker = True
                continue
            times: list[tuple[float, float]] = []
            for repeat in range(options.repeats):
                if repeat % 2 == 0:
                    own = _seconds(ours)
                    times.append((own, _seconds(theirs)))
                else:
                    other = _seconds(theirs)
                    times.append((_seconds(ours), other))
            own, other = (statistics.median(part) for part in zip(*times, strict=True))
            ratio = statistics.median(theirs_s / ours_s for ours_s, theirs_s in times)
            figures = [rate, peer_rate, length, peer_length, own, other, ratio]
            rows.append([network, name, peer, *(round(figure, 4) for figure in figures)])
            print(*rows[-1], sep=" | ", flush=True)
    if options.csv:
        with open(options.csv, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    sys.exit(int(weaker))


if __name__ == "__main__":
    main()
