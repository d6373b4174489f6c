import dataclasses

import pytest

from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec
from training import config, geometry_plan, plan
from training.geometry_plan import Geometry


def asked(**flags):
    given = {"modality": "CT", "size": 256, "tile": "", "spacing": "", "neighbours": 0} | flags
    return geometry_plan.asked(**given)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, Geometry((256, 256))),
        ({"neighbours": 1}, Geometry((256, 256), neighbours=1)),
        ({"size": 512, "tile": "256,192"}, Geometry((256, 192), frame=(512, 512))),
        ({"tile": "256,256"}, Geometry((256, 256))),
        ({"tile": "512,128"}, Geometry((512, 128), frame=(512, 256))),
        ({"spacing": "1.5,1.25"}, Geometry((256, 256), spacing_mm=(1.5, 1.25))),
        (
            {"tile": "32,128,128", "spacing": "5,1.5,1.5"},
            Geometry((32, 128, 128), spacing_mm=(5.0, 1.5, 1.5)),
        ),
        ({"tile": "32,128,128"}, Geometry((32, 128, 128))),
        ({"size": 0, "tile": "192,160"}, Geometry((192, 160))),
    ],
)
def test_flags_say_tile_frame_spacing_and_neighbours(flags, expected):
    assert asked(**flags) == expected


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"tile": "32"}, "--tile is rows,cols or slices,rows,cols, or 3d; got 32"),
        ({"tile": "3d", "modality": "XR"}, "an X-ray is one image"),
        ({"tile": "32,x"}, "--tile takes numbers above 0 with commas between them; got 32,x"),
        ({"tile": "32,0"}, "--tile takes numbers above 0"),
        ({"tile": "32,16.5"}, "--tile is in whole pixels; got 32,16.5"),
        ({"spacing": "5,1,1"}, "a number for each of the 2 sides of a tile; got 5,1,1"),
        ({"spacing": "nan,1"}, "--spacing takes numbers above 0"),
        ({"neighbours": -1}, "--neighbours is 0 or more"),
        ({"neighbours": 1, "tile": "32,64,64"}, "for tiles of two sides; got 1 and 32,64,64"),
        ({"neighbours": 1, "modality": "XR"}, "an X-ray is one image"),
        ({"tile": "32,64,64", "modality": "XR"}, "an X-ray is one image"),
    ],
)
def test_flags_that_cannot_work_are_refused(flags, told):
    with pytest.raises(InputError, match=told):
        asked(**flags)


def test_volumes_are_resampled_to_the_median_spacing_of_the_data_unless_told():
    derived = geometry_plan.derive(asked(tile="32,64,64"), (2.5, 0.70004, 0.75))
    assert derived.spacing_mm == (2.5, 0.7, 0.75)
    given = asked(tile="32,64,64", spacing="3,1,1")
    assert geometry_plan.derive(given, (2.5, 0.7, 0.75)) == given
    slices = asked(tile="64,64")
    assert geometry_plan.derive(slices, None) == slices


@pytest.mark.parametrize("median_mm", [None, (0.7, 0.75)])
def test_volumes_whose_spacing_nobody_knows_need_to_be_told(median_mm):
    with pytest.raises(InputError, match="needs --spacing, since not every case says its own"):
        geometry_plan.derive(asked(tile="32,64,64"), median_mm)


def test_a_plan_for_volumes_mirrors_in_the_plane_of_a_slice():
    flags = ["--modality", "CT", "--tile", "32,64,64", "--use-all", "--name", "x"]
    (planned,) = plan.make(config.from_flags(flags))
    assert planned.spec.shape == (32, 64, 64)
    assert planned.spec.spacing_mm == (3.987, 4.172, 4.172)
    assert planned.spec.flips == ((1,), (2,), (1, 2))


def test_a_tile_for_volumes_is_derived_from_their_median_shape():
    flags = ["--modality", "CT", "--tile", "3d", "--use-all", "--name", "x"]
    (planned,) = plan.make(config.from_flags(flags))
    slices, rows, cols = planned.fingerprint.shape
    assert planned.config.tile == ",".join(map(str, planned.spec.shape))
    assert all(
        side == max(32, whole // 32 * 32)  # so small that nothing has to be cut
        for side, whole in zip(planned.spec.shape, (slices, rows, cols), strict=True)
    )
    assert planned.spec.spacing_mm == (3.987, 4.172, 4.172)


def test_what_a_network_is_shown_is_told_in_words():
    spec = InputSpec("CT", ("lung",), (32, 64, 64), "HU", window=(0.0, 1.0))
    spaced = dataclasses.replace(spec, spacing_mm=(5.0, 1.5, 1.5))
    told = "32 x 64 x 64 pixels at 5 x 1.5 x 1.5 mm, 33% of tiles centred on foreground"
    assert geometry_plan.describe(spaced, 0.33) == told
    stack = dataclasses.replace(spec, shape=(64, 64), neighbours=1)
    assert geometry_plan.describe(stack, 0.33) == "64 x 64 pixels of 3 slices"
