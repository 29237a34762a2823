"""The study of input perturbations: every verdict from hand-made evaluations, and a tiny run of it."""

from pathlib import Path

import pytest
import yaml

from helpers.perturbation_toys import BASELINES, GENERATORS, RANKED, evaluation
from verisal.cli import main
from verisal.errors import ConfigError
from verisal.saliency import RISE
from verisal_studies import InputPerturbations, page_text
from verisal_studies.perturbation_claims import (
    Rankings,
    axes,
    diagonals,
    hyperparameters,
    maps_by_baseline,
    maps_of_neutral,
    metric_values,
    own_baseline,
)
from verisal_studies.scores import RemovalScores

pytestmark = pytest.mark.slow

SHIPPED = Path(__file__).parents[2] / "configs" / "study" / "input_perturbations.yaml"
MAPS, VALUES, SETTINGS, RANKINGS, ORDERS, OWN = range(6)


def finding(place, **knobs):
    """One claim, judged alone."""
    scores = RemovalScores(evaluation(**knobs))
    judge = {
        MAPS: lambda: maps_of_neutral(maps_by_baseline(scores)),
        VALUES: lambda: metric_values(scores),
        SETTINGS: lambda: hyperparameters(axes(scores)),
        RANKINGS: lambda: Rankings(scores).change(),
        ORDERS: lambda: Rankings(scores).orders_differ(),
        OWN: lambda: own_baseline(diagonals(scores)),
    }
    return judge[place]()


def low_for(*groups):
    """Similarities of some groups far below any floor, those of others above."""
    return lambda group: 0.3 if group in groups else 0.95


@pytest.mark.parametrize(
    ("groups", "verdict"),
    [
        ([f"{one} baselines" for one in GENERATORS], "holds"),
        (["occlusion baselines"], "holds in part"),
        ([], "does not hold here"),
    ],
)
def test_maps_of_neutral_baselines(groups, verdict):
    found = finding(MAPS, similarity=low_for(*groups))
    assert found.verdict == verdict
    assert ("occlusion 0.300" in found.evidence) == ("occlusion baselines" in groups)


def test_a_stated_floor_needs_maps_that_differ_visibly():
    # 0.95 lies below the 1 of a method without random numbers, and below no floor of RISE.
    assert finding(SETTINGS, similarity=lambda group: 0.95).verdict == "does not hold here"
    assert finding(SETTINGS, similarity=lambda group: 0.85).verdict == "holds in part"


@pytest.mark.parametrize(
    ("groups", "verdict"),
    [
        (["rise cells", "occlusion window"], "holds"),
        (["rise cells"], "holds in part"),
        ([], "does not hold here"),
    ],
)
def test_maps_along_hyperparameters(groups, verdict):
    found = finding(SETTINGS, similarity=low_for(*groups))
    assert found.verdict == verdict
    assert found.evidence.startswith(f"{len(groups)} of 2 diverge")


def by_baseline(step, methods=RANKED):
    """Areas that change with the baseline for some methods, by a multiple of ``step``."""
    return lambda method, kind, baseline: (
        0.5 + (step * BASELINES.index(baseline) if method in methods and baseline != "grey" else 0.0)
    )


@pytest.mark.parametrize(
    ("area", "verdict", "words"),
    [
        (by_baseline(0.02), "holds", "24 of 24 differences (100%)"),
        (by_baseline(0.02, "a"), "holds in part", "6 of 24 differences (25%)"),
        (by_baseline(0.0), "does not hold here", "0 of 24 differences (0%)"),
    ],
)
def test_areas_under_neutral_baselines(area, verdict, words):
    # Four methods, two curves, three pairs of dataset_mean, black and shuffle: grey is dataset_mean.
    found = finding(VALUES, area=area)
    assert found.verdict == verdict
    assert found.evidence.startswith(words)


def ranked(turned):
    """A gap of 0.1 between methods; the order is turned where ``turned`` says so, and more is better."""

    def area(method, kind, baseline):
        if method not in RANKED:
            return 0.5
        place = RANKED.index(method)
        better = (3 - place) if turned(kind, baseline) else place
        return 0.5 + 0.1 * better * (1 if kind == "insertion" else -1)

    return area


