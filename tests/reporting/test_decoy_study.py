"""The tables of the studies of decoys, from samples whose answers are known by hand."""

import csv
import importlib
from pathlib import Path

import pytest
import torch
import yaml

from verisal.types import Score

ROOT = Path(__file__).parents[2]
BASES = ("gradient", "smooth_grad", "integrated_gradients")
SUFFIXES = ("", "_range_decoy", "_mean_decoy", "_range_constant", "_range_noise")
SCORES = (
    "saliency_fidelity[black]/value",
    "insertion[dataset_mean]_steps16/auc",
    "deletion[dataset_mean]_steps16/auc",
    "attacked_sensitivity[top_k,gradient,8/255,20]/sensitivity",
    "attacked_sensitivity[mass_centre,gradient,8/255,20]/sensitivity",
    "attacked_sensitivity[target,gradient,8/255,20]/sensitivity",
)
REST = "<!-- end of study -->\n\n<!-- robustness -->\n<!-- end of robustness -->\nend\n"
PAGE = f"# Page\n\n<!-- study -->\nearlier\n{REST}"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("decoy_study")


def write(folder, value_of, rows):
    folder.mkdir()
    with (folder / "samples.val.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "row", "score", "value"])
        writer.writerows(
            [f"image/{image}", row, score, value_of(row, score) + image % 2 * 0.1]
            for row in rows
            for score in SCORES
            for image in range(8)
        )
    return folder


@pytest.fixture
def run(tmp_path):
    """Decoys are no better in insertion for one base, equal noise, and are better everywhere else."""

    def value_of(row, score):
        ours = row.endswith(("_range_decoy", "_range_noise"))
        if "insertion" in score:
            return 0.5 + 0.3 * (ours and not row.startswith("smooth_grad"))
        return 1.0 if ours else 3.0 - 1.5 * ("target" in score)

    return write(tmp_path / "run", value_of, [base + suffix for base in BASES for suffix in SUFFIXES])


def row_of(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [part.strip() for part in line.split("|")[1:-1]]


def test_the_answer_counts_base_methods_and_needs_all_of_them(script, run):
    text = "\n".join(script.study(script.Samples(run / "samples.val.csv")))
    plain = row_of(text, "plain base method")[1:]
    assert plain == ["3 better", "2 better, 1 open", *["3 better"] * 4, "no"]
    assert row_of(text, "range over noise")[1:] == [*["3 open"] * 6, "no"]
    assert "for all: **holds** (3 of 3)" in text
    # 1.05 / 3.05 and 1.05 / 1.55: top_k and mass_centre are halved, target is not.
    assert "intervals apart: **does not hold** (6 of 9)" in text
    ratios = [line for line in text.splitlines() if line.startswith("| `gradient` |") and "halved" in line]
    assert [part.split()[0] for part in ratios[0].split("|")[2:5]] == ["0.344", "0.344", "0.677"]
    assert ratios[0].count("halved") == 2


@pytest.mark.parametrize(
    ("low", "high", "better", "word"),
    [
        (0.1, 0.2, "low", "worse"),
        (0.1, 0.2, "high", "better"),
        (-0.2, -0.1, "low", "better"),
        (-0.2, -0.1, "high", "worse"),
        (-0.1, 0.1, "low", "open"),
        (0.0, 0.0, "low", "open"),
        (float("nan"), float("nan"), "low", "open"),
    ],
)
def test_an_interval_says_better_worse_or_nothing(script, low, high, better, word):
    assert script.verdict(Score(0.1, low, high, n=3), better) == word


def test_a_ratio_is_one_of_means_over_the_same_images(script):
    found = script.ratio(torch.tensor([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]).double())
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_images_undefined_for_one_of_two_methods_are_left_out(script, tmp_path):
    path = tmp_path / "samples.val.csv"
    lines = [
        "image_id,row,score,value",
        *(f"{i},a,{SCORES[0]},{v}" for i, v in (("x", 1), ("y", "nan"), ("z", 3))),
    ]
    lines += [f"{i},b,{SCORES[0]},{v}" for i, v in (("z", 5), ("y", 2), ("x", 4))]
    path.write_text("\n".join(lines) + "\n")
    pair = script.Samples(path).pair("a", "b", script._MEASURES[0])
    assert pair.tolist() == [[1.0, 3.0], [4.0, 5.0]]


def test_text_between_markers_is_replaced_and_everything_else_kept(script, run, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    script.main(["--study", str(run), "--page", str(page)])
    first = page.read_text()
    assert "earlier" not in first
    assert first.startswith("# Page\n\n<!-- study -->\n\nRanges over decoys beside each control, 8 images")
    assert first.endswith(f"\n\n{REST}")
    script.main(["--study", str(run), "--page", str(page)])
    assert page.read_text() == first


def test_robustness_has_a_row_per_method_and_direction(script, tmp_path):
    path = tmp_path / "samples.val.csv"
    names = [
        f"attacked_sensitivity[{kind},{direction},8/255,20,judge_every=20]"
        for kind in ("top_k", "mass_centre", "target")
        for direction in ("gradient", "smooth_grad4")
    ]
    lines = [
        [image, "a", f"{name}/{score}", value]
        for name in names
        for score, value in (("sensitivity", 2), ("control_sensitivity", 0.5))
        for image in "xy"
    ]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["image_id", "row", "score", "value"], *lines])
    text = "\n".join(script.robustness(script.Samples(path)))
    cells = " | ".join(["2.00 [2.00, 2.00] (0.50)"] * 3)
    assert f"| `a` | gradient | {cells} |\n| `a` | smooth_grad4 | {cells} |" in text


def test_a_run_of_another_config_is_refused(script, tmp_path):
    folder = write(tmp_path / "run", lambda *_: 1.0, ["gradient"])
    with pytest.raises(SystemExit, match="gradient_range_decoy must have one fidelity"):
        list(script.study(script.Samples(folder / "samples.val.csv")))


def test_a_page_without_markers_is_refused(script):
    with pytest.raises(SystemExit, match="<!-- cost -->"):
        script.filled("# Page\n", "cost", "text")


def test_the_study_holds_every_base_perturbation_and_aggregation():
    content = yaml.safe_load((ROOT / "configs" / "study" / "decoys.yaml").read_text())
    curves = next(one for one in content["trainer"]["callbacks"] if one["class_path"] == "PerturbationCurves")
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
