"""The contract of every model, trained or classical: a scan in, probabilities on its grid out."""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework import convert_to_constants

from data_pipeline import inference, intensity
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan
from data_pipeline.spec import InputSpec
from models import answers, folding, members
from models.members import WEIGHTS


class Segmenter(Protocol):
    """Anything that outlines labels on a scan."""

    name: str  # "unet", "threshold", ...
    spec: InputSpec  # what it takes, and which labels it outlines

    def probabilities(self, scan: Scan) -> np.ndarray:
        """Returns float32 (labels, *scan.shape) in [0, 1].

        Raises:
          InputError: if the scan is not what the model was made for.
        """
        ...


class Network:
    """Trained networks with their spec, in float32 whatever precision they were trained in.

    One network, or the members of an ensemble, whose answer is their mean.
    """

    def __init__(self, network: keras.Model, spec: InputSpec, *others: keras.Model) -> None:
        """Takes networks from [0, 1] to probabilities, as models.zoo builds them."""
        self.name = network.name
        self.spec = spec
        self.network = network
        self.networks = (network, *others)
        self._folded = [folding.fold(one) for one in self.networks]
        self._answer = answers.Answer(self._folded, spec)

    def in_precision(self, precision: str) -> "Network":
        """Returns the network computing in "bfloat16" or "float16", or itself in "float32"."""
        if precision == "float32":
            return self
        first, *others = (folding.in_precision(one, f"mixed_{precision}") for one in self._folded)
        return Network(first, self.spec, *others)

    @functools.cached_property
    def graph(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """Raw voxels of one tile in spec.units to its probabilities; evaluated, and exported.

        From (1, *shape, channels) to (1, *shape, labels), in TensorFlow ops. Weights are
        constants, which TensorFlow lays out for its kernels once instead of at every call.
        """
        tile = tf.TensorSpec((1, *self.spec.shape, self.spec.channels), tf.float32)
        traced = tf.function(self._traced, input_signature=[tile]).get_concrete_function()
        constant = convert_to_constants.convert_variables_to_constants_v2(traced)
        return lambda voxels: constant(voxels)[0]

    def _traced(self, voxels: tf.Tensor) -> tf.Tensor:
        return self._answer(intensity.normalise(voxels, self.spec))

    def predict(self, voxels: np.ndarray) -> np.ndarray:
        """Returns probabilities (n, *shape, labels) of tiles (n, *shape, channels) of voxels.

        Tile by tile, as an export does it: kernels round differently for larger batches.
        """
        tiles = tf.constant(voxels, tf.float32)
        return np.concatenate([self.graph(tile[None]) for tile in tiles])

    def probabilities(self, scan: Scan) -> np.ndarray:
        """See Segmenter."""
        return inference.probabilities(scan, self.spec, self.predict)


def save(directory: pathlib.Path, network: keras.Model) -> None:
    """Writes a network into a run directory; the file appears whole or not at all."""
    unfinished = directory / f"unfinished-{os.getpid()}.keras"
    network.save(unfinished)
    unfinished.replace(directory / WEIGHTS)


def load(*runs: pathlib.Path, tta: str | None = None) -> Network:
    """Returns the trained network of a run directory, or the mean of several.

    Args:
      runs: run directories; of a cross-validation, every fold is a member.
      tta: test-time augmentation other than the runs' own, one of tta.CHOICES.

    Raises:
      InputError: if a directory is no finished run, or the runs do not fit together.
    """
    directories = members.directories(runs)
    spec = members.common_spec(directories, tta)
    return Network(_network(directories[0]), spec, *map(_network, directories[1:]))


def _network(directory: pathlib.Path) -> keras.Model:
    path = directory / WEIGHTS
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be loaded: {error}") from error
