"""Keeps several requests on their way to a server at once, but never more than a few.

A server answers several tiles of a scan side by side where it has the cores. Answers are taken
in the order of the tiles, so that a mask is made by the same steps however many there are, and
a tile is not cut before there is room for it, so that a large scan is not held twice.
"""

import collections
import time
from collections.abc import Iterable, Iterator
from concurrent import futures

import numpy as np

from data_pipeline.inference import Each, Predict


def in_order(pool: futures.Executor, most: int) -> Each:
    """Returns a way to ask for batches of which `most` are on their way, and one is taken.

    Several scans may share a pool; then its threads are what limits all of them together.
    """

    def each(predict: Predict, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        waiting: collections.deque[futures.Future[np.ndarray]] = collections.deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(predict, batch))
                if len(waiting) > most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # after a failure: nobody wants these any more
                future.cancel()

    return each


class Stopwatch:
    """Tells how long a scan waited for the server, and how long it took to prepare its batches.

    Batches that are prepared while others are on their way count as preparation: the two add
    up to the time that passed.
    """

    def __init__(self) -> None:
        self.preprocess_s = 0.0
        self.server_s = 0.0
        self.requests = 0

    def timed(self, each: Each) -> Each:
        """Returns the same way to ask, with its time taken."""

        def measured(predict: Predict, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
            answers = each(predict, self._preparing(batches))
            while True:
                started, prepared_s = time.perf_counter(), self.preprocess_s
                answer = next(answers, None)
                preparing_s = self.preprocess_s - prepared_s
                self.server_s += time.perf_counter() - started - preparing_s
                if answer is None:
                    return
                yield answer

        return measured

    def _preparing(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        left = iter(batches)
        while True:
            started = time.perf_counter()
            batch = next(left, None)
            self.preprocess_s += time.perf_counter() - started
            if batch is None:
                return
            self.requests += 1
            yield batch
