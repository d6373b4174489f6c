"""The gate of an export: a model is run in every way there is, and its masks are compared."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from rich import console as rich_console

from data_pipeline import inference
from data_pipeline.spec import InputSpec
from models.segmenter import Network
from serving import client, formats, fresh_process, parity, saved_model, server_process
from serving.connection import Access
from serving.parity import Answer, Golden

T = TypeVar("T")


def prove(
    network: Network,
    folder: pathlib.Path,
    cases: Sequence[Golden],
    console: rich_console.Console,
) -> dict[str, Any]:
    """Returns the proof for parity.json: SavedModel, gRPC and REST give the network's masks.

    Args:
      network: trained, in the precision in which it was written.
      folder: the version folder that was written, MODEL/VERSION.
      cases: scans on which the ways must agree.
      console: told what is being done.

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


def compare_precision(
    precision: str,
    network: Network,
    exported: Network,
    cases: Sequence[Golden],
    console: rich_console.Console,
) -> dict[str, Any]:
    """Returns how far the masks of a network in less than float32 are off, for parity.json.

    Raises:
      NotProven: if they are further off than is allowed.
    """
    found = [exported.probabilities(case.scan) for case in cases]
    return _close(precision, network, found, cases, console)


def compare_format(
    name: str,
    path: pathlib.Path,
    network: Network,
    cases: Sequence[Golden],
    console: rich_console.Console,
) -> dict[str, Any]:
    """Returns how far the masks of another runtime are off, for parity.json.

    Args:
      name: of the format, of formats.FORMATS.
      path: of the file that the network was written to.
      network: trained, in float32.
      cases: scans on which both are tried.
      console: told how far they are off.

    Raises:
      NotProven: if they are further off than is allowed, or the runtime ends its process.
    """
    found = _fresh(_in_format, name, path, cases, network.spec)
    return _close(name, network, found, cases, console)


def _close(
    way: str,
    network: Network,
    found: Sequence[np.ndarray],
    cases: Sequence[Golden],
    console: rich_console.Console,
) -> dict[str, Any]:
    expected = [network.probabilities(case.scan) for case in cases]
    told = parity.compare_closely(way, expected, found, cases, network.spec)
    console.print(
        f"{way}: {sum(told['pixels_that_differ'])} pixels differ from the trained model's masks; "
        f"smallest Dice {told['smallest_dice']:.5f}"
    )
    return told


def _trained(network: Network, case: Golden) -> Answer:
    probabilities = network.probabilities(case.scan)
    planes = inference.mask(probabilities, network.spec).planes
    return Answer(probabilities, planes, {})


def _fresh(work: Callable[..., T], *told: object) -> T:
    """Returns work(*told), done in a process that knows nothing of this one.

    Raises:
      NotProven: if it ends its process.
    """
    try:
        return fresh_process.run(work, *told)
    except fresh_process.Ended as error:
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


def _in_format(
    name: str, path: pathlib.Path, cases: Sequence[Golden], spec: InputSpec
) -> list[np.ndarray]:
    predict = formats.load(name, path)
    return [inference.probabilities(case.scan, spec, predict) for case in cases]
