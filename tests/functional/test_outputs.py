"""What networks return, as logits, and what these say about classes."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from verisal.attacks._victim import cross_entropy, margin
from verisal.errors import ConfigError, NumericError
from verisal.functional.adversarial import judge_8bit
from verisal.functional.outputs import (
    Answering,
    ask,
    decides_for,
    decision,
    log_probabilities,
    logits_of,
    output_of,
    probabilities,
    require_softmax,
)
from verisal.functional.removal import perturbation_curve
from verisal.functional.scopes import query_scores

LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
FEATURES = torch.ones(2, 7)
MAPS = torch.ones(2, 3, 4, 4)


@dataclass
class Answer:
    logits: Tensor | None
    hidden_states: tuple[Tensor, ...] = ()


@dataclass
class Unnamed:
    score: Tensor
    maps: Tensor


class Plain:
    def __init__(self) -> None:
        self.loss, self.logits = None, LOGITS


Heads = namedtuple("Heads", "logits aux_logits")


@pytest.mark.parametrize(
    "output",
    [
        LOGITS,
        LOGITS[:, :, None, None],
        (LOGITS,),
        [LOGITS, 2 * LOGITS],
        (torch.tensor(0.7), LOGITS),
        (LOGITS, MAPS),
        ((LOGITS,),),
        Heads(LOGITS, 2 * LOGITS),
        Answer(LOGITS, (MAPS,)),
        Answer((LOGITS, 2 * LOGITS)),
        Plain(),
        Unnamed(LOGITS, MAPS),
        {"loss": None, "logits": LOGITS, "features": FEATURES},
        {"pred": LOGITS},
        {"pred": LOGITS, "maps": MAPS},
    ],
    ids=lambda output: type(output).__name__,
)
def test_logits_are_found(output):
    assert logits_of(output, 2).equal(LOGITS)


@pytest.mark.parametrize(
    ("output", "found"),
    [
        (None, "returns None; expected a tensor"),
        ("label", "returns str; expected a tensor"),
        (LOGITS.numpy(), r"returns numpy.ndarray; expected a tensor"),
        (Answer(None), "returns Answer whose logits are None"),
        ((), "returns tuple of nothing, and none of them are logits"),
        ((FEATURES, LOGITS), r"0: \(2, 7\) float32, 1: \(2, 3\) float32, and which of them are the logits"),
        (
            {"a": LOGITS, "b": 2 * LOGITS},
            "dict of a: .*, b: .*, and which of them are the logits is not said",
        ),
        ({"out": MAPS, "aux": MAPS}, r"out: \(2, 3, 4, 4\) float32, .* none of them are logits"),
        (MAPS, r"returns \(2, 3, 4, 4\) float32 for 2 images; expected logits \(B, K\)"),
        (LOGITS[:1], r"returns \(1, 3\) float32 for 2 images; .* keep the batch dimension"),
        (LOGITS[0], r"returns \(3\,\) float32 for 2 images; .* keep the batch dimension"),
        (torch.tensor(1.0), r"returns \(\) float32 for 2 images"),
        (LOGITS[:, :0], r"returns \(2, 0\) float32: there is no class"),
        (LOGITS.argmax(dim=1), r"returns \(2,\) int64, .* before argmax"),
        (LOGITS > 0, r"returns \(2, 3\) bool"),
    ],
)
def test_what_is_ambiguous_is_one_sentence(output, found):
    with pytest.raises(ConfigError, match=found) as error:
        logits_of(output, 2)
    assert "\n" not in str(error.value)


def test_the_number_of_classes_decides_among_tensors():
    assert logits_of((FEATURES, LOGITS), 2, classes=3).equal(LOGITS)


def test_half_precision_becomes_single_and_double_stays():
    assert logits_of(LOGITS.half(), 2).dtype == torch.float32
    assert logits_of(LOGITS.double(), 2).dtype == torch.float64


def test_a_vector_is_one_logit_per_image():
    assert logits_of(LOGITS[:, 0], 2).equal(LOGITS[:, :1])


def test_input_stays_and_no_graph_is_made_without_gradients():
    def rude(images):
        with torch.enable_grad():
            return images.sub_(5.0).flatten(1)[:, :2] * torch.ones(2, requires_grad=True)

    images = torch.rand(2, 3, 2, 2)
    before = images.clone()
    with torch.no_grad():
        answer = ask(rude, images)
    assert images.equal(before)
    assert not answer.requires_grad
    assert answer.equal(before.flatten(1)[:, :2] - 5)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ask(rude, leaf).sum(), leaf)
    assert gradient.flatten(1).sum(dim=1).tolist() == [2.0, 2.0]


def test_numbers_that_are_none_are_named():
    with pytest.raises(NumericError, match=r"not finite .* for 1 of 2 images"):
        ask(lambda images: LOGITS / torch.tensor([[1.0], [0.0]]), MAPS)
    with pytest.raises(NumericError, match="for 2 of 2 images"):
        ask(lambda images: LOGITS * torch.nan, MAPS)
    impossible = LOGITS.masked_fill(LOGITS < 0, -torch.inf)
    assert ask(lambda images: impossible, MAPS).equal(impossible)


def test_logits_without_a_graph_are_refused_where_a_gradient_is_wanted():
    leaf = MAPS[:, :, :1, :1].clone().requires_grad_()
    with pytest.raises(ConfigError, match="no gradient to the image"):
        ask(lambda images: images.detach().flatten(1), leaf)


def test_logits_whose_graph_is_that_of_weights_alone_are_refused():
    """Detached before layers that train: the logits carry a gradient, and none of it is the image's."""
    weights = nn.Parameter(torch.ones(3, 2))
    pixels = MAPS[:, :, 0, 0]
    leaf, further = pixels.clone().requires_grad_(), pixels.clone().requires_grad_() * 2
    for images in (leaf, further):
        assert ask(lambda images: images @ weights, images).requires_grad
        with pytest.raises(ConfigError, match="no gradient to the image"):
            ask(lambda images: images.detach() @ weights, images)
    assert not ask(lambda images: images.detach() @ weights, pixels.clone()).isnan().any()
    packed = torch.ops.quantized.linear_prepack_fp16(torch.ones(2, 3))
    with pytest.raises(ConfigError, match="quantised layers"):
        ask(lambda images: torch.ops.quantized.linear_dynamic_fp16(images, packed) + weights.sum(), leaf)


