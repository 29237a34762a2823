"""Classifiers by name: what each source tells, what can be overridden, refused, exported."""

import json
import logging
import os
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from verisal.errors import CheckpointError, ConfigError
from verisal.fingerprint import state_hash
from verisal.models import Architecture, Classifier, ClassifierSource, export_classifier, load_classifier

SMALL = {"weights": None, "image_size": 64}
GREY = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def tiny(classes=3):
    """A factory as a user writes one."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes),
    )  # fmt: skip


def no_network():
    return "not a network"


FACTORY = f"{__name__}:tiny"
TINY = {"image_size": 16, "class_names": ("ant", "bee", "cat"), **GREY}


def test_torchvision_tells_normalisation_size_names_and_stages():
    classifier = load_classifier("torchvision:mobilenet_v3_small", weights=None, image_size=64)
    assert classifier.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert classifier.std.flatten().tolist() == pytest.approx([0.229, 0.224, 0.225])
    assert classifier.class_names[:2] == ("tench", "goldfish")
    assert classifier.stages == ("features.1", "features.3", "features.8", "features.12")
    assert not classifier.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


def test_timm_tells_normalisation_size_names_and_stages():
    pytest.importorskip("timm")
    classifier = load_classifier("timm:test_resnet.r160_in1k", weights=None)
    assert classifier.image_size == 160
    assert classifier.mean.flatten().tolist() == pytest.approx([0.5] * 3)
    assert classifier.class_names[:2] == ("tench", "goldfish")
    assert classifier.stages == ("layer1", "layer2", "layer3", "layer4")


def test_everything_that_a_source_tells_can_be_overridden(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("ant\nbee\n\ncat\n")
    classifier = load_classifier(
        "torchvision:shufflenet_v2_x0_5", **SMALL, **GREY, class_names=str(names), stages=("stage2", "stage4")
    )
    assert classifier.class_names == ("ant", "bee", "cat")
    assert classifier(torch.rand(1, 3, 64, 64)).shape == (1, 3)
    assert classifier.stages == ("stage2", "stage4")
    assert classifier.mean.flatten().tolist() == [0.5] * 3


def test_random_weights_are_the_same_each_time_and_the_random_state_is_kept():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = load_classifier("torchvision:shufflenet_v2_x0_5", **SMALL)
    assert torch.equal(torch.rand(3), expected)
    assert state_hash(first) == state_hash(load_classifier("torchvision:shufflenet_v2_x0_5", **SMALL))


def normed():
    """With batch normalisation, and with a part that is named as other people's shells are."""
    return nn.Sequential(
        OrderedDict(
            features=nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
            pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), model=nn.Linear(4, 3),
        )
    )  # fmt: skip


def trained():
    """A network unlike the one that a fresh call builds, in every tensor but the counters."""
    network = normed()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                tensor += 1
    return network


def renamed(state, rule):
    return {rule(name): tensor for name, tensor in state.items()}


def without_counters(state):
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


def inner(shell):
    """As a script wraps a part of its network alone."""
    return lambda name: name.replace("features.", f"features.{shell}.")


def without(state, name):
    return {key: tensor for key, tensor in state.items() if key != name}


def moved(state):
    return {name: tensor + 1 for name, tensor in state.items()}


def seven_classes(state):
    return {**state, "model.weight": torch.ones(7, 4), "model.bias": torch.ones(7)}


OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
LYING_AROUND = {
    "plain": (lambda state: state, ""),
    "no counters": (without_counters, "1 num_batches_tracked are missing and stay at 0"),
    "DataParallel": (lambda state: renamed(state, "module.{}".format), "names without module."),
    "DataParallel, old": (
        lambda state: renamed(without_counters(state), "module.{}".format),
        "names without module.; 1 num_batches_tracked are missing",
    ),
    "a part in DataParallel": (lambda state: renamed(state, inner("module")), "names without module."),
    "compiled": (lambda state: renamed(state, "_orig_mod.{}".format), "names without _orig_mod."),
    "a part compiled": (lambda state: renamed(state, inner("_orig_mod")), "names without _orig_mod."),
    "compiled in DDP": (
        lambda state: renamed(state, "module._orig_mod.{}".format),
        "names without _orig_mod. and module.",
    ),
    "held by a script's class": (lambda state: renamed(state, "model.{}".format), "names without model."),
    "held by a class in DDP": (
        lambda state: renamed(state, "module.net.{}".format),
        "without module. and net.",
    ),
    "averaged": (
        lambda state: {"n_averaged": torch.tensor(3), **renamed(state, "module.{}".format)},
        "names without module.",
    ),
    "beside a loss in a script's class": (
        lambda state: {"criterion.weight": torch.ones(3), **renamed(state, "model.net.{}".format)},
        "without criterion.weight, which lies beside the weights; names without model. and net.",
    ),
}
NESTED = {
    **{
        key: (lambda state, key=key: {key: state, "optimizer": OPTIMIZER, "epoch": 3}, f"dict under {key}")
        for key in ("state_dict", "model", "net", "model_state_dict", "ema", "weights_of_mine")
    },
    "twice": (lambda state: {"checkpoint": {"model": state}, "args": None}, "dict under checkpoint.model"),
    "beside": (lambda state: {**state, "optimizer": OPTIMIZER}, "without optimizer, which lies beside"),
    "the same twice": (lambda state: {"model": state, "best": dict(state)}, "state dict under model"),
    "renamed inside": (
        lambda state: {"state_dict": renamed(without_counters(state), "module.{}".format), "epoch": 3},
        "state dict under state_dict; names without module.; 1 num_batches_tracked",
    ),
}  # fmt: skip
NORMED = f"{__name__}:normed"


@pytest.mark.parametrize(
    ("form", "suffix"),
    [
        *((form, ".pth") for form in (*LYING_AROUND, *NESTED)),
        *((form, ".safetensors") for form in LYING_AROUND),
    ],
)
def test_a_state_dict_as_it_lies_around(tmp_path, capsys, form, suffix):
    change, words = {**LYING_AROUND, **NESTED}[form]
    network = trained()
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pth" else save_file)(change(network.state_dict()), path)
    classifier = load_classifier(NORMED, weights=str(path), **TINY, stages=("features.0", "features.2"))
    assert state_hash(classifier.network) == state_hash(network)
    said = capsys.readouterr().err
    assert len(said.splitlines()) == bool(words)
    assert words in said
    assert not words or said.startswith(f"weights {path}: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"state_dict": s, "ema": moved(s)}, "2 state dicts that fit .*: state_dict, ema"),
        (lambda s: {**s, "ema": moved(s)}, "2 state dicts that fit .*: the whole file, ema"),
        (lambda s: renamed(s, "shell.{}".format), r"has, the network lacks \(8\)"),
        (lambda s: {"state_dict": without(s, "model.bias")}, r"lacks \(1\): model.bias"),
        (lambda s: {**s, "criterion.weight": torch.ones(2)}, r"network lacks \(1\): criterion.weight"),
        (lambda s: without(s, "features.1.running_var"), r"file lacks \(1\): features.1.running_var"),
        (lambda s: renamed(s, lambda key: key.replace("features", "module", 1)), r"file lacks"),
        (lambda s: {"optimizer": OPTIMIZER}, "does not fit"),
        (lambda s: {"model": seven_classes(s)}, "made for 7 classes"),
        (lambda s: {**renamed(s, "model.{}".format), **renamed(s, "shell.{}".format)}, r"lacks \(16\)"),
        (lambda s: {k: v.to(torch.int8) for k, v in s.items()}, "holds int8 where .* quantised"),
        (lambda s: {**s, "model.bias": s["model.bias"] / 0 * 0}, r"NaN in 1 of 8 tensors \(model.bias\)"),
        (lambda s: {k: v.to("meta") for k, v in s.items()}, "tensors without values: features.0.weight"),
    ],
)
def test_no_other_state_dict_is_taken(tmp_path, change, message):
    path = tmp_path / "weights.pth"
    torch.save(change(trained().state_dict()), path)
    with pytest.raises(CheckpointError, match=message):
        load_classifier(NORMED, weights=str(path), **TINY, stages=("features.0", "features.2"))


