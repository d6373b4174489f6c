"""What this machine trains on: devices, distribution strategy and precision."""

import contextlib
import functools
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from data_pipeline import machine
from data_pipeline.errors import InputError

# CPU features that multiply bfloat16 in hardware. Without them it is emulated and slower.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}

_KINDS = ("chief", "worker")  # of tasks in TF_CONFIG

# What TensorFlow says on a worker when another one has gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)


@functools.cache  # a process trains in one way; several workers must connect only once
def strategy() -> tf.distribute.Strategy:
    """Returns how to train here; to be called before anything else of TensorFlow.

    MultiWorkerMirroredStrategy where TF_CONFIG names several workers, once all of them are there;
    MirroredStrategy where there are several GPUs or several logical CPUs, else one device.

    Raises:
      InputError: if TF_CONFIG cannot be understood.
    """
    if is_one_of_several():
        return tf.distribute.MultiWorkerMirroredStrategy()
    for kind in ("GPU", "CPU"):
        devices = tf.config.list_logical_devices(kind)
        if len(devices) > 1:
            return tf.distribute.MirroredStrategy([device.name for device in devices])
        if devices:
            break
    return tf.distribute.get_strategy()


def kind() -> str:
    """Returns "GPU" if there is one, else "CPU"."""
    return "GPU" if tf.config.list_physical_devices("GPU") else "CPU"


def xla() -> str:
    """Returns "auto" with a GPU: on, if Keras finds that it can be; else "off".

    On CPUs it made training 1.2 to 4 times slower.
    """
    return "auto" if kind() == "GPU" else "off"


def is_chief() -> bool:
    """Returns whether this process writes the run directory: of several workers the first."""
    if _workers() < 2:
        return True
    task = _tf_config()["task"]
    return task["type"] == "chief" or ("chief" not in _cluster() and task["index"] == 0)


def meet() -> None:
    """Waits until all workers have come here."""
    if is_one_of_several():
        strategy().reduce(tf.distribute.ReduceOp.SUM, tf.constant(1.0), axis=None)


def as_first_worker(value: float) -> float:
    """Returns what the first of several workers gave; all of them have to call this together."""
    given = strategy().experimental_distribute_values_from_function(
        lambda replica: tf.constant(0.0 if replica.replica_id_in_sync_group else value, tf.float64)
    )
    return float(strategy().reduce(tf.distribute.ReduceOp.SUM, given, axis=None))


@contextlib.contextmanager
def lost_worker_in_words() -> Iterator[None]:
    """Says in one line what TensorFlow says in many when another worker has gone.

    Raises:
      InputError: if it has.
    """
    try:
        yield
    except _LOST as error:
        if not is_one_of_several():
            raise
        raise InputError(
            f"another worker of TF_CONFIG was lost ({type(error).__name__}); see what it said, "
            "and start all of them again, with --resume if the training had begun"
        ) from error


def is_one_of_several() -> bool:
    """Returns whether TF_CONFIG names several workers."""
    return _workers() > 1


def _workers() -> int:
    return sum(len(_cluster().get(kind, [])) for kind in _KINDS)


def _cluster() -> dict[str, list[str]]:
    cluster: dict[str, list[str]] = _tf_config().get("cluster", {})
    return cluster


def _tf_config() -> dict[str, Any]:
    text = os.environ.get("TF_CONFIG", "{}")
    try:
        told: Any = json.loads(text)
        if not isinstance(told, dict):
            raise ValueError("it is no object")
        if "cluster" in told:
            kind, index = told["task"]["type"], told["task"]["index"]
            told["cluster"][kind][index]
            if index < 0:
                raise ValueError(f"index {index} is below 0")
            if kind not in _KINDS:
                raise ValueError(f"only {' and '.join(_KINDS)} can train here, no {kind}")
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise InputError(
            f"TF_CONFIG is not understood ({type(error).__name__}: {error}); it looks like "
            '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
            '"task": {"type": "worker", "index": 0}}'
        ) from error
    return dict(told)


def describe(chosen: tf.distribute.Strategy) -> str:
    """Returns the devices and the processor in words.

    For example "2 x GPU (NVIDIA A100), MirroredStrategy; AMD EPYC 7763, AVX2, cores: 8".
    """
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        kind = f"GPU ({details.get('device_name', 'unnamed')})"
    else:
        kind = "CPU"
    count = chosen.num_replicas_in_sync
    name = "MirroredStrategy" if count > 1 else "one device"
    if is_one_of_several():
        kind, name = f"{kind} on {_workers()} workers", "MultiWorkerMirroredStrategy"
    here = f"{machine.processor()}, cores: {len(machine.cores())}"
    return f"{count} x {kind}, {name}; {here}"


def precision(wanted: str) -> str:
    """Returns the Keras policy: as wanted, or for "auto" the fastest that is safe here.

    Measured for a U-Net on CPUs with avx512_bf16: bfloat16 trains twice as fast as float32.
    Networks are always saved, scored and served in float32.
    """
    if wanted != "auto":
        return wanted
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        capability = details.get("compute_capability", (0, 0))
        if capability >= (8, 0):
            return "mixed_bfloat16"
        return "mixed_float16" if capability >= (7, 0) else "float32"
    return "mixed_bfloat16" if _BFLOAT16_FLAGS & _cpu_flags() else "float32"


def _cpu_flags() -> set[str]:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.split()) for line in lines if line.startswith("flags")), set())
