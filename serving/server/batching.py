"""Joins requests to one signature into one run of the graph.

Requests wait in a queue per model version, inputs and outputs. A batch is run when it is
full, or when its first request has waited for `batch_timeout_micros` and a batch thread is
free; with a timeout of 0 a free thread takes whatever is there.
"""

import collections
import dataclasses
import os
import pathlib
import threading
import time
from collections.abc import Mapping, Sequence

import grpc
import numpy as np
from google.protobuf.message import Message

from data_pipeline.errors import InputError
from serving.server import metrics, model_config, protos, status
from serving.server.deadline import NEVER, Deadline
from serving.server.servable import Servable

PER_MODEL_FILE = "batching_params.pbtxt"

_FULL = "The batch scheduling queue to which this task was submitted is full"
_TIMED_OUT_IN_QUEUE = "Run() timeout exceeded while waiting in batching queue"
_UNEQUAL = (
    "Tensors with name '{name}' from different tasks have different shapes and padding is "
    "turned off. Set pad_variable_length_inputs to true, or ensure that all tensors with the "
    "same name have equal dimensions starting with the first dim."
)
_MOST_PADDED_DIMS = 6


@dataclasses.dataclass(frozen=True)
class Parameters:
    """How batches are formed."""

    max_batch_size: int = 1000
    batch_timeout_s: float = 0.0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    thread_pool_name: str = "model_server_batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    split_large: bool = False  # a request larger than a batch runs as several
    max_execution_batch_size: int = 0  # of a batch, where large requests are split

    @property
    def batch_limit(self) -> int:
        """The most rows that run at once."""
        if self.split_large and self.max_execution_batch_size:
            return self.max_execution_batch_size
        return self.max_batch_size

    def padded(self, size: int) -> int:
        """The rows that a batch of some size runs with."""
        return next((allowed for allowed in self.allowed_batch_sizes if allowed >= size), size)


def read_parameters(path: str) -> Parameters:
    """Reads a text-format BatchingParameters file.

    Raises:
      InputError: if it is not one, or its numbers contradict each other.
    """
    return from_message(model_config.read_text(path, protos.BatchingParameters()), path)


def from_message(given: Message, source: str) -> Parameters:
    """Parameters of a BatchingParameters message; what it leaves out has its default."""
    default = Parameters()

    def number(name: str, otherwise: int) -> int:
        return getattr(given, name).value if given.HasField(name) else otherwise

    parameters = Parameters(
        max_batch_size=number("max_batch_size", default.max_batch_size),
        batch_timeout_s=number("batch_timeout_micros", 0) / 1e6,
        max_enqueued_batches=number("max_enqueued_batches", default.max_enqueued_batches),
        num_batch_threads=number("num_batch_threads", default.num_batch_threads),
        thread_pool_name=given.thread_pool_name.value or default.thread_pool_name,
        allowed_batch_sizes=tuple(given.allowed_batch_sizes),
        pad_variable_length_inputs=given.pad_variable_length_inputs,
        split_large=given.enable_large_batch_splitting.value,
        max_execution_batch_size=number("max_execution_batch_size", 0),
    )
    _check(parameters, source)
    return parameters


def _check(parameters: Parameters, source: str) -> None:
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if getattr(parameters, name) < 1:
            raise InputError(f"{source}: {name} must be at least 1")
    sizes = parameters.allowed_batch_sizes
    if not sizes:
        return
    if list(sizes) != sorted(set(sizes)) or sizes[0] < 1:
        raise InputError(f"{source}: allowed_batch_sizes must increase; got {list(sizes)}")
    if sizes[-1] != parameters.batch_limit:
        raise InputError(
            f"{source}: Last entry in allowed_batch_sizes must match max_batch_size; last entry "
            f"was {sizes[-1]}; expected {parameters.batch_limit}"
        )


@dataclasses.dataclass(eq=False)
class _Task:
    """One request waiting for, or in, a batch."""

    feeds: Mapping[str, np.ndarray]
    size: int
    entered_s: float
    deadline: Deadline
    done: threading.Event = dataclasses.field(default_factory=threading.Event)
    outputs: list[np.ndarray] | None = None
    error: status.ServingError | None = None

    def fail(self, error: status.ServingError) -> None:
        self.error = error
        self.done.set()


@dataclasses.dataclass(eq=False)
class _Batch:
    """Requests that run together."""

    tasks: list[_Task] = dataclasses.field(default_factory=list)
    size: int = 0
    opened_s: float = 0.0
    closed: bool = False

    def add(self, task: _Task) -> None:
        if not self.tasks:
            self.opened_s = task.entered_s
        self.tasks.append(task)
        self.size += task.size


