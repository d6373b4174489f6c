"""One training, from a plan to a finished run directory."""

import dataclasses
import math
import pathlib
import shutil
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
import tensorflow as tf
from rich import console as rich_console
from rich import progress as rich_progress

from data_pipeline import batches, frames, split
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from models import members, segmenter, zoo
from training import (
    budget,
    calibrate,
    callbacks,
    device,
    losses,
    metrics,
    mlflow_log,
    record,
    watching,
)
from training.averaging import Average, SharedStatistics
from training.pace import Pace
from training.plan import Plan
from training.trainee import Trainee

# An epoch is a pass over the data, but no less than this: small data sets would otherwise
# spend their time on validation.
_LEAST_STEPS = 50

_FOREVER = 1_000_000  # epochs; the pace ends a training


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the state is saved and the run can be resumed."""


# Steps that --profile looks at: late enough for graphs to be built and buffers to be full.
_PROFILED = (10, 19)


@dataclasses.dataclass(frozen=True)
class _Setup:
    """What is made once for a training, before its first step."""

    strategy: tf.distribute.Strategy
    model: Trainee
    watched: list[keras.metrics.Metric]
    average: Average
    store: frames.Store
    epoch: np.ndarray  # the frames of one
    validation: frames.Store | None
    validation_tiles: int
    batch_size: int  # a step, of all devices together
    asked: list[Case]  # of validation, to learn from the answers to in the end
    pace: Pace

    @property
    def validation_batch_size(self) -> int:
        """Samples at once, of all devices together."""
        return self.batch_size // self.model.accumulate

    @property
    def steps_an_epoch(self) -> int:
        """A pass over the data, or more."""
        return max(_LEAST_STEPS, math.ceil(len(self.epoch) / self.batch_size))


def train(plan: Plan, console: rich_console.Console, began_s: float | None = None) -> None:
    """Trains as planned and leaves the run directory complete.

    Args:
      plan: what to train.
      console: told how far it is.
      began_s: of time.monotonic(), when the wait for it began; None: now.

    Raises:
      InputError: if the data cannot be read, or the directory holds another run.
      Interrupted: on Ctrl-C, with the state saved.
    """
    # Of a budget, decoding and graph building are part of the wait.
    minutes = plan.config.minutes
    pace = Pace(
        None,
        None if minutes is None else 60 * minutes,
        device.as_first_worker if device.is_one_of_several() else None,
        began_s,
    )
    settings = dataclasses.asdict(plan.config)
    uri = plan.config.mlflow if device.is_chief() else ""
    with mlflow_log.logged(uri, plan.directory, plan.name, settings) as loggers:
        _begin(plan)
        setup = _set_up(plan, pace, console)
        with setup.strategy.scope():
            _fit(plan, setup, console, loggers)
        if device.is_chief():
            _finish(plan, setup)


def _begin(plan: Plan) -> None:
    """Takes the run directory; of several workers the chief does, and the others look at it."""
    if device.is_chief():
        _claim(plan)
    device.meet()
    if not device.is_chief():
        record.check_same(plan)


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


def _set_up(plan: Plan, pace: Pace, console: rich_console.Console) -> _Setup:
    config = plan.config
    with pace.timed("reading"):
        store, validation = (
            frames.open_store(part, plan.spec, config.cache, _reading(console)) if part else None
            for part in (plan.part("train"), plan.part("validation"))
        )
    if store is None:
        raise InputError("no case is left to train on; use more data or --use-all")
    dataset_of = {case.id: case.dataset for case in plan.cases}
    epoch = batches.balanced(dataset_of[case_id] for case_id in store.case_ids())
    keras.utils.set_random_seed(config.seed)
    strategy = device.strategy()
    with pace.timed("building"), strategy.scope():
        model = _under(
            device.precision(config.precision),
            lambda: Trainee(
                zoo.NETWORKS[config.model](plan.spec),
                plan.spec.labels,
                config.accumulate,
                config.deep_supervision,
            ),
        )
        watched = _compile(model, plan)
        average = Average(model, config.ema)
    # To write the network and draw the curves takes about twice as long.
    pace.saving_s = 2 * pace.spent_s["building"]
    asked = plan.part("validation")
    if config.minutes and device.is_chief():  # whose clock all go by, and who will ask
        asked = budget.hold_back(plan, pace)
    setup = _Setup(
        strategy=strategy,
        model=model,
        watched=watched,
        average=average,
        store=store,
        epoch=epoch,
        validation=validation,
        validation_tiles=batches.tiles_of_validation(validation, plan.spec) if validation else 0,
        batch_size=config.batch_size * config.accumulate * strategy.num_replicas_in_sync,
        asked=asked,
        pace=pace,
    )
    if not config.minutes:
        pace.total_steps = config.epochs_of(setup.steps_an_epoch) * setup.steps_an_epoch
    return setup


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


def _compile(model: keras.Model, plan: Plan) -> list[keras.metrics.Metric]:
    """Makes loss and optimizer, and returns the metrics to watch by."""
    config, labels = plan.config, plan.spec.labels
    watched = [metrics.CaseDice(None, "dice")]
    if len(labels) > 1:
        watched += [metrics.CaseDice(i, f"dice_{name}") for i, name in enumerate(labels)]
    optimizer = keras.optimizers.AdamW(
        config.learning_rate, weight_decay=config.weight_decay, global_clipnorm=1.0
    )
    jit = False if device.xla() == "off" else "auto"
    loss = losses.make(config.loss, config.label_smoothing)
    model.compile(optimizer, loss, metrics=watched, jit_compile=jit)
    model.optimizer.build(model.trainable_variables)  # so that a backup has where to go
    return [*model.metrics, *watched]


def _fit(
    plan: Plan,
    setup: _Setup,
    console: rich_console.Console,
    loggers: Sequence[keras.callbacks.Callback],
) -> None:
    """Trains until the end of the pace, from the newest backup if there is one."""
    config, pace = plan.config, setup.pace
    chief = device.is_chief()
    best_path = plan.directory / "best.weights.h5" if chief else None
    best = callbacks.Best(best_path, setup.average, config.patience)
    saver = _saver(plan, setup, best)
    resumed = saver.restore()
    pace.look()
    first_epoch = pace.step // setup.steps_an_epoch
    if resumed and (pace.progress() >= 1 or best.is_out_of_patience(first_epoch - 1)):
        return  # interrupted after its last step: only to be finished
    if pace.progress() >= 1:
        raise budget.no_time(plan, pace)
    if config.minutes and chief:
        budget.introduce(plan, pace, len(setup.asked), console)
    training, validation = _streams(plan, setup)
    interrupt = callbacks.Interrupt()
    watchers = [
        *_watchers(plan, setup, console, best, first_epoch),
        *loggers,
        *((saver,) if chief else ()),
        interrupt,  # last: what it ends is complete
    ]
    try:
        with interrupt.after_step():
            history = setup.model.fit(
                training,
                validation_data=validation,
                validation_steps=math.ceil(setup.validation_tiles / setup.validation_batch_size)
                or None,
                steps_per_epoch=setup.steps_an_epoch,
                initial_epoch=first_epoch,
                epochs=_FOREVER,
                callbacks=watchers,
                shuffle=False,  # batches come in the order that the seed decided
                verbose=0,
            )
    except KeyboardInterrupt as stopped:
        if isinstance(stopped, callbacks.AskedToStop) and not device.is_one_of_several():
            saver.now()
        for watcher in watchers:  # Keras leaves files open and the bar running
            watcher.on_train_end()
        raise Interrupted from None
    if not all(math.isfinite(value) for value in history.history.get("loss", [])):
        raise InputError(
            f"the loss became NaN at --learning-rate {config.learning_rate}; try a lower "
            "one, or --precision float32"
        )


def _saver(plan: Plan, setup: _Setup, best: callbacks.Best) -> callbacks.Backup:
    model = setup.model
    return callbacks.Backup(
        plan.directory / "backup",
        setup.pace,
        best,
        lasting=[*model.variables, *model.optimizer.variables, *setup.average.variables],
        running=[variable for metric in setup.watched for variable in metric.variables],
        # Several workers read these variables together, and their clocks differ.
        every_s=math.inf if device.is_one_of_several() else plan.config.backup_seconds,
    )


def _watchers(
    plan: Plan,
    setup: _Setup,
    console: rich_console.Console,
    best: callbacks.Best,
    first_epoch: int,
) -> list[keras.callbacks.Callback]:
    """Returns what goes along with the steps, in the order that Keras calls them."""
    chief = device.is_chief()
    curves = plan.directory / "logs" / "validation" if chief else None
    return [
        callbacks.Schedule(
            setup.pace,
            plan.config.learning_rate,
            steps_an_epoch=setup.steps_an_epoch,
            validation_batches=math.ceil(setup.validation_tiles / setup.batch_size),
        ),
        SharedStatistics(setup.model, setup.strategy),
        setup.average,
        best,
        *([watching.PrecisionRecall(curves, setup.model.counts)] if setup.validation else ()),
        *(_shown(plan, setup, console, first_epoch) if chief else ()),
    ]


def _streams(plan: Plan, setup: _Setup) -> tuple[tf.data.Dataset, tf.data.Dataset | None]:
    """Returns the batches of training, from the next one on, and of validation."""
    training = batches.distributed(
        setup.strategy,
        lambda shard: batches.training(
            setup.store,
            plan.spec,
            plan.policy,
            epoch=setup.epoch,
            batch_size=setup.batch_size,
            seed=plan.config.seed,
            first_sample=setup.pace.step * setup.batch_size,
            foreground_share=plan.config.foreground_share,
            shard=shard,
        ),
    )
    store = setup.validation
    validation = store and batches.distributed(
        setup.strategy,
        lambda shard: batches.whole(
            store, plan.spec, batch_size=setup.validation_batch_size, shard=shard
        ),
    )
    return training, validation


def _shown(
    plan: Plan,
    setup: _Setup,
    console: rich_console.Console,
    first_epoch: int,
) -> list[keras.callbacks.Callback]:
    """Returns what lets a training be watched."""
    directory, config = plan.directory, plan.config
    logs = directory / "logs"
    watching.keep_epochs(directory / "history.csv", first_epoch)
    shown: list[keras.callbacks.Callback] = [
        keras.callbacks.CSVLogger(directory / "history.csv", append=True),
        keras.callbacks.TensorBoard(
            logs, write_graph=False, profile_batch=_PROFILED if config.profile else 0
        ),
        watching.HyperParameters(logs, dataclasses.asdict(config), plan.name),
        watching.Progress(setup.pace, console),
        *([budget.Outlook(setup.pace, setup.steps_an_epoch, console)] if config.minutes else ()),
    ]
    if setup.validation:
        example = next(
            iter(batches.whole(setup.validation, plan.spec, batch_size=watching.OVERLAYS))
        )
        shown.append(watching.Overlays(logs / "overlays", example, plan.spec, setup.average))
    return shown


def _finish(plan: Plan, setup: _Setup) -> None:
    """Writes the network in float32, the card and the timings; the backup is done with."""
    best = plan.directory / "best.weights.h5"
    with setup.strategy.scope(), setup.average.in_place():
        if best.exists():
            setup.model.network.load_weights(best)
        weights = setup.model.network.get_weights()
    plan.network.set_weights(weights)
    history = plan.directory / "history.csv"
    if history.exists():
        watching.draw_curves(history, plan.directory / "curves.png")
    with setup.pace.timed("calibration"):
        fitted = calibrate.learn(
            segmenter.Network(plan.network, plan.spec),
            setup.asked,
            calibration=plan.config.calibration,
            cleaning=plan.config.cleaning,
        )
    told = fitted.told
    if few := budget.fewer(plan, len(setup.asked)):
        told = told | {"learnt_from": few}
    fitted.spec.save(plan.directory / "spec.json")
    record.finish(plan, plan.network, setup.pace, fitted.spec, told)
    segmenter.save(plan.directory, plan.network)  # last: with it the run counts as finished
    best.unlink(missing_ok=True)
    shutil.rmtree(plan.directory / "backup", ignore_errors=True)


def is_finished(directory: pathlib.Path) -> bool:
    """Returns whether a run directory holds a finished training."""
    return (directory / members.WEIGHTS).exists()
