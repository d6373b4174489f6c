"""Whether a 95 % interval is one: repeated studies of a population whose mean is known."""

import numpy as np
import pytest

from models import statistics


def study(patients, rng):
    """Skewed Dice values of one to three images a patient, as networks on X-rays get them."""
    images = rng.integers(1, 4, patients)
    level = rng.beta(18, 1.2, patients)
    patient = np.repeat(np.arange(patients), images)
    return np.clip(level[patient] + rng.normal(0, 0.02, len(patient)), 0, 1), patient


@pytest.fixture(scope="module")
def true_mean():
    return study(2_000_000, np.random.default_rng(99))[0].mean()


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "least"), [(8, 0.89), (24, 0.92), (100, 0.925)])
def test_the_interval_covers_the_true_mean_about_as_often_as_it_says(patients, least, true_mean):
    rng = np.random.default_rng(patients)
    trials = 1000
    covered = 0
    for trial in range(trials):
        estimate = statistics.mean(*study(patients, rng), seed=trial)
        covered += estimate.low <= true_mean <= estimate.high
    # The standard error of a share of 0.95 of 1000 trials is 0.007.
    assert least <= covered / trials <= 0.975


@pytest.mark.slow
def test_an_interval_that_took_images_for_patients_would_be_too_narrow(true_mean):
    rng = np.random.default_rng(5)
    trials = 600
    covered = 0
    for trial in range(trials):
        values, _ = study(24, rng)
        copied = np.repeat(values, 4)
        wrong = statistics.mean(copied, np.arange(len(copied)), seed=trial)
        covered += wrong.low <= true_mean <= wrong.high
    assert covered / trials < 0.8


@pytest.mark.slow
def test_the_interval_of_a_pooled_ratio_covers_it_too():
    rng = np.random.default_rng(11)

    def sizes(patients):
        whole = rng.gamma(2.0, 50.0, patients) + 5
        return whole * np.clip(rng.normal(0.8, 0.1, patients) + whole / 5000, 0, 1), whole

    part, whole = sizes(2_000_000)
    truth = part.sum() / whole.sum()
    covered = 0
    for trial in range(800):
        estimate = statistics.ratio(*sizes(40), np.arange(40), seed=trial)
        covered += estimate.low <= truth <= estimate.high
    assert 0.92 <= covered / 800 <= 0.975
