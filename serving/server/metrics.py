"""Counts and latencies under the names that TensorFlow Serving gives them.

Prometheus client libraries refuse names that begin with a colon, so the text is written
here; its format is three lines a metric.
"""

import bisect
import threading
from collections.abc import Mapping, Sequence

import grpc

# Upper bounds in microseconds: 10 x 1.8^k, to about 20 minutes.
_BOUNDS_US = tuple(10 * 1.8**power for power in range(33))


# Clients choose label values (a model's name); more than this many are counted as one.
MAX_CELLS = 1000
_OTHERS = "(others)"


class Counter:
    """A number per combination of label values that only grows."""

    def __init__(self, name: str, labels: Sequence[str]) -> None:
        self.name = name
        self._labels = tuple(labels)
        self._values: dict[tuple[str, ...], int] = {}
        self._lock = threading.Lock()

    def add(self, values: tuple[str, ...], amount: int = 1) -> None:
        """Adds to the count of these label values."""
        with self._lock:
            values = _bounded(values, self._values)
            self._values[values] = self._values.get(values, 0) + amount

    def first(self) -> int:
        """The value of the label combination counted first, 0 if there is none."""
        with self._lock:
            return next(iter(self._values.values()), 0)

    def lines(self) -> list[str]:
        """The metric in Prometheus' text format."""
        with self._lock:
            values = dict(self._values)
        name = _exported(self.name)
        lines = [f"# TYPE {name} counter"]
        return lines + [f"{name}{_braces(self._labels, key)} {n}" for key, n in values.items()]


class Histogram:
    """A distribution of durations per combination of label values."""

    def __init__(self, name: str, labels: Sequence[str]) -> None:
        self.name = name
        self._labels = tuple(labels)
        self._cells: dict[tuple[str, ...], tuple[list[int], float]] = {}
        self._lock = threading.Lock()

    def observe(self, values: tuple[str, ...], seconds: float) -> None:
        """Adds one duration."""
        duration_us = max(seconds, 0.0) * 1e6
        bucket = bisect.bisect_right(_BOUNDS_US, duration_us)
        with self._lock:
            values = _bounded(values, self._cells)
            counts, total = self._cells.get(values) or ([0] * (len(_BOUNDS_US) + 1), 0.0)
            counts[bucket] += 1
            self._cells[values] = counts, total + duration_us

    def lines(self) -> list[str]:
        """The metric in Prometheus' text format."""
        with self._lock:
            cells = {key: (list(counts), total) for key, (counts, total) in self._cells.items()}
        name = _exported(self.name)
        lines = [f"# TYPE {name} histogram"]
        for key, (counts, total) in cells.items():
            running = 0
            for bound, count in zip((*_BOUNDS_US, None), counts, strict=True):
                running += count
                le = "+Inf" if bound is None else f"{bound:g}"
                braces = _braces((*self._labels, "le"), (*key, le))
                lines.append(f"{name}_bucket{braces} {running}")
            braces = _braces(self._labels, key)
            lines += [f"{name}_sum{braces} {total:g}", f"{name}_count{braces} {running}"]
        return lines


REQUEST_COUNT = Counter("/tensorflow/serving/request_count", ("model_name", "status"))
EXAMPLE_TOTAL = Counter("/tensorflow/serving/request_example_count_total", ("model",))
REQUEST_LATENCY = Histogram(
    "/tensorflow/serving/request_latency", ("model_name", "API", "entrypoint")
)
RUNTIME_LATENCY = Histogram("/tensorflow/serving/runtime_latency", ("model_name", "API", "runtime"))
WARMUP_LATENCY = Histogram("/tensorflow/serving/model_warmup_latency", ("model_path", "status"))
QUEUING_LATENCY = Histogram(
    "/tensorflow/serving/batching_session/queuing_latency", ("thread_pool_name",)
)

COUNTERS = {counter.name: counter for counter in (REQUEST_COUNT, EXAMPLE_TOTAL)}
_ALL = (
    REQUEST_COUNT,
    EXAMPLE_TOTAL,
    REQUEST_LATENCY,
    RUNTIME_LATENCY,
    WARMUP_LATENCY,
    QUEUING_LATENCY,
)


def page() -> str:
    """All metrics in Prometheus' text format."""
    return "\n".join(line for metric in _ALL for line in metric.lines()) + "\n"


def _bounded(values: tuple[str, ...], known: Mapping[tuple[str, ...], object]) -> tuple[str, ...]:
    if values in known or len(known) < MAX_CELLS:
        return values
    return (_OTHERS, *values[1:])


def _exported(name: str) -> str:
    """The name as Prometheus sees it: every character it does not know becomes a colon."""
    return "".join(c if c.isascii() and (c.isalnum() or c == "_") else ":" for c in name)


def _braces(labels: Sequence[str], values: Sequence[str]) -> str:
    pairs = ",".join(f'{k}="{_escaped(v)}"' for k, v in zip(labels, values, strict=True))
    return "{" + pairs + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def count_request(
    model: str, api: str, entrypoint: str, outcome: grpc.StatusCode, seconds: float
) -> None:
    """Notes one request; its latency only if it succeeded."""
    REQUEST_COUNT.add((model, outcome.name))
    if outcome is grpc.StatusCode.OK:
        REQUEST_LATENCY.observe((model, api, entrypoint), seconds)
