"""What a measurement of serving says, as tables in a terminal and in Markdown."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import rich.console
import rich.table

from evaluation import tables

# TensorFlow with the exported model: called as a function, and run as model servers do.
OURS = ("tensorflow", "tensorflow session")
_PERCENTILES = (50, 95, 99)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Returns the 50th, 95th and 99th percentile by name."""
    found = np.percentile(values, _PERCENTILES)
    return {f"p{p}": float(value) for p, value in zip(_PERCENTILES, found, strict=True)}


@dataclasses.dataclass(frozen=True)
class _Table:
    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def show(measured: dict[str, Any], console: rich.console.Console) -> None:
    """Prints the tables of one model and what they come to."""
    for one in _tables(measured):
        table = rich.table.Table(title=one.title)
        for column in one.header:
            table.add_column(column, justify="right")
        for row in one.rows:
            table.add_row(*row)
        console.print(table)
    for line in aims(measured):
        console.print(line)


def markdown(report: dict[str, Any]) -> str:
    """Returns the report as Markdown: what it was measured on, then each model."""
    on = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in on["versions"].items())
    text = f"{on['date']}, {on['cores']} cores of {on['processor']}, Python {on['python']}"
    text += f"; {versions}.\n"
    for measured in report["models"]:
        side = " x ".join(map(str, measured["tile"]))
        text += f"\n## {measured['model']}, {side}\n"
        for one in _tables(measured):
            text += f"\n{one.title}:\n\n{tables.markdown(one.header, one.rows)}"
        text += "\n" + "".join(f"- {line}\n" for line in aims(measured))
    return text


def _tables(measured: dict[str, Any]) -> list[_Table]:
    return [_in_process(measured), _latencies(measured), _steps(measured)]


def _in_process(measured: dict[str, Any]) -> _Table:
    return _Table(
        f"{measured['model']}: forward passes in one process, float32",
        (
            "runtime",
            "at once",
            "threads",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "a second",
            "pixels that differ",
        ),
        [
            (
                *(one["runtime"], str(one["callers"]), str(one["threads"])),
                *_ms(one["milliseconds"], digits=2),
                *(f"{one['a_second']:.1f}", str(one["different_pixels"])),
            )
            for one in measured["in_process"]
        ],
    )


_WAY = ("API", "sent", "batching", "clients")


def _latencies(measured: dict[str, Any]) -> _Table:
    return _Table(
        f"{measured['model']}: served",
        (
            *(*_WAY, "p50 ms", "p95 ms", "p99 ms", "masks a second"),
            *("CPU ms a mask: server", "clients"),
        ),
        [
            (
                *(*_way(one), str(one["clients"]), *_ms(one["latency_ms"])),
                f"{one['masks_a_second']:.1f}",
                *(f"{one['cpu_ms'][who]:.2f}" for who in ("server", "clients")),
            )
            for one in measured["served"]
        ],
    )


def _steps(measured: dict[str, Any]) -> _Table:
    rows = []
    for one in measured["served"]:
        step = steps(one, _alone(measured, one))
        rows.append((*_way(one), str(one["clients"]), *(f"{ms:.1f}" for ms in step.values())))
    return _Table(
        f"{measured['model']}: where the time goes, mean ms",
        (*_WAY, "decode", "preprocess", "wire", "queue", "network", "postprocess"),
        rows,
    )


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


def _ms(values: dict[str, float], digits: int = 1) -> list[str]:
    return [f"{value:.{digits}f}" for value in values.values()]


def aims(measured: dict[str, Any]) -> list[str]:
    """Returns the sentences that the numbers come to."""
    in_process = measured["in_process"]
    ours = [one for one in in_process if one["runtime"] in OURS]
    forward_ms, best = _alone_ms(ours), max(one["a_second"] for one in ours)
    told = []
    for name in sorted({one["runtime"] for one in in_process} - set(OURS)):
        theirs = [one for one in in_process if one["runtime"] == name]
        told.append(
            f"TensorFlow against {name}: {forward_ms / _alone_ms(theirs):.2f} of its time for one "
            f"pass, {best / max(one['a_second'] for one in theirs):.2f} of its passes a second"
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
        apart = 1000 * measured["cores"] / one["cpu_ms"]["server"]
        told.append(
            f"of their {sum(one['cpu_ms'].values()):.1f} ms of CPU a mask the clients take "
            f"{one['cpu_ms']['clients']:.1f}; on a machine of their own they would leave the "
            f"server CPU for {apart:.1f} a second, {100 * apart / best:.0f} %"
        )
    files = [one for one in measured["served"] if one["send"] == "file"]
    if files:
        top = max(files, key=lambda one: one["masks_a_second"])
        told.append(
            f"from PNG to mask: {top['masks_a_second']:.1f} a second "
            f"({top['clients']} clients, {top['api']})"
        )
    return told


def _alone_ms(runtime: list[dict[str, Any]]) -> float:
    """Returns what a lone caller waits, with as many threads as serve it best."""
    return min(float(one["milliseconds"]["p50"]) for one in runtime if one["callers"] == 1)


def _find(
    measured: dict[str, Any], api: str, send: str, *, clients: int, batching: bool
) -> dict[str, Any] | None:
    wanted = (api, send, clients, batching)
    keys = ("api", "send", "clients", "batching")
    return next((o for o in measured["served"] if tuple(o[k] for k in keys) == wanted), None)
