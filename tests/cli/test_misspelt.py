"""A misspelt name at any depth, on the command line and in a config, gets the near one and the right list."""

import pytest

from verisal.cli import main

DETECTOR = ["fit", "--config", "detector", "--print_config"]
MASKS = "--model.init_args.detectors.masks"
IN_COMMANDS = {
    "frame": (
        "--data.init_arg.x=3",
        "data: DetectorData has no setting 'init_arg'; did you mean 'init_args'?",
    ),
    "data": (
        "--data.fit_cuont=3",
        "data: DetectorData has no setting 'fit_cuont'; did you mean 'fit_count'?",
    ),
    "trainer": ("--trainer.max_epoch=3", "did you mean 'trainer.max_epochs'? Known in trainer: accelerator,"),
    "wandb": (
        "--wandb.mod=offline",
        "did you mean 'wandb.mode'? Known in wandb: charts, checkpoint, features",
    ),
    "top": ("--run_dri=x", "there is no setting 'run_dri'; did you mean 'run_dir'? Known: ckpt_path, config"),
    "row": (
        f"{MASKS}.init_args.raeds=3",
        "model.detectors: CNNDetector has no setting 'raeds'; did you mean",
    ),
    "frame of a row": (
        f"{MASKS}.init_arg.reads=[a]",
        "model.detectors: CNNDetector has no setting 'init_arg'; did you mean 'init_args'? Known: source,",
    ),
    "deep": (
        f"{MASKS}.init_args.source.init_args.saliency.init_args.stps=3",
        "model.detectors.source.saliency: LearnedMask has no setting 'stps'; did you mean 'steps'?",
    ),
    "class": (
        "--data.attacks.fgsm_4=FGMS",
        "data.attacks: there is no class named 'FGMS'; did you mean 'FGSM'?",
    ),
    "no class": ("--trainer.accelerator.foo=3", "trainer.accelerator has no setting 'foo'"),
    "no option": ("extra", "'extra' stands where an option is expected"),
    "type": ("--data.fit_count=many", "data.fit_count: Expected a int. Got value: many"),
}
IN_CONFIGS = {
    "top": ("modle: {a: 3}", "there is no setting 'modle'; did you mean 'model'? Known: ckpt_path, config"),
    "empty": ("modle: {}", "there is no setting 'modle'; did you mean 'model'?"),
    "trainer": ("trainer: {max_epoch: 3}", "did you mean 'trainer.max_epochs'?"),
    "wandb": ("wandb: {mod: offline}", "did you mean 'wandb.mode'?"),
    "frame": ("data: {init_arg: {fit_count: 3}}", "data: a class has no 'init_arg' beside it; did you mean"),
    "frame of a callback": (
        "trainer: {callbacks: [{class_path: FitAlarm, init_arg: {attacks: {}}}]}",
        "trainer.callbacks: a class has no 'init_arg' beside it; did you mean 'init_args'?",
    ),
    "class of a callback": (
        "trainer: {callbacks: [{class_pth: FitAlarm}]}",
        "trainer.callbacks: a class has no 'class_pth' beside it; did you mean 'class_path'?",
    ),
    "nested class": (
        "trainer: {callbacks: [{class_path: SaliencyMetrics, init_args: {metrics: [], methods: {a:"
        " {class_path: SmoothGrad, init_args: {base: {class_path: Gradint}}}}}}]}",
        "trainer.callbacks.methods.base: there is no class named 'Gradint'; did you mean 'Gradient'?",
    ),
}
IN_EXPLAIN = {
    "option": ("--qeury=3", "there is no setting 'qeury'; did you mean 'query'?"),
    "class": ("--saliency=GradCM", "saliency: there is no class named 'GradCM'; did you mean 'GradCAM'?"),
    "before the class": (
        "--saliency.init_arg.steps=3",
        "saliency: EvidenceMasks has no setting 'init_arg'; did you mean 'init_args'?",
    ),
    "setting": (
        "--saliency=SmoothGrad --saliency.bsae.x=3",
        "SmoothGrad has no setting 'bsae'; did you mean",
    ),
    "none": ("--saliency=SmoothGrad --saliency.base.stps=3", "Gradient has no setting 'stps'. It has none"),
    "classifier": ("--classifier=emoji_scenes_46", "'emoji_scenes_46'; did you mean 'emoji_scenes_64'?"),
}


def refused(words, capsys):
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith("verisal: error: ")
    assert len(told.splitlines()) == 1
    return told


@pytest.mark.parametrize("case", IN_COMMANDS)
def test_in_a_command(case, capsys):
    word, told = IN_COMMANDS[case]
    assert told in refused([*DETECTOR, word], capsys)


@pytest.mark.parametrize("case", IN_CONFIGS)
def test_in_a_config(case, capsys, tmp_path):
    text, told = IN_CONFIGS[case]
    (tmp_path / "mine.yaml").write_text(text)
    assert told in refused([*DETECTOR, f"--config={tmp_path}/mine.yaml"], capsys)


@pytest.mark.parametrize("case", IN_EXPLAIN)
def test_in_explain(case, capsys, tmp_path):
    words, told = IN_EXPLAIN[case]
    (tmp_path / "a.png").write_bytes(b"")
    assert told in refused(["explain", f"{tmp_path}/a.png", *words.split()], capsys)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            "model: {init_args: {max_shift: 0}}\ndata: {class_path: ImageData}\n",
            [
                "model needs class_path",
                "DetectorTask",
                "model: {class_path: ClassifierTask, init_args: {max_shift:",
            ],
        ),
        (
            "model: {class_path: ClassifierTask}\ndata: {image_size: 8}\n",
            [
                "data needs class_path",
                "DetectorData",
                "data: {class_path: ImageData, init_args: {image_size: ...}}",
            ],
        ),
        (
            "data: {class_path: ImageData}\n",
            ["model needs class_path", "model: {class_path: ClassifierTask}"],
        ),
        (
            "model: {class_path: ClassifierTask}\ndata: {class_path: ImageData}\n"
            "trainer: {callbacks: [{init_args: {false_alarms: 0.1}}]}\n",
            [
                "trainer.callbacks needs class_path",
                "[{class_path: FitAlarm, init_args: {false_alarms: ...}}]",
            ],
        ),
    ],
    ids=["model", "data", "no model", "callback"],
)
def test_a_class_that_nobody_named_is_asked_for_with_an_example(tmp_path, capsys, config, words):
    (tmp_path / "c.yaml").write_text(config)
    assert main(["fit", "--config", str(tmp_path / "c.yaml")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(word in said for word in words)
