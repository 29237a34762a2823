"""Do maps answer what was asked? After Wang et al. 2020."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

from verisal.errors import ConfigError
from verisal.results import Evaluation
from verisal_studies.reliable_saliency.evidence import Evidence, Names
from verisal_studies.reliable_saliency.findings import findings, summary
from verisal_studies.reliable_saliency.sections import sections
from verisal_studies.study import Study, StudyResult

__all__ = ["ReliableSaliency"]

_CLAIM = (
    "Asked to explain a class that is not the most likely one, earlier methods give nearly the same map for"
    " every class or scattered patterns, a *false response*. Causes are attributions that vanish and"
    " adversarial noise. If the network's output is kept while a mask is learned, the mask of an absent class"
    " stays empty; fusing the masks of several layers smooths them. Of the paper only the abstract was"
    " read: objective, protocol and numbers here are ours, and no number of the paper is repeated."
)


@final
class ReliableSaliency(Study):
    """Which methods answer when they are asked for absent classes, and whether hierarchical masks do better.

    Reads what :class:`.DisturbedLocalization`, ``ClassRanks``, ``GateNoise`` and
    ``SaliencyMetrics`` (smoothness, energy inside, fidelity, deletion) found.

    Args:
        title: of the page.
        command: that makes it again.
        setting: what was measured on what, name to value.
        note: a sentence about the queries of this data set.
        earlier: rows of methods that existed before.
        masks: rows of masks learned while something of the output is kept.
        ablation: row of masks learned to raise the class instead.
        logit: row of the gradient of the logit.
        probability: row of the gradient of the probability.
        fused: row of fused maps to the row of the gradient under as much blur.
        layers: rows of maps of single layers.

    Raises:
        ConfigError: no earlier methods or no masks.

    References:
        wang2020haf
    """

    def __init__(
        self,
        *,
        title: str,
        command: str,
        setting: Mapping[str, str],
        note: str = "",
        earlier: Sequence[str] = (
            "gradient",
            "input_x_gradient",
            "smooth_grad",
            "integrated_gradients",
            "guided_backpropagation",
            "grad_cam",
            "occlusion",
            "rise",
        ),
        masks: Sequence[str] = (
            "hierarchical_masks",
            "hierarchical_class",
            "hierarchical_output",
            "hierarchical_mixed",
        ),
        ablation: str = "hierarchical_maximise",
        logit: str = "gradient",
        probability: str = "gradient_of_probability",
        fused: Mapping[str, str] | None = None,
        layers: Sequence[str] = ("layer_1", "layer_2", "layer_3", "layer_4"),
    ) -> None:
        if not earlier or not masks:
            raise ConfigError(f"the study compares masks with earlier methods, found {masks} and {earlier}")
        self.title, self.command, self.setting, self.note = title, command, dict(setting), note
        beside = {"fused": "gradient_as_smooth_as_fused"} if fused is None else dict(fused)
        self.names = Names(
            earlier=tuple(earlier),
            masks=tuple(masks),
            ablation=ablation,
            logit=logit,
            probability=probability,
            fused=tuple(beside.items()),
            layers=tuple(layers),
        )

    def result(self, found: Evaluation) -> StudyResult:
        """The claims, judged by intervals.

        Raises:
            ConfigError: the evaluation lacks scores that the study reads.
        """
        evidence = Evidence(found)
        judged = findings(evidence, self.names)
        counted = evidence.disturbed(self.names.masks[0], "accuracy_c0").n
        asked = evidence.present(self.names.masks[0]).n
        return StudyResult(
            title=self.title,
            claim=_CLAIM,
            commands=(self.command,),
            setting={
                **self.setting,
                "counted": f"{counted} images classified correctly, {asked} queries of present classes",
                "methods": ", ".join(f"`{row}`" for row in self.names.asked),
                "intervals": "95 %, percentile bootstrap over images, 2000 resamples; differences are paired",
            },
            findings=judged,
            summary=summary(evidence, self.names),
            sections=sections(evidence, self.names, note=self.note),
        )
