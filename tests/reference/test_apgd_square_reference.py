"""APGD and Square against literal loops: one image at a time, no active set, no shared code."""

import math

import pytest
import torch
from torch import Tensor, nn

from verisal.attacks import APGD, SquareAttack
from verisal.functional.seeding import per_sample

CLASSES, SHAPE = 4, (3, 7, 6)
NAMES = list("abcdef")


class Small(nn.Module):
    """Two smooth layers on 7 x 6 px, in float64 inside."""

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(3)
        self.first = torch.randn(126, 12, generator=rng, dtype=torch.float64) / 4
        self.second = torch.randn(12, CLASSES, generator=rng, dtype=torch.float64) * 3

    def forward(self, images: Tensor) -> Tensor:
        hidden = (images.double().flatten(1) - 0.5) @ self.first
        return (torch.tanh(hidden) @ self.second).float()


def problem() -> tuple[Small, Tensor, Tensor]:
    model = Small()
    images = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(4))
    images[0, :, 0, 0] = 0.0
    images[0, :, 1, 1] = 1.0
    return model, images, model(images).argmax(dim=1)


def drawn(one, name: str, stream: str) -> Tensor:
    device = torch.device("cpu")
    return per_sample(one, seed=11, sample_ids=[name], stream=stream, device=device)[0]


def length(values: Tensor) -> float:
    return math.sqrt(float((values.double() ** 2).sum()))


def loss_of(kind: str, logits: Tensor, label: int) -> Tensor:
    if kind == "ce":
        return -torch.log_softmax(logits, dim=0)[label]
    plain = logits.tolist()
    ordered = sorted(range(CLASSES), key=lambda k: -plain[k])
    other = next(k for k in ordered if k != label)
    gap = logits[other] - logits[label]
    return gap if kind == "margin" else gap / (logits[ordered[0]] - logits[ordered[2]])


def asked(model: Small, image: Tensor, label: int, kind: str) -> tuple[float, Tensor, bool]:
    leaf = image.clone().requires_grad_()
    logits = model(leaf[None])[0]
    loss = loss_of(kind, logits, label)
    loss.backward()
    return loss.item(), leaf.grad, int(logits.argmax()) != label


def inside(image: Tensor, moved: Tensor, eps: float, norm: str) -> Tensor:
    noise = moved - image
    if norm == "linf":
        noise = torch.minimum(torch.maximum(noise, torch.tensor(-eps)), torch.tensor(eps))
    elif length(noise) > eps:
        noise = noise * (eps / length(noise))
    return (image + noise).clamp(0, 1)


def apgd(model: Small, image: Tensor, label: int, name: str, eps: float, norm: str, kind: str) -> Tensor:
    """APGD of 40 steps: looks after steps 8, 15, 21, 26, 30, 33, 35, 37 and 39 (periods shrink by 1 to 2)."""
    if norm == "linf":
        start = drawn(lambda rng: 2 * torch.rand(SHAPE, generator=rng) - 1, name, "apgd start 0")
        start = eps * start / float(start.abs().max())
    else:
        start = drawn(lambda rng: torch.randn(SHAPE, generator=rng), name, "apgd start 0")
        start = eps * start / length(start)
    at = before = (image + start).clamp(0, 1)
    loss, slope, fools = asked(model, at, label, kind)
    step = 2 * eps
    history, best, tried = [loss], (loss, at, slope), [(fools, loss, at)]
    looked_at, was_halved, best_then = 0, True, loss
    for number in range(1, 41):
        direction = slope.sign() if norm == "linf" else slope / length(slope)
        moved = inside(image, at + step * direction, eps, norm)
        if number > 1:
            moved = inside(image, at + 0.75 * (moved - at) + 0.25 * (at - before), eps, norm)
        before, at = at, moved
        loss, slope, fools = asked(model, at, label, kind)
        history.append(loss)
        tried.append((fools, loss, at))
        if loss > best[0]:
            best = (loss, at, slope)
        if number in (8, 15, 21, 26, 30, 33, 35, 37, 39):
            rises = sum(history[k] > history[k - 1] for k in range(looked_at + 1, number + 1))
            halve = rises <= 0.75 * (number - looked_at) or (not was_halved and best[0] <= best_then)
            if halve:
                step = step / 2
                _, at, slope = best
            looked_at, was_halved, best_then = number, halve, best[0]
    return max(tried, key=lambda entry: entry[:2])[2]


@pytest.mark.parametrize("kind", ["ce", "dlr", "margin"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.2)])
def test_apgd(norm: str, eps: float, kind: str) -> None:
    model, images, labels = problem()
    attack = APGD(eps, norm, loss=kind, steps=40)
    result = attack(model, images, labels, generator=torch.Generator().manual_seed(11), sample_ids=NAMES)
    for index, name in enumerate(NAMES):
        expected = apgd(model, images[index], int(labels[index]), name, eps, norm, kind)
        torch.testing.assert_close(result.images[index], expected, rtol=0, atol=5e-5)


def share(query: int, queries: int) -> float:
    """Share of the image that the square of a query covers."""
    done, area = int(query / queries * 10_000), 0.8
    for after in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000):
        if done > after:
            area /= 2
    return area


