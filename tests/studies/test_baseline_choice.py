"""The choice of the recommended baselines: its rule by hand, and the choice made again from its data."""

import csv
from pathlib import Path

import pytest
import torch

from verisal.errors import ConfigError
from verisal.functional.baselines import recommended_baselines
from verisal.results import Evaluation, Score
from verisal_studies import BaselineChoice, BaselineChoiceElsewhere, page_text
from verisal_studies.baseline_choice import (
    Step,
    chosen_step,
    image_agreement,
    steps_of_choice,
)

PAGE = Path(__file__).parents[2] / "docs" / "studies" / "baseline_choice.md"
# samples.val.csv of the run that the page shows, in thousandths; grey is the data set's mean there.
AREAS = Path(__file__).parent / "baseline_choice_areas.csv"


def measured():
    """The evaluation that the choice was made from, rounded."""
    samples = {key: [] for key in ("image_id", "row", "score", "value")}
    with AREAS.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            names = [line["score"]]
            if line["score"] == "neutrality/query_probability":
                # Only the first two of the four are kept in the file; they tell the baselines apart.
                names += ["neutrality/max_probability", "neutrality/entropy"]
            for name in names:
                for image, value in enumerate(line["thousandths"].split()):
                    samples["image_id"].append(f"{image:02d}")
                    samples["row"].append(line["row"])
                    samples["score"].append(name)
                    samples["value"].append(torch.nan if value == "-" else int(value) / 1000)
    limit = Score(1 / 24, torch.nan, torch.nan, n=64)
    rows = dict.fromkeys(samples["row"])
    scores = {f"val/{row}/neutrality/limit": limit for row in rows}
    return Evaluation("val", scores, samples=samples)


def test_the_rule_gives_the_default_and_the_page_says_so():
    result = BaselineChoice(commands=["verisal validate"]).result(measured())
    chosen = ", ".join(f"`{baseline.name}`" for baseline in recommended_baselines())
    assert result.summary == f"Chosen: {chosen}."
    assert result.summary in PAGE.read_text()
    assert result.findings[0].verdict == "holds"


def test_agreement_worked_by_hand():
    # Three methods, one image. All: 1 < 2 < 3. The first baseline alone turns one pair of three.
    first, second = torch.tensor([[2.0], [1.0], [3.0]]), torch.tensor([[0.0], [3.0], [3.5]])
    benefits = {"insertion": torch.stack([first, second]), "deletion": torch.stack([second, second])}
    assert image_agreement(benefits, [0]).tolist() == pytest.approx([(1 / 3 + 1) / 2])
    assert image_agreement(benefits, [1]).tolist() == [1.0]
    assert image_agreement(benefits, [0, 1]).tolist() == [1.0]


def test_the_best_set_of_every_size_is_made_of_candidates():
    generator = torch.Generator().manual_seed(2)
    benefits = {kind: torch.rand(4, 5, 30, generator=generator) for kind in ("insertion", "deletion")}
    names = ["w", "x", "y", "z"]
    steps = steps_of_choice(benefits, names, ["w", "y", "z"], largest=5)
    assert [len(step.baselines) for step in steps] == [1, 2, 3]
    assert steps[2].baselines == ("w", "y", "z")
    pairs = {pair: image_agreement(benefits, pair).mean().item() for pair in ((0, 2), (0, 3), (2, 3))}
    best = max(pairs, key=pairs.get)
    assert steps[1].baselines == tuple(names[place] for place in best)
    assert steps[1].mean == pytest.approx(pairs[best])
    with pytest.raises(ConfigError, match="no baseline can be chosen"):
        steps_of_choice(benefits, names, [], largest=2)


@pytest.mark.parametrize(
    ("means", "size"),
    [((0.5, 0.6, 0.61), 2), ((0.5, 0.51, 0.9), 1), ((0.5, 0.6, 0.7), 3), ((0.5,), 1)],
)
def test_the_first_size_to_which_one_more_adds_little(means, size):
    steps = [Step(tuple("abc"[: place + 1]), torch.tensor([mean])) for place, mean in enumerate(means)]
    assert len(chosen_step(steps, gain=0.02).baselines) == size


def test_a_single_baseline_is_no_set_of_several():
    result = BaselineChoice(commands=[], gain=1.0).result(measured())
    assert result.findings[0].verdict == "does not hold here"
    assert "no baseline" not in page_text(result, "pictures")


@pytest.mark.parametrize("settings", [{"gain": 0.0}, {"largest": 0}])
@pytest.mark.parametrize("study", [BaselineChoice, BaselineChoiceElsewhere])
def test_settings_out_of_range_are_refused(study, settings):
    with pytest.raises(
        ConfigError, match=r"gain must be positive, found 0.0|largest must be at least 1, found 0"
    ):
        study(commands=[], **settings)


def test_the_default_holds_where_it_was_chosen():
    result = BaselineChoiceElsewhere(commands=["verisal validate"]).result(measured())
    assert [finding.verdict for finding in result.findings] == ["holds"] * 3
    assert "better than 12 of 12 single baselines" in result.findings[1].evidence
    text = page_text(result, "pictures")
    assert "| `dataset_mean`, `image_mean`, `gauss` | 0.670 [0.624, 0.715] |" in text
    assert "| 3 | `dataset_mean`, `image_mean`, `gauss` |" in text


def test_another_choice_is_said_and_what_is_lost_by_the_default():
    # One more baseline must add nothing: a single one is chosen, and agrees less than the three.
    result = BaselineChoiceElsewhere(commands=[], gain=1.0).result(measured())
    finding = result.findings[2]
    assert finding.verdict == "holds in part"
    assert finding.evidence.startswith("chosen here: `image_mean`")
    # With a tiny gain five are chosen, and they agree more, as far as the interval can tell.
    result = BaselineChoiceElsewhere(commands=[], gain=1e-6).result(measured())
    lost = result.findings[2]
    assert "`shuffle`" in lost.evidence
    assert lost.verdict in ("holds in part", "does not hold here")


def test_the_default_must_have_been_measured():
    whole = measured().samples
    kept = [place for place, row in enumerate(whole["row"]) if row != "gauss"]
    columns = {key: [values[place] for place in kept] for key, values in whole.items()}
    scores = measured().scores
    with pytest.raises(ConfigError, match=r"of which \['gauss'\] were not measured"):
        BaselineChoiceElsewhere(commands=[]).result(Evaluation("val", scores, samples=columns))
