"""Infidelity and sensitivity against captum and Quantus: python scripts/bench/faithfulness.py.

All see the same images, attributions, perturbations and noise; equality is asserted before anything is timed.
Prints seconds (median over repeats in order A B B A, and their spread) and ratios; a peer that is not
installed is reported as such.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec

import torch
from captum.metrics import infidelity as captum_infidelity  # type: ignore[import-untyped]  # has no types
from captum.metrics import sensitivity_max as captum_sensitivity
from torch import Tensor

from verisal.functional.comparison import sensitivity_max, uniform_noises
from verisal.functional.comparison.similarity import attribution_of
from verisal.functional.removal import gaussian_noises, infidelity, responses
from verisal.functional.scopes import frozen
from verisal.models import Classifier, load_classifier
from verisal.saliency import Gradient
from verisal.types import SaliencyResult


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _together(samples: list[Tensor]) -> Tensor:
    """``(B * N, 3, H, W)``, the samples of an image next to each other, as captum wants them."""
    return torch.stack(samples, dim=1).flatten(0, 1)


def _gradient(classifier: Classifier, images: Tensor, query: Tensor) -> Tensor:
    return attribution_of(Gradient()(classifier, images, query))


def _report(task: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor], repeats: int) -> None:
    difference = float((ours() - theirs()).abs().max())
    if not difference <= 1e-5 * max(1.0, float(theirs().abs().max())):
        raise SystemExit(f"{task}: the results differ by {difference:.2e}; nothing was timed")
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for index, call in ((0, ours), (1, theirs), (1, theirs), (0, ours)):
            times[index].append(_seconds(call))
    medians = [statistics.median(part) for part in times]
    print(
        f"{task:26s} verisal {medians[0]:.4f} s [{min(times[0]):.4f}, {max(times[0]):.4f}]"
        f"  captum {medians[1]:.4f} s [{min(times[1]):.4f}, {max(times[1]):.4f}]"
        f"  ratio {medians[1] / medians[0]:.2f}  largest difference {difference:.1e}"
    )


def _infidelity(classifier: Classifier, images: Tensor, query: Tensor, samples: int, repeats: int) -> None:
    perturbations = list(gaussian_noises(images, deviation=0.2, samples=samples))
    attribution = _gradient(classifier, images, query)
    together = _together(perturbations)
    for normalised in (False, True):

        def ours(normalised: bool = normalised) -> Tensor:
            found = responses(
                classifier,
                images,
                attribution=attribution,
                query_class=query,
                perturbations=perturbations,
                chunk_size=samples * len(images),
            )
            return infidelity(found, normalised=normalised)

        def theirs(normalised: bool = normalised) -> Tensor:
            found: Tensor = captum_infidelity(
                classifier,
                lambda inputs: (together, inputs - together),
                images,
                attribution,
                target=query,
                n_perturb_samples=samples,
                normalize=normalised,
            )
            return found.double()

        _report("infidelity" + (", normalised" if normalised else ""), ours, theirs, repeats)


def _sensitivity(classifier: Classifier, images: Tensor, query: Tensor, samples: int, repeats: int) -> None:
    images = images * 0.9 + 0.05  # noise stays in [0, 1], to which captum does not clamp
    noises = list(uniform_noises(images, radius=0.02, samples=samples))
    together = _together(noises)

    def explain(inputs: Tensor, query_class: Tensor) -> SaliencyResult:
        return Gradient()(classifier, inputs, query_class)

    def as_captum(inputs: Tensor | tuple[Tensor, ...], target: Tensor) -> Tensor | tuple[Tensor, ...]:
        # It gives the images themselves as a tuple and their noisy copies as a tensor.
        if isinstance(inputs, tuple):
            return (_gradient(classifier, inputs[0], target),)
        return _gradient(classifier, inputs, target)

    def ours() -> Tensor:
        return sensitivity_max(
            explain,
            images,
            query_class=query,
            attribution=_gradient(classifier, images, query),
            noises=noises,
            chunk_size=samples * len(images),
        )

    def theirs() -> Tensor:
        found: Tensor = captum_sensitivity(
            as_captum,
            images,
            perturb_func=lambda inputs: inputs + together,
            n_perturb_samples=samples,
            target=query,
        )
        return found.double()

    _report("sensitivity-max", ours, theirs, repeats)


def _quantus(classifier: Classifier, images: Tensor, query: Tensor, samples: int) -> None:
    """Its perturbations are its own, so values are not compared: seconds only."""
    if find_spec("quantus") is None:
        print("Quantus: not installed")
        return
    import quantus  # type: ignore[import-not-found]  # an optional peer, installed apart

    attribution = _gradient(classifier, images, query)
    batch = {"x_batch": images.numpy(), "y_batch": query.numpy(), "a_batch": attribution.numpy()}
    metric = quantus.Infidelity(n_perturb_samples=samples, perturb_patch_sizes=[4], disable_warnings=True)
    seconds = _seconds(lambda: metric(model=classifier, **batch, device="cpu"))
    print(f"Quantus {version('quantus')} Infidelity, other perturbations: {seconds:.3f} s")


def main() -> None:
    """Parse the sizes and print one line per task."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    settings = parser.parse_args()
    classifier = load_classifier("emoji_scenes_64")
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(settings.batch, 3, settings.size, settings.size, generator=generator)
    with frozen(classifier), torch.no_grad():
        query = classifier(images).argmax(dim=1)
    print(
        f"torch {torch.__version__}, captum {version('captum')}, {torch.get_num_threads()} threads,"
        f" {settings.batch} images of {settings.size} px, {settings.samples} samples"
    )
    with frozen(classifier):
        _infidelity(classifier, images, query, settings.samples, settings.repeats)
        _sensitivity(classifier, images, query, settings.samples, settings.repeats)
        _quantus(classifier, images, query, settings.samples)


if __name__ == "__main__":
    main()
