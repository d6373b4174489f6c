import numpy as np
import pytest

from data_pipeline.spec import Cleaning, InputSpec
from training import cleanup
from training.cleanup import Outlined

LUNG = InputSpec("XR", ("lung",), (32, 32))
BOTH = InputSpec("XR", ("lung", "infection"), (32, 32))


def plane(*boxes):
    found = np.zeros((100, 100), np.bool_)
    for top, left, bottom, right in boxes:
        found[top:bottom, left:right] = True
    return found


LEFT, RIGHT = (10, 10, 60, 30), (10, 60, 60, 80)


def cases(found, truth, count=8):
    """The same masks for several patients, apart from a row of pixels."""
    made = []
    for number in range(count):
        planes = np.stack(found(number))
        made.append(Outlined.of(f"p{number}", planes, truth(number)))
    return made


def test_specks_go_where_that_raises_the_dice_of_every_patient():
    # Specks of 2 to 9 pixels of 10,000: those below 0.1 % are noise.
    known = cases(
        lambda n: [plane(LEFT, RIGHT, (90, 90, 91, 92 + n))], lambda n: [plane(LEFT, RIGHT)]
    )
    spec, tried = cleanup.learn(known, LUNG)
    assert spec.cleaning == (Cleaning(smallest=0.001),)
    kept = [change for change in tried if change.kept]
    [change] = kept
    # 8 patients, all better: the signed-rank test's smallest p is 1 / 2**8.
    assert change.p == pytest.approx(1 / 256)
    assert change.before < change.after == 1.0


def test_rules_that_change_nothing_are_left_out():
    known = cases(lambda n: [plane(LEFT, RIGHT)], lambda n: [plane(LEFT, RIGHT)])
    spec, tried = cleanup.learn(known, LUNG)
    assert spec.cleaning == ()
    assert {change.p for change in tried} == {1.0}


def test_a_gain_of_three_patients_may_be_an_accident():
    known = cases(
        lambda n: [plane(LEFT, RIGHT, (90, 90, 91, 92 + n))],
        lambda n: [plane(LEFT, RIGHT)],
        count=3,
    )
    spec, _ = cleanup.learn(known, LUNG)
    assert spec.cleaning == ()


def test_images_of_one_patient_are_one_pair_of_the_test():
    values = np.array([0.1, 0.2, 0.3, 0.1, 0.2, 0.3])
    assert cleanup.paired_p(values, ["a", "b", "c"] * 2) == pytest.approx(1 / 8)


def test_infection_outside_the_lung_goes():
    known = cases(
        lambda n: [plane(LEFT, RIGHT), plane((20, 12, 40, 25), (70, 10, 90, 30 + n))],
        lambda n: [plane(LEFT, RIGHT), plane((20, 12, 40, 25))],
    )
    spec, _ = cleanup.learn(known, BOTH)
    assert spec.cleaning[0] == Cleaning()
    assert spec.cleaning[1].inside == "lung"


def test_inventions_on_healthy_cases_count_and_unannotated_labels_do_not():
    known = cases(
        lambda n: [plane(LEFT), plane((90, 90, 92, 92 + n))],
        lambda n: [None, plane()],
    )
    spec, tried = cleanup.learn(known, BOTH)
    assert [c for c in tried if c.label == "infection" and c.kept][-1].after == 1.0
    assert spec.cleaning[1] != Cleaning()
    assert {change.label for change in tried} == {"infection"}
