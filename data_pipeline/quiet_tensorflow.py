"""Imports TensorFlow without its start-up chatter; commands import this before anything else.

TensorFlow writes some twenty lines about CPU features and missing CUDA to the process's stderr
from C++, before any log level applies. They hide what a user needs to read.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

from data_pipeline import onednn  # noqa: F401

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@contextlib.contextmanager
def _held_back_stderr() -> Iterator[None]:
    """Keeps what is written to file descriptor 2 to itself, unless the block fails."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


with _held_back_stderr():
    import tensorflow as tf

    # The first look for devices speaks once more. It does not yet fix logical devices.
    tf.config.list_physical_devices()