def road(turned):
    def value(method, order):
        place = RANKED.index(method)
        better = (3 - place) if turned else place
        return 0.5 + 0.1 * better * (1 if order == "lerf" else -1)

    return value


@pytest.mark.parametrize(
    ("turned", "verdict"),
    [
        (lambda kind, baseline: baseline in ("black", "shuffle", "blur5"), "holds"),
        (lambda kind, baseline: (kind, baseline) == ("deletion", "black"), "holds in part"),
        (lambda kind, baseline: False, "does not hold here"),
    ],
)
def test_rankings_between_settings(turned, verdict):
    found = finding(RANKINGS, area=ranked(turned), road=road(False))
    # Five distinct baselines by two curves, and ROAD by two orders: 66 pairs of 12 settings.
    settings = [(kind, name) for kind in ("insertion", "deletion") for name in BASELINES if name != "grey"]
    other = sum(turned(*one) for one in settings)
    assert found.verdict == verdict
    assert found.evidence.startswith(f"{other * (12 - other)} of 66 pairs")


@pytest.mark.parametrize(
    ("baselines", "turned", "verdict"),
    [
        (BASELINES, True, "holds"),
        (("black",), False, "holds in part"),
        ((), False, "does not hold here"),
    ],
)
def test_removal_orders(baselines, turned, verdict):
    area = ranked(lambda kind, baseline: kind == "deletion" and baseline in baselines)

    def by_order(method, order):
        return road(turned and order == "morf")(method, order)

    found = finding(ORDERS, area=area, road=by_order)
    assert found.verdict == verdict
    distinct = {name for name in baselines if name != "grey"}
    assert found.evidence.startswith(f"{len(distinct) + turned} of 6; ")


def own(bonus):
    """Maps of the generators that ``bonus`` gives something where map and curve share a baseline."""

    def area(method, kind, baseline):
        generator, _, made = method.partition("_")
        more = bonus(generator) if made == baseline else 0.0
        return 0.5 + more * (1 if kind == "insertion" else -1)

    return area


@pytest.mark.parametrize(
    ("bonus", "verdict"),
    [
        (lambda generator: 0.1, "holds"),
        (lambda generator: 0.1 * (generator == "rise"), "holds in part"),
        (lambda generator: -0.1, "does not hold here"),
    ],
)
def test_maps_judged_with_their_own_baseline(bonus, verdict):
    found = finding(OWN, area=own(bonus))
    assert found.verdict == verdict
    if verdict == "holds":
        assert "rise, insertion 0.100 [too few], best with its own in 5 of 5" in found.evidence


def test_the_page_says_which_baselines_are_neutral_and_which_are_equal():
    text = page_text(InputPerturbations(commands=[]).result(evaluation()), "pictures")
    assert "| neutral, without duplicates | `dataset_mean`, `black`, `shuffle` |" in text
    assert "equals `dataset_mean` here |" in next(
        line for line in text.splitlines() if line.startswith("| `grey`")
    )
    assert next(line for line in text.splitlines() if line.startswith("| `linear`")).endswith("| n/a |")
    for picture in ("maps", "axes", "rankings", "own_baseline_insertion", "own_baseline_deletion"):
        assert f"](pictures/{picture}.png)" in text
    assert "Not judged here: ['image_mean', 'gauss'] were not measured." in text


def test_missing_scores_are_named():
    with pytest.raises(ConfigError, match=r"reads 'deletion\[shuffle\]_steps4/auc' of 'a'"):
        InputPerturbations(commands=[]).result(evaluation(left_out=("deletion[shuffle]_steps4/auc",)))
    nothing = evaluation()
    nothing.samples["score"] = [f"other {score}" for score in nothing.samples["score"]]
    with pytest.raises(ConfigError, match="add the callback BaselineNeutrality"):
        InputPerturbations(commands=[]).result(nothing)


