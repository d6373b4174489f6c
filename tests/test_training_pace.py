import pytest

from training import pace
from training.pace import Pace


def test_counted_steps_decide_progress_and_rate():
    counted = Pace(total_steps=100, budget_s=None)
    assert counted.learning_rate(1.0) == pytest.approx(1e-3 / 0.03)  # warm-up starts above zero
    counted.go_on_from(step=50, elapsed_s=10, spent_s={})
    assert counted.progress() == 0.5
    assert counted.learning_rate(2.0) == pytest.approx(1.0)  # half a cosine at its middle
    counted.step = 100
    assert counted.learning_rate(1.0) == pytest.approx(0.0)
    assert counted.progress() == 1.0


def test_a_budget_follows_the_clock_and_keeps_what_was_used_before(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    timed = Pace(total_steps=None, budget_s=60)
    timed.go_on_from(step=5, elapsed_s=15, spent_s={"reading": 4})
    now[0] += 15
    assert timed.elapsed_s() == 30
    assert timed.progress() == 0.5
    assert timed.left_s() == 30
    with timed.timed("reading"):
        now[0] += 3
    assert timed.spent_s["reading"] == 7
    now[0] += 500
    assert timed.progress() == 1.0
    assert timed.left_s() == 0


def test_workers_go_by_what_one_of_them_saw_when_they_last_looked(monkeypatch):
    now, seen = [1000.0], []
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    follower = Pace(None, 60, agree=lambda own: seen.append(own) or 0.25)
    now[0] += 45
    assert follower.progress() == 0
    follower.look()
    assert (seen, follower.progress()) == ([0.75], 0.25)
    now[0] += 45
    assert follower.progress() == 0.25
    Pace(total_steps=10, budget_s=None, agree=lambda own: seen.append(own)).look()
    assert seen == [0.75]  # counted steps are everybody's


def test_what_follows_the_last_step_is_part_of_the_budget(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    timed = Pace(total_steps=None, budget_s=60)
    timed.validation_s, timed.saving_s, timed.answers_s = 5, 2, 3
    now[0] += 25
    assert timed.progress() == 0.5  # of the 50 seconds that are left for steps
    now[0] += 25
    assert timed.progress() == 1.0
    timed.answers_s = 50  # more than was thought: what has begun ends at once
    assert timed.held_back_s() == 57
    assert timed.progress() == 1.0
    timed.validation_s = 70
    assert timed.progress() == 1.0


def test_what_was_waited_before_counts_against_the_budget(monkeypatch):
    monkeypatch.setattr(pace.time, "monotonic", lambda: 1000.0)
    timed = Pace(total_steps=None, budget_s=60, began_s=985.0)
    assert timed.elapsed_s() == 15
    assert timed.progress() == 0.25
    assert timed.spent_s == {"deriving": 15}