def bump(side: int, upright: bool) -> Tensor:
    def faded(height: int, width: int) -> Tensor:
        values = torch.zeros(height, width)
        for row in range(height):
            for column in range(width):
                ring = max(abs(row - height // 2), abs(column - width // 2))
                last = max(height // 2, width // 2)
                values[row, column] = sum(1 / (k + 1) ** 2 for k in range(ring, last + 1))
        return values / length(values)

    whole = torch.cat([faded(side // 2, side), -faded(side - side // 2, side)])
    whole = whole / length(whole)
    return whole if upright else whole.T


def set_to(best: Tensor, image: Tensor, top: int, left: int, side: int, noise: list[float]) -> Tensor:
    moved = best.clone()
    for channel in range(3):
        for row in range(top, top + side):
            for column in range(left, left + side):
                moved[channel, row, column] = image[channel, row, column] + noise[channel]
    return moved.clamp(0, 1)


def square_linf(model: Small, image: Tensor, label: int, name: str, eps: float) -> Tensor:
    stripes = drawn(lambda rng: torch.rand(3, 1, 6, generator=rng), name, "square start")
    best = (image + torch.where(stripes < 0.5, -eps, eps)).clamp(0, 1)
    loss, _, fools = asked(model, best, label, "margin")
    numbers = drawn(lambda rng: torch.rand(128, 8, generator=rng), name, "square 0")
    for query in range(29):
        if fools:
            break
        side = min(max(round(math.sqrt(share(query, 30) * 42)), 1), 6)
        top, left = int(numbers[query, 0] * (8 - side)), int(numbers[query, 1] * (7 - side))
        signs = [-1 if number < 0.5 else 1 for number in numbers[query, 4:7]]
        moved = set_to(best, image, top, left, side, [sign * eps for sign in signs])
        if moved.equal(best):
            code = 1 + int(7 * numbers[query, 7])
            signs = [-sign if code // 2**channel % 2 else sign for channel, sign in enumerate(signs)]
            moved = set_to(best, image, top, left, side, [sign * eps for sign in signs])
            assert not moved.equal(best)
        new_loss, _, fools = asked(model, moved, label, "margin")
        if fools or new_loss > loss:
            best, loss = moved, new_loss
    return best


def square_l2(model: Small, image: Tensor, label: int, name: str, eps: float) -> Tensor:
    # A fifth of 7 px is 1 px: every pixel is a tile, and the one-pixel bump is negative.
    signs = drawn(lambda rng: torch.rand(4, 7, 6, generator=rng), name, "square start")[:3]
    start = torch.where(signs < 0.5, 1.0, -1.0)
    best = (image + eps * start / length(start)).clamp(0, 1)
    loss, _, fools = asked(model, best, label, "margin")
    numbers = drawn(lambda rng: torch.rand(128, 8, generator=rng), name, "square 0")
    for query in range(29):
        if fools:
            break
        side = max(round(math.sqrt(share(query, 30) * 42)), 3)
        side = min(side + (side + 1) % 2, 5)
        spots = numbers[query, :4] * torch.tensor([8 - side, 7 - side, 8 - side, 7 - side])
        top, left, other_top, other_left = spots.long().tolist()
        noise = best - image
        first, second = torch.zeros(7, 6, dtype=torch.bool), torch.zeros(7, 6, dtype=torch.bool)
        first[top : top + side, left : left + side] = True
        second[other_top : other_top + side, other_left : other_left + side] = True
        unused = max(eps**2 - length(noise) ** 2, 0) / 3
        shaped = torch.zeros(3, side, side)
        for channel in range(3):
            sign = -1 if numbers[query, 4 + channel] < 0.5 else 1
            old = noise[channel, top : top + side, left : left + side]
            fresh = sign * bump(side, bool(numbers[query, 7] < 0.5)) + old / max(length(old), 1e-12)
            room = math.sqrt(unused + length(noise[:, first | second]) ** 2)
            shaped[channel] = fresh / length(fresh) * room
        moved = noise.clone()
        moved[:, second] = 0
        moved[:, top : top + side, left : left + side] = shaped
        moved = (image + eps * moved / length(moved)).clamp(0, 1)
        new_loss, _, fools = asked(model, moved, label, "margin")
        if fools or new_loss > loss:
            best, loss = moved, new_loss
    return best


@pytest.mark.parametrize(("norm", "eps", "reference"), [("linf", 0.01, square_linf), ("l2", 0.1, square_l2)])
def test_square(norm: str, eps: float, reference) -> None:
    model, images, labels = problem()
    attack = SquareAttack(eps, norm, n_queries=30)
    result = attack(model, images, labels, generator=torch.Generator().manual_seed(11), sample_ids=NAMES)
    for index, name in enumerate(NAMES):
        expected = reference(model, images[index], int(labels[index]), name, eps)
        torch.testing.assert_close(result.images[index], expected, rtol=0, atol=1e-5)
    assert int(result.n_fwd.max()) == 31  # at least one image lasts to the end
