"""How far a training is: by counted steps, or by the clock where it has a wall-clock budget."""

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

_WARM_UP = 0.03  # share of the training in which the learning rate rises


class Pace:
    """Progress from 0 to 1, kept over interruptions.

    With `total_steps` it depends on steps alone, so that a run repeats exactly. With
    `budget_s` it follows the clock, so that the schedule comes to its end on any machine; what
    follows the last step, `validation_s`, `saving_s` and `answers_s`, is part of the budget.

    The clocks of several workers differ, and one that took a step more than the others would
    wait for them for ever. They look at the clock together and go by what one of them sees.
    """

    def __init__(
        self,
        total_steps: int | None,
        budget_s: float | None,
        agree: Callable[[float], float] | None = None,
        began_s: float | None = None,
    ) -> None:
        """Starts the clock.

        Args:
          total_steps: of the training, unless it has a budget.
          budget_s: seconds that all of it may take.
          agree: of several workers, gives all of them the progress that one of them sees.
          began_s: of time.monotonic(), if the clock ran before; since then settings were derived.
        """
        self.step = 0
        self.step_s = 0.0  # of one step, as the last ones took on average
        self.total_steps = total_steps
        self.validation_s = 0.0  # as the last one took, with all that comes after an epoch
        self.saving_s = 0.0  # as expected
        self.answers_s = 0.0  # of calibration and post-processing, as expected
        self.spent_s: dict[str, float] = defaultdict(float)  # on what
        self._budget_s = budget_s
        self._agree = agree
        self._agreed = 0.0  # progress when the workers last looked
        now_s = time.monotonic()
        self._started_s = now_s if began_s is None else began_s
        if began_s is not None:
            self.spent_s["deriving"] = now_s - began_s

    def go_on_from(self, step: int, elapsed_s: float, spent_s: Mapping[str, float]) -> None:
        """Counts what an interrupted run had already done."""
        self.step = step
        self._started_s -= elapsed_s
        for what, seconds in spent_s.items():
            self.spent_s[what] += seconds

    @contextlib.contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the block's seconds to what was spent on `what`."""
        began_s = time.monotonic()
        yield
        self.spent_s[what] += time.monotonic() - began_s

    def elapsed_s(self) -> float:
        """Returns the seconds of training so far, interruptions left out."""
        return time.monotonic() - self._started_s

    def look(self) -> None:
        """Looks at the clock with the other workers, who all have to, after the same steps."""
        if self._budget_s is not None and self._agree:
            self._agreed = self._agree(self._by_clock(self._budget_s))

    def progress(self) -> float:
        """Returns 0 at the start, 1 at the end of the steps; of several workers as last agreed."""
        if self._budget_s is None:
            return min(1.0, self.step / max(1, self.total_steps or 0))
        return self._agreed if self._agree else self._by_clock(self._budget_s)

    def _by_clock(self, budget_s: float) -> float:
        for_steps_s = budget_s - self.held_back_s()
        return min(1.0, self.elapsed_s() / for_steps_s) if for_steps_s > 0 else 1.0

    def held_back_s(self) -> float:
        """Returns the seconds of a budget that are for what follows the last step."""
        return self.validation_s + self.saving_s + self.answers_s

    def left_s(self) -> float:
        """Returns the seconds that remain for steps; of counted ones judged by the pace so far."""
        if self._budget_s is not None:
            return max(0.0, self._budget_s - self.held_back_s() - self.elapsed_s())
        done = self.progress()
        return math.inf if done == 0 else self.elapsed_s() * (1 - done) / done

    def learning_rate(self, highest: float) -> float:
        """Returns the rate now: a linear warm-up, then half a cosine down to zero."""
        done = self.progress()
        return highest * min(1.0, (done + 1e-3) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * done))
