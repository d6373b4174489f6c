"""What happens between the steps of a training: schedule, backup, progress bar, overlays."""

import contextlib
import math
import pathlib
import signal
import threading
from collections.abc import Iterator, Mapping
from types import FrameType

import cv2
import keras
import numpy as np
import tensorflow as tf
from rich import console as rich_console
from rich import progress as rich_progress

from data_pipeline import labels as known_labels
from data_pipeline.spec import InputSpec
from training import backup
from training.averaging import Average
from training.pace import Pace

_LINES_WITHOUT_TERMINAL = 8
_OVERLAYS = 4


class Schedule(keras.callbacks.Callback):
    """Sets the learning rate before each step, and ends the training at the end of its pace."""

    def __init__(self, pace: Pace, highest: float) -> None:
        super().__init__()
        self._pace, self._highest = pace, highest

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Sets the rate."""
        self.model.optimizer.learning_rate.assign(self._pace.learning_rate(self._highest))

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Counts the step."""
        self._pace.step += 1
        if self._pace.progress() >= 1:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Tells the callbacks after this one, history.csv among them, how long it has been."""
        if logs is not None:
            logs["elapsed_s"] = round(self._pace.elapsed_s(), 1)


class Interrupt(keras.callbacks.Callback):
    """Lets Ctrl-C wait for the end of a step, so that weights and counted steps agree."""

    def __init__(self) -> None:
        super().__init__()
        self._asked = False

    @contextlib.contextmanager
    def after_step(self) -> Iterator[None]:
        """Holds Ctrl-C back until the step's end; a second one is obeyed at once."""
        in_main_thread = threading.current_thread() is threading.main_thread()
        if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            yield  # no signal comes here, or somebody else sees to it
            return
        before = signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Ends the training if asked to."""
        if self._asked:
            raise KeyboardInterrupt


class Best(keras.callbacks.Callback):
    """Keeps the averaged weights of the epoch with the highest validation Dice in a file."""

    def __init__(self, path: pathlib.Path, average: Average, best: float | None) -> None:
        super().__init__()
        self._path, self._average = path, average
        self.value = best

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Saves the weights if they are the best so far."""
        dice = (logs or {}).get("val_dice")
        if dice is not None and (self.value is None or dice > self.value):
            self.value = float(dice)
            unfinished = self._path.with_name("unfinished.weights.h5")
            with self._average.in_place():
                self.model.save_weights(unfinished)
            unfinished.replace(self._path)


class Backup(keras.callbacks.Callback):
    """Saves the whole state after each epoch, for --resume."""

    def __init__(self, folder: pathlib.Path, pace: Pace, average: Average, best: Best) -> None:
        super().__init__()
        self._folder, self._pace, self._average, self._best = folder, pace, average, best
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Remembers the epoch for `now`."""
        self._epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Saves, unless the loss is NaN, from where no training goes on."""
        self._epoch = epoch + 1
        if math.isfinite((logs or {}).get("loss", 0.0)):
            self.now()

    def now(self) -> None:
        """Saves the state as it is, in the middle of an epoch too."""
        pace = self._pace
        state = backup.State(pace.step, self._epoch, pace.elapsed_s(), self._best.value)
        backup.save(self._folder, self.model, self._average, state)


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


class Overlays(keras.callbacks.Callback):
    """Writes some validation frames with truth and prediction to TensorBoard."""

    def __init__(
        self,
        folder: pathlib.Path,
        frames: tuple[tf.Tensor, tf.Tensor],
        spec: InputSpec,
        average: Average,
    ) -> None:
        super().__init__()
        self._folder, self._spec, self._average = folder, spec, average
        self._images, self._targets = (np.asarray(part)[:_OVERLAYS] for part in frames)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Draws what the network outlines now; truth in white."""
        with self._average.in_place():
            answers = np.asarray(self.model(self._images, training=False))
        pictures = [
            _drawn(image, target, answer, self._spec.labels)
            for image, target, answer in zip(self._images, self._targets, answers, strict=True)
        ]
        with tf.summary.create_file_writer(str(self._folder)).as_default():
            tf.summary.image("truth white, prediction coloured", np.stack(pictures), step=epoch)


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
