"""Work of a request in a thread, which keeps the request until the thread has let go of it."""

import asyncio
import concurrent.futures
import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from serving.server.deadline import Deadline

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


async def run(
    threads: concurrent.futures.Executor,
    deadline: Deadline,
    work: Callable[Given, Answer],
    *arguments: Given.args,
    **named: Given.kwargs,
) -> Answer:
    """Returns what a function returns that runs in a thread.

    If it is cancelled because the caller has gone, work that has not begun is given up with all
    that it holds, and work that has begun is waited for: its body is in memory until then, and
    the room that admission holds for it must not be given to another.
    """
    held = [functools.partial(work, *arguments, **named)]
    future = threads.submit(lambda: held.pop()())
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        deadline.hang_up()
        if future.cancel():
            held.clear()  # the threads' queue keeps what was given up until its turn comes
        else:
            done = asyncio.wrap_future(future)
            await asyncio.wait({done})
            done.exception()  # read, though nobody is left to hear of it
            del done
        raise
    finally:
        # An error refers to this frame, by its traceback: led from here back to it, or to the
        # request, both would stay in memory until Python looks for circles.
        del future, arguments, named
