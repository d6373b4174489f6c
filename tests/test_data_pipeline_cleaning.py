import dataclasses

import numpy as np
import pytest

from data_pipeline import cleaning, inference
from data_pipeline.errors import InputError
from data_pipeline.spec import Cleaning, InputSpec, parse

LUNG = InputSpec("XR", ("lung",), (8, 8))
BOTH = InputSpec("XR", ("lung", "infection"), (8, 8))


def cleaned(plane, **rule):
    spec = dataclasses.replace(LUNG, cleaning=(Cleaning(**rule),))
    return cleaning.clean(plane[None], spec)[0]


def test_without_rules_a_mask_stays_as_it_is(draw):
    planes = draw("#.#", "...")[None]
    assert cleaning.clean(planes, LUNG) is planes


def test_components_below_the_share_of_the_image_go_and_those_of_it_stay(draw):
    # 20 pixels: a tenth is 2. Corners do not join pixels.
    plane = draw(
        "##...",
        "..#..",
        ".#..#",
        "....#",
    )
    expected = draw(
        "##...",
        ".....",
        "....#",
        "....#",
    )
    np.testing.assert_array_equal(cleaned(plane, smallest=0.1), expected)
    assert not cleaned(plane, smallest=0.11).any()


def test_the_two_largest_stay_and_of_equals_the_earlier(draw):
    plane = draw(
        "##..#",
        "....#",
        "###..",
    )
    expected = draw(
        "##...",
        ".....",
        "###..",
    )
    np.testing.assert_array_equal(cleaned(plane, largest=2), expected)
    np.testing.assert_array_equal(cleaned(plane, largest=3), plane)


def test_holes_are_filled_and_bays_are_not(draw):
    plane = draw(
        "#####",
        "#.#.#",
        "###.#",
    )
    expected = draw(
        "#####",
        "###.#",
        "###.#",
    )
    np.testing.assert_array_equal(cleaned(plane, fill_holes=True), expected)


def test_infection_lies_inside_the_cleaned_lung(draw):
    lung = draw("###.#", "###..")
    infection = draw(".####", "....#")
    spec = dataclasses.replace(BOTH, cleaning=(Cleaning(largest=1), Cleaning(inside="lung")))
    planes = cleaning.clean(np.stack([lung, infection]), spec)
    np.testing.assert_array_equal(planes[0], draw("###..", "###.."))
    np.testing.assert_array_equal(planes[1], draw(".##..", "....."))


def test_in_a_volume_components_reach_through_slices_and_sizes_count_in_slices(draw):
    first = draw("#..#", "....")
    second = draw("#...", ".#..")
    volume = np.stack([first, second])
    # A slice has 8 pixels, 0.25 of it is 2: the pair through both slices stays.
    expected = np.stack([draw("#...", "...."), draw("#...", "....")])
    np.testing.assert_array_equal(cleaned(volume, smallest=0.25), expected)
    np.testing.assert_array_equal(cleaned(volume, largest=1), expected)


def test_in_a_volume_holes_are_those_of_a_slice(draw):
    ring, open_ = draw("###", "#.#", "###"), draw("###", "#.#", "#.#")
    found = cleaned(np.stack([ring, open_]), fill_holes=True)
    assert found[0].all()
    np.testing.assert_array_equal(found[1], open_)


def test_an_empty_mask_stays_empty(draw):
    found = cleaned(draw("..", ".."), smallest=0.5, largest=2, fill_holes=True)
    assert found.dtype == np.bool_
    assert not found.any()


def test_the_mask_of_probabilities_is_cleaned():
    spec = dataclasses.replace(LUNG, cleaning=(Cleaning(largest=1),))
    values = np.array([[[0.9, 0.4, 0.6, 0.7]]], np.float32)
    assert inference.mask(values, spec).planes.tolist() == [[[False, False, True, True]]]


def test_rules_travel_in_the_spec():
    rules = (Cleaning(smallest=0.001, largest=2), Cleaning(inside="lung", fill_holes=True))
    spec = dataclasses.replace(
        BOTH,
        cleaning=rules,
        temperatures=((1.5, 2.0),),
        thresholds=(0.5, 0.375),
        scales=(0.8, 1.25),
        flips=((1,),),
    )
    assert parse(spec.to_json(), "it") == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cleaning": (Cleaning(inside="infection"),)}, "nothing can lie inside infection"),
        ({"cleaning": (Cleaning(), Cleaning())}, "one rule for each of .*; got 2"),
        ({"temperatures": ((1.0, 2.0),)}, "one temperature above 0 for each"),
        ({"temperatures": ((0.0,),)}, "one temperature above 0 for each"),
        ({"thresholds": (0.5, 0.5)}, "a threshold between 0 and 1 for each of"),
        ({"thresholds": (1.0,)}, "a threshold between 0 and 1 for each of"),
        ({"scales": (3.0,)}, "a scale is from 0.5 to 2.0"),
    ],
)
def test_rules_that_no_model_could_follow_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(LUNG, **change)
