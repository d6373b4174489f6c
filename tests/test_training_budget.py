import io
import types

import pytest
from rich import console as rich_console

from training import budget, calibrate, pace
from training.config import TrainConfig
from training.pace import Pace


@pytest.fixture
def still(monkeypatch):
    """A clock that stands still."""
    monkeypatch.setattr(pace.time, "monotonic", lambda: 1000.0)


@pytest.fixture
def planned(monkeypatch):
    """A plan of 40 validation cases: 5 s until the first answer, 2 s a case."""
    monkeypatch.setattr(calibrate, "cost", lambda *told, **more: calibrate.Cost(5.0, 2.0))
    return types.SimpleNamespace(
        part={"validation": list(range(40))}.get, config=TrainConfig(), network=None, spec=None
    )


@pytest.fixture
def console():
    return rich_console.Console(file=io.StringIO(), soft_wrap=True)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize(
    ("minutes", "cases", "seconds"),
    [
        (10, 40, 5 + 40 * 2),  # a quarter is 150 s
        (4, 27, 5 + 27 * 2),  # 60 s
        (1, 8, 5 + 8 * 2),  # 15 s: enough for 5 cases, of which no number can be fitted
    ],
)
def test_learning_from_answers_takes_a_quarter_at_most_but_no_fewer_than_eight_cases(
    planned, minutes, cases, seconds
):
    timed = Pace(None, 60 * minutes)
    asked = budget.hold_back(planned, timed)
    assert len(set(asked)) == cases
    assert asked[0] == 0
    assert asked[-1] >= 35  # spread over all
    assert timed.answers_s == seconds


@pytest.mark.usefixtures("still")
def test_what_the_minutes_are_spent_on_is_said_before_the_first_step(planned, console):
    timed = Pace(None, 240)
    timed.saving_s, timed.answers_s = 6, 59
    timed.go_on_from(0, elapsed_s=20, spent_s={})
    budget.introduce(planned, timed, 27, console)
    assert console.file.getvalue() == (
        "plan        155 s for steps and validation; 20 s are gone, and 6 s held back for saving, "
        "59 s for calibration and post-processing (27 of 40 validation cases, for want of time)\n"
    )
    assert budget.fewer(planned, 40) == ""


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize(
    ("left_s", "answers_s", "validation_s", "told"),
    [
        # Once 50 steps and their validation, 35 s, then 5 s for 10 steps more; 5 are done.
        (40, 20, 10, "about 65 steps of 0.5 s, and 10 s held back for the last validation; few to "
         "learn from: give it more --minutes, or a smaller --size"),
        # Not a whole epoch.
        (12, 20, 10, "about 29 steps of 0.5 s, and 10 s held back for the last validation; few to "
         "learn from: give it more --minutes, or a smaller --size, or --calibration none "
         "--cleaning none"),
        # Two epochs, 70 s; of the 28 s after them the last epoch takes 25.
        (98, 20, 10, "about 155 steps of 0.5 s, and 10 s held back for the last validation"),
        # Nothing to validate on: 98 s.
        (98, 0, 0, "about 201 steps of 0.5 s"),
    ],
)  # fmt: skip
def test_steps_to_come_are_foretold_after_the_fifth_and_few_ones_warned_of(
    console, left_s, answers_s, validation_s, told
):
    timed = Pace(None, left_s + answers_s + validation_s)
    timed.step, timed.step_s = 5, 0.5
    timed.validation_s, timed.answers_s = validation_s, answers_s
    outlook = budget.Outlook(timed, 50, console)
    for step in range(4):
        outlook.on_train_batch_end(step)
    assert console.file.getvalue() == ""
    for step in range(4, 9):
        outlook.on_train_batch_end(step)
    assert console.file.getvalue() == f"            {told}\n"
