"""Studies of decoys, their grid and the robustness of maps: verdicts from evaluations known by hand."""

from pathlib import Path

import pytest
import yaml

from verisal.cli import main
from verisal.errors import ConfigError
from verisal.results import Evaluation, Score
from verisal_studies import DecoyGrid, DecoyStudy, MapRobustness, page_text

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
BASES = ("gradient", "smooth_grad", "integrated_gradients")
SUFFIXES = ("", "_range_decoy", "_mean_decoy", "_range_constant", "_range_noise")
KINDS = ("top_k", "mass_centre", "target")
FIDELITY = "saliency_fidelity[black]/value"
SHOWN = {"setting": {"data": "made by hand"}, "commands": ["verisal validate"]}


def attacked(kind, direction="gradient", aim=",aim=Gradient"):
    return f"attacked_sensitivity[{kind},{direction},8/255,20{aim}]/sensitivity"


AREAS = ("insertion[dataset_mean]_steps16/auc", "deletion[dataset_mean]_steps16/auc")
SCORES = (FIDELITY, *AREAS, *map(attacked, KINDS))


def evaluation(value_of, rows, names=SCORES, scores=None, images=8):
    """Values of ``value_of(row, score)``, plus 0.1 for every other image."""
    lines = [
        (f"image/{image}", row, score, value_of(row, score) + image % 2 * 0.1)
        for row in rows
        for score in names
        for image in range(images)
        if value_of(row, score) is not None
    ]
    columns = ("image_id", "row", "score", "value")
    samples = dict(zip(columns, map(list, zip(*lines, strict=True)), strict=True))
    return Evaluation("val", scores or {}, samples=samples)


ROWS = [base + suffix for base in BASES for suffix in SUFFIXES]


def decoys(value_of, rows=ROWS):
    own = attacked("top_k", aim="")

    def value(row, score):
        if score == own and not row.endswith("_range_decoy"):
            return None
        return value_of(row, score)

    return DecoyStudy(**SHOWN).result(evaluation(value, rows, (*SCORES, own)))


def verdicts(result):
    return [finding.verdict for finding in result.findings]