def test_a_network_with_versions_of_its_own_loads_from_a_file_without_them(tmp_path):
    """MNASNet takes a state dict without versions for one of an old release, and refuses it."""
    first = load_classifier("torchvision:mnasnet0_5", **SMALL)
    save_file(
        {name: tensor + 1 for name, tensor in first.network.state_dict().items()}, tmp_path / "a.safetensors"
    )
    again = load_classifier("torchvision:mnasnet0_5", weights=str(tmp_path / "a.safetensors"), image_size=64)
    assert torch.equal(again.network.classifier[1].bias, first.network.classifier[1].bias + 1)


def test_a_source_is_the_same_as_a_name_with_overrides():
    source = ClassifierSource(name=FACTORY, **TINY)
    torch.manual_seed(1)
    assert state_hash(load_classifier(source)) == state_hash(load_classifier(FACTORY, **TINY))
    with pytest.raises(ConfigError, match="has all settings inside"):
        load_classifier(source, image_size=3)


def test_constructor_arguments_are_handed_on():
    classifier = load_classifier(FACTORY, arguments={"classes": 2}, image_size=16, **GREY)
    assert classifier.class_names == ("0", "1")


def test_a_state_dict_of_another_number_of_classes_shows_both(tmp_path):
    path = tmp_path / "seven.pth"
    torch.save(tiny(7).state_dict(), path)
    with pytest.raises(CheckpointError, match=r"made for 7 classes .* has 3: ant, bee, cat"):
        load_classifier(FACTORY, weights=str(path), **TINY)


def test_a_state_dict_that_does_not_fit_names_the_keys(tmp_path):
    path = tmp_path / "other.pth"
    state = tiny().state_dict()
    state["extra"] = state.pop("2.weight")
    state["0.bias"] = torch.zeros(9)
    torch.save(state, path)
    with pytest.raises(CheckpointError) as error:
        load_classifier(FACTORY, weights=str(path), **TINY)
    assert "the network has, the file lacks (1): 2.weight" in str(error.value)
    assert "the file has, the network lacks (1): extra" in str(error.value)
    assert "0.bias: file (9,), network (4,)" in str(error.value)


class _Hostile:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weight": _Hostile()}, r"other than tensors and plain data \((posix|nt)\.system\)"),
        ([1, 2], "holds no state dict"),
        ({"epoch": 3}, "holds no state dict"),
    ],
)
def test_a_pickle_never_runs_code(tmp_path, content, message):
    path = tmp_path / "file.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_classifier(FACTORY, weights=str(path), **TINY)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("https://example.org/x.pth", "not loaded from URLs"),
        ("nowhere.pth", "does not exist"),
        (str(Path(__file__).parent), "is a folder; give the path of a .safetensors or .pth file"),
    ],
)
def test_weights_that_cannot_be_read(name, message):
    with pytest.raises(CheckpointError, match=message):
        load_classifier(FACTORY, weights=name, **TINY)


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html>", "a web page, as a failed download leaves it"),
        (b'{"metadata": {}, "weight_map": {}}', "of weights in several files, put them together"),
        (b"\x1f\x8b\x08\0", "it is compressed"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_taken_for_weights_are_called_what_they_are(tmp_path, start, words, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(start + bytes(99))
    with pytest.raises(CheckpointError, match=words):
        load_classifier(NORMED, weights=str(path), **TINY)


def test_safetensors_are_known_by_their_content(tmp_path):
    network, path = trained(), tmp_path / "weights.bin"
    save_file(network.state_dict(), path)
    classifier = load_classifier(NORMED, weights=str(path), **TINY, stages=("features.0", "features.2"))
    assert state_hash(classifier.network) == state_hash(network)


def test_truncated_weights(tmp_path):
    for suffix, message in ((".pth", "truncated or damaged"), (".safetensors", "not a safetensors file")):
        path = tmp_path / f"x{suffix}"
        path.write_bytes(b"abc")
        with pytest.raises(CheckpointError, match=message):
            load_classifier(FACTORY, weights=str(path), **TINY)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "resnet9000",
            {},
            r"known: emoji_scenes_64, imagenet_efficientnet_lite0, imagenet_efficientnet_lite1,"
            r" torchvision:NAME",
        ),
        (
            "torchvision:resnet19",
            {},
            r"torchvision has no model 'resnet19'; nearest of its \d+ names: .*resnet",
        ),
        ("timm:resnet19", {}, r"timm has no model 'resnet19'; nearest of its \d+ names: resnet"),
        ("torchvision:resnet18", {"arguments": {"weights_backbone": "x"}}, "name them as weights"),
        ("torchvision:resnet18", {"weights": None, "arguments": {"colour": 1}}, "cannot be built with"),
        ("emoji_scenes_64", {"weights": None}, "has weights and arguments of its own"),
        (FACTORY, {**GREY}, "the image size of .* is not known"),
        (FACTORY, {"image_size": 16}, "it is not known how .* normalises"),
        (FACTORY, {"colour": 1}, r"no settings \['colour'\]; known: normalization, weights, arguments"),
        (FACTORY, {**TINY, "class_names": "nowhere.txt"}, "nowhere.txt does not exist"),
        (f"{__name__}:nothing", TINY, "cannot be imported"),
        ("no_such_package:thing", TINY, "cannot be imported"),
        (f"{__name__}:no_network", TINY, "must give an nn.Module, found str"),
    ],
)
def test_settings_that_cannot_work(name, settings, message):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(ConfigError, match=message):
        load_classifier(name, **settings)


