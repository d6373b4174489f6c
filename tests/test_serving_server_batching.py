"""How requests are joined into batches, on a model that records what it is given."""

import threading
import time

import grpc
import numpy as np
import pytest

from data_pipeline.errors import InputError
from serving.server import batching, status
from serving.server.deadline import NEVER, Deadline


class Recorder:
    """A model that doubles its input, notes batch sizes, and may be held up."""

    path = "/nowhere"

    def __init__(self) -> None:
        self.batches: list[np.ndarray] = []
        self.started = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def run(self, feeds, fetches, timeout_s=None):
        self.started.set()
        self.gate.wait(10)
        (array,) = feeds.values()
        self.batches.append(array)
        return [array * 2 for _ in fetches]

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


class Callers:
    """Requests sent from threads of their own."""

    def __init__(self, batcher: batching.Batcher, model: Recorder) -> None:
        self._batcher, self._model = batcher, model
        self._threads: list[threading.Thread] = []
        self.replies: dict[int, object] = {}

    def send(self, array: np.ndarray, until: Deadline = NEVER) -> None:
        index = len(self._threads)

        def call() -> None:
            try:
                self.replies[index] = self._batcher.run(
                    self._model, {"x:0": array}, ["y:0"], until
                )[0]
            except status.ServingError as error:
                self.replies[index] = error

        thread = threading.Thread(target=call)
        self._threads.append(thread)
        thread.start()
        time.sleep(0.02)  # so that requests queue in the order they are sent

    def wait(self) -> list[object]:
        for thread in self._threads:
            thread.join(10)
        return [self.replies[index] for index in range(len(self._threads))]


@pytest.fixture
def start():
    batchers = []

    def start(**parameters) -> tuple[Callers, Recorder]:
        settings = {"num_batch_threads": 1, **parameters}
        batchers.append(batching.Batcher(batching.Parameters(**settings)))
        model = Recorder()
        return Callers(batchers[-1], model), model

    yield start
    for batcher in batchers:
        batcher.close()


def row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def test_requests_that_wait_together_run_together_and_get_their_own_rows(start):
    callers, model = start(max_batch_size=4, batch_timeout_s=5.0)
    for value in range(4):
        callers.send(row(value, 10))
    replies = callers.wait()
    assert model.sizes == [4]
    assert [reply.tolist() for reply in replies] == [[[2 * value, 20]] for value in range(4)]


def test_a_batch_that_is_not_full_runs_after_the_timeout(start):
    callers, model = start(max_batch_size=100, batch_timeout_s=0.2)
    begin = time.monotonic()
    callers.send(row(1))
    callers.send(row(2))
    callers.wait()
    assert model.sizes == [2]
    assert 0.2 <= time.monotonic() - begin < 2


def test_without_a_timeout_a_free_thread_takes_what_is_there(start):
    callers, model = start(max_batch_size=100)
    model.gate.clear()
    callers.send(row(1))
    model.started.wait(5)
    for value in range(3):
        callers.send(row(value))
    model.gate.set()
    callers.wait()
    assert model.sizes == [1, 3]


def test_a_request_that_does_not_fit_opens_the_next_batch(start):
    callers, model = start(max_batch_size=3, batch_timeout_s=0.1)
    callers.send(np.zeros((2, 1), np.float32))
    callers.send(np.zeros((2, 1), np.float32))
    callers.wait()
    assert model.sizes == [2, 2]


def test_a_request_larger_than_a_batch_is_refused(start):
    callers, _ = start(max_batch_size=3)
    callers.send(np.zeros((4, 1), np.float32))
    (error,) = callers.wait()
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.message == "Task size 4 is larger than maximum input batch size 3"


def test_a_large_request_is_split_if_told_to(start):
    callers, model = start(max_batch_size=10, split_large=True, max_execution_batch_size=4)
    callers.send(np.arange(10, dtype=np.float32).reshape(10, 1))
    (reply,) = callers.wait()
    assert model.sizes == [4, 4, 2]
    assert reply.ravel().tolist() == [2.0 * value for value in range(10)]


def test_a_full_queue_refuses_and_says_so(start):
    callers, model = start(max_batch_size=1, max_enqueued_batches=2)
    model.gate.clear()
    callers.send(row(0))
    model.started.wait(5)
    for value in range(3):
        callers.send(row(value))
    model.gate.set()
    *served, refused = callers.wait()
    assert all(isinstance(reply, np.ndarray) for reply in served)
    assert refused.code is grpc.StatusCode.UNAVAILABLE
    assert refused.message == (
        "The batch scheduling queue to which this task was submitted is full"
    )


def test_unequal_inner_shapes_fail_unless_they_are_padded(start):
    callers, _ = start(max_batch_size=2, batch_timeout_s=5.0)
    callers.send(row(1))
    callers.send(row(1, 2))
    for error in callers.wait():
        assert error.code is grpc.StatusCode.FAILED_PRECONDITION
        assert error.message.startswith("Tensors with name 'x:0' from different tasks")


def test_padding_fills_with_zeros(start):
    callers, model = start(max_batch_size=2, batch_timeout_s=5.0, pad_variable_length_inputs=True)
    callers.send(row(1))
    callers.send(row(1, 2))
    replies = callers.wait()
    assert model.batches[0].tolist() == [[1, 0], [1, 2]]
    assert replies[0].tolist() == [[2, 0]]


