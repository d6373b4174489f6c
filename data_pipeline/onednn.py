"""Turns on oneDNN's kernels, which TensorFlow has and leaves off on most processors.

By itself it uses them only where it finds AVX-512 VNNI or AMX. With AVX2 alone they train the
networks here in half the time and answer in 0.6 of it (docs/speed.md). Imported before
TensorFlow, which reads the variable once; who sets it to 0 keeps TensorFlow's own kernels.
Evaluation and server must have the same setting, since the two round differently.
"""

import os

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"

if not os.environ.get(VARIABLE):  # TensorFlow takes an empty one for none
    os.environ[VARIABLE] = "1"


def enabled() -> bool:
    """Whether TensorFlow, imported by this process or one that it starts, uses these kernels."""
    return os.environ[VARIABLE].lower() in ("1", "true")


def value(with_onednn: bool) -> str:
    """Returns what the variable must be set to."""
    return "1" if with_onednn else "0"
