"""The study of patches on planted scores, and its command on two scenes."""

from pathlib import Path

import pytest
import torch
import yaml

from verisal.cli import main
from verisal.errors import ConfigError
from verisal.results import Evaluation
from verisal_studies import PatchLocalisation

ROOT = Path(__file__).parents[2]
SCORES = ("energy", "pointing", "box", "healed")
IMAGES = [f"image {number}" for number in range(40)]


def planted(rows, *, patches=120, untargeted=None):
    """Scores per image around the means that are planted, for one attack and all, or for both goals."""
    samples = {"image_id": [], "row": [], "score": [], "value": []}

    def plant(row, score, mean):
        noise = 0.02 * torch.randn(len(IMAGES), generator=torch.Generator().manual_seed(len(row + score)))
        for image, value in zip(IMAGES, (mean + noise - noise.mean()).tolist(), strict=True):
            for key, entry in zip(samples, (image, row, score, value), strict=True):
                samples[key].append(entry)

    for row, means in rows.items():
        for score, mean in means.items():
            plant(row, f"patches/{score}", mean)
            plant(row, f"patches[one]/{score}", mean)
            if untargeted:
                plant(row, f"patches_targeted/{score}", mean)
                plant(row, f"patches_untargeted/{score}", untargeted[row][score])
    plant("attack_one", "patches/fooled", 0.8)
    counts = {"patches that fool": patches}
    counts |= {f"{goal} patches that fool": patches for goal in ("targeted", "untargeted") if untargeted}
    return Evaluation("val", {}, samples=samples, counts=counts)


def rows(ours=(0.8, 0.97, 0.95, 0.7), other=(0.3, 0.6, 0.5, 0.3)):
    return {
        "evidence_masks": dict(zip(SCORES, ours, strict=True)),
        "grad_cam": dict(zip(SCORES, other, strict=True)),
        "true_place": {"healed": 0.8},
        "random_place": {"healed": 0.1},
    }


def verdicts(evaluation, **settings):
    result = PatchLocalisation(commands=["verisal validate"], **settings).result(evaluation)
    return [finding.verdict for finding in result.findings], result


def test_all_claims_hold_where_all_limits_are_reached_and_all_others_are_behind():
    found, result = verdicts(planted(rows()))
    assert found == ["holds"] * 5
    assert result.setting["patches"] == "120 that fool, in 8 bits"
    assert result.summary == (
        "Patches: `evidence_masks` have energy 0.80, pointing 0.97, box 0.95, healed 0.70;"
        " `grad_cam`, the best other map by energy, energy 0.30, pointing 0.60, box 0.50, healed 0.30."
        " To fill the patch itself heals 0.80."
    )
    text = result.sections[0].text
    assert "| `evidence_masks` | 0.800 [" in text
    assert "| `one` (0.80) | `grad_cam` | 0.300 [" in result.sections[1].text
    assert [figure.name for figure in result.sections[0].figures] == ["patches"]


def test_limits_that_are_missed_and_methods_that_are_ahead():
    found, result = verdicts(planted(rows(ours=(0.75, 0.9, 0.8, 0.1), other=(0.3, 0.97, 0.8, 0.5))))
    # One of three limits; ahead in energy alone; no healing.
    assert found[:3] == ["holds in part", "holds", "does not hold here"]
    assert found[3:] == ["does not hold here", "does not hold here"]
    assert "the best other one is `grad_cam` with 0.970" in result.findings[2].evidence


def test_few_patches_say_nothing_about_limits_and_parts_are_not_compared():
    found, _ = verdicts(planted(rows(), patches=99))
    assert found[0] == "cannot be said"
    found, result = verdicts(planted(rows()), parts=["grad_cam"])
    assert found[1:4] == ["cannot be said"] * 3
    assert "ahead of 0 of 0" in result.findings[1].evidence


def test_patches_with_a_goal_and_without_are_judged_apart():
    poor = rows(ours=(0.3, 0.4, 0.3, 0.05), other=(0.5, 0.6, 0.5, 0.3))
    found, result = verdicts(planted(rows(), untargeted=poor))
    assert found == ["holds"] * 5 + ["does not hold here"] * 5
    assert "targeted patches" in result.findings[0].claim
    assert "untargeted patches" in result.findings[5].claim
    text = result.sections[0].text
    assert (
        text.index("Targeted patches:") < text.index("| `evidence_masks` | 0.800") < text.index("Untargeted")
    )
    assert "| `evidence_masks` | 0.300" in text


def test_an_evaluation_without_patches_is_refused():
    with pytest.raises(ConfigError, match="add the callback PatchedImages"):
        verdicts(Evaluation("val", {}))


def config(folder):
    """The shipped study on two scenes, with one quick method and patches of a few steps."""
    content = yaml.safe_load((ROOT / "configs" / "study" / "patches.yaml").read_text())
    content["model"]["init_args"]["classifier"] = "emoji_scenes_64"
    content["data"]["init_args"] = {
        "val_count": 3,
        "val_split": "det_test",
        "image_size": 64,
        "batch_size": 2,
    }
    content["data"]["init_args"]["num_workers"] = 0
    content["wandb"] = {"mode": "offline"}
    content["trainer"]["accelerator"] = "cpu"
    patched, _ = content["trainer"]["callbacks"]
    kept = ("evidence_masks", "gradient")
    methods = patched["init_args"]["methods"]
    patched["init_args"]["methods"] = {name: methods[name] for name in kept}
    attacks = patched["init_args"]["attacks"]
    patched["init_args"]["attacks"] = {"untargeted_10": attacks["untargeted_10"]}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.slow
def test_the_command_writes_its_page_and_goes_on_to_the_same_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["validate", "--config", config(tmp_path), "--run_dir", "run"]
    assert main(command) == 0
    page = tmp_path / "docs" / "studies" / "patches.md"
    text = page.read_text()
    assert "| `evidence_masks` |" in text
    assert "| `true_place` |" in text
    for path in sorted((tmp_path / "run" / "rows").rglob("*.safetensors"))[::2]:
        path.unlink()
    assert main(command) == 0
    assert page.read_text() == text
