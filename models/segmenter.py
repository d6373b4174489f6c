"""The contract of every model, trained or classical: a scan in, probabilities on its grid out."""

import pathlib
from typing import Protocol

import keras
import numpy as np

from data_pipeline import inference, intensity, spec
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan
from data_pipeline.spec import InputSpec


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
    """A trained network with its spec; float32, whatever precision it was trained in."""

    def __init__(self, network: keras.Model, spec: InputSpec) -> None:
        self.name = network.name
        self.spec = spec
        self.network = network

    def predict(self, voxels: np.ndarray) -> np.ndarray:
        """Returns probabilities (n, *shape, labels) of tiles (n, *shape, channels) of voxels."""
        return np.asarray(self._graph(voxels))

    def probabilities(self, scan: Scan) -> np.ndarray:
        """See Segmenter."""
        return inference.probabilities(scan, self.spec, self.predict)
