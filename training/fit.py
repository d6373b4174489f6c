"""One training, from a plan to a finished run directory."""

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Callable, Iterable

import keras
import tensorflow as tf
from rich import console as rich_console
from rich import progress as rich_progress

from data_pipeline import batches, frames, split
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec
from models import members, segmenter, zoo
from training import backup, callbacks, device, losses, metrics, record
from training.averaging import Average
from training.config import DEFAULT_EPOCHS
from training.pace import Pace
from training.plan import Plan

# An epoch is a pass over the data, but no less than this: small data sets would otherwise
# spend their time on validation.
_LEAST_STEPS = 50

_FOREVER = 1_000_000  # epochs; the pace ends a training


class Interrupted(Exception):
    """Ctrl-C; the state is saved and the run can be resumed."""


@dataclasses.dataclass(frozen=True)
class _Setup:
    """What is made once for a training, before its first step."""

    strategy: tf.distribute.Strategy
    model: keras.Model
    average: Average
    store: frames.Store
    epoch: list[int]  # the frames of one
    validation: frames.Store | None
    batch_size: int  # of all devices together
    pace: Pace


def train(plan: Plan, console: rich_console.Console) -> None:
    """Trains as planned and leaves the run directory complete.

    Raises:
      InputError: if the data cannot be read, or the directory holds another run.
      Interrupted: on Ctrl-C, with the state saved.
    """
    _claim(plan)
    setup = _set_up(plan, console)
    with setup.strategy.scope():  # the optimizer's variables are made here, one a device
        state = backup.restore(plan.directory / "backup", setup.model, setup.average)
    if state:
        setup.pace.go_on_from(state.step, state.elapsed_s)
    history = _fit(plan, setup, state, console)
    if not all(math.isfinite(value) for value in history.history.get("loss", [])):
        raise InputError(
            f"the loss became NaN at --learning-rate {plan.config.learning_rate}; try a lower "
            "one, or --precision float32"
        )
    _finish(plan, setup)


def _claim(plan: Plan) -> None:
    """Takes the run directory, or refuses to lose what lies there."""
    config, directory = plan.config, plan.directory
    if directory.exists() and any(directory.iterdir()):
        if not config.resume:
            raise InputError(
                f"{directory} holds an earlier run; choose another --name, go on with it by "
                "--resume, or delete it by --overwrite"
            )
        record.check_same(plan)
    elif config.resume and not _follows_a_fold(plan):
        raise InputError(f"{directory} holds no run to resume")
    directory.mkdir(parents=True, exist_ok=True)
    plan.spec.save(directory / "spec.json")
    split.save(directory / "splits.csv", plan.cases, plan.splits)
    record.start(plan)


def _follows_a_fold(plan: Plan) -> bool:
    """Whether an interrupted cross-validation has come as far as this fold."""
    return bool(plan.config.folds) and any(plan.directory.parent.glob("fold*/config.json"))


def clear(directory: pathlib.Path) -> None:
    """Deletes an earlier run with all its folds.

    Raises:
      InputError: if the directory holds something else.
    """
    if not directory.exists() or not any(directory.iterdir()):
        return
    if not any(any(directory.glob(name)) for name in ("spec.json", "fold*/spec.json")):
        raise InputError(f"{directory} is no run, so --overwrite does not delete it")
    shutil.rmtree(directory)


def _set_up(plan: Plan, console: rich_console.Console) -> _Setup:
    config = plan.config
    # The clock of a budget starts here: decoding and graph building are part of the wait.
    budget_s = None if config.minutes is None else 60 * config.minutes
    started = Pace(None, budget_s)
    store, validation = (
        frames.open_store(part, plan.spec, config.cache, _reading(console)) if part else None
        for part in (plan.part("train"), plan.part("validation"))
    )
    if store is None:
        raise InputError("no case is left to train on; use more data or --use-all")
    dataset_of = {case.id: case.dataset for case in plan.cases}
    epoch = batches.balanced([dataset_of[entry.case_id] for entry in store.entries])
    keras.utils.set_random_seed(config.seed)
    strategy = device.strategy()
    with strategy.scope():
        model = _under(
            device.precision(config.precision), lambda: zoo.NETWORKS[config.model](plan.spec)
        )
        _compile(model, plan)
    batch_size = config.batch_size * strategy.num_replicas_in_sync
    if config.minutes is None:
        epochs = config.epochs or DEFAULT_EPOCHS
        started = Pace(epochs * _steps(epoch, batch_size), None)
    average = Average(model, config.ema)
    return _Setup(strategy, model, average, store, epoch, validation, batch_size, started)