def test_a_library_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match=r"needs the package 'timm', .* verisal\[hub\]"):
        load_classifier("timm:resnet18")


def test_weights_that_cannot_be_fetched_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"shufflenet_v2_x0_5 could not be loaded .* path of a downloaded"):
        load_classifier("torchvision:shufflenet_v2_x0_5")


def test_each_attempt_of_a_hub_is_no_line_of_its_own(monkeypatch, caplog):
    import timm

    hub = logging.getLogger("huggingface_hub.utils")

    def create_model(name, **_):
        hub.warning("no answer; retrying")
        raise OSError("no answer")

    monkeypatch.setattr(timm, "create_model", create_model)
    with pytest.raises(ConfigError, match=r"weights of resnet18 .*OSError: no answer"):
        load_classifier("timm:resnet18")
    assert not caplog.records
    hub.warning("from elsewhere")
    assert [record.message for record in caplog.records] == ["from elsewhere"]


def test_a_hostile_file_in_the_cache_of_torchvision_is_not_run(monkeypatch, tmp_path):
    from torchvision.models import ShuffleNet_V2_X0_5_Weights

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save({"x": _Hostile()}, folder / ShuffleNet_V2_X0_5_Weights.DEFAULT.url.rsplit("/", 1)[1])
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("code of a file was run"))
    with pytest.raises(ConfigError, match="UnpicklingError"):
        load_classifier("torchvision:shufflenet_v2_x0_5")


EXPORTS = {
    "torchvision": ("torchvision:shufflenet_v2_x0_5", SMALL, {}),
    "timm": ("timm:test_vit", {"weights": None, "class_names": ("ant", "bee")}, {}),
    "factory": (FACTORY, TINY, {"factory": FACTORY}),
}


@pytest.mark.parametrize("kind", EXPORTS)
def test_what_is_exported_comes_back_the_same(tmp_path, kind):
    name, settings, needed = EXPORTS[kind]
    if kind == "timm":
        pytest.importorskip("timm")
    classifier = load_classifier(name, **settings)
    path = tmp_path / "x.safetensors"
    export_classifier(path, classifier, origin={"from": "a test"})
    assert json.loads(path.with_suffix(".json").read_text())["origin"] == {"from": "a test"}
    loaded = load_classifier(str(path), **needed)
    images = torch.rand(2, 3, classifier.image_size, classifier.image_size)
    assert torch.equal(loaded(images), classifier(images))
    assert state_hash(loaded) == state_hash(classifier)
    assert (loaded.stages, loaded.class_names) == (classifier.stages, classifier.class_names)