@dataclasses.dataclass(eq=False)
class _Queue:
    """Batches for one set of inputs and outputs of one model version."""

    servable: Servable
    fetches: tuple[str, ...]
    parameters: Parameters
    batches: collections.deque[_Batch] = dataclasses.field(default_factory=collections.deque)

    def add(self, task: _Task) -> None:
        """Puts a request in; raises ServingError UNAVAILABLE if there is no room."""
        last = self.batches[-1] if self.batches else None
        limit = self.parameters.batch_limit
        if last is None or last.closed or last.size + task.size > limit:
            if len(self.batches) >= self.parameters.max_enqueued_batches:
                raise status.ServingError(grpc.StatusCode.UNAVAILABLE, _FULL)
            if last is not None:
                last.closed = True
            last = _Batch()
            self.batches.append(last)
        last.add(task)
        last.closed = last.size >= limit

    def ready_at_s(self) -> float:
        """When the first batch may run; 0 if it is full."""
        first = self.batches[0]
        return 0.0 if first.closed else first.opened_s + self.parameters.batch_timeout_s


class Batcher:
    """Runs requests in batches on threads of its own. Thread-safe."""

    def __init__(self, parameters: Parameters, *, per_model: bool = False) -> None:
        """Starts the batch threads.

        Args:
          parameters: for every model, or only for the threads if `per_model`.
          per_model: whether each model brings its own parameters, or runs unbatched.
        """
        self._parameters = parameters
        self._per_model = per_model
        self._own: dict[str, Parameters | None] = {}
        self._queues: collections.OrderedDict[tuple, _Queue] = collections.OrderedDict()
        self._changed = threading.Condition()
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{index}", daemon=True)
            for index in range(parameters.num_batch_threads)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Runs what is queued, then ends the threads."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def run(
        self,
        servable: Servable,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        deadline: Deadline = NEVER,
    ) -> list[np.ndarray]:
        """Runs one request as part of a batch; see `Servable.run`.

        Raises:
          ServingError: also if it fits no batch, or the queue is full.
        """
        parameters = self._parameters_of(servable)
        if parameters is None:
            return servable.run(feeds, fetches, deadline.left_s())
        size = _rows(feeds)
        if size > parameters.max_batch_size:
            raise status.invalid(
                f"Task size {size} is larger than maximum input batch size "
                f"{parameters.max_batch_size}"
            )
        if not size:
            return servable.run(feeds, fetches, deadline.left_s())
        tasks = self._enqueue(servable, feeds, tuple(fetches), size, deadline, parameters)
        for task in tasks:
            task.done.wait()
        for task in tasks:
            if task.error is not None:
                raise task.error
        outputs = [task.outputs for task in tasks if task.outputs is not None]
        if len(outputs) == 1:
            return outputs[0]
        return [np.concatenate(parts) for parts in zip(*outputs, strict=True)]

    def _parameters_of(self, servable: Servable) -> Parameters | None:
        if not self._per_model:
            return self._parameters
        if servable.path not in self._own:
            file = pathlib.Path(servable.path, PER_MODEL_FILE)
            self._own[servable.path] = read_parameters(str(file)) if file.exists() else None
        return self._own[servable.path]

    def _enqueue(
        self,
        servable: Servable,
        feeds: Mapping[str, np.ndarray],
        fetches: tuple[str, ...],
        size: int,
        deadline: Deadline,
        parameters: Parameters,
    ) -> list[_Task]:
        now = time.monotonic()
        limit = parameters.batch_limit
        slices = [slice(start, start + limit) for start in range(0, size, limit)]
        tasks = [
            _Task(
                feeds if len(slices) == 1 else {k: v[part] for k, v in feeds.items()},
                min(limit, size - part.start),
                now,
                deadline,
            )
            for part in slices
        ]
        key = (id(servable), frozenset(feeds), fetches)
        with self._changed:
            if self._stopping:
                raise status.ServingError(grpc.StatusCode.UNAVAILABLE, "the server is stopping")
            queue = self._queues.setdefault(key, _Queue(servable, fetches, parameters))
            for task in tasks:
                queue.add(task)
            self._changed.notify()
        return tasks

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            queue, batch = taken
            _Run(queue, batch).run()

    def _take(self) -> tuple[_Queue, _Batch] | None:
        """The next batch to run, from each queue in turn; None when there will be no more."""
        with self._changed:
            while True:
                soonest = None
                now = time.monotonic()
                for key, queue in list(self._queues.items()):
                    ready = queue.ready_at_s()
                    if ready <= now or self._stopping:
                        return queue, self._pop(key, queue)
                    soonest = ready if soonest is None else min(soonest, ready)
                if self._stopping:
                    return None
                self._changed.wait(None if soonest is None else soonest - now)

    def _pop(self, key: tuple, queue: _Queue) -> _Batch:
        batch = queue.batches.popleft()
        batch.closed = True
        del self._queues[key]
        if queue.batches:
            self._queues[key] = queue  # last in turn
            self._changed.notify()
        return batch


