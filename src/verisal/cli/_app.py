"""The commands themselves, on Lightning's command line: parser, loggers, callbacks, stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import final

import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import DataLoader

# Rooms whose classes a config may name by their short names: a class is found once its module is imported.
import verisal.tasks  # noqa: F401
import verisal_studies  # noqa: F401
from verisal.attacks import Attack
from verisal.callbacks import BestCheckpoint, ImageGuard, LastCheckpoint, NumericGuard, ReportRun
from verisal.callbacks.checkpoints import CheckpointFiles, LastValidation
from verisal.callbacks.resumed_settings import ResumedSettings
from verisal.checkpoint import CardedByData, check_card, load_weights
from verisal.cli._command import Command
from verisal.cli._help import STAGES
from verisal.cli._next_commands import alarm_command, next_commands
from verisal.cli._options import check_paths
from verisal.cli._run_card import card_of, keep_at_wandb, task_name
from verisal.cli._runs import Start, open_run, process_rank, say, weights_for
from verisal.cli._settings import (
    check_numbers,
    check_seed,
    check_trainer,
    class_that_failed,
    parsed_settings,
    refused_settings,
)
from verisal.cli._stage_bar import room_for, stage_bars
from verisal.cli._threads import THREADS_HELP
from verisal.cli._trainer import (
    Beginning,
    ChecksTrainer,
    EpochLines,
    StepLoss,
    check_stage,
    check_steps,
    training_precision,
    write_predictions,
)
from verisal.data import ImageData  # noqa: F401
from verisal.detection import DetectorData  # noqa: F401
from verisal.detectors import Detector, Measurement, View
from verisal.errors import ConfigError
from verisal.functional.baselines import Baseline
from verisal.reporting import CsvSink, WandbSettings, WandbSink
from verisal.reporting.run_folder import RunFolder
from verisal.reporting.wandb_sink import wandb_logger
from verisal.results import Evaluates
from verisal.saliency import Saliency

_OF_ONE_COMMAND = frozenset({"config", "run_dir", "resume", "ckpt_path", "threads"})


@final
class VerisalCLI(LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` for any task and data module named in a config.

    Args:
        args: the arguments.
        command: filled in while the command runs.
    """

    def __init__(self, args: Sequence[str], command: Command) -> None:
        self._command = command
        self._checkpoint: Path | None = None
        self._seed: int | None = None
        # A default that is an instance of one of these keeps its class, although the class is final.
        set_parsing_settings(subclasses_enabled=[Attack, Baseline, Detector, Measurement, Saliency, View])
        # Abbreviated options would let a misspelt key pass.
        strict = {"exit_on_error": False, "allow_abbrev": False}
        super().__init__(
            LightningModule,
            LightningDataModule,
            save_config_callback=None,
            trainer_defaults={
                "accelerator": "auto",
                "deterministic": True,
                "inference_mode": False,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
            },
            seed_everything_default=0,
            parser_kwargs={
                **strict,
                "prog": "verisal",
                **{stage: dict(strict) for stage in STAGES},
            },
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=list(args),
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The commands, and the trainer arguments that are no options because they are decided here."""
        skipped = {"model", "datamodule", "ckpt_path", "weights_only", "verbose"}
        return {
            "fit": skipped | {"train_dataloaders", "val_dataloaders"},
            "validate": skipped | {"dataloaders"},
            "test": skipped | {"dataloaders"},
            "predict": skipped | {"dataloaders", "return_predictions"},
        }

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options of every command, so that one config serves all of them."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="Folder of the run. Default: a new one, runs/<task>/<time>-<id>.",
        )
        parser.add_argument(
            "--resume",
            type=str,
            default="never",
            help="fit only. never: a new run. auto: go on in --run_dir from its newest loadable checkpoint,"
            " or start. PATH: go on from that checkpoint.",
        )
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="validate, test and predict only: the checkpoint. Default: best.ckpt of the run whose config"
            " is given. none: the weights that the config builds.",
        )
        parser.add_argument(
            "--test_after_fit",
            type=bool,
            default=True,
            help="fit only: test the best checkpoint when training ends.",
        )
        parser.add_argument("--threads", type=int | None, default=None, help=THREADS_HELP)
        parser.add_class_arguments(WandbSettings, "wandb")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and turn a refusal into one sentence.

        Raises:
            ConfigError: unknown key or class, wrong type, missing file.
        """
        words = args if isinstance(args, list) else []
        for stage, inner in self._subcommand_parsers.items():
            inner.prog = f"verisal {stage}"
        self.config = parsed_settings(parser, words, self._known_keys(words))
        seed = self.config[self.config.subcommand].seed_everything
        check_seed(seed)
        # True asks for any number, which Lightning draws in a moment.
        self._seed = None if isinstance(seed, bool) else seed

    def _parse_ckpt_path(self) -> None:
        """Nothing: what is built comes from the config alone, never from settings inside a checkpoint."""

    def before_instantiate_classes(self) -> None:
        """Look at what can be wrong before anything is built.

        Raises:
            ConfigError: a task or data without the stage, trainer settings that cannot work here, or no
                weights to test.
            CheckpointError: the weights cannot be loaded.
        """
        self._command.stage = str(self.subcommand)
        settings = self._settings
        check_paths(run_dir=settings.run_dir, resume=settings.resume, ckpt_path=settings.ckpt_path)
        check_trainer(settings.trainer)
        check_numbers(settings)
        check_stage(self._command.stage, settings.model.class_path, settings.data.class_path)
        if settings.trainer.inference_mode:
            raise ConfigError(
                "trainer.inference_mode must be false: masks and attacks need gradients in every stage"
            )
        if settings.trainer.logger is not None:
            raise ConfigError(
                "trainer.logger cannot be set: a run always writes metrics.csv; wandb.mode decides the rest"
            )
        check_steps(self._command.stage, settings.trainer)
        if self._command.stage != "fit":
            configs = [Path(str(file)) for file in settings.config or ()]
            self._checkpoint = weights_for(self._command.stage, settings.ckpt_path, configs)
            if self._checkpoint is not None:
                # A link to the newest run points elsewhere once this one has its folder.
                if self._checkpoint.resolve() != self._checkpoint.absolute():
                    self._checkpoint = self._checkpoint.resolve()
                self._command.weights = str(self._checkpoint)
                load_weights(str(settings.ckpt_path or self._checkpoint))
        self._command.threads.use(settings.threads)

    def instantiate_classes(self) -> None:
        """Task, data and trainer, as the config asks for them."""
        with refused_settings(class_that_failed(self._settings)):
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: object) -> Trainer:
        """The trainer, with the run's own loggers, callbacks and checkpoint files."""
        stage, settings = self._command.stage, self._settings
        precision = training_precision(settings.trainer.precision, settings.trainer.accelerator)
        start = open_run(
            stage,
            task_name(self.model),
            run_dir=Path(settings.run_dir) if settings.run_dir else None,
            resume=settings.resume,
        )
        run, config = start.run, self._full_config()
        self._command.run, self._command.config = run, run.config_file(stage)
        self._command.opening = partial(self._begin, start, config)
        self._checkpoint = self._checkpoint or start.checkpoint
        self._command.loggers.append(CsvSink(run.path, begin=self._command.begin))
        configured = self.config_init[stage].trainer
        card = card_of(
            stage,
            self.model,
            callbacks=_listed(configured.callbacks),
            config=config,
            run=run,
            command=self._command.words,
        )
        wandb = wandb_logger(
            run.path,
            self.config_init[stage].wandb,
            config=config,
            run_id=run.run_id,
            resuming=run.continued,
            card=card,
            fitting=stage == "fit",
        )
        if wandb is not None:
            self._command.loggers.append(wandb)
        with refused_settings(lambda _: ("trainer", self._given_to_trainer())):
            trainer = super().instantiate_trainer(
                logger=list(self._command.loggers),
                callbacks=[
                    Beginning(self._command),
                    *stage_bars(
                        _listed(configured.callbacks),
                        wanted=settings.trainer.enable_progress_bar is not False,
                    ),
                    *_listed(configured.callbacks),
                    *self._own_callbacks(run, config),
                ],
                plugins=[
                    *_listed(configured.plugins),
                    *precision,
                    CheckpointFiles(self.model, branch=start.branch),
                ],
                precision=None,
                **kwargs,
            )
        if words := self._command.threads.share(trainer.num_devices):
            say(words)
        return trainer

    def _given_to_trainer(self) -> dict[str, object]:
        """Settings of the trainer that are not the defaults."""
        usual = self._parser(self.subcommand).get_defaults().trainer
        return {name: value for name, value in self._settings.trainer.items() if value != usual.get(name)}

    def _begin(self, start: Start, config: Mapping[str, object]) -> None:
        """Make the run's folder with the files that it holds from the start, and open the run at W&B."""
        if process_rank() != 0:
            return
        start.begin()
        start.run.write_state("running")
        if self._checkpoint is not None and self._command.stage == start.run.main_stage != "fit":
            start.run.note_weights(Path(self._checkpoint))
        head = self._config_head()
        start.run.write_config(self._command.stage, head + yaml.safe_dump(config, sort_keys=False))
        start.run.write_environment()
        for logger in self._command.loggers:
            if isinstance(logger, WandbSink):
                logger.open()

    def _check_card(self, model: LightningModule, datamodule: LightningDataModule) -> None:
        """Refuse weights of something else before the data module computes anything, where it can be told."""
        if self._checkpoint is not None and isinstance(model, CardedByData):
            check_card(load_weights(self._checkpoint), model.card_of(datamodule), self._checkpoint)

    def fit(self, model: LightningModule, datamodule: LightningDataModule) -> None:
        """Train; then test the best checkpoint, and say what to do next."""
        self._check_card(model, datamodule)
        if isinstance(model, ChecksTrainer):
            model.check_trainer(self.trainer)
        with room_for(self.trainer):
            self.trainer.fit(model, datamodule=datamodule, ckpt_path=self._checkpoint)
        if self._checkpoint is None and not self.trainer.fit_loop.epoch_loop.batch_progress.total.ready:
            raise ConfigError(
                "nothing was trained: trainer.max_time or a callback ended the training before its first step"
            )
        self._command.begin()  # A run that was complete before it was resumed has had no work.
        run = self._command.run
        if run is None or self._settings.trainer.fast_dev_run:
            return
        if self._settings.test_after_fit and is_overridden("test_step", model, LightningModule):
            best = run.checkpoints / "best.ckpt"
            self._checkpoint = best if best.is_file() else run.checkpoints / "last.ckpt"
            self._tested(model, datamodule)
        if process_rank() == 0:
            keep_at_wandb(self._command.loggers, self.config_init["fit"].wandb, run, self.trainer, model)
            say(next_commands(run, self._command.config, model, datamodule, self._settings.data))

    def validate(self, model: LightningModule, datamodule: LightningDataModule) -> None:
        """Validate a checkpoint."""
        self._check_card(model, datamodule)
        with room_for(self.trainer):
            found = self.trainer.validate(
                model, datamodule=datamodule, ckpt_path=self._checkpoint, verbose=False
            )
        self._say_logged(found)
        say(f"run: {self._run_path}")

    def test(self, model: LightningModule, datamodule: LightningDataModule) -> None:
        """Test a checkpoint."""
        self._check_card(model, datamodule)
        self._tested(model, datamodule)
        alarm = alarm_command(self._run_path, datamodule) if process_rank() == 0 else ""
        say("\n".join(filter(None, (f"run: {self._run_path}", alarm))))

    def predict(self, model: LightningModule, datamodule: LightningDataModule) -> None:
        """Apply a checkpoint, and write ``predictions.csv`` where the task predicts columns."""
        self._check_card(model, datamodule)
        with room_for(self.trainer):
            predictions = self.trainer.predict(model, datamodule=datamodule, ckpt_path=self._checkpoint)
        self._command.begin()
        loader = self.trainer.predict_dataloaders
        images = len(loader.dataset) if isinstance(loader, DataLoader) else None  # type: ignore[arg-type]  # sized
        write_predictions(self._run_path / "predictions.csv", predictions or (), images=images)
        say(f"run: {self._run_path}")

    def _tested(self, model: LightningModule, datamodule: LightningDataModule) -> None:
        with room_for(self.trainer):
            found = self.trainer.test(model, datamodule=datamodule, ckpt_path=self._checkpoint, verbose=False)
        self._say_logged(found)

    def _say_logged(self, found: Sequence[Mapping[str, float]]) -> None:
        """Say what was logged beside the scores of the report, which has a table of its own."""
        owners = [self.model, *self.trainer.callbacks]  # type: ignore[attr-defined]
        evaluations = [owner.evaluation for owner in owners if isinstance(owner, Evaluates)]
        told = {
            name
            for evaluation in evaluations
            if evaluation is not None
            for name in (*evaluation.scores, *evaluation.logged.values(), *evaluation.timings)
        }
        values = {name: value for one in found for name, value in one.items() if name not in told}
        if values:
            say(", ".join(f"{name.replace('/', ' ')} {value:.4g}" for name, value in values.items()))

    @property
    def _settings(self) -> Namespace:
        settings: Namespace = self.config[str(self.subcommand)]
        return settings

    @property
    def _run_path(self) -> Path:
        return self._command.run.path if self._command.run else Path()

    def _known_keys(self, words: Sequence[str]) -> list[str]:
        stage = next((word for word in words if word in STAGES), "fit")
        names = [action.dest for action in self._subcommand_parsers[stage]._actions]
        return [name for name in names if name.rpartition(".")[2] != "help"]

    def _full_config(self) -> dict[str, object]:
        """All settings but those that belong to one command, so that every command can read the file."""
        text = self._parser(self.subcommand).dump(self._settings, skip_none=False, skip_validation=True)
        return {key: value for key, value in yaml.safe_load(text).items() if key not in _OF_ONE_COMMAND}

    def _config_head(self) -> str:
        versions = f"verisal {version('verisal')}, lightning {version('lightning')}"
        return f"# Full config of `verisal {self.subcommand}`, {versions}\n"

    def _own_callbacks(self, run: RunFolder, config: Mapping[str, object]) -> list[Callback]:
        command, settings = self._command, self._settings
        report = ReportRun(run.path, command=command.words, began=command.began)
        if self._command.stage != "fit":
            return [ImageGuard(), report]
        tested = settings.test_after_fit and is_overridden("test_step", self.model, LightningModule)
        guard = ImageGuard(tests=tested and not settings.trainer.fast_dev_run)
        resumed = ResumedSettings(config, seed=self._seed)
        guarded = [guard, resumed, LastValidation(), NumericGuard(run.path), StepLoss(), EpochLines(), report]
        if self._settings.trainer.fast_dev_run:
            return guarded
        return [*guarded, BestCheckpoint(run.checkpoints, self.model), LastCheckpoint(run.checkpoints)]


def _listed(value: object) -> list[object]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