def tiny(folder):
    """The shipped file with three baselines, quick generators, four methods, two scenes and short curves."""
    content = yaml.safe_load(SHIPPED.read_text())
    content["data"]["init_args"] |= {"val_count": 2, "batch_size": 1}
    content["wandb"] = {"mode": "disabled"}
    content["trainer"]["accelerator"] = "cpu"
    quick = {
        "RISE": {"masks": 4},
        "Occlusion": {"window": 32, "stride": 32},
        "ExtremalPerturbation": {"steps": 1},
    }
    kept = [
        f"{generator}_{name}" for generator in GENERATORS for name in ("dataset_mean", "black", "shuffle")
    ]
    kept += [
        "rise_dataset_mean_again",
        "rise_4_cells",
        "gradient",
        "input_x_gradient",
        "grad_cam",
        "occlusion",
    ]
    for callback in content["trainer"]["callbacks"]:
        settings = callback["init_args"]
        settings |= {key: value for key, value in {"steps": 2, "max_images": 2}.items() if key in settings}
        if "baselines" in settings:
            settings["baselines"] = [
                {"class_path": "DatasetMean"}, {"class_path": "Constant"}, {"class_path": "Shuffle"}
            ]  # fmt: skip
        if "methods" in settings:
            methods = {name: one for name, one in settings["methods"].items() if name in kept}
            settings["methods"] = {
                name: {
                    "class_path": one["class_path"],
                    "init_args": one.get("init_args", {}) | quick.get(one["class_path"], {}),
                }
                for name, one in methods.items()
            }
        if "groups" in settings:
            settings["groups"] = {
                name: [one for one in members if one in kept] for name, members in settings["groups"].items()
            }
            settings["groups"] = {
                name: members for name, members in settings["groups"].items() if len(members) > 1
            }
            settings["repeats"] = {
                name: [["rise_dataset_mean", "rise_dataset_mean_again"]]
                for name in settings["groups"]
                if name.startswith("rise")
            }
        if "study" in settings:
            settings["page"] = "page.md"
        elif callback["class_path"] != "SaliencyPanels":
            settings["resamples"] = 20
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))


def test_a_run_writes_the_page_and_one_that_was_stopped_writes_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny(tmp_path)
    assert main(["validate", "--config", "tiny.yaml", "--run_dir", "run"]) == 0
    page = Path("page.md").read_text()
    assert page == Path("run/study.md").read_text().replace("](study/", "](page/")
    assert "| baselines | `dataset_mean`, `black`, `shuffle` |" in page
    assert "| hyperparameters | rise cells |" in page
    pictures = {path.name: path.read_bytes() for path in Path("page").iterdir()}
    assert pictures.keys() >= {"axes.png", "maps.png", "rankings.png"}
    # As after a kill: the rows of one batch are there, those of the other are not.
    files = sorted(Path("run/rows").rglob("*.safetensors"))
    for path in files[::2]:
        path.unlink()
    assert main(["validate", "--config", "tiny.yaml", "--run_dir", "run"]) == 0
    assert Path("page.md").read_text() == page
    assert {path.name: path.read_bytes() for path in Path("page").iterdir()} == pictures
    assert sorted(Path("run/rows").rglob("*.safetensors")) == files


def test_the_shipped_configuration_has_all_that_the_study_reads():
    content = yaml.safe_load(SHIPPED.read_text())
    callbacks = content["trainer"]["callbacks"]
    names = [callback["class_path"] for callback in callbacks]
    assert names == [
        "BaselineNeutrality",
        *["PerturbationCurves"] * 3,
        "MapAgreement",
        "PerturbationCurves",
        "SaliencyMetrics",
        "SaliencyPanels",
        "StudyPage",
    ]
    agreement = next(one for one in callbacks if one["class_path"] == "MapAgreement")["init_args"]
    assert {f"{one} baselines" for one in GENERATORS} <= agreement["groups"].keys()
    random = {name for name in agreement["groups"] if name.startswith("rise")}
    assert agreement["repeats"].keys() == random
    for name, pairs in agreement["repeats"].items():
        for one, other in pairs:
            settings = [dict(agreement["methods"][key]["init_args"]) for key in (one, other)]
            seeds = [part.pop("seed", RISE().seed) for part in settings]
            assert seeds[0] != seeds[1]
            assert settings[0] == settings[1], name
    maps = [agreement["methods"][one]["init_args"] for one in agreement["groups"]["rise baselines"]]
    assert len({part.get("seed", RISE().seed) for part in maps}) == len(maps)
