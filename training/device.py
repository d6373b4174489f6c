"""What this machine trains on: devices, distribution strategy and precision."""

import pathlib

import tensorflow as tf

# CPU features that multiply bfloat16 in hardware. Without them it is emulated and slower.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


def strategy() -> tf.distribute.Strategy:
    """Returns MirroredStrategy where there are several GPUs, or several logical CPUs."""
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


def describe(chosen: tf.distribute.Strategy) -> str:
    """Returns the devices in words, for example "2 x GPU (NVIDIA A100), MirroredStrategy"."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        kind = f"GPU ({details.get('device_name', 'unnamed')})"
    else:
        kind = "CPU"
    count = chosen.num_replicas_in_sync
    name = "MirroredStrategy" if count > 1 else "one device"
    return f"{count} x {kind}, {name}"


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
