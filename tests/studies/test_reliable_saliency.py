"""Rules of the study of reliable saliency on evaluations made by hand, and its page as a command."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from verisal.cli import main
from verisal.errors import ConfigError
from verisal.functional.statistics import Bootstrap
from verisal.results import Evaluation, SaliencyPanel, Score
from verisal_studies import ReliableSaliency, page_text
from verisal_studies.reliable_claims import Evidence, ReliableRows, findings

pytestmark = pytest.mark.slow

SHIPPED = Path(__file__).parents[2] / "configs" / "study" / "reliable_saliency.yaml"
EARLIER = ("gradient", "grad_cam")
MASKS = ("hierarchical_masks", "hierarchical_class")
ABLATION = "hierarchical_maximise"
ASKED = (*EARLIER, "gradient_of_probability", *MASKS, ABLATION, "random", "centre")
DISTURBED, PRESENT = "D-WSOL (our protocol)", "D-WSOL (our protocol), present classes"
QUERIES = ("c1", "c2", "c3")


def study(*, note="", **settings):
    rows = ReliableRows(**{"earlier": EARLIER, "masks": MASKS, "layers": ("layer_1", "layer_2")} | settings)
    return ReliableSaliency(
        title="Do they?",
        commands=["verisal validate --config x.yaml"],
        setting={"images": "four"},
        note=note,
        rows=rows,
    )


def believed():
    """Values per row and score with which every claim holds, each about the same in four images."""
    values = {}
    for row in ASKED:
        quiet = row in MASKS
        for query in QUERIES:
            values[row, f"{DISTURBED}/response_ratio_{query}"] = 0.05 if quiet else 0.9
            values[row, f"{DISTURBED}/spearman_{query}"] = 0.1 if quiet else 0.9
            for form in ("rel", "abs"):
                values[row, f"{DISTURBED}/flr_{form}_{query}"] = 0.02 if quiet else 0.6
        for query in ("c0", *QUERIES):
            values[row, f"{DISTURBED}/n_empty_{query}"] = 0.0
        values[row, f"{DISTURBED}/accuracy_c0"] = 0.9
        values[row, f"{DISTURBED}/whole_image_c0"] = 0.0
        values[row, f"{PRESENT}/hit"] = 0.8 if quiet else 0.3
        for query in ("rank2", "last"):
            values[row, f"class ranks/norm[{query}]"] = 0.02 if "probability" in row else 0.9
            values[row, f"class ranks/response[{query}]"] = 0.05 if quiet else 0.9
            values[row, f"class ranks/false_rel[{query}]"] = 0.02 if quiet else 0.6
            values[row, f"class ranks/margin_rel[{query}]"] = 0.88 if quiet else 0.3
    for row in (*MASKS, ABLATION):
        for query in ("c0", "rank2", "last"):
            for kind in ("excess", "fall", "mirrored_fall"):
                values[row, f"gate noise/{kind}[{query}]"] = 5.0 if row == ABLATION else 0.01
    smooth = {"fused": 5.0, "gradient_as_smooth_as_fused": 5.0, "layer_1": 20.0, "layer_2": 9.0}
    for row in (*smooth, "gradient", "random", "centre"):
        values[row, "smoothness/total_variation"] = smooth.get(row, 60.0)
        values[row, "smoothness/high_frequencies"] = 0.1
        values[row, "energy_inside/energy"] = 0.8 if row == "fused" else 0.3
        values[row, "saliency_fidelity[black]/value"] = -3.0 if row == "fused" else 1.0
        values[row, "deletion[dataset_mean] steps32/auc"] = 0.2
    return values


def made(changed=None, *, spread=0.004, lacking=()):
    """An evaluation of these values, jittered so that intervals are short and not of width 0."""
    values = {key: value for key, value in (believed() | (changed or {})).items() if key not in lacking}
    jitter = torch.linspace(-spread, spread, 4, dtype=torch.float64)
    scores, samples = {}, {key: [] for key in ("image_id", "row", "score", "value")}
    for index, ((row, score), value) in enumerate(values.items()):
        own = value + jitter.roll(index)
        scores[f"val/{row}/{score}"] = Bootstrap().mean(own).score()
        samples["image_id"] += ["a", "b", "c", "d"]
        samples["row"] += [row] * 4
        samples["score"] += [score] * 4
        samples["value"] += own.tolist()
    return Evaluation("val", scores, samples=samples)


def verdicts(found, **settings):
    # Without the pictures, which take most of the time of a result.
    return [one.verdict for one in findings(Evidence(found), study(**settings).rows)]


def test_every_claim_can_hold():
    found = study().result(made())
    assert [one.verdict for one in found.findings] == ["holds"] * 6
    assert found.verdict == "holds"
    assert "`grad_cam` always answer with nearly the same map. `h" in found.summary
    assert found.summary.endswith("`hierarchical_masks` are reliable.")


def test_every_claim_can_fail():
    changed = {}
    for row in ASKED:
        for query in QUERIES:
            changed[row, f"{DISTURBED}/response_ratio_{query}"] = 0.4
        changed[row, "class ranks/norm[last]"] = 0.3
        changed[row, f"{DISTURBED}/accuracy_c0"] = 0.3
        for query in ("rank2", "last"):
            changed[row, f"class ranks/response[{query}]"] = 0.4
            changed[row, f"class ranks/margin_rel[{query}]"] = 0.3
    changed["fused", "smoothness/total_variation"] = 80.0
    changed["fused", "energy_inside/energy"] = 0.3
    for query in ("c0", "rank2", "last"):
        for kind in ("excess", "fall"):
            changed[ABLATION, f"gate noise/{kind}[{query}]"] = 0.01
    assert verdicts(made(changed)) == ["does not hold here"] * 6


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        (0, {("grad_cam", f"{DISTURBED}/response_ratio_c3"): 0.1}),
        (0, {("grad_cam", f"{DISTURBED}/spearman_c1"): 0.1}),
        (1, {("hierarchical_masks", f"{PRESENT}/hit"): 0.45}),
        (1, {("hierarchical_masks", f"{DISTURBED}/flr_abs_c2"): 0.2}),
        (1, {("hierarchical_masks", f"{DISTURBED}/accuracy_c0"): 0.45}),
        (1, {("hierarchical_masks", f"{DISTURBED}/response_ratio_c1"): 0.3}),
        (1, {("hierarchical_masks", "class ranks/margin_rel[last]"): 0.3}),
        (2, {("hierarchical_class", "class ranks/response[last]"): 0.95}),
        (3, {("gradient", "class ranks/norm[last]"): 0.3}),
        (4, {("layer_2", "smoothness/total_variation"): 3.0}),
        (4, {("gradient_as_smooth_as_fused", "energy_inside/energy"): 0.9}),
        (5, {(ABLATION, "gate noise/excess[last]"): 0.03}),
        (5, {("hierarchical_class", "gate noise/fall[c0]"): 6.0}),
    ],
)
def test_a_claim_holds_in_part_where_one_thing_is_missing(claim, changed):
    expected = ["holds"] * 6
    expected[claim] = "holds in part"
    assert verdicts(made(changed)) == expected


def test_with_wide_intervals_nothing_holds():
    assert "holds" not in verdicts(made(spread=100.0))


def test_without_objects_nothing_is_known_of_blur():
    nothing = {(row, "energy_inside/energy"): torch.nan for row in ("fused", "gradient_as_smooth_as_fused")}
    assert verdicts(made(nothing))[4] == "holds in part"


def test_every_comparison_is_counted_once():
    found = study().result(made())
    # Per mask 4 against the ablation and 2 against the strongest; smoothness 1 + 2 + 2; noise 2 x 2 x 3.
    assert found.sections[-1].text.startswith("29 paired differences")


@pytest.mark.parametrize(
    "lacking",
    [
        ("grad_cam", f"{DISTURBED}/spearman_c2"),
        ("hierarchical_masks", f"{PRESENT}/hit"),
        ("hierarchical_class", "class ranks/response[rank2]"),
        ("gradient_of_probability", "class ranks/norm[last]"),
        ("fused", "saliency_fidelity[black]/value"),
        (ABLATION, "gate noise/fall[rank2]"),
    ],
)
def test_a_missing_score_is_named(lacking):
    with pytest.raises(ConfigError, match="the study reads") as raised:
        study().result(made(lacking=[lacking]))
    assert lacking[0] in str(raised.value)


def test_it_needs_something_to_compare():
    with pytest.raises(ConfigError, match="compares masks with earlier methods"):
        study(masks=())


def test_the_page_is_the_same_each_time_and_shows_the_maps():
    maps = {
        f"{method}, {query}": torch.full((8, 8), 0.5 * index)
        for method in ("gradient", "grad_cam")
        for index, query in enumerate(("last", "rank 2", "c0"))
    }
    found = replace(made(), panels=(SaliencyPanel("a", torch.zeros(3, 8, 8), maps, "one"),))
    first, again = (study().result(found) for _ in range(2))
    assert page_text(first, "x") == page_text(again, "x")
    names = [figure.name for section in first.sections for figure in section.figures]
    assert names == ["response", "maps_by_rank", "vanishing", "smoothness"]
    assert all(figure.pixels.shape[1] <= 900 for section in first.sections for figure in section.figures)
    assert "maps_by_rank" not in page_text(study().result(made()), "x")


def test_undefined_scores_are_said_not_to_be():
    found = made()
    nothing = Score(torch.nan, torch.nan, torch.nan, n=0, undefined=4)
    scores = {**found.scores, f"val/hierarchical_masks/{DISTURBED}/spearman_c1": nothing}
    assert "| n/a |" in page_text(study().result(replace(found, scores=scores)), "x")


def tiny(folder, page):
    """The shipped configuration with three scenes, few methods and few steps."""
    content = yaml.safe_load(SHIPPED.read_text())
    content["data"]["init_args"] |= {"val_count": 3, "batch_size": 1}
    content["wandb"] = {"mode": "disabled"}
    content["trainer"]["accelerator"] = "cpu"
    quick = {"steps": 3, "learning_rate": 0.4}
    few = {"held_out_images": 2, "several_images": 1}
    kept = {*ASKED, "fused", "gradient_as_smooth_as_fused", "layer_1", "layer_2"}
    for callback in content["trainer"]["callbacks"]:
        settings = callback["init_args"]
        settings |= {name: value for name, value in few.items() if name in settings}
        if "methods" in settings:
            settings["resamples"] = 20
        if "drawn" in settings:
            settings["drawn"] = ["gradient", "hierarchical_masks"]
        methods = {name: one for name, one in settings.get("methods", {}).items() if name in kept}
        for method in methods.values():
            bases = [method, *(method.get("init_args", {}).get(name, {}) for name in ("base", "like"))]
            for one in bases:
                if one.get("class_path") == "HierarchicalMasks":
                    one["init_args"] = {**one.get("init_args", {}), **quick}
        if methods:
            settings["methods"] = methods
    of_study = content["trainer"]["callbacks"][-1]["init_args"]
    of_study["page"] = str(page)
    of_study["study"]["init_args"]["rows"] = {
        "earlier": list(EARLIER),
        "masks": list(MASKS),
        "layers": ["layer_1", "layer_2"],
        "fused": {"fused": "gradient_as_smooth_as_fused"},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_the_command_writes_its_page_and_goes_on_to_the_same_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "pages" / "answers.md"
    assert main(["validate", "--config", tiny(tmp_path, page), "--run_dir", "run"]) == 0
    text = page.read_text()
    assert (tmp_path / "run" / "study.md").read_text() == text.replace("(answers/", "(study/")
    pictures = {path.name: path.read_bytes() for path in (tmp_path / "pages" / "answers").iterdir()}
    assert set(pictures) == {"response.png", "maps_by_rank.png", "vanishing.png", "smoothness.png"}
    # What a run that was killed leaves behind: some of the rows.
    rows = sorted((tmp_path / "run" / "rows").rglob("*.safetensors"))
    for path in rows[::2]:
        path.unlink()
    page.unlink()
    shutil.rmtree(tmp_path / "pages" / "answers")
    assert main(["validate", "--config", tiny(tmp_path, page), "--run_dir", "run"]) == 0
    assert page.read_text() == text
    assert {path.name: path.read_bytes() for path in (tmp_path / "pages" / "answers").iterdir()} == pictures
