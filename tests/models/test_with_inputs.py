"""Networks that take more than images: each image keeps its own inputs in every copy that is asked about."""

import pytest
import torch
from torch import nn

from helpers.targets import Trunk, images_of
from verisal.attacks import FGSM, SquareAttack
from verisal.errors import ConfigError
from verisal.functional.baselines import Constant
from verisal.functional.per_image import at_row
from verisal.functional.shared_work import SharedWork
from verisal.metrics import Infidelity, PerturbationCurve, SensitivityMax
from verisal.models import Classifier, Contrast, FunctionNetwork, WithInputs
from verisal.saliency import RISE, Explainer, GradCAM, Gradient, HierarchicalMasks, Occlusion, SmoothGrad

AGES = torch.tensor([[0.2], [3.0], [-2.0]])
VIEWS = torch.tensor([0, 1, 1])


class Patient(Trunk):
    """Age and view position decide how the features are read."""

    def __init__(self) -> None:
        super().__init__(4)
        self.view = nn.Embedding(2, 6)

    def forward(self, images, age, *, view):
        features = self.two(self.one(images)) * (self.view(view) * age)[:, :, None, None]
        return 8 * self.head(features).mean(dim=(2, 3))


def patient() -> Patient:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return Patient().eval()


def alone(network: nn.Module, row: int) -> nn.Module:
    def call(module, images):
        count = len(images)
        return module(images, AGES[row].expand(count, 1), view=VIEWS[row].expand(count))

    return FunctionNetwork(network, call)


def classified(network: nn.Module) -> Classifier:
    return Classifier(network, ("one", "two"), normalization="none").eval()


@pytest.mark.parametrize(
    "method",
    [
        Gradient(),
        SmoothGrad(base=Gradient(), samples=3),
        GradCAM(),
        Occlusion(window=4, stride=3, baseline=Constant(), chunk_size=5),
        RISE(masks=20, cells=3, baseline=Constant(), chunk_size=7),
        HierarchicalMasks(steps=10, learning_rate=0.1, reg_weight=0.01),
    ],
    ids=lambda method: type(method).__name__,
)
@pytest.mark.parametrize("target", [None, Contrast(1, 2)], ids=["class", "target"])
def test_maps_are_those_of_each_image_with_its_own_inputs(method, target):
    images, network = images_of(), patient()
    explainer = Explainer(classified(WithInputs(network, AGES, view=VIEWS)), method, target=target)
    found = explainer(images)
    for row in range(3):
        image = images[row : row + 1]
        expected = method(classified(alone(network, row)), image, target=target)
        torch.testing.assert_close(found.saliency[row], expected.saliency[0], rtol=1e-4, atol=1e-6)
        if target is None:
            assert found.query_class[row] == expected.query_class[0]
    assert found.n_forward == pytest.approx(expected.n_forward)


def test_attacks_and_metrics():
    images, network = images_of(), patient()
    classifier = classified(WithInputs(network, AGES, view=VIEWS))
    labels = torch.tensor([0, 1, 2])
    for attack in (FGSM(0.05), SquareAttack(0.05, n_queries=5)):
        found = attack(classifier, images, labels)
        for row in range(3):
            single = attack(classified(alone(network, row)), images[row : row + 1], labels[row : row + 1])
            torch.testing.assert_close(found.images[row], single.images[0])
            assert found.success[row] == single.success[0]
    explainer = Explainer(classifier, Gradient())
    for make in (
        lambda: PerturbationCurve("deletion", steps=3, baseline=Constant()),
        lambda: Infidelity(samples=5),
        lambda: SensitivityMax(samples=2),
    ):
        metric = make()
        metric.update(explainer(images), images=images, classifier=classifier, method=explainer)
        for row in range(3):
            own, image, one = classified(alone(network, row)), images[row : row + 1], make()
            single = Explainer(own, Gradient())
            one.update(single(image), images=image, classifier=own, method=single)
            torch.testing.assert_close(metric.table().rows[row], one.table().rows[0], rtol=1e-4, atol=1e-6)


def test_the_same_image_with_other_inputs_is_other_work():
    """Of what is kept for an image, nothing is found again for the same image with another age."""
    images, network = images_of(1).expand(3, -1, -1, -1), patient()
    explainer = Explainer(classified(WithInputs(network, AGES, view=VIEWS)), Gradient())
    with SharedWork().sharing():
        maps = explainer(images, 1).saliency
    assert not torch.allclose(maps[0], maps[1])


def test_one_row_holds_for_all_and_a_dictionary_by_a_function():
    images, network = images_of(), patient()
    one = WithInputs(network, AGES[:1], view=VIEWS[:1])
    torch.testing.assert_close(one(images), network(images, AGES[:1].expand(3, 1), view=VIEWS[:1].expand(3)))

    class OfDictionary(nn.Module):
        def forward(self, batch):
            return batch["image"].mean(dim=(2, 3)) * batch["age"] * batch["scale"]

    def call(module, images, **others):
        return module({"image": images, **others})

    wrapped = WithInputs(OfDictionary(), call=call, age=AGES, scale=2.0)
    with at_row(wrapped, 1):
        torch.testing.assert_close(wrapped(images), images.mean(dim=(2, 3)) * 6)
    found = Gradient()(wrapped, images, 0).attribution
    torch.testing.assert_close(found[:, 0, 0, 0], 2 * AGES[:, 0] / 120)


def test_rows_that_do_not_fit():
    images, network = images_of(), patient()
    wrapped = WithInputs(network, AGES, view=VIEWS)
    with pytest.raises(ConfigError, match="for each of 3 images, found 2 images"):
        Gradient()(wrapped, images[:2])
    with pytest.raises(ConfigError, match="of which of them these are copies is not known"):
        wrapped(images)
    with pytest.raises(ConfigError, match="tensors of 2 and 3 rows"):
        WithInputs(network, AGES, view=VIEWS[:2])
    with pytest.raises(RuntimeError, match="stop"), at_row(wrapped, 1):
        raise RuntimeError("stop")
    assert int(wrapped.held.row) == -1
