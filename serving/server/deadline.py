"""How long the caller of a request waits for its answer."""

import time

from serving.server import status


class Deadline:
    """When a caller stops waiting: after a while, when it hangs up, or never. Thread-safe."""

    def __init__(self, at_s: float | None = None) -> None:
        """Takes a time on the monotonic clock; None is never."""
        self._at_s = at_s

    @classmethod
    def after(cls, seconds: float | None) -> "Deadline":
        """A deadline a while from now; None is never."""
        return cls(None if seconds is None else time.monotonic() + seconds)

    def hang_up(self) -> None:
        """Notes that the caller has gone: what has not begun for it need not begin."""
        self._at_s = time.monotonic()

    def left_s(self) -> float | None:
        """Seconds left, none or fewer where nobody waits any more; None without a deadline."""
        at_s = self._at_s
        return None if at_s is None else at_s - time.monotonic()

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any more."""
        left_s = self.left_s()
        return left_s is not None and left_s <= 0

    def check(self) -> None:
        """Raises ServingError DEADLINE_EXCEEDED if nobody waits any more."""
        if self.is_over:
            raise status.ServingError(status.code_of(4), "Deadline exceeded before the run began")


NEVER = Deadline()  # of requests that come from within, such as the warm-up's
