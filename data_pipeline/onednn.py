"""Turns on oneDNN's kernels, which TensorFlow has and leaves off on most processors.

By itself it uses them only where it finds AVX-512 VNNI or AMX. With AVX2 alone they train the
networks here in half the time and answer in 0.6 of it (docs/speed.md). Imported before
TensorFlow, which reads the variable once; who sets it to 0 keeps TensorFlow's own kernels.
Evaluation and server must have the same setting, since the two round differently.
"""

import os

VARIABLE = "TF_ENABLE_ONEDNN_OPTS"

os.environ.setdefault(VARIABLE, "1")
