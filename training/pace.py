"""How far a training is: by counted steps, or by the clock where it has a wall-clock budget."""

import math
import time

_WARM_UP = 0.03  # share of the training in which the learning rate rises


class Pace:
    """Progress from 0 to 1, kept over interruptions.

    With `total_steps` it depends on steps alone, so that a run repeats exactly. With
    `budget_s` it follows the clock, so that the schedule comes to its end on any machine.
    """

    def __init__(self, total_steps: int | None, budget_s: float | None) -> None:
        self.step = 0
        self._total_steps = total_steps
        self._budget_s = budget_s
        self._started_s = time.monotonic()

    def go_on_from(self, step: int, elapsed_s: float) -> None:
        """Counts what an interrupted run had already done."""
        self.step = step
        self._started_s -= elapsed_s

    def elapsed_s(self) -> float:
        """Returns the seconds of training so far, interruptions left out."""
        return time.monotonic() - self._started_s

    def progress(self) -> float:
        """Returns 0 at the start, 1 at the end."""
        if self._budget_s is not None:
            return min(1.0, self.elapsed_s() / self._budget_s)
        return min(1.0, self.step / max(1, self._total_steps or 0))

    def left_s(self) -> float:
        """Returns the seconds that remain, judged by the pace so far."""
        done = self.progress()
        return math.inf if done == 0 else self.elapsed_s() * (1 - done) / done

    def learning_rate(self, highest: float) -> float:
        """Returns the rate now: a linear warm-up, then half a cosine down to zero."""
        done = self.progress()
        return highest * min(1.0, (done + 1e-3) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * done))
