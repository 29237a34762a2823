"""Norms, success after rounding, and cost of attacks on a small network trained on coloured shapes.

Run ``python scripts/bench/attacks.py --count 64`` from the repository's root.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal.attacks import FGSM, PGD, Attack, CarliniWagnerL2
from verisal.functional.adversarial import judge_8bit

NUM_CLASSES = 8
SIZE = 64


def shapes(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Discs, squares, crosses and diagonal bars, plain or striped, on coloured noise; ``(N, 3, 64, 64)``."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (count,), generator=rng)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, generator=rng)

    axis = torch.arange(SIZE, dtype=torch.float32)
    u, v = axis.view(1, 1, -1) - uniform(20, 44), axis.view(1, -1, 1) - uniform(20, 44)
    radius, tilt = uniform(9, 16), uniform(-0.4, 0.4)
    u, v = u * tilt.cos() + v * tilt.sin(), v * tilt.cos() - u * tilt.sin()
    inside = (u.abs() < radius) & (v.abs() < radius)
    kinds = torch.stack(
        [
            u.square() + v.square() < radius.square(),
            inside,
            inside & ((u.abs() < radius / 3) | (v.abs() < radius / 3)),
            inside & ((u - v).abs() < radius / 2),
        ],
        dim=1,
    )
    shape = kinds[torch.arange(count), labels % 4].unsqueeze(1)
    stripes = torch.where((u * 1.3).sin() > 0, 1.0, 0.3)
    texture = torch.where((labels < 4).view(-1, 1, 1), torch.ones_like(stripes), stripes).unsqueeze(1)
    colour = 0.2 + 0.8 * torch.rand(count, 3, 1, 1, generator=rng)
    ground = F.interpolate(torch.rand(count, 3, 8, 8, generator=rng), size=SIZE, mode="bilinear")
    grain = 0.1 * torch.rand(count, 3, SIZE, SIZE, generator=rng)
    images = torch.where(shape, colour * texture, 0.9 * ground + grain)
    return (images.clamp(0, 1) * 255).round() / 255, labels


def trained_network(device: torch.device, *, epochs: int) -> nn.Module:
    """Five strided convolutions, trained for a few epochs."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for below, above in ((3, 16), (16, 32), (32, 64), (64, 96)):
        layers += [nn.Conv2d(below, above, 3, 2, 1, bias=False), nn.BatchNorm2d(above), nn.ReLU()]
        layers += [nn.Conv2d(above, above, 3, 1, 1, bias=False), nn.BatchNorm2d(above), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, NUM_CLASSES)]
    network = nn.Sequential(*layers, *head).to(device)
    images, labels = (part.to(device) for part in shapes(6000, seed=0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    batches = len(images) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), device=device)[: batches * 64].view(batches, 64):
            loss = F.cross_entropy(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch 2.15 leaves it untyped
            optimizer.step()
            schedule.step()
    return network.eval()


def report(name: str, attack: Attack, network: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Attack, judge, print one line."""
    start = time.perf_counter()
    result = attack(network, images, labels, sample_ids=range(len(images)))
    seconds = time.perf_counter() - start
    verdict = judge_8bit(network, images, result.images, labels)
    hits = result.success
    print(
        f"{name:34s} success {verdict.success_rate_unrounded:.3f} rounded {verdict.success_rate:.3f}"
        f"  L2 median {verdict.l2[hits].median():.3f} mean {verdict.l2[hits].mean():.3f}"
        f"  passes {result.n_bwd.float().mean():.0f}  {1e3 * seconds / len(images):.1f} ms/image",
        flush=True,
    )


def main() -> None:
    """Print one line per attack setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=64, help="images attacked")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of training")
    parser.add_argument("--confidence", type=float, default=5.0, help="margin of CW-L2")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = trained_network(device, epochs=options.epochs)
    images, labels = (part.to(device) for part in shapes(4 * options.count, seed=1))
    with torch.no_grad():
        correct = network(images).argmax(dim=1) == labels
    print(f"{device}, accuracy {correct.float().mean():.3f}")
    images, labels = images[correct][: options.count], labels[correct][: options.count]
    for eps in (2, 4):
        report(f"FGSM {eps}/255", FGSM(eps / 255), network, images, labels)
        report(f"PGD {eps}/255", PGD(eps / 255), network, images, labels)
    for rounds, steps in ((2, 20), (2, 30), (3, 40), (5, 30), (5, 60), (9, 200)):
        attack = CarliniWagnerL2(options.confidence, rounds=rounds, steps=steps)
        report(f"CW-L2 {rounds} x {steps}", attack, network, images, labels)


if __name__ == "__main__":
    main()
