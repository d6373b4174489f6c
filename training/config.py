"""Every setting of a training run, and the one place where flags become settings."""

import argparse
import dataclasses
import math
import pathlib
import sys
import urllib.parse
from collections.abc import Sequence
from typing import Any

from data_pipeline import batches, cache, tta
from data_pipeline import labels as known_labels
from data_pipeline.cases import SAMPLE
from data_pipeline.errors import InputError
from data_pipeline.scan import MODALITIES, UNITS
from models import zoo
from training import geometry_plan, losses
from training.geometry_plan import Geometry

# Without a budget: 96 passes over the sample; more were not tried. Large data sets are passed ten
# times all the same.
_DEFAULT_STEPS, _DEFAULT_PASSES = 4_800, 10
CALIBRATION = ("fit", "none")
CLEANING = ("learn", "threshold", "none")
_RUNS = pathlib.Path("runs")


def _flag(default: Any, text: str, **options: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": text, **options})


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Trains a network that outlines lungs or infection; `runs/NAME` holds all it leaves."""

    model: str = _flag("unet", "which network", choices=(*zoo.NETWORKS, *zoo.CLASSICAL))
    data: pathlib.Path = _flag(SAMPLE, "manifest, or folder with a manifest.csv")
    modality: str = _flag("XR", "which cases", choices=MODALITIES)
    labels: str = _flag("lung", "what to outline, for example lung,infection")
    epochs: int | None = _flag(
        None,
        f"passes over the data; if no --minutes, what makes {_DEFAULT_STEPS:,} steps, at least "
        f"{_DEFAULT_PASSES}",
    )
    minutes: float | None = _flag(None, "wall-clock budget that the schedule is planned into")
    name: str = _flag("", "the run directory is RUNS/NAME; made from model and time if empty")
    seed: int = _flag(0, "decides split, order, augmentation and first weights")
    use_all: bool = _flag(False, "train on every case, without validation and test split")
    folds: int = _flag(0, "cross-validation: as many trainings, each case tested once")
    size: int = _flag(0, "side of the square frame in pixels; 0: from the data")
    window: str = _flag("", "LOW,HIGH in HU, or in stored values; CT in HU: from the data if empty")
    tile: str = _flag(
        "",
        "what the network sees at once: rows,cols or slices,rows,cols; "
        f"{geometry_plan.DERIVED}: three sides from the data and the memory",
    )
    spacing: str = _flag("", "resample to this, in mm, in the order of --tile; 3D: the median")
    neighbours: int = _flag(0, "2.5D: slices on either side that a 2D network sees too")
    foreground_share: float = _flag(
        batches.FOREGROUND_SHARE, "of tiles centred on foreground, each label as often"
    )
    units: str = _flag("", "CT: only cases in HU, or only in stored values", choices=("", *UNITS))
    denoise: str = _flag("none", "before anything else", choices=("none", "median", "gaussian"))
    clahe: bool = _flag(False, "equalise contrast locally")
    tta: str = _flag(
        "auto", "answers averaged over mirrored and resized images; auto: flips for CT, else none",
        choices=("auto", *tta.CHOICES),
    )  # fmt: skip
    calibration: str = _flag("fit", "a temperature a label, on validation", choices=CALIBRATION)
    cleaning: str = _flag(
        "learn",
        "a threshold and post-processing, or the former only, where validation gains",
        choices=CLEANING,
    )
    batch_size: int = _flag(0, "samples a step and device; 0: as memory allows")
    accumulate: int = _flag(1, "batches a step, one after the other: large batches, small memory")
    loss: str = _flag("dice_ce", "an overlap and a pixelwise term", choices=tuple(losses.LOSSES))
    label_smoothing: float = _flag(0.0, "share of targets that becomes even odds in the latter")
    deep_supervision: int = _flag(0, "coarse levels of the decoder that learn to answer too")
    learning_rate: float = _flag(2e-3, "at its highest, after warm-up")
    weight_decay: float = _flag(1e-4, "of AdamW")
    ema: float = _flag(0.0, "average the weights, keeping so much of the average a step; 0: do not")
    patience: int = _flag(0, "stop after so many epochs without a better validation Dice; 0: never")
    precision: str = _flag(
        "auto", "auto, or a Keras policy",
        choices=("auto", "float32", "mixed_bfloat16", "mixed_float16"),
    )  # fmt: skip
    runs: pathlib.Path = _flag(_RUNS, "where run directories are made")
    cache: pathlib.Path = _flag(cache.FOLDER, "where decoded frames are kept")
    backup_seconds: float = _flag(60.0, "between backups in an epoch: what a kill can cost")
    mlflow: str = _flag("", "log to this MLflow tracking URI too; needs the extra `mlflow`")
    profile: bool = _flag(False, "write a profile of ten steps for TensorBoard")
    resume: bool = _flag(False, "go on with the interrupted run of this name")
    overwrite: bool = _flag(False, "delete an earlier run of this name first")

    def __post_init__(self) -> None:
        """Raises InputError on settings that contradict each other or cannot work."""
        known_labels.parse(self.labels)
        if self.epochs is not None and self.minutes is not None:
            raise InputError("give --epochs or --minutes, not both: one plan at a time")
        for name in ("epochs", "minutes", "accumulate", "learning_rate"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"--{name.replace('_', '-')} must be above 0; got {value}")
        for name in ("size", "batch_size", "deep_supervision", "patience"):
            if (value := getattr(self, name)) < 0:
                raise InputError(f"--{name.replace('_', '-')} must not be negative; got {value}")
        self.window_limits()
        if not 0 <= self.ema < 1:
            raise InputError(f"--ema must be from 0 to below 1, for example 0.99; got {self.ema}")
        if not self.backup_seconds >= 0:
            raise InputError(f"--backup-seconds must be 0 or more; got {self.backup_seconds}")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(
                f"--label-smoothing must be from 0 to below 1; got {self.label_smoothing}"
            )
        if not 0 <= self.foreground_share <= 1:
            raise InputError(f"--foreground-share is from 0 to 1; got {self.foreground_share}")
        self.geometry()
        if not 0 <= self.seed < 2**32:
            raise InputError(f"--seed must be from 0 to {2**32 - 1}; got {self.seed}")
        _check_tracking_uri(self.mlflow)
        if self.name == ".." or self.name != pathlib.PurePath(self.name).name:
            raise InputError(f"--name is one folder's name, without a path; got {self.name}")
        if self.folds == 1 or self.folds < 0:
            raise InputError(f"--folds needs at least 2; got {self.folds}")
        if self.folds and self.use_all:
            raise InputError("--folds tests every case once, --use-all tests none: choose one")
        if self.resume and self.overwrite:
            raise InputError("--resume goes on with a run, --overwrite deletes it: choose one")
        if self.resume and not self.name:
            raise InputError("--resume needs the --name of the run to go on with")

    def epochs_of(self, steps_an_epoch: int) -> int:
        """Returns how many epochs to train for where no minutes are set."""
        return self.epochs or max(_DEFAULT_PASSES, round(_DEFAULT_STEPS / steps_an_epoch))

    def budget(self) -> str:
        """Says what one training may take."""
        if self.minutes:
            return f"{self.minutes:g} minutes"
        if self.epochs:
            return f"{self.epochs} epochs"
        return f"{_DEFAULT_STEPS:,} steps or {_DEFAULT_PASSES} epochs, whichever is more"

    def window_limits(self) -> tuple[float, float] | None:
        """Returns the window as numbers; None if none is set."""
        if not self.window:
            return None
        try:
            low, high = map(float, self.window.split(","))
        except ValueError:
            low = high = math.nan
        if not low < high:
            raise InputError(f"--window is LOW,HIGH, for example -1000,400; got {self.window}")
        return low, high

    def geometry(self) -> Geometry:
        """Returns how a scan is to be shown, as far as the flags say."""
        return geometry_plan.asked(
            self.modality, self.size, self.tile, self.spacing, self.neighbours
        )


def _check_tracking_uri(uri: str) -> None:
    try:
        parts = urllib.parse.urlsplit(uri)
    except ValueError as error:
        raise InputError(
            f"--mlflow is no URI ({error}); it looks like http://localhost:5000"
        ) from error
    if "@" in parts.netloc:
        place = (
            "put them into MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            if parts.scheme in ("http", "https")
            else "give them to `mlflow server --backend-store-uri` and its http address to --mlflow"
        )
        raise InputError(f"--mlflow takes no credentials, which config.json would tell; {place}")


def from_flags(argv: list[str] | None = None) -> TrainConfig:
    """Parses one flag a field; a misspelt flag is an error.

    Raises:
      InputError: if the settings contradict each other.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.run", description=TrainConfig.__doc__, allow_abbrev=False
    )
    for field in dataclasses.fields(TrainConfig):
        flag = "--" + field.name.replace("_", "-")
        options = dict(field.metadata)
        if field.type is bool:
            parser.add_argument(flag, action="store_true", help=options["help"])
            continue
        optional = {int | None: int, float | None: float}
        kind: Any = optional.get(field.type, field.type)  # type: ignore[arg-type, call-overload]
        options["help"] += "" if field.default in ("", None) else " (default: %(default)s)"
        parser.add_argument(flag, type=kind, default=field.default, **options)
    return TrainConfig(**vars(parser.parse_args(_joined(sys.argv[1:] if argv is None else argv))))


def _joined(words: Sequence[str]) -> list[str]:
    """Joins --window with what follows it: argparse takes -1000,400 for a flag of its own."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--window":
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