def _rows(feeds: Mapping[str, np.ndarray]) -> int:
    """The common size of the inputs' first dimension."""
    if not feeds:
        raise status.invalid("Batching Run() must have at least one input tensor")
    if any(array.ndim == 0 for array in feeds.values()):
        raise status.invalid("Batching Run() input tensors must have at least one dimension")
    sizes = {len(array) for array in feeds.values()}
    if len(sizes) > 1:
        raise status.invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()


class _Run:
    """One batch on its way through the graph."""

    def __init__(self, queue: _Queue, batch: _Batch) -> None:
        self._queue = queue
        self._parameters = queue.parameters
        self._tasks = batch.tasks
        self._size = batch.size

    def run(self) -> None:
        """Answers every request of the batch, with outputs or an error."""
        try:
            self._answer()
        except status.ServingError as error:
            self._fail(error)
        except Exception as error:
            self._fail(status.internal(f"{type(error).__name__}: {error}"))

    def _fail(self, error: status.ServingError) -> None:
        for task in self._tasks:
            task.fail(error)

    def _answer(self) -> None:
        now = time.monotonic()
        for task in self._tasks:
            name = self._parameters.thread_pool_name
            metrics.QUEUING_LATENCY.observe((name,), now - task.entered_s)
        self._drop_abandoned()
        if not self._tasks:
            return
        left = [task.deadline.left_s() for task in self._tasks]
        timeout_s = None if None in left else max(s for s in left if s is not None)
        merged = {name: self._merged(name) for name in self._tasks[0].feeds}
        outputs = self._queue.servable.run(merged, self._queue.fetches, timeout_s)
        self._split(outputs)

    def _drop_abandoned(self) -> None:
        """Leaves out requests that nobody waits for any more; TensorFlow Serving computes them."""
        abandoned = [task for task in self._tasks if task.deadline.is_over]
        for task in abandoned:
            task.fail(status.ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, _TIMED_OUT_IN_QUEUE))
        self._tasks = [task for task in self._tasks if task not in abandoned]
        self._size = sum(task.size for task in self._tasks)

    def _merged(self, name: str) -> np.ndarray:
        arrays = [task.feeds[name] for task in self._tasks]
        if self._parameters.pad_variable_length_inputs:
            arrays = _padded_to_common(arrays)
        elif len({array.shape[1:] for array in arrays}) > 1:
            raise status.precondition(_UNEQUAL.format(name=name))
        missing = self._parameters.padded(self._size) - self._size
        # The first row of the last request is a valid row, which a row of zeros may not be.
        arrays += [arrays[-1][:1]] * missing
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    def _split(self, outputs: list[np.ndarray]) -> None:
        rows = self._parameters.padded(self._size)
        for output in outputs:
            if output.ndim == 0:
                raise status.precondition("Batched output tensor has 0 dimensions")
            if len(output) != rows:
                raise status.precondition(
                    "Batched output tensor's 0th dimension does not equal the sum of the 0th "
                    "dimension sizes of the input tensors"
                )
        start = 0
        for task in self._tasks:
            task.outputs = [output[start : start + task.size] for output in outputs]
            start += task.size
            task.done.set()


def _padded_to_common(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Arrays brought to the largest of each inner dimension with zeros or empty strings."""
    ranks = {array.ndim for array in arrays}
    if len(ranks) > 1:
        raise status.precondition("Tensors of one name from different tasks differ in rank")
    if ranks.pop() > _MOST_PADDED_DIMS:
        raise status.invalid("Only tensors with rank from 1 to 6 can be padded.")
    inner = tuple(np.max([array.shape[1:] for array in arrays], axis=0, initial=0).tolist())
    padded = []
    for array in arrays:
        if array.shape[1:] != inner:
            empty = b"" if array.dtype == object else array.dtype.type(0)
            larger = np.full((len(array), *inner), empty, array.dtype)
            larger[tuple(slice(size) for size in array.shape)] = array
            array = larger
        padded.append(array)
    return padded
