"""Work done in a process that knows nothing of this one: TensorFlow is set up once in each."""

import multiprocessing
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

T = TypeVar("T")


def run(work: Callable[..., T], *told: object) -> T:
    """Returns work(*told), done in a fresh process.

    Raises:
      BrokenProcessPool: if it ends its process; whatever the work raises.
    """
    spawn = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(work, *told).result()
