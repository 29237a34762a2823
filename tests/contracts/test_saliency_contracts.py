"""What every exported saliency method promises, generated from the table of cases."""

import ast
import copy
import inspect
import re
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import verisal.saliency
from helpers import (
    saliency_rows_captum,
    saliency_rows_decoy,
    saliency_rows_derived,
    saliency_rows_learned,
    saliency_rows_masks,
    saliency_rows_optimised,
    saliency_rows_perturbation,
)
from helpers.saliency_cases import NUM_CLASSES, SIZE, SaliencyCase, toy_classifier, toy_images
from verisal.errors import ConfigError, DataError
from verisal.fingerprint import settings_of
from verisal.saliency import GateMethod, Saliency
from verisal.types import SaliencyResult

CASES = {
    **saliency_rows_captum.CASES,
    **saliency_rows_decoy.CASES,
    **saliency_rows_derived.CASES,
    **saliency_rows_learned.CASES,
    **saliency_rows_masks.CASES,
    **saliency_rows_optimised.CASES,
    **saliency_rows_perturbation.CASES,
}
EVERY = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
QUERY = torch.tensor([0, 3, 1, 2, 1])
MODES = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


def explained(case: SaliencyCase, count: int = 5) -> SaliencyResult:
    return case.make()(toy_classifier(), toy_images(count), QUERY[:count])


def maps_of(result: SaliencyResult) -> list[torch.Tensor]:
    attribution = [] if result.attribution is None else [result.attribution]
    return [result.saliency, result.raw, *result.raw_layers, *attribution]


def assert_same(first: SaliencyResult, second: SaliencyResult, *, atol: float = 0.0) -> None:
    for one, two in zip(maps_of(first), maps_of(second), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=atol)


def test_every_exported_method_has_a_row():
    exported = {getattr(verisal.saliency, name) for name in verisal.saliency.__all__}
    kinds = {kind for kind in exported if isinstance(kind, type) and issubclass(kind, Saliency)}
    concrete = {kind for kind in kinds if not inspect.isabstract(kind)}
    assert concrete == {type(case.make()) for case in CASES.values()}


def test_captum_and_pyplot_wait_until_a_method_needs_them():
    """Both cost more time to import than all of the package."""
    found = [
        f"{path.name}: {ast.unparse(node)}"
        for path in Path(verisal.saliency.__file__).parent.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if re.search(r"\b(from|import) (captum|matplotlib)\b", ast.unparse(node).splitlines()[0])
    ]
    assert found == []


@EVERY
def test_method_is_final_and_equal_settings_are_equal_methods(case):
    method = case.make()
    assert type(method).__final__
    assert method == case.make()
    if isinstance(method, GateMethod):
        assert method.gate_settings() == case.make().gate_settings()
        assert method.gate_settings()["class"] == type(method).__name__
        assert method.uses_query == case.uses_query


@EVERY
def test_shapes_types_and_signs(case):
    result = explained(case)
    assert result.saliency.shape == result.raw.shape == (5, 1, *SIZE)
    assert [layer.shape for layer in result.raw_layers] == [(5, 1, *SIZE)] * case.layers
    if case.channels:
        assert result.attribution.shape == (5, case.channels, *SIZE)
    else:
        assert result.attribution is None
    assert result.baseline == case.baseline
    for values in maps_of(result):
        assert values.dtype == torch.float32
        assert bool(values.isfinite().all())
        assert not values.requires_grad
        assert values.grad_fn is None
    assert float(result.saliency.min()) >= 0
    if case.passes is not None:
        assert (result.n_forward, result.n_backward) == case.passes


@EVERY
def test_maps_of_the_predicted_class_vary_over_and_between_images(case):
    classifier, images = toy_classifier(), toy_images(5)
    saliency = case.make()(classifier, images, classifier(images).argmax(dim=1)).saliency
    assert bool((saliency.flatten(1).std(dim=1) > 1e-3).all())
    differs = float((saliency[0] - saliency[1]).abs().max()) > 1e-3
    assert differs == case.varies_with_image


@EVERY
def test_batch_equals_the_stack_of_singles(case):
    method, classifier, images = case.make(), toy_classifier(), toy_images(5)
    whole = method(classifier, images, QUERY)
    for row in range(5):
        alone = method(classifier, images[row : row + 1], QUERY[row : row + 1])
        for many, one in zip(maps_of(whole), maps_of(alone), strict=True):
            torch.testing.assert_close(many[row : row + 1], one, rtol=0, atol=1e-4)


@EVERY
def test_chunk_size_changes_nothing_but_memory(case):
    method = case.make()
    if "chunk_size" not in {item.name for item in fields(method)}:
        pytest.skip("works on the whole batch")
    small = replace(method, chunk_size=1)(toy_classifier(), toy_images(3), QUERY[:3])
    assert_same(small, method(toy_classifier(), toy_images(3), QUERY[:3]), atol=1e-4)


@EVERY
def test_deterministic_whatever_the_global_random_state(case):
    first = explained(case)
    torch.manual_seed(1234)
    assert_same(explained(case), first)


@EVERY
@pytest.mark.parametrize("mode", MODES)
def test_same_result_whatever_surrounds_the_call(case, mode):
    plain, classifier = explained(case), toy_classifier()
    with MODES[mode]():
        # The images are made inside, as a loader's batch is.
        inside = case.make()(classifier, toy_images(5), QUERY + 0)
    assert_same(inside, plain)
    assert not inside.saliency.requires_grad


