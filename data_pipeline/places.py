"""Where foreground lies, found once when a case is decoded, so that drawing a tile costs nothing.

Of each label of a case a bounded number of voxels is kept, each as likely as any other.
"""

import numpy as np

MOST = 10_000  # voxels a label and case, as in nnU-Net (arXiv:1904.08128); 40 kB


class Sample:
    """A random few of the voxels that come in one batch after another."""

    def __init__(self, seed: str, most: int = MOST) -> None:
        self._rng = np.random.default_rng(list(seed.encode()))
        self._most = most
        self._voxels = np.empty(0, np.uint32)
        self._keys = np.empty(0)

    def add(self, voxels: np.ndarray) -> None:
        """Takes further voxels, as positions in the flat frame: (n,)."""
        # The voxels with the smallest of as many random keys are a fair sample of all so far.
        keys = np.concatenate([self._keys, self._rng.random(len(voxels))])
        everything = np.concatenate([self._voxels, voxels.astype(np.uint32)])
        if len(keys) > self._most:
            kept = np.argpartition(keys, self._most)[: self._most]
            keys, everything = keys[kept], everything[kept]
        self._keys, self._voxels = keys, everything

    def voxels(self) -> np.ndarray:
        """Returns those kept, ascending: uint32 (n,), at most `most`."""
        return np.sort(self._voxels)
