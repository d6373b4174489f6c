import numpy as np
import pytest

from data_pipeline import cases, phantom


@pytest.mark.parametrize("make", [phantom.xray, phantom.ct])
def test_the_same_seed_draws_the_same_phantom_and_another_seed_another(make):
    (first, mask), (again, _), (other, _) = make(1), make(1), make(2)
    np.testing.assert_array_equal(first.voxels, again.voxels)
    assert (first.voxels != other.voxels).any()
    assert mask.planes.shape == (2, *first.shape)


@pytest.mark.parametrize("make", [phantom.xray, phantom.ct])
def test_infection_lies_within_the_lung_and_lung_on_both_sides(make):
    _, mask = make(3)
    lung, infection = mask.plane("lung"), mask.plane("infection")
    assert infection.any()
    assert not (infection & ~lung).any()
    middle = lung.shape[-1] // 2
    assert not lung[..., middle].any()
    assert lung[..., :middle].any()
    assert lung[..., middle:].any()


def test_a_ct_phantom_is_in_hu_and_has_another_spacing_on_each_axis():
    scan, mask = phantom.ct(0)
    assert scan.units == "HU"
    assert len(set(scan.spacing_mm)) == 3
    healthy = mask.plane("lung") & ~mask.plane("infection")
    assert abs(scan.voxels[healthy].mean() - -850) < 5
    assert abs(scan.voxels[mask.plane("infection")].mean() - -350) < 5


def test_a_ct_slice_has_the_spacing_of_its_rows_and_columns():
    scan, _ = phantom.ct(0, shape=(64, 72))
    assert scan.spacing_mm == (1.5, 1.25)


def test_written_phantoms_read_back_as_they_were_drawn(phantoms):
    read = cases.load(phantoms)
    scan, mask = phantom.xray(4)
    np.testing.assert_array_equal(cases.read_scan(read[4]).voxels, scan.voxels)
    got = cases.read_mask(read[4], ("lung", "infection"), scan.shape)
    np.testing.assert_array_equal(got.planes, mask.planes)


def test_infection_is_not_annotated_in_every_third_written_phantom(phantoms):
    annotated = [case.annotated(("lung", "infection")) for case in cases.load(phantoms)]
    assert annotated[:4] == [("lung",), ("lung", "infection"), ("lung", "infection"), ("lung",)]