def test_logits_that_lie_otherwise():
    assert ask(lambda images: LOGITS.to_sparse(), MAPS).equal(LOGITS)
    with pytest.raises(ConfigError, match="on the meta device, which have a shape and no values"):
        ask(lambda images: LOGITS.to("meta"), MAPS)


def one_logit(images):
    return 4 * (images.mean(dim=(1, 2, 3)) - 0.5)


def two_logits(images):
    """The same decision as :func:`one_logit`, as a softmax."""
    return torch.stack([torch.zeros(len(images)), one_logit(images)], dim=1)


def said(function):
    def classifier(images):
        return function(images)

    classifier.output = "sigmoid"
    return classifier


def test_one_logit_needs_a_word():
    images = torch.rand(2, 3, 2, 2)
    with pytest.raises(ConfigError, match=r"softmax over one class is 1 .* output: sigmoid"):
        ask(one_logit, images)
    # The advice, followed.
    assert ask(said(one_logit), images).equal(one_logit(images)[:, None])


def test_what_a_classifier_says():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.output = nn.Linear(2, 2)

    network = nn.Identity()
    assert output_of(network) == output_of(Named()) == output_of(len) == "softmax"
    network.output = "sigmoid"
    wrapped = (network, nn.DataParallel(network), Answering(network))
    assert [output_of(one) for one in wrapped] == ["sigmoid"] * 3
    with pytest.raises(ConfigError, match=r"nobody compares classes .* output: sigmoid"):
        require_softmax(network, "nobody")


