"""Settings that nobody gave, derived from the data and the machine; a given one always holds."""

import dataclasses
import json
import math
import pathlib
import subprocess
from collections.abc import Sequence

import keras

from data_pipeline import intensity, labels
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec
from models import zoo
from training import device, geometry_plan
from training.config import TrainConfig
from training.fingerprint import Fingerprint

# Sides of a frame: multiples of what the networks halve, up to what the device trains in minutes.
_SIDE_STEP = 32
_LEAST_SIDE = 128
_MOST_SIDE = {"CPU": 192, "GPU": 512}

# A tile of three sides: as many voxels at most, whatever the memory holds, and so many samples a
# step at least, for batch normalisation to have something to average over; nnU-Net takes two too.
_MOST_VOXELS = {"CPU": 2**19, "GPU": 2**22}
_LEAST_VOLUMES = 2

_MOST_BATCH = {"CPU": 8, "GPU": 32}
_FLOAT_BYTES = 4
# Of what a forward pass writes: kept for the backward pass, gradients, and what a step works in.
# On a CPU the U-Net at 256 x 256 took 1.0 to 1.2 (31 to 37 MiB a sample in float32, batches of 16
# and 8); the rest is for the workspace of a GPU's convolutions, which nobody has measured here.
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
        names += ["tile"] if config.tile == geometry_plan.DERIVED and "tile" in told else []
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


def volume_tile(config: TrainConfig, found: Fingerprint, free: int | None) -> TrainConfig:
    """Returns the configuration with a tile of three sides where --tile 3d asks for one.

    Args:
      config: as the user gave it.
      found: gives the median shape, and its spacing.
      free: bytes of one device; None if not known.

    Raises:
      InputError: if the cases are not all volumes that say their spacing.
    """
    if config.tile != geometry_plan.DERIVED:
        return config
    if len(found.shape) != 3 or found.spacing_mm is None:
        raise InputError("--tile 3d needs volumes that all say their spacing; give three sides")
    target_mm = config.geometry().spacing_mm or found.spacing_mm
    shape = [
        n * old / new for n, old, new in zip(found.shape, found.spacing_mm, target_mm, strict=True)
    ]
    smallest = (_SIDE_STEP,) * 3
    spec = InputSpec(config.modality, labels.parse(config.labels), smallest, window=(0.0, 1.0))
    a_voxel = sample_bytes(zoo.NETWORKS[config.model](spec)) / math.prod(smallest)
    most = _MOST_VOXELS[device.kind()]
    if free is not None:
        most = min(most, int(_MEMORY_SHARE * free / _LEAST_VOLUMES / a_voxel))
    return dataclasses.replace(config, tile=",".join(map(str, volume_sides(shape, most))))


def volume_sides(shape: Sequence[float], most: int) -> list[int]:
    """Returns a tile of up to `most` voxels, as near to a volume's proportions as may be.

    From the whole volume, the side that covers most of its axis is cut as often as need be, as in
    nnU-Net. Each is a multiple of what the networks halve, and at least that.

    Args:
      shape: of the median volume at the spacing that it is resampled to, in voxels.
      most: voxels, as far as sides can be cut.
    """
    sides = [max(_SIDE_STEP, round(n) // _SIDE_STEP * _SIDE_STEP) for n in shape]
    while math.prod(sides) > most and max(sides) > _SIDE_STEP:
        cuttable = [axis for axis in range(3) if sides[axis] > _SIDE_STEP]
        sides[max(cuttable, key=lambda axis: sides[axis] / shape[axis])] -= _SIDE_STEP
    return sides


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
    if free is None and len(network.input_shape) == 5:  # volumes: (n, slices, rows, cols, channels)
        size = _LEAST_VOLUMES
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
