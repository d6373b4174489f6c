"""Settings and scores of all runs of a results folder, for TensorBoard's HParams page.

tensorboard --logdir results/demo/tensorboard
"""

import math
import pathlib
import shutil
from collections.abc import Iterable, Mapping

from evaluation.entrants import Entrant
from evaluation.summary import Summary

METRICS = ("dice", "accuracy", "loss", "iou", "hd95_px", "ece")


def write(folder: pathlib.Path, entrants: Iterable[Entrant], found: Summary) -> None:
    """Writes one TensorBoard run an entrant: its settings, and the means of its scores."""
    import tensorflow as tf
    from tensorboard.plugins.hparams import api  # type: ignore[import-untyped]

    # TensorFlow writes the file; it is already there where a run was scored.
    from data_pipeline import quiet_tensorflow  # noqa: F401 - first: it silences the import

    shutil.rmtree(folder, ignore_errors=True)
    for entrant in entrants:
        with tf.summary.create_file_writer(str(folder / entrant.name)).as_default():
            api.hparams(settings(entrant), trial_id=entrant.name)
            for name, value in scores(entrant.name, found).items():
                tf.summary.scalar(name, value, step=0)


def settings(entrant: Entrant) -> dict[str, str | float | bool]:
    """Returns an entrant's settings that are one value each."""
    told = entrant.describe()
    config = told.get("config", {})
    if not isinstance(config, Mapping):
        config = {}
    kept = {k: v for k, v in config.items() if isinstance(v, str | int | float | bool)}
    return {"model": entrant.name, "kind": str(told["kind"])} | kept


def scores(model: str, found: Summary) -> dict[str, float]:
    """Returns the means of a model as LABEL/METRIC; undefined ones are left out."""
    means = {
        f"{item.label}/{name}": item.metrics[name].mean.value
        for item in found.labels
        if item.model == model
        for name in METRICS
    }
    return {name: value for name, value in means.items() if not math.isnan(value)}