def _steps(epoch: list[int], batch_size: int) -> int:
    return max(_LEAST_STEPS, math.ceil(len(epoch) / batch_size))


def _reading(
    console: rich_console.Console,
) -> Callable[[Iterable[Case]], Iterable[Case]]:
    return lambda cases: rich_progress.track(
        cases, "reading", console=console, transient=True, disable=not console.is_terminal
    )


def _under(policy: str, build: Callable[[], keras.Model]) -> keras.Model:
    """Builds under a Keras precision policy and puts the former one back."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        return build()
    finally:
        keras.config.set_dtype_policy(before)


def _compile(model: keras.Model, plan: Plan) -> None:
    watched = [metrics.CaseDice(None, "dice")]
    if len(plan.spec.labels) > 1:
        watched += [metrics.CaseDice(i, f"dice_{name}") for i, name in enumerate(plan.spec.labels)]
    optimizer = keras.optimizers.AdamW(
        plan.config.learning_rate, weight_decay=plan.config.weight_decay, global_clipnorm=1.0
    )
    # XLA made training on CPUs 1.2 to 4 times slower; Keras' own choice is for GPUs.
    jit = "auto" if tf.config.list_physical_devices("GPU") else False
    loss = losses.make(plan.config.loss, plan.config.label_smoothing)
    model.compile(optimizer, loss, metrics=watched, jit_compile=jit)


def _fit(
    plan: Plan, setup: _Setup, state: backup.State | None, console: rich_console.Console
) -> keras.callbacks.History:
    directory, config, pace = plan.directory, plan.config, setup.pace
    if pace.progress() >= 1:
        if state is None:
            raise InputError(
                f"--minutes {config.minutes:g} passed while the data was read and the network "
                "built, before the first step; give it more"
            )
        return keras.callbacks.History()  # interrupted after its last step: only to be finished
    training = batches.training(
        setup.store,
        plan.spec,
        plan.policy,
        epoch=setup.epoch,
        batch_size=setup.batch_size,
        seed=config.seed,
        first_sample=pace.step * setup.batch_size,
    )
    validation = setup.validation and batches.whole(
        setup.validation, plan.spec, batch_size=setup.batch_size
    )
    best = callbacks.Best(
        directory / "best.weights.h5", setup.average, state.best if state else None
    )
    saver = callbacks.Backup(directory / "backup", pace, setup.average, best)
    interrupt = callbacks.Interrupt()
    watchers: list[keras.callbacks.Callback] = [
        callbacks.Schedule(pace, config.learning_rate),
        setup.average,
        interrupt,  # after those two, which count the step
        keras.callbacks.TerminateOnNaN(),
        best,
        saver,
        keras.callbacks.CSVLogger(directory / "history.csv", append=state is not None),
        keras.callbacks.TensorBoard(directory / "logs", write_graph=False, profile_batch=0),
        callbacks.Progress(pace, console),
    ]
    if validation:
        shown = next(iter(validation))
        logs = directory / "logs" / "overlays"
        watchers.append(callbacks.Overlays(logs, shown, plan.spec, setup.average))
    if config.patience and validation:
        watchers.append(
            keras.callbacks.EarlyStopping("val_dice", patience=config.patience, mode="max")
        )
    try:
        return setup.model.fit(
            training,
            validation_data=validation,
            steps_per_epoch=_steps(setup.epoch, setup.batch_size),
            initial_epoch=state.epoch if state else 0,
            epochs=_FOREVER,
            callbacks=watchers,
            shuffle=False,  # batches come in the order that the seed decided
            verbose=0,
        )
    except KeyboardInterrupt:
        saver.now()
        for watcher in watchers:  # Keras leaves files open and the bar running
            watcher.on_train_end()
        raise Interrupted from None


def _finish(plan: Plan, setup: _Setup) -> None:
    """Writes the network in float32, the card and the timings; the backup is done with."""
    best = plan.directory / "best.weights.h5"
    with setup.average.in_place():
        if best.exists():
            setup.model.load_weights(best)
        network = _float32(plan.config.model, plan.spec, setup.model)
    record.finish(plan, network, setup.pace)
    segmenter.save(plan.directory, network)  # last: with it the run counts as finished
    best.unlink(missing_ok=True)
    shutil.rmtree(plan.directory / "backup", ignore_errors=True)


def _float32(name: str, spec: InputSpec, trained: keras.Model) -> keras.Model:
    network = _under("float32", lambda: zoo.NETWORKS[name](spec))
    network.set_weights(trained.get_weights())
    return network


def is_finished(directory: pathlib.Path) -> bool:
    """Returns whether a run directory holds a finished training."""
    return (directory / members.WEIGHTS).exists()