def test_sigmoid_probabilities_and_decisions_by_hand():
    query = torch.tensor([2, 0])
    assert probabilities(LOGITS, "sigmoid")[0, 2].item() == pytest.approx(1 / (1 + torch.tensor(-0.5).exp()))
    torch.testing.assert_close(log_probabilities(LOGITS, "sigmoid").exp(), LOGITS.sigmoid())
    assert log_probabilities(torch.tensor([[-200.0]]), "sigmoid").item() == -200
    assert decides_for(LOGITS, query, "sigmoid").tolist() == [True, False]
    assert decides_for(LOGITS, query, "softmax").tolist() == [False, False]
    logits, labels = decision(LOGITS, query, "sigmoid")
    assert logits.tolist() == [[0.0, 0.5], [0.0, 0.0]]
    assert labels.tolist() == [1, 1]
    logits, labels = decision(LOGITS[:, :1], torch.tensor([1, 0]), "sigmoid")
    assert logits.tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert labels.tolist() == [1, 0]


def test_curves_of_one_logit_are_those_of_the_same_decision_as_two():
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    maps = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    baseline = torch.zeros_like(images)
    zeros = torch.zeros(3, dtype=torch.int64)
    _, one = perturbation_curve(said(one_logit), images, maps, zeros, baseline=baseline)
    _, two = perturbation_curve(two_logits, images, maps, zeros + 1, baseline=baseline)
    torch.testing.assert_close(one, two)
    assert float(one.std(dim=1).min()) > 0.01


def test_log_probability_of_one_logit_is_that_of_the_same_decision_as_two():
    images = torch.rand(3, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    zeros = torch.zeros(3, dtype=torch.int64)
    found = query_scores(said(one_logit), [(images, zeros)], score="log_probability")
    two = query_scores(two_logits, [(images, zeros + 1)], score="log_probability")
    torch.testing.assert_close(found, two)


def test_verdict_on_one_label_and_on_several():
    clean, attacked = torch.full((2, 3, 2, 2), 0.8), torch.full((2, 3, 2, 2), 0.2)
    verdict = judge_8bit(said(one_logit), clean, attacked, torch.tensor([1, 0]))
    assert verdict.clean_prediction.tolist() == [1, 1]
    assert verdict.clean_correct.tolist() == verdict.success.tolist() == [True, False]

    def several(images):
        return torch.stack([one_logit(images), -one_logit(images), one_logit(images) + 9], dim=1)

    # The second label is absent on the clean image, the third stays although the first falls.
    labels = torch.tensor([0, 1, 2])
    verdict = judge_8bit(
        said(several), clean[:1].expand(3, -1, -1, -1), attacked[:1].expand(3, -1, -1, -1), labels
    )
    assert verdict.clean_correct.tolist() == [True, False, True]
    assert verdict.success.tolist() == [True, False, False]
    with pytest.raises(
        ConfigError, match=r"labels must lie in 0\.\.1, as the classifier decides between 0 and 1"
    ):
        judge_8bit(said(one_logit), clean, attacked, torch.tensor([0, 2]))


def test_losses_about_one_label_are_those_of_a_sigmoid():
    """What attacks climb: binary cross-entropy, and the margin of the label's own logit."""
    logits, labels = torch.tensor([[2.0, -1.0, 0.5], [0.3, 4.0, -2.0]]), torch.tensor([2, 1])
    own = torch.tensor([0.5, 4.0])
    two, there = decision(logits, labels, "sigmoid")
    expected = F.binary_cross_entropy_with_logits(own, torch.ones(2), reduction="none")
    torch.testing.assert_close(cross_entropy(two, there), expected)
    torch.testing.assert_close(margin(two, there, targeted=False), -own)
    one, label = decision(own[:, None], torch.tensor([0, 1]), "sigmoid")
    expected = F.binary_cross_entropy_with_logits(own, torch.tensor([0.0, 1.0]), reduction="none")
    torch.testing.assert_close(cross_entropy(one, label), expected)
    torch.testing.assert_close(margin(one, label, targeted=False), torch.tensor([0.5, -4.0]))
