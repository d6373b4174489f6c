"""What a training shows while it runs: a bar, TensorBoard's pages, and a figure of its curves."""

import csv
import pathlib
from collections.abc import Mapping

import cv2
import keras
import numpy as np
import tensorflow as tf
from matplotlib import figure as figures
from rich import console as rich_console
from rich import progress as rich_progress
from tensorboard.plugins.hparams import api  # type: ignore[import-untyped]
from tensorboard.plugins.pr_curve import metadata  # type: ignore[import-untyped]

from data_pipeline import labels as known_labels
from data_pipeline.spec import InputSpec
from training.averaging import Average
from training.metrics import ThresholdCounts
from training.pace import Pace

_LINES_WITHOUT_TERMINAL = 8
OVERLAYS = 4  # frames


class Progress(keras.callbacks.Callback):
    """One bar for the whole training, with loss, Dice and time left; a few lines without a tty."""

    def __init__(self, pace: Pace, console: rich_console.Console) -> None:
        super().__init__()
        self._pace, self._console = pace, console
        self._validation = ""
        self._told = 0
        self._bar = rich_progress.Progress(
            rich_progress.TextColumn("epoch {task.fields[epoch]}"),
            rich_progress.BarColumn(),
            rich_progress.TaskProgressColumn(),
            rich_progress.TextColumn("{task.fields[numbers]}"),
            rich_progress.TextColumn("{task.fields[left]} left"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=1.0, epoch=1, numbers="", left="?")

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Shows the bar."""
        self._bar.start()

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Leaves the finished bar behind."""
        self._bar.stop()

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Shows the epoch, which is not the first one after an interruption."""
        self._bar.update(self._task, epoch=epoch + 1)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Moves the bar."""
        numbers = "  ".join(
            f"{name} {value:.3f}"
            for name, value in (logs or {}).items()
            if name in ("loss", "dice")
        )
        self._bar.update(
            self._task,
            completed=self._pace.progress(),
            numbers=numbers + self._validation,
            left=_minutes(self._pace.left_s()),
        )

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Adds the validation Dice; without a terminal, says a line every eighth of the way."""
        logs = logs or {}
        if "val_dice" in logs:
            self._validation = f"  validation Dice {logs['val_dice']:.3f}"
        reached = int(self._pace.progress() * _LINES_WITHOUT_TERMINAL)
        if not self._console.is_terminal and reached > self._told:
            self._told = reached
            self._console.print(
                f"{self._pace.progress():4.0%}  epoch {epoch + 1}  loss {logs['loss']:.3f}  "
                f"Dice {logs['dice']:.3f}{self._validation}  {_minutes(self._pace.left_s())} left"
            )


def _minutes(seconds: float) -> str:
    if seconds == float("inf"):
        return "?"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class _Written(keras.callbacks.Callback):
    """Has one event file for the whole training, and none where another worker writes."""

    def __init__(self, folder: pathlib.Path | None) -> None:
        super().__init__()
        self._writer = (
            tf.summary.create_file_writer(str(folder))
            if folder
            else tf.summary.create_noop_writer()
        )

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Closes the file."""
        self._writer.close()


class Overlays(_Written):
    """Writes some validation frames with truth and prediction to TensorBoard."""

    def __init__(
        self,
        folder: pathlib.Path,
        frames: tuple[tf.Tensor, tf.Tensor],
        spec: InputSpec,
        average: Average,
    ) -> None:
        super().__init__(folder)
        self._spec, self._average = spec, average
        self._images, self._targets = (np.asarray(part)[:OVERLAYS] for part in frames)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Draws what the network outlines now; truth in white."""
        with self._average.in_place():
            answers = np.asarray(self.model(self._images, training=False))
        pictures = [
            _drawn(image, target, answer, self._spec.labels)
            for image, target, answer in zip(self._images, self._targets, answers, strict=True)
        ]
        with self._writer.as_default():
            tf.summary.image(
                "truth white, prediction coloured",
                np.stack(pictures),
                step=epoch,
                max_outputs=OVERLAYS,
            )
        self._writer.flush()


def _drawn(
    image: np.ndarray, target: np.ndarray, answer: np.ndarray, labels: tuple[str, ...]
) -> np.ndarray:
    """Returns uint8 (rows, cols, 3) of a 2D frame, or of a volume's middle slice."""
    if image.ndim == 4:
        image, target, answer = (part[len(part) // 2] for part in (image, target, answer))
    grey = (255 * image[..., image.shape[-1] // 2]).astype(np.uint8)
    picture = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    for number, label in enumerate(labels):
        for plane, colour in (
            (target, (255,) * 3),
            (answer, known_labels.LABELS[label].colour_rgb),
        ):
            outlines, _ = cv2.findContours(
                (plane[..., number] > 0.5).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE
            )
            cv2.drawContours(picture, outlines, -1, colour, 1)
    return picture


class PrecisionRecall(_Written):
    """Writes the precision-recall curve of each label on validation to TensorBoard."""

    def __init__(self, folder: pathlib.Path | None, counts: ThresholdCounts) -> None:
        """Takes where to write, None where another worker does, and what was counted."""
        super().__init__(folder)
        self._counts = counts

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Writes what the epoch's validation has counted; all workers add it up together."""
        curves = self._counts.curves()
        with self._writer.as_default():
            for label, curve in curves.items():
                told = metadata.create_summary_metadata(
                    f"{label}, precision over recall", "pixels of validation", curve.shape[1]
                )
                rows = tf.constant(curve, tf.float32)
                tf.summary.write(f"pr/{label}", rows, step=epoch, metadata=told)
        self._writer.flush()


class HyperParameters(keras.callbacks.Callback):
    """Tells TensorBoard's HParams page the settings that a training was started with."""

    def __init__(self, folder: pathlib.Path, settings: Mapping[str, object], name: str) -> None:
        super().__init__()
        self._folder, self._name = folder, name
        self._settings = {
            k: v for k, v in settings.items() if isinstance(v, bool | int | float | str)
        }

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Writes them."""
        with tf.summary.create_file_writer(str(self._folder)).as_default():
            api.hparams(self._settings, trial_id=self._name)


def keep_epochs(history: pathlib.Path, count: int) -> None:
    """Leaves the first `count` epochs in a history.csv: a resumed run writes the others again."""
    if not history.exists():
        return
    header, *rows = history.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    kept = [row for row in rows if row.endswith("\n") and int(row.split(",", 1)[0]) < count]
    unfinished = history.with_name("unfinished.csv")
    unfinished.write_text("".join([header, *kept]), encoding="utf-8")
    unfinished.replace(history)


def draw_curves(history: pathlib.Path, picture: pathlib.Path) -> None:
    """Draws loss and Dice over epochs, training and validation, from a history.csv."""
    with history.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    figure = figures.Figure((10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    for panel, what in zip(panels, ("loss", "dice"), strict=True):
        names = [n for n in rows[0] if n.removeprefix("val_").split("_")[0] == what]
        for name in names:
            values = [np.nan if row[name] == "NA" else float(row[name]) for row in rows]
            if np.isfinite(values).any():
                validation = name.startswith("val_")
                panel.plot(
                    [int(row["epoch"]) + 1 for row in rows],
                    values,
                    "-" if validation else "--",
                    marker="." if len(rows) < 2 else "",
                    color=_colour(name),
                    label=f"{_told(name)}, {'validation' if validation else 'training'}",
                )
        panel.set(xlabel="epoch", ylabel=_told(what))
        panel.grid(alpha=0.3)
        panel.legend()
    panels[1].set_ylim(0, 1)
    unfinished = picture.with_name(f"unfinished{picture.suffix}")
    figure.savefig(unfinished, dpi=100)
    unfinished.replace(picture)


def _told(name: str) -> str:
    what, _, label = name.removeprefix("val_").partition("_")
    return f"{'Dice' if what == 'dice' else what}{' of ' + label if label else ''}"


def _colour(name: str) -> str | tuple[float, ...]:
    label = name.removeprefix("val_").partition("_")[2]
    if label not in known_labels.LABELS:
        return "black"
    return tuple(part / 255 for part in known_labels.LABELS[label].colour_rgb)
