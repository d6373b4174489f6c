"""Work done in a process that knows nothing of this one: TensorFlow is set up once in each."""

import multiprocessing
from collections.abc import Callable
from concurrent import futures
from typing import TypeVar

from data_pipeline.errors import InputError

T = TypeVar("T")


class Ended(InputError):
    """The process was ended by what it did, or by the system for want of memory."""


def run(work: Callable[..., T], *told: object) -> T:
    """Returns work(*told), done in a fresh process.

    Raises:
      Ended: if it ends its process.
      Exception: whatever the work raises.
    """
    spawn = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        try:
            return pool.submit(work, *told).result()
        except futures.process.BrokenProcessPool as error:
            raise Ended("the model ended its process; is there enough memory?") from error
