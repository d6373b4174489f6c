"""Turns a trained run into a model for TensorFlow Serving, and proves that it is the same.

    python -m serving.export runs/unet --out exports/lung_unet
    python -m serving.export runs/a runs/b --tta flips --out exports/lung_both

writes the next version folder, in about a minute on 2 cores. It fails, and leaves nothing
behind, unless the masks of the trained model, of the SavedModel in a fresh process and of a
server over gRPC and over REST agree in every pixel on golden cases. Several runs, or the folds
of a cross-validation, become one model that averages their probabilities.
"""

import argparse
import json
import pathlib
import platform
from collections.abc import Sequence
from typing import Any

from data_pipeline import quiet_tensorflow  # noqa: F401 - first: it silences the import

# isort: split

import keras
import numpy as np
import tensorflow as tf
from rich import console as rich_console

from data_pipeline import onednn, tta
from data_pipeline.errors import one_line_for_bad_input
from models import segmenter
from models.segmenter import Network
from serving import (
    formats,
    forward_times,
    fresh_process,
    gate,
    golden,
    proof,
    saved_model,
    version_folder,
)
from serving.parity import Golden

GOLDEN_CASES = 4
PRECISIONS = ("float32", "bfloat16", "float16")


def main(argv: list[str] | None = None) -> None:
    """Parses the flags, exports, and says where the result lies."""
    parser = argparse.ArgumentParser(prog="serving.export", description=__doc__.split("\n")[0])
    parser.add_argument(
        "runs", nargs="+", type=pathlib.Path, metavar="RUN",
        help="run directories, runs/NAME; several are averaged",
    )  # fmt: skip
    parser.add_argument(
        "--tta", choices=tta.CHOICES, help="mirrored, resized images; default: the run's own"
    )
    parser.add_argument("--out", type=pathlib.Path, required=True, help="exports/MODEL")
    parser.add_argument("--cases", type=_count, default=GOLDEN_CASES, help="golden cases")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="what the graph computes in; with less than float32 masks are close, not equal",
    )
    parser.add_argument(
        "--also",
        type=_formats,
        default=(),
        help=f"further formats, of {', '.join(formats.FORMATS)}",
    )
    flags = parser.parse_args(argv)
    console = rich_console.Console(highlight=False, soft_wrap=True)
    with one_line_for_bad_input():
        network = segmenter.load(*flags.runs, tta=flags.tta)
        _introduce(network, console)
        cases = golden.choose(flags.runs, network.spec, flags.cases)
        folder = export(
            network,
            flags.out,
            cases,
            console,
            run=" ".join(map(str, flags.runs)),
            precision=flags.precision,
            also=flags.also,
        )
    name = flags.out.resolve().name
    console.print(f"export: {folder}")
    console.print(
        f"next: python -m serving.launch --model_name {name} --model_base_path {flags.out}"
    )


def _introduce(network: Network, console: rich_console.Console) -> None:
    """Says what one answer costs and which signatures there will not be."""
    if cost := tta.cost(network.spec, len(network.networks)):
        console.print(cost)
    if network.spec.cleaning:
        console.print(
            "no signatures encoded and masks: masks are cleaned (spec.json, cleaning), which "
            "clients do; serving.segment sends voxels"
        )


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("at least one case must prove the export")
    return count


def _formats(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := sorted(set(names) - set(formats.FORMATS)):
        raise argparse.ArgumentTypeError(
            f"unknown: {', '.join(unknown)}; known: {', '.join(formats.FORMATS)}"
        )
    return names


def export(
    network: Network,
    out: pathlib.Path,
    cases: Sequence[Golden],
    console: rich_console.Console,
    *,
    run: str = "",
    precision: str = "float32",
    also: Sequence[str] = (),
) -> pathlib.Path:
    """Writes the next version of a model, if all ways of running it agree; returns its folder.

    Args:
      network: trained.
      out: the folder of the model's versions; its name is the name it is served under.
      cases: scans on which the ways must agree.
      console: told what is being done.
      run: where the network comes from, for parity.json.
      precision: what the graph computes in, of PRECISIONS.
      also: further formats to write, of formats.FORMATS.

    Raises:
      InputError: if they do not agree or a way cannot be tried; nothing is left behind then.
    """
    exported = network.in_precision(precision)
    with version_folder.unfinished(out) as folder:
        _write_saved_model(exported, folder, console)
        told: dict[str, Any] = {"run": run, **_environment(), "precision": precision}
        told |= gate.prove(exported, folder, cases, console)
        if exported is not network:
            far = gate.compare_precision(precision, network, exported, cases, console)
            # What is evaluated is float32: only masks equal to its are proven.
            told |= {"against_float32": far, "masks_equal": far["masks_equal"]}
        for name in also:
            told[name] = _add_format(name, network, folder, cases, console)
        with console.status("measuring forward passes"):
            told["pass_ms"] = _pass_ms(folder)
        (folder / proof.PLACE).write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        return version_folder.publish(folder, out)


def _write_saved_model(
    network: Network, folder: pathlib.Path, console: rich_console.Console
) -> None:
    with console.status("writing the SavedModel"):
        _, png = golden.phantom_of(network.spec, 0)
        saved_model.write(network, folder, saved_model.warm_up_inputs(network.spec, png))


def _add_format(
    name: str,
    network: Network,
    folder: pathlib.Path,
    cases: Sequence[Golden],
    console: rich_console.Console,
) -> dict[str, Any]:
    """Writes a further format into a version folder; returns its proof."""
    with console.status(f"{name}: writing and running it"):
        path = formats.write(name, network, folder / saved_model.EXTRA)
        return gate.compare_format(name, path, network, cases, console)


def _pass_ms(folder: pathlib.Path) -> dict[int, float]:
    try:
        return forward_times.pass_ms(folder)
    except fresh_process.Ended:  # an export that is proven is not lost for want of memory
        return {}


def _environment() -> dict[str, str | bool]:
    return {
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "onednn": onednn.enabled(),
    }


if __name__ == "__main__":
    main()