def row_of(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [part.strip() for part in line.split("|")[1:-1]]


def test_all_claims_hold_where_ranges_over_decoys_are_far_ahead():
    def value(row, score):
        return (2.0 if "insertion" in score else 1.0) if row.endswith("_range_decoy") else 3.0

    found = decoys(value)
    assert verdicts(found) == ["holds"] * 5
    assert found.verdict == "holds"
    assert "halved in 9 of 9" in found.findings[1].evidence


def test_a_range_that_equals_its_controls_beats_the_base_method_in_part():
    """Decoys are no better in fidelity for one base, equal noise, and halve two of three attacks."""

    def value(row, score):
        ours = row.endswith(("_range_decoy", "_range_noise"))
        if "fidelity" in score:
            return 1.0 if ours and not row.startswith("smooth_grad") else 3.0
        return 1.0 if ours else 3.0 - 1.5 * ("target" in score)

    found = decoys(value)
    assert verdicts(found) == ["holds in part", "holds in part", "holds", "holds in part", "holds in part"]
    # 1.05 / 3.05 and 1.05 / 1.55: top_k and mass_centre are halved, target is not.
    assert (
        "halved in 6 of 9, lower with disjoint intervals in 9; ratios 0.344 to 0.677"
        in found.findings[1].evidence
    )
    assert "24 comparisons: 11 better, 13 open" in found.findings[3].evidence
    assert "12 comparisons: 11 better, 1 open" in found.findings[4].evidence
    text = page_text(found, "decoys")
    assert "## Scores" in text
    assert "## Maps before and after an attack" not in text  # there is no picture of them
    assert row_of(text, "plain base method")[1] == "2 better, 1 open"
    assert row_of(text, "range over noise")[1:] == ["3 open"] * 6
    ratios = [line for line in text.splitlines() if line.startswith("| `gradient` | 0.344")]
    assert [part.split()[0] for part in ratios[0].split("|")[2:6]] == ["0.344", "0.344", "0.677", "0.344"]
    assert ratios[0].count("halved") == 3


def test_claims_do_not_hold_where_ranges_are_worse_anywhere_or_better_nowhere():
    def value(row, score):
        if row == "gradient_range_decoy" and score == FIDELITY:
            return 5.0
        return 3.0

    assert verdicts(decoys(value)) == ["does not hold here"] * 5


def test_fewer_base_methods_and_the_page_of_other_images(tmp_path):
    """The verdicts of another page stand beside these."""
    there = tmp_path / "scenes.md"
    there.write_text(page_text(decoys(lambda *_: 3.0), "scenes"))

    def value(row, score):
        if score == attacked("top_k", aim="") and not row.endswith("_range_decoy"):
            return None
        return (2.0 if "insertion" in score else 1.0) if row.endswith("_range_decoy") else 3.0

    own = attacked("top_k", aim="")
    study = DecoyStudy(title="Others", bases=["gradient"], beside=there, **SHOWN)
    found = study.result(evaluation(value, ROWS[: len(SUFFIXES)], (*SCORES, own)))
    assert verdicts(found) == ["holds"] * 5
    assert found.findings[1].evidence.startswith("halved in 3 of 3")
    assert found.title == "Others"
    text = page_text(found, "others")
    assert "here and [there](scenes.md)" in text
    shown = row_of(text.split("## What changes")[1], "The range is better than the mean over the same decoys")
    assert shown[1::2] == ["holds", "does not hold here", "changes"]
    measured = evaluation(value, ROWS[: len(SUFFIXES)], (*SCORES, own))
    there.write_text("# nothing")
    with pytest.raises(ConfigError, match="holds no table of claims and verdicts"):
        study.result(measured)
    there.unlink()
    with pytest.raises(ConfigError, match="the page of a study was expected"):
        study.result(measured)


def test_attacks_on_fewer_images_are_counted():
    def some(row, score, image=None):
        return 1.0

    lines = evaluation(some, ROWS[: len(SUFFIXES)], (*SCORES, attacked("top_k", aim="")))
    kept = [
        place
        for place, (image, score) in enumerate(
            zip(lines.samples["image_id"], lines.samples["score"], strict=True)
        )
        if "attacked" not in score or image in ("image/0", "image/1")
    ]
    columns = {key: [values[place] for place in kept] for key, values in lines.samples.items()}
    found = DecoyStudy(bases=["gradient"], **SHOWN).result(Evaluation("val", {}, samples=columns))
    assert found.setting["images"] == (
        "8, starting with `image/0`; 2 of them for attacks; 2 of them for attacks on the decoys' own maps"
    )


def test_the_study_on_photographs_is_the_one_on_scenes_in_the_small():
    metrics = [
        one["init_args"]
        for one in callbacks_of("decoys_photographs")
        if one["class_path"] == "SaliencyMetrics"
    ]
    methods = metrics[0]["methods"]
    assert sorted(methods) == sorted("gradient" + suffix for suffix in SUFFIXES)
    curves = next(one for one in callbacks_of("decoys") if one["class_path"] == "PerturbationCurves")
    scenes = curves["init_args"]["methods"]["gradient_range_decoy"]["init_args"]
    photographs = methods["gradient_range_decoy"]["init_args"]
    # Patches have the same share of the side, and features the same tolerance.
    assert photographs["patch"] / 224 == scenes["patch"] / 64
    assert photographs["epsilon"] == scenes["epsilon"]
    kinds = [one["init_args"]["attack"]["kind"] for one in metrics[1]["metrics"]]
    assert tuple(kinds) == KINDS


def test_an_evaluation_without_a_method_of_the_study_is_refused():
    with pytest.raises(ConfigError, match="one such score of 'gradient_range_decoy', found"):
        DecoyStudy(**SHOWN).result(evaluation(lambda *_: 1.0, ["gradient"]))


AXES = {"patch": ["default", "patch 6"], "tolerance": ["default", "tight", "wide"]}
GRID_ROWS = ["gradient", "default", "patch 6", "tight", "wide"]


def grid(value_of, alike):
    scores = {}
    for axis, members in AXES.items():
        one = Score(alike[axis], alike[axis] - 0.02, alike[axis] + 0.02, n=8)
        scores |= {
            f"val/{axis}/map_agreement/{name}": one
            for name in ("similarity", *(f"default ~ {row}" for row in members[1:]))
        }
        scores[f"val/{axis}/map_agreement/floor"] = Score(0.95, 0.94, 0.96, n=8)
        scores[f"val/{axis}/map_agreement/control"] = Score(0.0, -0.1, 0.1, n=8)
        scores[f"val/{axis}/map_agreement/diverges"] = Score(1.0, float("nan"), float("nan"), n=8)
    found = evaluation(value_of, GRID_ROWS, (FIDELITY, attacked("top_k")), scores=scores)
    study = DecoyGrid(AXES, default="default", strict="tight", plain="gradient", **SHOWN)
    return study.result(found)


def test_an_axis_is_insensitive_if_maps_are_alike_and_no_score_is_apart():
    def value(row, score):
        return {"gradient": 4.0, "wide": 2.0 if score == FIDELITY else 1.0}.get(row, 1.0)

    found = grid(value, {"patch": 0.9, "tolerance": 0.9})
    # Maps are alike (0.88 is above 0.95 - 0.1); one setting's fidelity is apart.
    assert verdicts(found) == ["holds", "holds in part", "holds"]
    assert "disjoint from the default's: wide (fidelity)" in found.findings[1].evidence
    found = grid(value, {"patch": 0.86, "tolerance": 0.5})
    assert verdicts(found) == ["holds in part", "does not hold here", "holds"]
    assert row_of(page_text(found, "grid"), "`wide`")[3:7] == [
        "2.05 [too few]",
        "worse",
        "1.05 [too few]",
        "open",
    ]


def test_decoys_as_meant_must_beat_the_base_method():
    alike = {"patch": 0.9, "tolerance": 0.9}
    assert verdicts(grid(lambda *_: 1.0, alike))[-1] == "does not hold here"
    in_part = grid(lambda row, score: 2.0 if row == "gradient" and score == FIDELITY else 1.0, alike)
    assert verdicts(in_part)[-1] == "holds in part"


def test_a_grid_has_the_default_on_every_axis_and_the_agreement_of_its_maps():
    with pytest.raises(ConfigError, match=r"of which \['patch'\] lack"):
        DecoyGrid({"patch": ["patch 6", "x"]}, default="default", strict="x", plain="gradient", **SHOWN)
    study = DecoyGrid(AXES, default="default", strict="tight", plain="gradient", **SHOWN)
    with pytest.raises(
        ConfigError, match=r"'val/patch/map_agreement/similarity', which the evaluation lacks"
    ):
        study.result(evaluation(lambda *_: 1.0, GRID_ROWS, (FIDELITY, attacked("top_k"))))


def robustness(value_of, rows=("gradient", "grad_cam", "centre")):
    names = []
    for kind in KINDS:
        stem = attacked(kind, aim="").removesuffix("sensitivity")
        names += [
            f"{stem}{part}" for part in ("sensitivity", "control_sensitivity", "top_k", "control_top_k")
        ]
    return MapRobustness(**SHOWN).result(evaluation(value_of, rows, names))


def test_maps_are_moved_if_every_attack_leaves_less_of_them_than_random_signs():
    found = robustness(lambda row, score: 2.0 if "control" in score else 1.0)
    assert verdicts(found) == ["holds", "holds"]
    assert found.findings[0].evidence == "below in 3 of 3, above in 0"

    def in_part(row, score):
        return 1.0 if "control" not in score and (row == "gradient" or "target" in score) else 2.0

    found = robustness(in_part)
    assert verdicts(found) == ["holds", "holds in part"]
    assert found.findings[1].evidence == "below in 1 of 3, above in 0; not below for `grad_cam`"
    text = page_text(found, "robustness")
    assert "| `grad_cam` | gradient | 2.05 [too few] (2.05) open |" in text
    found = robustness(lambda row, score: 1.0 if "control" in score else 2.0)
    assert verdicts(found) == ["does not hold here"] * 2


def test_a_smaller_change_alone_moves_no_map():
    """Random maps: nothing is left either way, but S_S divides by less under the attack."""
    found = robustness(lambda row, score: 2.0 if score.endswith("]/sensitivity") else 1.0)
    assert verdicts(found) == ["does not hold here"] * 2


def test_robustness_needs_methods_with_and_without_a_direction_of_their_own():
    with pytest.raises(ConfigError, match="with their own direction and with another one"):
        robustness(lambda *_: 1.0, rows=("gradient", "centre"))


def callbacks_of(name):
    content = yaml.safe_load((ROOT / "configs" / "study" / f"{name}.yaml").read_text())
    return content["trainer"]["callbacks"]


def test_the_study_holds_every_base_perturbation_and_aggregation():
    curves = next(one for one in callbacks_of("decoys") if one["class_path"] == "PerturbationCurves")
    wanted = [
        f"{base}_{aggregate}_{perturbation}"
        for base in BASES
        for aggregate in ("range", "mean")
        for perturbation in ("decoy", "constant", "noise")
    ]
    methods = curves["init_args"]["methods"]
    assert sorted(methods) == sorted([*BASES, *wanted])
    sizes = set()
    for name in wanted:
        settings = dict(methods[name]["init_args"])
        assert settings.pop("base") == methods[name.rsplit("_", 2)[0]]
        assert settings.pop("aggregate", "range") == name.rsplit("_", 2)[1]
        assert settings.pop("perturbation", "decoy") == name.rsplit("_", 2)[2]
        sizes.add(tuple(sorted(settings.items())))
    assert len(sizes) == 1


def test_the_grid_changes_one_setting_at_a_time_from_the_studys_own():
    metrics = next(one for one in callbacks_of("decoys_grid") if one["class_path"] == "SaliencyMetrics")
    methods = {name: dict(one.get("init_args", {})) for name, one in metrics["init_args"]["methods"].items()}
    default = methods.pop("default")
    curves = next(one for one in callbacks_of("decoys") if one["class_path"] == "PerturbationCurves")
    chosen = dict(curves["init_args"]["methods"]["gradient_range_decoy"]["init_args"])
    chosen.pop("base")
    assert default == chosen
    del methods["gradient"]
    for name, settings in methods.items():
        changed = {key for key, value in settings.items() if default.get(key) != value}
        assert changed in ({"patch", "stride"}, *({key} for key in changed)), name
        assert changed, name


def config(folder):
    """The shipped study of robustness with three quick methods, two scenes and attacks of one step."""
    content = yaml.safe_load((ROOT / "configs" / "study" / "map_robustness.yaml").read_text())
    content["data"]["init_args"] |= {"val_count": 2, "batch_size": 1}
    content["wandb"] = {"mode": "offline"}
    content["trainer"]["accelerator"] = "cpu"
    gradient, _, _, maps, page = content["trainer"]["callbacks"]
    content["trainer"]["callbacks"] = [gradient, maps, page]
    methods = {"gradient": {"class_path": "Gradient"}, "grad_cam": {"class_path": "GradCAM"}}
    gradient["init_args"]["methods"] = maps["init_args"]["methods"] = methods
    attacks = [one["init_args"]["attack"] for one in gradient["init_args"]["metrics"]]
    for attack in (*attacks, maps["init_args"]["attack"]):
        attack |= {"steps": 2, "judge_every": 2}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_a_study_stopped_and_continued_writes_the_same_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["validate", "--config", config(tmp_path), "--run_dir", "run"]
    assert main(command) == 0
    page = tmp_path / "docs" / "studies" / "map_robustness.md"
    text = page.read_text()
    assert text == (tmp_path / "run" / "study.md").read_text().replace("(study/", "(map_robustness/")
    assert "2, starting with `emoji-0-det_test-0`" in text
    pictures = list(page.with_suffix("").glob("*.png"))
    assert sorted(path.name for path in pictures) == ["attacked_maps.png", "sensitivity.png"]
    assert all(path.stat().st_size <= 100 * 1024 for path in pictures)
    # As if it had been stopped half-way: what is there stays, the rest is computed again.
    rows = sorted((tmp_path / "run" / "rows").rglob("*.safetensors"))
    for path in rows[::2]:
        path.unlink()
    page.unlink()
    kept = {path: path.stat().st_mtime_ns for path in rows[1::2]}
    assert main(command) == 0
    assert page.read_text() == text
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert all(path.exists() for path in rows)
