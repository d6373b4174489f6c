"""Settings that nobody gave, derived from the data and the machine; a given one always holds."""

import dataclasses
import json
import math
import pathlib
import subprocess

import keras

from data_pipeline import intensity
from training import device
from training.config import TrainConfig
from training.fingerprint import Fingerprint

# Sides of a frame: multiples of what the networks halve, up to what the device trains in minutes.
_SIDE_STEP = 32
_LEAST_SIDE = 128
_MOST_SIDE = {"CPU": 192, "GPU": 512}

_MOST_BATCH = {"CPU": 8, "GPU": 32}
_FLOAT_BYTES = 4
# Of what a forward pass writes: kept for the backward pass, gradients, and what a step works in.
# Measured with the U-Net at 256 x 256, batch 8 on a CPU; see docs/models.md.
_STEP_FACTOR = 3.0
_MEMORY_SHARE = 0.5  # of what is free; the rest is for data, other processes, fragmentation


def as_before(config: TrainConfig, directory: pathlib.Path) -> TrainConfig:
    """Returns a resumed run's configuration with what was filled in when it was started.

    The memory that is free now, for one, need not be what was free then.
    """
    for path in (directory / "config.json", directory / "fold0" / "config.json"):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # not started yet; what is no run is told later
        names = [
            n for n in ("size", "window", "batch_size") if not getattr(config, n) and n in told
        ]
        return dataclasses.replace(config, **{name: told[name] for name in names})
    return config


def frame(config: TrainConfig, found: Fingerprint, units: str) -> TrainConfig:
    """Returns the configuration with the frame's side and the window filled in where left open.

    Args:
      config: as the user gave it.
      found: of the cases to learn from.
      units: "HU" or "stored"; stored values need no window, each image has its percentiles.
    """
    size = config.size or side(found, device.kind())
    window = config.window
    if not window and units == "HU":
        low, high = found.foreground_window or intensity.LUNG_WINDOW_HU
        window = f"{low:g},{high:g}"
    return dataclasses.replace(config, size=size, window=window)


def side(found: Fingerprint, kind: str) -> int:
    """Returns the side of a square frame in pixels: that of a median image, within bounds.

    Args:
      found: gives the median shape.
      kind: of device, "CPU" or "GPU".
    """
    fitting = max(found.shape[-2:]) // _SIDE_STEP * _SIDE_STEP
    return max(_LEAST_SIDE, min(fitting, _MOST_SIDE[kind]))


def batch(config: TrainConfig, network: keras.Model, free: int | None) -> TrainConfig:
    """Returns the configuration with the batch size filled in where left open.

    Args:
      config: as the user gave it.
      network: that will be trained.
      free: bytes of one device; None if not known.
    """
    if config.batch_size:
        return config
    size = batch_size(sample_bytes(network), device.kind(), free)
    return dataclasses.replace(config, batch_size=size)


def batch_size(sample: int, kind: str, free: int | None) -> int:
    """Returns how many samples a step takes: a power of two that fits into memory.

    Args:
      sample: bytes that a step takes up for each, see sample_bytes.
      kind: of device, "CPU" or "GPU".
      free: bytes of one device; None if not known.
    """
    if free is None:
        return _MOST_BATCH["CPU"]
    size = _MOST_BATCH[kind]
    while size > 1 and size * sample > _MEMORY_SHARE * free:
        size //= 2
    return size


def sample_bytes(network: keras.Model) -> int:
    """Returns about how much memory a training step takes up for one sample, in bytes."""
    written = sum(math.prod(layer.output.shape[1:]) for layer in network.layers)
    return int(written * _FLOAT_BYTES * _STEP_FACTOR)


def free_bytes(kind: str) -> int | None:
    """Returns the memory that a training may take up on one device; None if nobody says."""
    return _free_on_gpu() if kind == "GPU" else _free_in_main_memory()


def _free_in_main_memory() -> int | None:
    try:
        lines = pathlib.Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return None if found is None else 1024 * int(found.split()[1])


def _free_on_gpu() -> int | None:
    """Asks the driver, of the GPU with the least; TensorFlow tells only what it has taken."""
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return 2**20 * min(int(line) for line in told.split())
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
