"""Rows of the commodity methods behind captum, and of the adapters."""

from dataclasses import dataclass

import torch
from torch import Tensor

from helpers.saliency_cases import SaliencyCase, toy_classifier
from verisal.functional.baselines import Constant, DatasetMean
from verisal.saliency import (
    CallableAdapter,
    CaptumAdapter,
    DeepLift,
    GradCAM,
    GradCamAdapter,
    Gradient,
    GradientSHAP,
    GuidedBackpropagation,
    InputXGradient,
    IntegratedGradients,
    SmoothGrad,
    TorchCamAdapter,
    VarGrad,
)


def stage_cams(classifier, images: Tensor, query_class: Tensor) -> list[Tensor]:
    """Activations of two stages times their gradients, summed over channels: ``(B, h, w)`` each."""
    outputs = classifier.stage_outputs(images)
    score = outputs.logits.gather(1, query_class[:, None]).sum()
    activations = outputs.activations[1:]
    gradients = torch.autograd.grad(score, activations)
    return [(a * g).sum(dim=1) for a, g in zip(activations, gradients, strict=True)]


@dataclass(frozen=True)
class FakeCaptum:
    """As captum's methods; built on a network of its own, like every object of a peer."""

    def attribute(self, inputs: Tensor, target: Tensor) -> Tensor:
        logits = toy_classifier()(inputs)
        return torch.autograd.grad(logits.gather(1, target[:, None]).sum(), inputs)[0]


@dataclass(frozen=True)
class FakeTorchCam:
    """As torch-cam's extractors, which read the logits of a forward pass that the caller made."""

    def __call__(
        self, class_idx: int | list[int] | None = None, scores=None, normalized: bool = True, *, targets=None
    ) -> list[Tensor]:
        assert not normalized
        assert scores.shape == (len(class_idx), 4)
        query = torch.tensor(class_idx)
        values = scores.gather(1, query[:, None])[:, 0].detach()
        # Two layers of 4 x 3 and 2 x 2; a pattern that depends on the query logit.
        return [values[:, None, None] * torch.linspace(-1, 2, h * w).view(h, w) for h, w in ((4, 3), (2, 2))]


@dataclass(frozen=True)
class FakeGradCam:
    """As pytorch-grad-cam: numpy arrays, gradients cleared and filled on the way."""

    def __call__(self, input_tensor: Tensor, targets, aug_smooth: bool = False, eigen_smooth: bool = False):
        classifier = toy_classifier()
        outputs = classifier.stage_outputs(input_tensor)
        classifier.zero_grad()
        sum(target(row) for target, row in zip(targets, outputs.logits, strict=True)).backward()
        return input_tensor.grad.abs().sum(dim=1).numpy()


def toy_cam(classifier, images: Tensor, query_class: Tensor) -> Tensor:
    """A function as a user writes one."""
    return stage_cams(classifier, images, query_class)[0]


CASES = {
    "Gradient": SaliencyCase(Gradient, passes=(1, 1), late_call=1, channels=3),
    "InputXGradient": SaliencyCase(InputXGradient, passes=(1, 1), late_call=1, channels=3),
    "SmoothGrad": SaliencyCase(
        lambda: SmoothGrad(samples=6, chunk_size=10), passes=(6, 6), late_call=2, channels=3
    ),
    "SmoothGrad of integrated gradients": SaliencyCase(
        lambda: SmoothGrad(base=IntegratedGradients(steps=3), samples=2, noise=0.3),
        passes=(6, 6),
        late_call=1,
        channels=3,
        baseline="black",
    ),
    "VarGrad": SaliencyCase(
        lambda: VarGrad(samples=5, noise=0.5, chunk_size=4), passes=(5, 5), late_call=3, channels=3
    ),
    "IntegratedGradients": SaliencyCase(
        lambda: IntegratedGradients(steps=4, chunk_size=8),
        passes=(4, 4),
        late_call=2,
        channels=3,
        baseline="black",
    ),
    "IntegratedGradients from the mean": SaliencyCase(
        lambda: IntegratedGradients(baseline=DatasetMean(), steps=4),
        passes=(4, 4),
        late_call=1,
        channels=3,
        baseline="dataset_mean",
    ),
    "GuidedBackpropagation": SaliencyCase(GuidedBackpropagation, passes=(1, 1), late_call=2, channels=3),
    "DeepLift": SaliencyCase(DeepLift, passes=(4, 2), late_call=3, channels=3, baseline="black"),
    "DeepLift from grey": SaliencyCase(
        lambda: DeepLift(baseline=Constant(level=0.5)), late_call=2, channels=3, baseline="grey"
    ),
    "GradientSHAP": SaliencyCase(
        lambda: GradientSHAP(samples=6, chunk_size=10),
        passes=(6, 6),
        late_call=2,
        channels=3,
        baseline="black+white",
    ),
    "GradCAM": SaliencyCase(GradCAM, passes=(1, 1), late_call=1, channels=1),
    "GradCAM of a named stage": SaliencyCase(
        lambda: GradCAM(stage="two"), passes=(1, 1), late_call=1, channels=1
    ),
    "CaptumAdapter": SaliencyCase(
        lambda: CaptumAdapter(method=FakeCaptum()), uses_classifier=False, channels=3
    ),
    "TorchCamAdapter": SaliencyCase(
        lambda: TorchCamAdapter(extractor=FakeTorchCam()), layers=2, late_call=1, channels=1
    ),
    "GradCamAdapter": SaliencyCase(
        lambda: GradCamAdapter(cam=FakeGradCam()), uses_classifier=False, channels=1
    ),
    "CallableAdapter": SaliencyCase(lambda: CallableAdapter(function=toy_cam), late_call=1, channels=1),
}
