import math
from dataclasses import replace

import pytest
import torch
from jsonargparse import ArgumentParser

from helpers.metric_cases import part_of, toy_explained, with_saliency
from helpers.saliency_cases import toy_classifier, toy_images
from verisal.attacks.on_maps.attack import MapAttack
from verisal.errors import ConfigError, DataError
from verisal.functional.comparison import map_change, postprocess
from verisal.functional.shared_work import SharedWork
from verisal.metrics import AttackedSensitivity, SaliencyMetric
from verisal.saliency import Decoy, Gradient, IntegratedGradients, SmoothGrad

ATTACK = MapAttack(kind="top_k", steps=4, judge_every=2)
CHANGES = ("sensitivity", "top_k", "spearman", "shift", "shift_share", "confidence", "not_found")


def columns_of(metric, explained):
    return dict(zip(metric.columns, metric.rows_of(explained).unbind(dim=1), strict=True))


def test_change_of_a_map_by_hand():
    clean = torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]])
    attacked = torch.tensor([[[[0.0, 4.0], [2.0, -1.0]]]])
    found = map_change(clean, attacked, l2=torch.tensor([0.5]), percentile=100.0, top_share=0.25)
    # Scaled to [0, 1] two pixels change by 3/4.
    assert found.sensitivity.tolist() == pytest.approx([math.sqrt(2 * 0.75**2) / 0.5])
    assert found.top_k.tolist() == [0.0]
    assert found.spearman.tolist() == pytest.approx([1 - 6 * (2**2 + 2**2) / (4 * 15)])
    # Along y the centre goes from 6/7 to 3/7; along x it stays at 5/7.
    assert found.shift.tolist() == pytest.approx([3 / 7])
    assert found.shift_share.tolist() == pytest.approx([3 / 7 / math.sqrt(8)])


