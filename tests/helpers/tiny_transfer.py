"""The transfer study in the small: scenes known by heart, quick attacks, cheap rows."""

from pathlib import Path

import lightning as L
import yaml

from helpers.tiny_detector import COUNTS, exported
from verisal.attacks import FGSM, PGD, SignNoise
from verisal.detection import DetectorData
from verisal.detectors import CNNDetector, LearnedConsistency, MaxSoftmax, Pixels
from verisal.tasks import TransferTask

ROWS = ("consistency", "pixels", "max_softmax")
FITS = {"default": ["pgd"], "one_step": ["fgsm"]}
FAMILIES = {"iterated": ["pgd"], "one_step": ["fgsm", "weak"], "none": ["nothing"]}
SEEDS = 2
CELLS = len(ROWS) * len(FITS) * SEEDS


def rows():
    """One that needs no seed, one that needs it, one that learns nothing."""
    network = {"reads": ("image",), "grid": 4, "members": 1, "epochs": 1, "width": 4}
    return {
        "consistency": LearnedConsistency(),
        "pixels": CNNDetector(source=Pixels(), **network),
        "max_softmax": MaxSoftmax(),
    }


def attacks():
    """The last one changes nothing, and hence never succeeds."""
    return {
        "pgd": PGD(8 / 255, steps=4),
        "fgsm": FGSM(8 / 255),
        "weak": FGSM(3 / 255),
        "nothing": FGSM(0.0),
    }


def data(folder, **settings):
    """The data module over the memorised scenes, with its stores under ``folder``."""
    known = {
        "attacks": attacks(),
        "families": FAMILIES,
        "fits": FITS,
        "noise": {"noise_linf": SignNoise(8 / 255), "noise_small": SignNoise(2 / 255)},
        "noise_like": "pgd",
        "merged": ["iterated", "one_step"],
        "fit_noise": ["noise_linf"],
        "classifier": str(exported(folder)),
        "fit_count": COUNTS["det_fit"],
        "val_count": COUNTS["det_val"],
        "val_attacked_count": 0,
        "test_count": COUNTS["det_test"],
        "store": str(Path(folder) / "store"),
    }
    return DetectorData(**known | settings)


def task(**settings):
    """The study of all rows."""
    return TransferTask(
        **{"detectors": rows(), "head": "consistency", "seeds": SEEDS, "resamples": 30} | settings
    )


def trainer():
    """Silent, on the CPU."""
    return L.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,
    )


def study(folder, *, given=None, **settings):
    """Run the study; ``given`` are settings of the data, the others of the task."""
    module = task(**settings)
    trainer().test(module, datamodule=data(folder, **given or {}), verbose=False)
    return module


def config(folder, *, store="store"):
    """Path of the same study as a configuration file for the command line."""

    def made(name, **settings):
        return {"class_path": name, "init_args": settings} if settings else {"class_path": name}

    network = {"reads": ["image"], "grid": 4, "members": 1, "epochs": 1, "width": 4}
    content = {
        "seed_everything": 0,
        "ckpt_path": "none",
        "model": made(
            "TransferTask",
            detectors={
                "consistency": made("LearnedConsistency"),
                "pixels": made("CNNDetector", source=made("verisal.detectors.Pixels"), **network),
                "max_softmax": made("MaxSoftmax"),
            },
            head="consistency",
            seeds=SEEDS,
            resamples=30,
        ),
        "data": made(
            "DetectorData",
            classifier=str(exported(folder)),
            families=FAMILIES,
            merged=["iterated", "one_step"],
            fits=FITS,
            attacks={
                "pgd": made("PGD", eps=8 / 255, steps=4),
                "fgsm": made("FGSM", eps=8 / 255),
                "weak": made("FGSM", eps=3 / 255),
                "nothing": made("FGSM", eps=0.0),
            },
            noise={
                "noise_linf": made("SignNoise", eps=8 / 255),
                "noise_small": made("SignNoise", eps=2 / 255),
            },
            fit_noise=["noise_linf"],
            noise_like="pgd",
            fit_count=COUNTS["det_fit"],
            val_count=COUNTS["det_val"],
            val_attacked_count=0,
            test_count=COUNTS["det_test"],
            store=str(Path(folder) / store),
        ),
        "trainer": {"accelerator": "cpu"},
        "wandb": {"mode": "disabled"},
    }
    path = Path(folder) / f"transfer-{store}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return str(path)
