"""Fixtures that many tests share, and what must be set before TensorFlow is imported."""

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import numpy as np
import pytest

from data_pipeline import (
    onednn,  # noqa: F401 - as in every command
    phantom,
)


@pytest.fixture
def draw() -> Callable[..., np.ndarray]:
    """Makes a bool mask of rows of text: draw(".##.", "..#.")."""
    return lambda *rows: np.array([[pixel == "#" for pixel in row] for row in rows])


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of twelve phantom X-rays, one a patient; do not write beside it."""
    return phantom.write_manifest(tmp_path_factory.mktemp("phantoms"), count=12)
