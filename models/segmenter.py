"""The contract of every model, trained or classical: a scan in, probabilities on its grid out."""

import os
import pathlib
from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from data_pipeline import inference, intensity
from data_pipeline import spec as specs
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan
from data_pipeline.spec import InputSpec

WEIGHTS = "network.keras"  # in a run directory, beside spec.json


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
    """A trained network with its spec, in float32 whatever precision it was trained in."""

    def __init__(self, network: keras.Model, spec: InputSpec) -> None:
        """Takes a network from [0, 1] to probabilities, as models.zoo builds them."""
        self.name = network.name
        self.spec = spec
        self.network = network
        self._predict = tf.function(
            self.graph,
            input_signature=[tf.TensorSpec((None, *spec.shape, spec.channels), tf.float32)],
        )

    def graph(self, voxels: tf.Tensor) -> tf.Tensor:
        """Raw voxels in spec.units to probabilities, in TensorFlow ops; what an export holds."""
        images = intensity.normalise(voxels, self.spec)
        answer = self.network(images, training=False)
        for flip in self.spec.flips:
            axes = [1 + axis for axis in flip]
            mirrored = self.network(tf.reverse(images, axes), training=False)
            answer += tf.reverse(mirrored, axes)
        return answer / (1.0 + len(self.spec.flips))

    def predict(self, voxels: np.ndarray) -> np.ndarray:
        """Returns probabilities (n, *shape, labels) of tiles (n, *shape, channels) of voxels."""
        return np.asarray(self._predict(tf.constant(voxels, tf.float32)))

    def probabilities(self, scan: Scan) -> np.ndarray:
        """See Segmenter."""
        return inference.probabilities(scan, self.spec, self.predict)


def save(directory: pathlib.Path, network: keras.Model) -> None:
    """Writes a network into a run directory; the file appears whole or not at all."""
    unfinished = directory / f"unfinished-{os.getpid()}.keras"
    network.save(unfinished)
    unfinished.replace(directory / WEIGHTS)


def load(directory: pathlib.Path) -> Network:
    """Returns the trained network of a run directory.

    Raises:
      InputError: if the directory is no finished run.
    """
    spec = specs.load(directory / "spec.json")
    path = directory / WEIGHTS
    if not path.exists():
        raise InputError(f"{directory} holds no {WEIGHTS}: the training is not finished")
    try:
        return Network(keras.saving.load_model(path, compile=False), spec)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise InputError(f"{path} cannot be loaded: {error}") from error
