"""What a budget of minutes holds back for the end of a training, and what its steps are left."""

import math
from collections.abc import Mapping

import keras
from rich import console as rich_console

from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from training import calibrate, device
from training.pace import Pace
from training.plan import Plan

# Of what is left when the network is built, learning from the answers to validation takes no
# more than this share, on fewer cases if need be; but never on fewer than these.
_MOST_SHARE = 0.25
_LEAST_CASES = 8

# Steps after which those to come are foretold, and how few of them deserve a warning: in
# docs/models.md networks learn for 600 and more.
_FORETOLD_AT = 5
_FEW_STEPS = 100


def hold_back(plan: Plan, pace: Pace) -> list[Case]:
    """Holds back the seconds that learning from the answers to validation will take.

    They are measured now, on two cases.

    Returns:
      The validation cases to learn from: all, or those that a quarter of the time is enough for.
    """
    cases = plan.part("validation")
    with pace.timed("planning"):
        cost = calibrate.cost(
            plan.network,
            plan.spec,
            cases,
            calibration=plan.config.calibration,
            cleaning=plan.config.cleaning,
        )
    most_s = _MOST_SHARE * pace.left_s()
    count = min(len(cases), calibrate.MOST_CASES)
    while count > _LEAST_CASES and cost.of(count) > most_s:
        count -= 1
    pace.answers_s = cost.of(count)
    return calibrate.spread(cases, count)


def introduce(plan: Plan, pace: Pace, asked: int, console: rich_console.Console) -> None:
    """Says before the next step what the budget is spent on."""
    few = fewer(plan, asked)
    console.print(
        f"plan        {pace.left_s():.0f} s for steps and validation; {pace.elapsed_s():.0f} s are "
        f"gone, and {pace.saving_s:.0f} s held back for saving, {pace.answers_s:.0f} s for "
        f"calibration and post-processing{f' ({few})' if few else ''}"
    )


def fewer(plan: Plan, asked: int) -> str:
    """Says that a budget leaves out validation cases that would be learnt from; "" if not."""
    count = min(len(plan.part("validation")), calibrate.MOST_CASES)
    return f"{asked} of {count} validation cases, for want of time" if asked < count else ""


def no_time(plan: Plan, pace: Pace) -> InputError:
    """Says where a budget went that is over before the first step."""
    if not device.is_chief():
        return InputError("the first worker has no time left for a first step, and says why")
    elapsed_s, held_back_s = pace.elapsed_s(), pace.held_back_s()
    needed = math.ceil((elapsed_s + held_back_s) / 6) / 10
    without = ", or --calibration none --cleaning none" if pace.answers_s else ""
    return InputError(
        f"--minutes {plan.config.minutes:g} leaves no time for a first step: {elapsed_s:.0f} s "
        f"passed while the data was read and the network built, and {held_back_s:.0f} s are held "
        f"back for what follows the last step ({pace.answers_s:.0f} s of them for calibration and "
        f"post-processing); give it more than {needed:g}{without} (under the same --name with "
        "--overwrite)"
    )


class Outlook(keras.callbacks.Callback):
    """Says after the first steps how many the budget has time for."""

    def __init__(self, pace: Pace, steps_an_epoch: int, console: rich_console.Console) -> None:
        super().__init__()
        self._pace, self._steps_an_epoch, self._console = pace, steps_an_epoch, console
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Says it once."""
        self._steps += 1
        pace = self._pace
        if self._steps != _FORETOLD_AT or not pace.step_s:  # resumed where an epoch ended at once
            return
        # Each epoch is validated; of the last one it is held back already.
        epoch_s = self._steps_an_epoch * pace.step_s + pace.validation_s
        epochs, rest_s = divmod(pace.left_s(), epoch_s)
        rest = min(self._steps_an_epoch, int(rest_s / pace.step_s))
        steps = pace.step + int(epochs) * self._steps_an_epoch + rest
        told = f"about {steps} steps of {pace.step_s:.2g} s"
        if round(pace.validation_s):
            told += f", and {pace.validation_s:.0f} s held back for the last validation"
        if steps < _FEW_STEPS:
            told += "; few to learn from: give it more --minutes, or a smaller --size"
            if pace.answers_s > pace.left_s():
                told += ", or --calibration none --cleaning none"
        self._console.print(f"            {told}")