def test_change_is_undefined_for_constant_maps_and_unchanged_images():
    clean = torch.rand(4, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    attacked = clean.flip(2).clone()
    attacked[1], attacked[2, 0, 0, 0] = 0.5, math.nan
    found = map_change(clean, attacked, l2=torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert found.sensitivity.isnan().tolist() == [False, True, True, True]
    for value in (found.top_k, found.spearman, found.shift, found.shift_share):
        assert value.isnan().tolist() == [False, True, True, False]


def test_map_that_the_cut_makes_constant_has_no_sensitivity():
    clean = torch.zeros(1, 1, 10, 10)
    clean[0, 0, 3, 4] = 1.0
    found = map_change(clean, clean.flip(3), l2=torch.ones(1))
    assert found.sensitivity.isnan().tolist() == [True]
    assert found.shift.tolist() == pytest.approx([1.0])


def test_rows_are_the_attack_and_its_control():
    explained, metric = toy_explained(), AttackedSensitivity(ATTACK, percentile=80.0)
    found = columns_of(metric, explained)
    clean = explained.result.attribution
    for call, prefix in ((ATTACK, ""), (ATTACK.control, "control_")):
        one = call(
            explained.classifier,
            explained.explain,
            explained.images,
            query_class=explained.query_class,
            attribution=clean,
        )
        moved = postprocess(clean, percentile=80.0) - postprocess(one.maps, percentile=80.0)
        expected = moved.flatten(1).norm(dim=1) / (one.images - explained.images).flatten(1).norm(dim=1)
        assert torch.allclose(found[f"{prefix}sensitivity"].float(), expected, rtol=1e-4)
        label = explained.classifier(explained.images).argmax(dim=1, keepdim=True)
        after = explained.classifier(one.images).softmax(dim=1).gather(1, label)[:, 0]
        assert torch.allclose(found[f"{prefix}confidence"].float(), after, atol=1e-5)
        assert found[f"{prefix}not_found"].tolist() == [0.0] * 6
    before = explained.classifier(explained.images).softmax(dim=1).amax(dim=1)
    assert torch.allclose(found["clean_confidence"].float(), before, atol=1e-5)


def test_without_the_control_the_attack_is_the_same():
    explained = toy_explained()
    whole, part = AttackedSensitivity(ATTACK), AttackedSensitivity(ATTACK, control=False)
    assert part.columns == (*CHANGES, "clean_confidence")
    assert part.name == f"attacked_sensitivity[{ATTACK.name},no control]"
    expected = columns_of(whole, explained)
    for name, values in columns_of(part, explained).items():
        assert torch.equal(values, expected[name])


def test_image_without_an_attack_is_counted_and_has_no_sensitivity():
    explained = toy_explained()
    guarded = explained.images[4]
    label = int(explained.classifier(guarded[None]).argmax())

    def classifier(images):
        distance = (images - guarded).abs().amax(dim=(1, 2, 3))
        lost = (distance > 0) & (distance < 0.1)
        logits = explained.classifier(images)
        return logits - 1e4 * lost[:, None] * (torch.arange(logits.shape[1]) == label)

    metric = AttackedSensitivity(ATTACK)
    found = columns_of(metric, replace(explained, classifier=classifier))
    assert found["not_found"].tolist() == found["control_not_found"].tolist() == [0, 0, 0, 0, 1, 0]
    for name in CHANGES[:-1]:
        assert found[name].isnan().tolist() == [False] * 4 + [True, False]
    assert not bool(found["clean_confidence"].isnan().any())
    metric.add_rows(explained.image_ids, torch.stack(list(found.values()), dim=1))
    scores = metric.scores()
    assert scores["not_found"].value == pytest.approx(1 / 6)
    assert (scores["sensitivity"].n, scores["sensitivity"].undefined) == (5, 1)


def test_undefined_maps_are_never_attacked():
    explained, asked = toy_explained(), []

    def explain(images, query_class):
        asked.append(images)
        return explained.explain(images, query_class)

    maps = explained.result.saliency.clone()
    maps[0], maps[1, 0, 0, 0] = 0.0, math.nan
    broken = replace(with_saliency(explained, maps), explain=explain)
    metric = AttackedSensitivity(ATTACK)
    rows = metric.rows_of(broken)
    assert rows.isnan().all(dim=1).tolist() == [True, True, False, False, False, False]
    assert {len(images) for images in asked} == {4}
    asked.clear()
    assert bool(metric.rows_of(part_of(broken, [0, 1])).isnan().all())
    assert not asked
    assert metric.rows_of(part_of(broken, [])).shape == (0, len(metric.columns))


def test_attack_of_gradients_is_worse_than_random_signs():
    classifier, images = toy_classifier(), toy_images(6)
    query = classifier(images).argmax(dim=1)

    def explain(some, classes):
        return Gradient()(classifier, some, classes)

    explained = replace(
        toy_explained(),
        classifier=classifier,
        images=images,
        query_class=query,
        explain=explain,
        result=explain(images, query),
    )
    metric = AttackedSensitivity(MapAttack(kind="top_k", steps=12, judge_every=4))
    metric.update(explained)
    found = metric.scores()
    assert found["sensitivity"].value > 1.3 * found["control_sensitivity"].value
    assert found["top_k"].value < found["control_top_k"].value
    assert metric.better == "low"
    assert next(iter(found)) == "sensitivity"


def test_name_tells_settings_apart():
    names = [
        AttackedSensitivity(attack, percentile=percentile).name
        for attack in (MapAttack(kind="top_k"), MapAttack(kind="target"), ATTACK)
        for percentile in (95.0, 90.0)
    ]
    assert len(set(names)) == 6
    assert names[0] == "attacked_sensitivity[top_k,gradient,8/255,100]"


@pytest.mark.parametrize(
    ("surrogate", "name"),
    [
        ("", "gradient"),
        (', "surrogate": {"class_path": "SmoothGradSurrogate", "init_args": {"samples": 4}}', "smooth_grad4"),
    ],
)
def test_configuration_file_can_say_the_attack(surrogate, name):
    parser = ArgumentParser()
    parser.add_argument("--metric", type=SaliencyMetric)
    attack = f'{{"kind": "target", "steps": 20{surrogate}}}'
    settings = f'{{"class_path": "AttackedSensitivity", "init_args": {{"attack": {attack}}}}}'
    metric = parser.instantiate(parser.parse_args([f"--metric={settings}"])).metric
    assert metric.name == f"attacked_sensitivity[target,{name},8/255,20]"


def test_percentile_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="percentile must lie in"):
        AttackedSensitivity(ATTACK, percentile=0.0)


def test_maps_to_compare_must_be_of_one_size():
    with pytest.raises(DataError, match="must have one shape"):
        map_change(torch.rand(1, 1, 4, 4), torch.rand(1, 1, 4, 5), l2=torch.ones(1))


def test_all_methods_are_scored_on_the_images_that_an_attack_on_another_one_found(monkeypatch):
    explained = toy_explained()
    plain = Gradient()(explained.classifier, explained.images, explained.query_class).attribution
    attacked = ATTACK(
        explained.classifier,
        lambda images, query: Gradient()(explained.classifier, images, query),
        explained.images,
        query_class=explained.query_class,
        attribution=plain,
    )
    metric = AttackedSensitivity(ATTACK, aim=Gradient())
    assert metric.name == "attacked_sensitivity[top_k,gradient,8/255,4,judge_every=2,aim=Gradient]"
    found = columns_of(metric, explained)
    maps = explained.explain(attacked.images, explained.query_class)
    expected = map_change(explained.result.saliency, maps.saliency, l2=attacked.l2)
    assert torch.equal(found["sensitivity"], expected.sensitivity)
    assert torch.equal(found["spearman"], expected.spearman)
    # Of itself it is the attack without an aim, and in one scope there is one attack for both methods.
    own = replace(
        with_saliency(explained, plain.abs().amax(dim=1, keepdim=True)),
        explain=lambda images, query: Gradient()(explained.classifier, images, query),
    )
    own = replace(own, result=replace(own.result, attribution=plain))
    calls, call = [], MapAttack.__call__
    monkeypatch.setattr(
        MapAttack, "__call__", lambda *given, **named: calls.append(1) or call(*given, **named)
    )
    with SharedWork().sharing():
        shared = columns_of(metric, explained)
        aimed = columns_of(metric, own)
    assert len(calls) == 1
    for name, values in columns_of(AttackedSensitivity(ATTACK), own).items():
        assert torch.allclose(aimed[name], values, equal_nan=True, atol=1e-6)
        assert torch.equal(shared[name].nan_to_num(), found[name].nan_to_num())


def test_an_aim_is_named_with_its_settings():
    name = AttackedSensitivity(ATTACK, aim=SmoothGrad(samples=4)).name
    assert name.endswith(",aim=SmoothGrad(samples=4)]")
    name = AttackedSensitivity(ATTACK, aim=Decoy(base=IntegratedGradients(steps=3), patch=6, stride=6)).name
    assert name.endswith(",aim=Decoy(base=IntegratedGradients(steps=3),patch=6,stride=6)]")
