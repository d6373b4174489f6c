"""How every figure and overlay looks: colours that the colour-blind tell apart, and print too."""

import contextlib
from collections.abc import Iterator, Sequence

import matplotlib
import matplotlib.figure
import seaborn

# Okabe & Ito (2008), without the yellow that vanishes on paper.
MODEL_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F")
TRUTH_RGB = (86, 180, 233)  # sky blue: what the annotator drew
PREDICTION_RGB = (230, 159, 0)  # orange: what the model drew
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # so that colour is never the only difference

LIGHT = {"text": "#1a1a1a", "grid": "#d0d0d0", "page": "white"}
DARK = {"text": "#e6e6e6", "grid": "#4a4f57", "page": "none"}


def colours(models: Sequence[str]) -> dict[str, str]:
    """Returns a fixed colour a model, in order; they repeat after seven."""
    return {m: MODEL_COLOURS[i % len(MODEL_COLOURS)] for i, m in enumerate(models)}


@contextlib.contextmanager
def style(*, dark: bool = False) -> Iterator[None]:
    """Sets fonts, colours and backgrounds for the figures drawn inside."""
    shade = DARK if dark else LIGHT
    settings = {
        **seaborn.axes_style("ticks"),
        **seaborn.plotting_context("notebook", font_scale=0.85),
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "figure.facecolor": shade["page"],
        "savefig.facecolor": shade["page"],
        "axes.facecolor": "none",
        "axes.edgecolor": shade["text"],
        "axes.labelcolor": shade["text"],
        "axes.titlecolor": shade["text"],
        "text.color": shade["text"],
        "xtick.color": shade["text"],
        "ytick.color": shade["text"],
        "grid.color": shade["grid"],
        "legend.frameon": False,
        "svg.hashsalt": "lung",  # the same picture gives the same file
        "svg.fonttype": "path",
        "figure.dpi": 120,
    }
    with matplotlib.rc_context(settings):
        yield


def figure(width: float, height: float) -> matplotlib.figure.Figure:
    """Returns an empty figure in inches that belongs to no window and needs no closing."""
    return matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