def test_a_batch_is_filled_up_to_an_allowed_size_with_a_valid_row(start):
    callers, model = start(max_batch_size=8, batch_timeout_s=0.2, allowed_batch_sizes=(1, 4, 8))
    callers.send(row(1))
    callers.send(row(2))
    replies = callers.wait()
    assert model.batches[0].ravel().tolist() == [1, 2, 2, 2]
    assert [reply.tolist() for reply in replies] == [[[2]], [[4]]]


def test_an_output_without_the_batch_dimension_is_refused(start):
    callers, model = start(max_batch_size=4)
    model.run = lambda feeds, fetches, timeout_s=None: [np.float32(1)]
    callers.send(row(1))
    (error,) = callers.wait()
    assert error.message == "Batched output tensor has 0 dimensions"
    model.run = lambda feeds, fetches, timeout_s=None: [np.zeros(7)]
    callers.send(row(1))
    error = callers.wait()[-1]
    assert error.code is grpc.StatusCode.FAILED_PRECONDITION
    assert "0th dimension does not equal" in error.message


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ({}, "must have at least one input tensor"),
        ({"a": np.float32(1)}, "must have at least one dimension"),
        ({"a": np.zeros(1), "b": np.zeros(2)}, "must have equal 0th-dimension size"),
    ],
)
def test_what_has_no_batch_dimension_is_refused(feeds, words):
    batcher = batching.Batcher(batching.Parameters(num_batch_threads=1))
    with pytest.raises(status.ServingError, match=words):
        batcher.run(Recorder(), feeds, ["y"])
    batcher.close()


def test_requests_that_waited_too_long_are_not_run(start):
    callers, model = start(max_batch_size=1)
    model.gate.clear()
    callers.send(row(0))
    model.started.wait(5)
    callers.send(row(1), Deadline.after(0.05))
    time.sleep(0.1)
    model.gate.set()
    _, late = callers.wait()
    assert late.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert late.message == "Run() timeout exceeded while waiting in batching queue"
    assert model.sizes == [1]


def test_a_request_whose_caller_has_hung_up_is_left_out_of_its_batch(start):
    callers, model = start(max_batch_size=4)
    model.gate.clear()
    callers.send(row(0))
    model.started.wait(5)
    gone = Deadline()
    callers.send(row(1))
    callers.send(row(2), gone)
    callers.send(row(3))
    gone.hang_up()
    model.gate.set()
    first, second, hung_up, third = callers.wait()
    assert [batch.ravel().tolist() for batch in model.batches] == [[0], [1, 3]]
    assert [reply.tolist() for reply in (first, second, third)] == [[[0]], [[2]], [[6]]]
    assert hung_up.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_different_models_take_turns(start):
    callers, model = start(max_batch_size=1)
    other = Recorder()
    model.gate.clear()
    callers.send(row(0))
    model.started.wait(5)
    for value in range(3):
        callers.send(row(value))
    callers._model = other
    callers.send(row(9))
    order = []
    model_run, other_run = model.run, other.run
    model.run = lambda *a, **k: (order.append("model"), model_run(*a, **k))[1]
    other.run = lambda *a, **k: (order.append("other"), other_run(*a, **k))[1]
    model.gate.set()
    callers.wait()
    assert "other" in order[:2]


def test_an_error_of_the_model_reaches_every_caller_of_its_batch(start):
    callers, model = start(max_batch_size=2, batch_timeout_s=5.0)

    def fail(feeds, fetches, timeout_s=None):
        raise status.invalid("bad pixels")

    model.run = fail
    callers.send(row(1))
    callers.send(row(2))
    assert [error.message for error in callers.wait()] == ["bad pixels", "bad pixels"]


class Expiring(Deadline):
    """Has time left when it is asked first, and exactly none when it is asked again."""

    is_over = False

    def left_s(self):
        return 0.0


def test_a_deadline_that_ends_as_its_batch_begins_is_no_fault_of_the_server(start):
    callers, model = start()
    callers.send(row(1), Expiring())
    (reply,) = callers.wait()
    assert np.array_equal(reply, row(2))
    assert model.sizes == [1]


def write(tmp_path, text: str) -> str:
    file = tmp_path / "batching.config"
    file.write_text(text)
    return str(file)


def test_parameters_are_read_from_text(tmp_path):
    parameters = batching.read_parameters(
        write(
            tmp_path,
            "max_batch_size { value: 8 } batch_timeout_micros { value: 2000 } "
            "max_enqueued_batches { value: 3 } num_batch_threads { value: 2 } "
            "allowed_batch_sizes: 2 allowed_batch_sizes: 8 pad_variable_length_inputs: true "
            'thread_pool_name { value: "pool" }',
        )
    )
    assert parameters == batching.Parameters(
        max_batch_size=8,
        batch_timeout_s=0.002,
        max_enqueued_batches=3,
        num_batch_threads=2,
        thread_pool_name="pool",
        allowed_batch_sizes=(2, 8),
        pad_variable_length_inputs=True,
    )


def test_an_empty_file_means_the_defaults(tmp_path):
    parameters = batching.read_parameters(write(tmp_path, ""))
    assert (parameters.max_batch_size, parameters.max_enqueued_batches) == (1000, 10)
    assert parameters.batch_timeout_s == 0.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_batch { value: 8 }", "Error parsing text-format"),
        ("max_batch_size { value: 0 }", "max_batch_size must be at least 1"),
        ("max_batch_size { value: 8 } allowed_batch_sizes: 4", "last entry was 4; expected 8"),
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: 8 allowed_batch_sizes: 4",
            "must increase",
        ),
    ],
)
def test_wrong_parameters_are_refused(tmp_path, text, words):
    with pytest.raises(InputError, match=words):
        batching.read_parameters(write(tmp_path, text))
