"""What happens between the steps of a training: its schedule, its end, and what outlives it."""

import contextlib
import math
import pathlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import keras
import numpy as np

from training import backup
from training.averaging import Average
from training.pace import Pace

# The first builds the graph of a step, and what follows it those of averages.
_BUILDING_STEPS = 2


class AskedToStop(KeyboardInterrupt):
    """Ctrl-C, obeyed between two steps: weights and counted steps agree."""


class Schedule(keras.callbacks.Callback):
    """Sets the learning rate before each step, and ends epochs and the training.

    An epoch ends where the steps of the whole training say so, not where Keras has counted them:
    a run that goes on in mid-epoch validates after the same steps as one never interrupted.
    """

    def __init__(
        self, pace: Pace, highest: float, *, steps_an_epoch: int, validation_batches: int
    ) -> None:
        super().__init__()
        self._pace, self._highest = pace, highest
        self._steps_an_epoch, self._validation_batches = steps_an_epoch, validation_batches
        self._steps = 0  # of this process
        self._began_s = 0.0  # after the steps that build graphs
        self._ended_s: float | None = None
        self._validating_s = 0.0
        self._diverged = False

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Notes how long all that came after the last step of an epoch took."""
        if self._ended_s is not None:
            self._pace.validation_s = time.monotonic() - self._ended_s

    def on_train_batch_begin(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Sets the rate."""
        self.model.optimizer.learning_rate.assign(self._pace.learning_rate(self._highest))

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Counts the step."""
        pace, now_s = self._pace, time.monotonic()
        pace.step += 1
        self._steps += 1
        if self._steps <= _BUILDING_STEPS:
            self._began_s = now_s
        elif self._ended_s is None:  # before the first validation, take it for as long as training
            pace.step_s = (now_s - self._began_s) / (self._steps - _BUILDING_STEPS)
            pace.validation_s = self._validation_batches * pace.step_s
        pace.look()
        self._diverged = not math.isfinite((logs or {}).get("loss", 0.0))
        at_end = pace.step % self._steps_an_epoch == 0 or pace.progress() >= 1
        self.model.stop_training = at_end or self._diverged
        if self.model.stop_training:
            self._ended_s = now_s

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Lets the next epoch begin, unless this was the last; tells the time so far."""
        if logs is not None:
            logs["elapsed_s"] = round(self._pace.elapsed_s(), 1)  # for history.csv and others
        self._pace.look()
        self.model.stop_training = self._diverged or self._pace.progress() >= 1

    def on_test_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Starts the clock of validation."""
        self._validating_s = time.monotonic()

    def on_test_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Stops it."""
        self._pace.spent_s["validation"] += time.monotonic() - self._validating_s


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
        """Ends the training if asked to; what ends anyway is validated first."""
        if self._asked and not self.model.stop_training:
            raise AskedToStop

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Ends the training if asked to and it would have gone on."""
        if self._asked and not self.model.stop_training:
            raise AskedToStop


class Best(keras.callbacks.Callback):
    """Keeps the averaged weights of the epoch with the highest validation Dice in a file."""

    def __init__(self, path: pathlib.Path | None, average: Average, patience: int) -> None:
        """Takes what to do.

        Args:
          path: the file; None where another worker writes it.
          average: what to keep.
          patience: end the training after so many epochs without a better one; 0: never.
        """
        super().__init__()
        self._path, self._average, self._patience = path, average, patience
        self.value: float | None = None
        self.epoch = 0

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Saves the weights if they are the best so far."""
        dice = (logs or {}).get("val_dice")
        if dice is None:
            return
        if self.value is None or dice > self.value:
            self.value, self.epoch = float(dice), epoch
            with self._average.in_place():
                if self._path:
                    unfinished = self._path.with_name("unfinished.weights.h5")
                    # Not all of the model: to save an optimizer Keras makes another one, whose
                    # variables several workers would have to make together.
                    self.model.network.save_weights(unfinished)
                    unfinished.replace(self._path)
        if self.is_out_of_patience(epoch):
            self.model.stop_training = True

    def is_out_of_patience(self, epoch: int) -> bool:
        """Returns whether an epoch is too long after the best one."""
        known = self.value is not None  # without validation there is no better or worse
        return bool(self._patience) and known and epoch - self.epoch >= self._patience


class Backup(keras.callbacks.Callback):
    """Saves the whole state after each epoch, and within one every so often, for --resume."""

    def __init__(
        self,
        folder: pathlib.Path,
        pace: Pace,
        best: Best,
        *,
        lasting: Sequence[Any],
        running: Sequence[Any],
        every_s: float,
    ) -> None:
        """Takes what to save.

        Args:
          folder: see backup.save.
          pace: how far the training is.
          best: the best so far.
          lasting: variables that outlive an epoch.
          running: variables that an epoch starts anew, such as those of its mean loss.
          every_s: seconds from one backup to the next within an epoch.
        """
        super().__init__()
        self._folder, self._pace, self._best = folder, pace, best
        self._lasting, self._running, self._every_s = list(lasting), list(running), every_s
        self._saved_s = time.monotonic()
        self._interrupted: list[np.ndarray] = []  # values for the variables of the first epoch

    def restore(self) -> bool:
        """Goes on from the newest complete state; False if there is none."""
        found = backup.load(self._folder)
        if found is None:
            return False
        state, values = found
        for variable, value in zip(self._lasting, values, strict=False):
            variable.assign(value)
        self._interrupted = values[len(self._lasting) :]
        self._pace.go_on_from(state.step, state.elapsed_s, state.spent_s)
        self._best.value, self._best.epoch = state.best, state.best_epoch
        return True

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Lets the means of an interrupted epoch go on; Keras has just reset them."""
        for variable, value in zip(self._running, self._interrupted, strict=False):
            variable.assign(value)
        self._interrupted = []

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Saves if it is time; the last step of an epoch is saved with its validation."""
        due = time.monotonic() - self._saved_s >= self._every_s
        if due and not self.model.stop_training:
            self.now([*self._lasting, *self._running])

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Saves, unless the loss is NaN, from where no training goes on."""
        if math.isfinite((logs or {}).get("loss", 0.0)):
            self.now(self._lasting)

    def now(self, variables: Sequence[Any] | None = None) -> None:
        """Saves the state as it is; in the middle of an epoch unless told otherwise."""
        pace, best = self._pace, self._best
        state = backup.State(
            pace.step, pace.elapsed_s(), dict(pace.spent_s), best.value, best.epoch
        )
        backup.save(self._folder, variables or [*self._lasting, *self._running], state)
        self._saved_s = time.monotonic()