@EVERY
def test_settings_are_plain_data_that_name_the_class(case):
    settings = settings_of(case.make())
    assert settings["class"] == type(case.make()).__name__
    assert settings == settings_of(case.make())


@EVERY
def test_what_is_held_at_once_is_no_setting_of_the_maps(case):
    method = case.make()
    if hasattr(method, "chunk_size"):
        assert replace(method, chunk_size=3).settings() == method.settings()


@EVERY
def test_query_class_matters_where_it_should(case):
    first = explained(case)
    other = case.make()(toy_classifier(), toy_images(5), (QUERY + 1) % NUM_CLASSES)
    changed = float((first.raw - other.raw).abs().max())
    assert (changed > 1e-3) == case.uses_query


BAD_QUERIES = {
    "too large": (torch.tensor([0, 1, 4]), r"0\.\.3 \(K = 4\), found 0\.\.4"),
    "negative": (torch.tensor([0, -1, 1]), r"0\.\.3 \(K = 4\), found -1\.\.1"),
    "too few": (torch.tensor([0, 1]), r"\(3,\) whole numbers.*found \(2,\)"),
    "float": (torch.tensor([0.0, 1.0, 2.0]), r"whole numbers.*found \(3,\) float32"),
}


@EVERY
@pytest.mark.parametrize("bad", BAD_QUERIES)
def test_bad_query_class_is_named_with_the_number_of_classes(case, bad):
    query, words = BAD_QUERIES[bad]
    with pytest.raises(ConfigError, match=words):
        case.make()(toy_classifier(), toy_images(3), query)


@EVERY
def test_images_that_are_none_are_refused(case):
    method, classifier, images = case.make(), toy_classifier(), toy_images(2)
    for wrong, words in (
        (images * 255, r"\[0, 1\]"),
        (images.double(), "float32"),
        (images[:, :1], r"\(2, 1, 16, 12\)"),
    ):
        with pytest.raises(DataError, match=words):
            method(classifier, wrong, QUERY[:2])


@EVERY
def test_empty_batch_is_refused_before_the_classifier_is_called(case):
    classifier = toy_classifier()
    calls = classifier.network.three.calls
    with pytest.raises(
        DataError, match=r"no image to explain, found \(0, 3, 16, 12\); leave empty batches out"
    ):
        case.make()(classifier, toy_images(1)[:0], QUERY[:0])
    assert classifier.network.three.calls == calls


@EVERY
@pytest.mark.parametrize("end", ["returns", "bad query", "raises first", "raises late"])
def test_classifier_and_random_state_stay_untouched(case, end):
    classifier, images, query = toy_classifier(), toy_images(3), QUERY[:3].clone()
    network = classifier.network
    # Nothing about the state is ordinary, so that nothing can be restored by luck.
    classifier.train()
    network.two.eval()
    network.two.norm.train()
    network.one.conv.weight.requires_grad_(False)
    network.head.weight.grad = torch.full_like(network.head.weight, 2.0)
    seen = []
    hook = network.three.register_forward_hook(lambda *call: seen.append(len(call[2])))
    network.three.calls, network.three.fail_at = (
        0,
        {"raises first": 1, "raises late": case.late_call}.get(end, 0),
    )
    if end == "bad query":
        query[1] = NUM_CLASSES
    kept = copy.deepcopy(classifier.state_dict())
    modes = [child.training for child in classifier.modules()]
    flags = [parameter.requires_grad for parameter in classifier.parameters()]
    hooks = [_hooks(child) for child in classifier.modules()]
    before, given = torch.get_rng_state(), (images.clone(), query.clone())
    expected = {"returns": nullcontext(), "bad query": pytest.raises(ConfigError)}
    if not case.uses_classifier:
        expected |= {"raises first": nullcontext(), "raises late": nullcontext()}
    with expected.get(end, pytest.raises(RuntimeError, match="out of order")):
        case.make()(classifier, images, query)
    assert torch.get_rng_state().equal(before)
    assert [child.training for child in classifier.modules()] == modes
    assert [parameter.requires_grad for parameter in classifier.parameters()] == flags
    assert [_hooks(child) for child in classifier.modules()] == hooks
    assert all(value.equal(kept[name]) for name, value in classifier.state_dict().items())
    assert network.head.weight.grad.eq(2.0).all()
    assert all(p.grad is None for p in classifier.parameters() if p is not network.head.weight)
    assert images.equal(given[0])
    assert query.equal(given[1])
    assert not images.requires_grad
    assert torch.is_grad_enabled()
    passes = end == "returns" or (end == "raises late" and case.late_call > 1)
    assert bool(seen) == (passes and case.uses_classifier)
    hook.remove()


def _hooks(module: torch.nn.Module) -> tuple[int, ...]:
    return (
        len(module._forward_hooks),
        len(module._forward_pre_hooks),
        len(module._backward_hooks),
        len(module._backward_pre_hooks),
    )


@EVERY
def test_network_in_train_mode_is_explained_in_eval_mode(case):
    classifier = toy_classifier().train()
    assert_same(case.make()(classifier, toy_images(5), QUERY), explained(case))


@EVERY
def test_method_that_needs_stages_refuses_a_callable(case):
    method, classifier = case.make(), toy_classifier()
    if not method.needs_module:
        pytest.skip("takes any callable")
    with pytest.raises(ConfigError, match=r"found function; wrap the network"):
        method(lambda images: classifier(images), toy_images(2), QUERY[:2])
