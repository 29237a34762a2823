"""Commands that others start: those of W&B's agent, expanded by its own code, and those of SLURM jobs."""

import re
import shlex
import shutil
import string
from pathlib import Path

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from verisal.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "configs" / "sweep").glob("*.yaml"))


def chosen(parameter, end):
    """A value that the server may send: the first or the last of a list, or the end of a range."""
    if "values" in parameter:
        return parameter["values"][end]
    return parameter[("min", "max")[end]]


def words_of(sweep, end):
    """The command as the agent starts it."""
    arguments = {name: {"value": chosen(found, end)} for name, found in sweep["parameters"].items()}
    known = {
        **create_sweep_command_args({"args": arguments}),
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [sweep["program"]],
    }
    words = []
    for word in create_sweep_command(list(sweep["command"])):
        words += known[word[2:-1]] if word.startswith("${") else [str(word)]
    return words


def value_at(config, dotted):
    for part in dotted.split("."):
        config = config[part]
    return config


@pytest.mark.parametrize("end", [0, -1], ids=["first", "last"])
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_command_of_a_sweep_sets_what_it_names(path, end, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(path.read_text())
    words = words_of(sweep, end)
    assert words[:3] == ["/usr/bin/env", "verisal", "fit"]
    assert shutil.which(words[0])
    capsys.readouterr()
    assert main([*words[2:], "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    for name, parameter in sweep["parameters"].items():
        assert value_at(config, name) == chosen(parameter, end), name
    # Without these the sweep would look at nothing, or choose by the test split.
    assert config["test_after_fit"] is False
    assert sweep["metric"]["name"].startswith("val/")
    # A value that is no chart stops no run early.
    assert sweep["metric"]["name"] in config["wandb"]["charts"]
    # A seed is repeated over, and the others are held: the best of several is luck.
    seeded = any(name.rpartition(".")[2] in ("seed", "seed_everything") for name in sweep["parameters"])
    assert not seeded or (sweep["method"], len(sweep["parameters"])) == ("grid", 1)


def test_the_metric_of_the_sweep_is_that_of_the_row_it_tunes_on_fitted_attacks():
    sweep = yaml.safe_load((ROOT / "configs/sweep/detector.yaml").read_text())
    detectors = yaml.safe_load((ROOT / "configs/detector.yaml").read_text())["model"]["init_args"][
        "detectors"
    ]
    tuned = {name.split(".")[3] for name in sweep["parameters"] if ".detectors." in name}
    (row,) = tuned
    assert detectors[row]["class_path"] == "CNNDetector"
    # What the task logs after every epoch; see tests/tasks/test_detector_task.py.
    assert (sweep["metric"]["name"], sweep["metric"]["goal"]) == (f"val/{row}/auroc/mean_seen", "maximize")


def test_the_sweep_of_the_documents_maximises_a_name_that_its_callback_lists():
    page = (ROOT / "docs" / "loggers.md").read_text()
    (sweep,) = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```$", page, re.DOTALL | re.MULTILINE))
    names = {}
    exec(re.search(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)[1], names)  # noqa: S102
    assert sweep["metric"] == {"name": names["saliency"].names("val")[0], "goal": "maximize"}
    assert words_of(sweep, 0) == ["/usr/bin/env", "python", "train.py", "--lr=0.0001"]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "scripts" / "slurm").glob("*.sbatch")), ids=lambda path: path.stem
)
def test_the_command_of_a_job_is_accepted(path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    job = {"SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4", "SLURM_JOB_NAME": "name"}
    text = path.read_text().replace("\\\n", " ")
    (line,) = [line for line in text.splitlines() if line.startswith("srun ")]
    words = [string.Template(word).substitute(job) for word in shlex.split(line)]
    capsys.readouterr()
    assert words[1] == "verisal"
    assert main([*words[2:], "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["trainer"]["num_nodes"], config["trainer"]["devices"]) == (2, "4")
    assert config["run_dir"].endswith("/name")
    # Lightning refuses --ntasks: it must know how many processes each host has.
    assert "#SBATCH --ntasks-per-node=" in text
