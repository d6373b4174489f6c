"""What a measurement of serving says, as tables in a terminal."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import rich.console
import rich.table

_PERCENTILES = (50, 95, 99)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Returns the 50th, 95th and 99th percentile by name."""
    found = np.percentile(values, _PERCENTILES)
    return {f"p{p}": float(value) for p, value in zip(_PERCENTILES, found, strict=True)}


def show(measured: dict[str, Any], console: rich.console.Console) -> None:
    """Prints the tables of one model and what they come to."""
    console.print(_in_process(measured))
    console.print(_latencies(measured))
    console.print(_steps(measured))
    for line in aims(measured):
        console.print(line)


def _table(title: str, *columns: str) -> rich.table.Table:
    table = rich.table.Table(title=title)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _in_process(measured: dict[str, Any]) -> rich.table.Table:
    table = _table(
        f"{measured['model']}: forward passes in one process, float32",
        *("runtime", "at once", "p50 ms", "p95 ms", "p99 ms", "a second", "pixels that differ"),
    )
    for one in measured["in_process"]:
        table.add_row(
            *(one["runtime"], str(one["callers"]), *_ms(one["milliseconds"])),
            *(f"{one['a_second']:.1f}", str(one["different_pixels"])),
        )
    return table


def _latencies(measured: dict[str, Any]) -> rich.table.Table:
    table = _table(
        f"{measured['model']}: served",
        *("API", "sent", "batching", "clients", "p50 ms", "p95 ms", "p99 ms", "masks a second"),
    )
    for one in measured["served"]:
        table.add_row(
            *(*_way(one), str(one["clients"]), *_ms(one["latency_ms"])),
            f"{one['masks_a_second']:.1f}",
        )
    return table


def _steps(measured: dict[str, Any]) -> rich.table.Table:
    table = _table(
        f"{measured['model']}: where the time goes, mean ms",
        *("API", "sent", "batching", "clients", "decode", "preprocess", "wire", "queue"),
        *("network", "postprocess"),
    )
    for one in measured["served"]:
        step = steps(one, _alone(measured, one))
        table.add_row(*_way(one), str(one["clients"]), *(f"{value:.1f}" for value in step.values()))
    return table


def steps(one: dict[str, Any], alone: dict[str, Any]) -> dict[str, float]:
    """Returns the mean milliseconds of each step of a request.

    `wire` is what one client alone waits beside the graph: serialising on both sides and the
    connection. `queue` is what more clients at once add to it, and the queue of batches.

    Args:
      one: as serving.load measured it.
      alone: the same of the fewest clients.
    """
    mean, inside = one["mean_ms"], one["in_server_ms"]
    network = inside["graph"] - inside["queue"]
    outside = mean["server"] - network
    wire = min(outside, alone["mean_ms"]["server"] - alone["in_server_ms"]["graph"])
    return {
        "decode": mean["decode"],
        "preprocess": mean["preprocess"],
        "wire": wire,
        "queue": outside - wire,
        "network": network,
        "postprocess": mean["postprocess"],
    }


def _alone(measured: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    same = [other for other in measured["served"] if _way(other) == _way(one)]
    fewest: dict[str, Any] = min(same, key=lambda other: other["clients"])
    return fewest


def _way(one: dict[str, Any]) -> tuple[str, str, str]:
    return one["api"], one["send"], "on" if one["batching"] else "off"


def _ms(values: dict[str, float]) -> list[str]:
    return [f"{value:.1f}" for value in values.values()]


def aims(measured: dict[str, Any]) -> list[str]:
    """Returns the sentences that the numbers come to."""
    in_process = measured["in_process"]
    ours = [one for one in in_process if one["runtime"] == "tensorflow"]
    forward_ms = next(one for one in ours if one["callers"] == 1)["milliseconds"]["p50"]
    best = max(one["a_second"] for one in ours)
    told = []
    for name in sorted({one["runtime"] for one in in_process} - {"tensorflow"}):
        theirs = [one for one in in_process if one["runtime"] == name]
        their_ms = next(one for one in theirs if one["callers"] == 1)["milliseconds"]["p50"]
        told.append(
            f"TensorFlow against {name}: {forward_ms / their_ms:.2f} of its time for one pass, "
            f"{best / max(one['a_second'] for one in theirs):.2f} of its passes a second"
        )
    if one := _find(measured, "grpc", "tile", clients=1, batching=False):
        more_ms = one["server_ms"]["p50"] - forward_ms
        told.append(
            f"gRPC adds {more_ms:.1f} ms to a pass of {forward_ms:.1f} ms, "
            f"{100 * more_ms / forward_ms:.0f} %"
        )
    if one := _find(measured, "grpc", "tile", clients=16, batching=True):
        told.append(
            f"16 clients with batching get {one['masks_a_second']:.1f} a second, "
            f"{100 * one['masks_a_second'] / best:.0f} % of the best in one process ({best:.1f})"
        )
    files = [one for one in measured["served"] if one["send"] == "file"]
    if files:
        top = max(files, key=lambda one: one["masks_a_second"])
        told.append(
            f"from PNG to mask: {top['masks_a_second']:.1f} a second "
            f"({top['clients']} clients, {top['api']})"
        )
    return told


def _find(
    measured: dict[str, Any], api: str, send: str, *, clients: int, batching: bool
) -> dict[str, Any] | None:
    wanted = (api, send, clients, batching)
    keys = ("api", "send", "clients", "batching")
    return next((o for o in measured["served"] if tuple(o[k] for k in keys) == wanted), None)