def test_a_function_that_a_file_names_is_not_imported(tmp_path):
    path = tmp_path / "x.safetensors"
    export_classifier(path, load_classifier(FACTORY, **TINY), origin={})
    card = json.loads(path.with_suffix(".json").read_text())
    card["architecture"] = "a_module_that_would_fail:anything"
    path.with_suffix(".json").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match="files never decide what is imported"):
        load_classifier(str(path))
    assert load_classifier(str(path), factory=FACTORY).num_classes == 3


def test_a_card_cannot_make_a_library_load_files(tmp_path):
    path = tmp_path / "x.safetensors"
    export_classifier(path, load_classifier("torchvision:shufflenet_v2_x0_5", **SMALL), origin={})
    card = json.loads(path.with_suffix(".json").read_text())
    for field, value in (("arguments", {"checkpoint_path": "evil.pth"}), ("network", "os"), ("stages", None)):
        changed = {**card, field: value}
        changed = {key: entry for key, entry in changed.items() if entry is not None}
        path.with_suffix(".json").write_text(json.dumps(changed))
        with pytest.raises(
            (ConfigError, CheckpointError), match=r"name them as weights|no classifier export"
        ):
            load_classifier(str(path))


def test_an_export_that_could_not_be_built_again_is_refused(tmp_path):
    made = {"class_names": ("ant", "bee", "cat"), "image_size": 16, "normalization": "none"}
    unknown = Classifier(tiny(), ["1", "3"], **made)
    with pytest.raises(ConfigError, match="nobody knows how this Sequential is built again"):
        export_classifier(tmp_path / "x.safetensors", unknown, origin={})
    wrong = Classifier(
        tiny(), ["1", "3"], **made, architecture=Architecture("factory", FACTORY, {"classes": 4})
    )
    with pytest.raises(ConfigError, match="has other weights than this classifier"):
        export_classifier(tmp_path / "x.safetensors", wrong, origin={})


@pytest.fixture
def transformers_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=32,
        patch_size=8, id2label={0: "ant", 1: "bee"}, label2id={"ant": 0, "bee": 1},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "model")
    settings = {"do_normalize": True, "image_mean": [0.4] * 3, "image_std": [0.3] * 3, "size": {"height": 32}}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(settings))
    return tmp_path / "model"


def test_a_transformers_folder(transformers_folder, tmp_path):
    classifier = load_classifier(f"hf:{transformers_folder}")
    assert classifier.class_names == ("ant", "bee")
    assert classifier.image_size == 32
    assert classifier.mean.flatten().tolist() == pytest.approx([0.4] * 3)
    images = torch.rand(2, 3, 32, 32)
    outputs = classifier.stage_outputs(images)
    assert [tuple(part.shape[1:]) for part in outputs.activations] == [(16, 4, 4)] * len(classifier.stages)
    assert torch.allclose(outputs.logits, classifier(images), atol=1e-5)
    ones = [torch.ones(1)] * len(classifier.stages)
    assert torch.allclose(classifier.gated(classifier.prefix(images), ones), classifier(images), atol=1e-5)
    export_classifier(tmp_path / "x.safetensors", classifier, origin={})
    assert torch.equal(load_classifier(str(tmp_path / "x.safetensors"))(images), classifier(images))


def test_a_folder_that_is_no_transformers_model(tmp_path):
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds no image classifier"):
        load_classifier(f"hf:{tmp_path}")


def test_the_output_is_said_kept_by_an_export_and_told_by_transformers(tmp_path, transformers_folder):
    one = load_classifier(FACTORY, arguments={"classes": 1}, image_size=32, output="sigmoid", **GREY)
    assert (one.output, one.class_names) == ("sigmoid", ("0",))
    export_classifier(tmp_path / "one.safetensors", one, origin={})
    again = load_classifier(str(tmp_path / "one.safetensors"), factory=FACTORY)
    assert again.output == "sigmoid"
    with pytest.raises(ConfigError, match="say output: sigmoid"):
        load_classifier(FACTORY, arguments={"classes": 1}, image_size=32, **GREY)
    path = transformers_folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"problem_type": "multi_label_classification"}))
    assert load_classifier(f"hf:{transformers_folder}").output == "sigmoid"
    assert load_classifier(f"hf:{transformers_folder}", output="softmax").output == "softmax"
