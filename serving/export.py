"""Turns a trained run into a model for TensorFlow Serving, and proves that it is the same.

    python -m serving.export runs/unet --out exports/lung_unet
    python -m serving.export runs/a runs/b --tta flips --out exports/lung_both

writes the next version folder, in about a minute on 2 cores. It fails, and leaves nothing
behind, unless the masks of the trained model, of the SavedModel in a fresh process and of a
server over gRPC and over REST agree in every pixel on golden cases. Several runs, or the folds
of a cross-validation, become one model that averages their probabilities.
"""

import argparse
import contextlib
import json
import multiprocessing
import pathlib
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, TypeVar

from data_pipeline import quiet_tensorflow  # noqa: F401 - first: it silences the import

# isort: split

import keras
import numpy as np
import tensorflow as tf
from rich import console as rich_console

from data_pipeline import inference, onednn, tta
from data_pipeline.errors import InputError, one_line_for_bad_input
from data_pipeline.spec import InputSpec
from models import segmenter
from models.segmenter import Network
from serving import client, formats, golden, parity, saved_model, server_process
from serving.connection import Access
from serving.parity import Answer, Golden

GOLDEN_CASES = 4
PRECISIONS = ("float32", "bfloat16", "float16")

T = TypeVar("T")


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
    spec, count = network.spec, len(network.networks)
    passes = count * tta.passes(spec)
    if passes > 1:
        console.print(
            f"{passes:.3g} times the arithmetic of one network an answer: {count} network"
            f"{'s' * (count > 1)}, mirrored views: {len(spec.flips)}, sizes: {(1.0, *spec.scales)}"
        )
    if spec.cleaning:
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
    with _unfinished(out) as folder:
        with console.status("writing the SavedModel"):
            _, png = golden.phantom_of(network.spec, 0)
            saved_model.write(exported, folder, saved_model.warm_up_inputs(network.spec, png))
        proof = {"precision": precision, **_prove(exported, folder, cases, console)}
        if exported is not network:
            found = [exported.probabilities(case.scan) for case in cases]
            proof["against_float32"] = _close(precision, network, found, cases, console)
            # What is evaluated is float32: only masks equal to its are proven.
            proof["masks_equal"] = proof["against_float32"]["masks_equal"]
        for name in also:
            with console.status(f"{name}: writing and running it"):
                path = formats.write(name, network, folder / saved_model.EXTRA)
                found = _fresh(_in_format, name, path, cases, network.spec)
            proof[name] = _close(name, network, found, cases, console)
        text = json.dumps({"run": run, **_environment(), **proof}, indent=2)
        (folder / saved_model.EXTRA / "parity.json").write_text(text + "\n", encoding="utf-8")
        return _publish(folder, out)


@contextlib.contextmanager
def _unfinished(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the path of a version folder to write; whatever is left there goes in the end.

    It lies beside the versions, so that moving it is one step, under a name that is no number,
    so that a server that watches them does not load it.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out takes the folder of a model's versions")
    missing = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=out) as scratch:
            yield pathlib.Path(scratch) / out.resolve().name / "1"
    except BaseException:
        for folder in missing:
            with contextlib.suppress(OSError):  # not empty: somebody else is at work there
                folder.rmdir()
        raise


def _publish(folder: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Moves a finished version into place under the next free number."""
    while True:
        taken = [int(p.name) for p in out.iterdir() if p.name.isascii() and p.name.isdigit()]
        target = out / str(max(taken, default=0) + 1)
        with contextlib.suppress(FileExistsError):
            # Fails on a folder with content, so two exports at once both get a number.
            target.mkdir()
            return folder.replace(target)


def _prove(
    network: Network,
    folder: pathlib.Path,
    cases: Sequence[Golden],
    console: rich_console.Console,
) -> dict[str, Any]:
    """Returns the proof for parity.json.

    Raises:
      NotProven: if one way of running the model gives another mask.
    """
    with console.status(f"trained model: {len(cases)} golden cases"):
        expected = [_trained(network, case) for case in cases]
    differences = {}
    with console.status("SavedModel in a fresh process"):
        found = _fresh(_loaded_anew, folder, cases)
        differences["saved_model"] = parity.compare("the SavedModel", expected, found, cases)
    with server_process.embedded(folder.parent, folder.parent.name) as addresses:
        for api, address in addresses.items():
            with console.status(f"server over {api}"):
                found = _over(api, address, folder.parent.name, cases)
                differences[api] = parity.compare(f"the server over {api}", expected, found, cases)
    console.print(
        f"masks of trained model, SavedModel, gRPC and REST are equal in every pixel "
        f"({len(cases)} golden cases; largest difference of a probability "
        f"{max(differences.values()):.1e})"
    )
    return {
        "masks_equal": True,
        "largest_probability_difference": differences,
        "batches_give_the_bits_of_single_requests": True,
        "golden_cases": parity.describe(cases, expected, network.spec),
    }


def _trained(network: Network, case: Golden) -> Answer:
    probabilities = network.probabilities(case.scan)
    planes = inference.mask(probabilities, network.spec).planes
    return Answer(probabilities, planes, {})


def _close(
    way: str,
    network: Network,
    found: Sequence[np.ndarray],
    cases: Sequence[Golden],
    console: rich_console.Console,
) -> dict[str, Any]:
    """Returns how far the masks of another way are from the trained model's, for parity.json."""
    expected = [network.probabilities(case.scan) for case in cases]
    told = parity.compare_closely(way, expected, found, cases)
    console.print(
        f"{way}: {sum(told['pixels_that_differ'])} pixels differ from the trained model's masks; "
        f"smallest Dice {told['smallest_dice']:.5f}"
    )
    return told


def _in_format(
    name: str, path: pathlib.Path, cases: Sequence[Golden], spec: InputSpec
) -> list[np.ndarray]:
    predict = formats.load(name, path)
    return [inference.probabilities(case.scan, spec, predict) for case in cases]


def _fresh(work: Callable[..., T], *told: object) -> T:
    """Returns work(*told), done in a process that knows nothing of this one.

    Raises:
      NotProven: if it ends its process.
    """
    spawn = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        try:
            return pool.submit(work, *told).result()
        except futures.process.BrokenProcessPool as error:
            raise parity.NotProven("not exported: the model ended its process") from error


def _loaded_anew(folder: pathlib.Path, cases: Sequence[Golden]) -> list[Answer]:
    served = saved_model.load(folder)
    parity.check_batches(served, cases)
    return parity.answers(served, cases)


def _over(api: str, address: str, name: str, cases: Sequence[Golden]) -> list[Answer]:
    model = client.reach(Access(address), name, api=api)
    try:
        return parity.answers(model.served, cases)
    finally:
        model.close()


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
