import numpy as np
import pytest

from data_pipeline.scan import Mask, Scan


def test_a_scan_knows_its_grid():
    scan = Scan(np.zeros((3, 4, 5), np.float32), "CT", "HU", "a.dcm", (8.0, 0.7, 0.6))
    assert scan.shape == (3, 4, 5)


def test_a_scan_refuses_voxels_that_are_not_float32():
    with pytest.raises(ValueError, match=r"a\.png: voxels must be float32 .* got uint8"):
        Scan(np.zeros((4, 5), np.uint8), "XR", "stored", "a.png")


def test_a_scan_refuses_a_colour_axis():
    with pytest.raises(ValueError, match=r"rank 2 or 3; got float32 of shape \(2, 4, 5, 3\)"):
        Scan(np.zeros((2, 4, 5, 3), np.float32), "CT", "HU", "a")


@pytest.mark.parametrize(("modality", "units"), [("MR", "stored"), ("CT", "hu")])
def test_a_scan_refuses_a_modality_or_unit_that_nothing_downstream_knows(modality, units):
    with pytest.raises(ValueError, match=f"got modality {modality}, units {units}"):
        Scan(np.zeros((4, 5), np.float32), modality, units, "a")


def test_a_scan_refuses_a_spacing_of_another_rank():
    with pytest.raises(ValueError, match="spacing_mm"):
        Scan(np.zeros((4, 5), np.float32), "CT", "HU", "a", (8.0, 0.7, 0.6))


def test_a_label_looked_for_and_not_found_has_an_empty_plane_and_one_not_annotated_has_none():
    mask = Mask(np.zeros((1, 4, 5), np.bool_), ("lung",))
    plane = mask.plane("lung")
    assert plane is not None
    assert not plane.any()
    assert mask.plane("infection") is None


def test_a_mask_returns_the_plane_that_belongs_to_the_label(draw):
    lung, infection = draw("##."), draw(".#.")
    mask = Mask(np.stack([lung, infection]), ("lung", "infection"))
    np.testing.assert_array_equal(mask.plane("infection"), infection)


@pytest.mark.parametrize(
    "planes", [np.zeros((2, 4, 5), np.bool_), np.zeros((1, 4, 5), np.uint8)], ids=["two", "uint8"]
)
def test_a_mask_refuses_planes_that_do_not_belong_to_its_labels(planes):
    with pytest.raises(ValueError, match=r"planes must be bool, one a label \('lung',\)"):
        Mask(planes, ("lung",))
