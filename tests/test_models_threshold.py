import subprocess
import sys

import numpy as np
import pytest

from data_pipeline import phantom
from data_pipeline.errors import InputError
from data_pipeline.scan import Scan
from data_pipeline.spec import InputSpec
from models import threshold, threshold_ct, threshold_shape, threshold_xray


def model(modality: str, *labels: str) -> threshold.Threshold:
    return threshold.Threshold(InputSpec(modality, labels or ("lung",), (64, 64)))


def dice(truth, prediction):
    return 2 * (truth & prediction).sum() / (truth.sum() + prediction.sum())


def outlines(scan, *labels):
    return model(scan.modality, *labels).probabilities(scan) > 0.5


def draw(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


def ct_slice(side=256):
    """A body of 40 HU in a room of air, with two lungs of -800 HU; returns HU and the lungs."""
    y, x = np.mgrid[:side, :side] / side - 0.5
    hu = np.where((x / 0.45) ** 2 + (y / 0.35) ** 2 < 1, 40.0, -1000.0)
    lungs = (np.abs(x) - 0.2) ** 2 / 0.12**2 + y**2 / 0.22**2 < 1
    hu[lungs] = -800.0
    return hu, lungs


def as_scan(hu, units="HU"):
    return Scan(hu.astype(np.float32), "CT", units, "drawn")


def test_xray_lungs_of_a_phantom_are_found():
    scores = []
    for seed in range(4):
        scan, mask = phantom.xray(seed)
        scores.append(dice(mask.plane("lung"), outlines(scan)[0]))
    assert min(scores) > 0.8


def test_ct_lungs_and_infection_of_a_phantom_are_found():
    for seed in range(3):
        scan, mask = phantom.ct(seed, (128, 144))
        lung, infection = outlines(scan, "lung", "infection")
        assert dice(mask.plane("lung"), lung) > 0.92  # infection at the pleura is not air
        assert dice(mask.plane("infection"), infection) > 0.8


def test_a_volume_is_outlined_slice_by_slice_with_its_lungs_selected_as_a_whole():
    scan, mask = phantom.ct(0)
    values = model("CT", "lung", "infection").probabilities(scan)
    assert values.shape == (2, 12, 64, 72)
    assert values.dtype == np.float32
    assert dice(mask.plane("lung"), values[0] > 0.5) > 0.95


@pytest.mark.parametrize("shape", [(57, 301), (301, 57), (33, 20), (700, 640)])
def test_any_size_comes_back_on_its_own_grid(shape):
    scan, _ = phantom.xray(0, shape)
    values = model("XR", "lung", "infection").probabilities(scan)
    assert values.shape == (2, *shape)
    assert values.min() >= 0
    assert values.max() <= 1


@pytest.mark.parametrize("modality", ["XR", "CT"])
@pytest.mark.parametrize("shape", [(1, 1), (40, 60), (3, 40, 60)])
def test_an_empty_image_gives_an_empty_mask(modality, shape):
    scan = Scan(np.full(shape, 7, np.float32), modality, "stored", "empty")
    assert not outlines(scan, "lung", "infection").any()


def test_a_ct_that_is_all_air_gives_an_empty_mask():
    noise = np.random.default_rng(0).normal(-1000, 5, (64, 64))
    assert not outlines(as_scan(noise), "lung", "infection").any()


def test_the_lung_range_in_hu_ends_at_minus_400():
    hu, lungs = ct_slice()
    below, above = np.where(lungs, -420.0, hu), np.where(lungs, -380.0, hu)
    # So near the threshold, smoothing moves the outline inwards by about a pixel.
    assert dice(lungs, outlines(as_scan(below))[0]) > 0.94
    assert not outlines(as_scan(above)).any()


def test_stored_values_are_parted_by_their_own_otsu_threshold():
    hu, lungs = ct_slice()
    stored = np.round((hu + 1000) / 1040 * 90 + 100)  # air 100, lung 117, body 190
    assert dice(lungs, outlines(as_scan(stored, "stored"))[0]) > 0.98


def test_air_of_the_room_is_no_lung_not_even_in_a_deep_notch_of_the_body():
    hu, lungs = ct_slice()
    hu[:110, 112:144] = -1000.0
    found = outlines(as_scan(hu))[0]
    assert not (found & (hu == -1000)).any()
    assert dice(lungs, found) > 0.98


def test_air_between_body_and_table_is_no_lung():
    hu, lungs = ct_slice()
    hu[225:229, 10:246] = 300.0  # with the two sides of a trough this closes the air below in
    hu[128:229, 10:14] = hu[128:229, 242:246] = 300.0
    found = outlines(as_scan(hu))[0]
    assert not (found & (hu == -1000)).any()
    assert dice(lungs, found) > 0.98


def test_lungs_that_reach_the_border_of_a_tight_crop_are_kept():
    hu, lungs = ct_slice()
    crop = (slice(60, 196), slice(60, 196))  # cuts both lungs at the left and right border
    assert lungs[crop][:, 0].any()
    assert dice(lungs[crop], outlines(as_scan(hu[crop]))[0]) > 0.95


def test_vessels_are_filled_and_the_heart_is_not():
    hu, _ = ct_slice()
    hu[120:125, 70:76] = 40.0
    assert outlines(as_scan(hu))[0][120:125, 70:76].all()
    hu[108:148, 68:88] = 40.0  # 800 pixels fit into a hole that may be filled: 0.02 * 256 * 256
    assert outlines(as_scan(hu))[0][128, 78]
    hu[88:168, 66:92] = 40.0  # 2080 do not
    assert not outlines(as_scan(hu))[0][128, 78]


def test_two_lungs_are_selected_and_an_airway_is_not():
    hu, _ = ct_slice()
    hu[124:133, 124:133] = -1000.0  # 81 pixels: less than a tenth of a lung
    found = outlines(as_scan(hu))[0]
    numbers, sizes = threshold_shape.components(found)
    assert len(sizes) == 2
    assert numbers[128, 77] != numbers[128, 179]
    assert not found[128, 128]


def test_an_airway_is_kept_where_it_is_joined_to_a_lung_in_another_slice():
    air = np.zeros((2, 40, 40), np.bool_)
    air[:, 5:30, 5:15] = True
    air[0, 10:12, 20:22] = True
    alone = threshold_ct.select_lungs(air)
    air[1, 10:12, 15:22] = True
    joined = threshold_ct.select_lungs(air)
    assert not alone[0, 10, 20]
    assert joined[0, 10, 20]


def test_ct_infection_is_a_band_of_hu_without_vessels():
    hu, _ = ct_slice()
    hu[100:130, 60:85] = -500.0  # ground glass
    hu[100:156, 178:182] = -300.0  # as thin as a vessel
    hu[140:160, 66:86] = 40.0  # as dense as tissue
    found = outlines(as_scan(hu), "infection")[0]
    assert found[115, 72]
    assert not found[:, 170:190].any()
    assert not found[150, 76]


def drawn_xray(width=1.0):
    """A chest without air beside it, with two lungs and a spine; returns image and lungs."""
    y, x = np.mgrid[:240, :240] / 240
    aside = np.abs(x - 0.5) / width
    image = np.full((240, 240), 160.0)
    lungs = ((aside - 0.22) / 0.14) ** 2 + ((y - 0.45) / 0.3) ** 2 < 1
    image[lungs] = 60.0
    image[aside < 0.03] = 200.0
    return image, lungs


def as_xray(image):
    return Scan(image.astype(np.float32), "XR", "stored", "drawn")


def test_xray_lungs_lie_on_both_sides_of_the_spine():
    image, lungs = drawn_xray()
    found = outlines(as_xray(image))[0]
    assert len(threshold_shape.components(found)[1]) == 2
    assert not found[:, 115:125].any()
    assert dice(lungs, found) > 0.8


def test_the_region_behind_the_heart_is_lung_on_xrays():
    image, _ = drawn_xray()
    image[96:192, 127:163] = 180.0  # the heart, which hides the lung's lower medial part
    found = outlines(as_xray(image))[0]
    assert found[163, 138]


def test_soft_tissue_between_ribs_and_skin_is_no_lung_on_xrays():
    image, lungs = drawn_xray(width=0.65)
    aside = np.abs(np.arange(240) - 119.5)
    image[:, aside > 65] = 70.0  # soft tissue, hardly brighter than lung and 8 pixels from it
    image[:, aside > 80] = 0.0  # air beside the patient
    found = outlines(as_xray(image))[0]
    assert not found[:, aside > 72].any()
    assert dice(lungs, found) > 0.8


def test_a_side_without_a_lung_takes_the_mirror_image_of_the_other():
    scan, _ = phantom.xray(0, (240, 200))
    half = scan.voxels.copy()
    half[:, 112:] = np.where(half[:, 112:] < 150, 200, half[:, 112:])
    found = outlines(as_xray(half))[0]
    left, right = found[:, :100].sum(), found[:, 100:].sum()
    assert left > 1000
    assert 0.7 < left / right < 1.4


def test_xray_infection_lies_within_the_lungs_where_they_are_bright():
    scan, mask = phantom.xray(1, (240, 200))
    lung, infection = outlines(scan, "lung", "infection")
    assert not (infection & ~lung).any()
    within = mask.plane("infection") & lung
    assert (infection & within).sum() > 0.5 * within.sum()


def test_labels_come_in_the_order_of_the_spec():
    scan, _ = phantom.ct(0, (64, 72))
    together = model("CT", "infection", "lung").probabilities(scan)
    np.testing.assert_array_equal(together[1], model("CT", "lung").probabilities(scan)[0])
    np.testing.assert_array_equal(together[0], model("CT", "infection").probabilities(scan)[0])


def test_the_same_scan_gives_the_same_answer_and_is_left_as_it_was():
    scan, _ = phantom.xray(3)
    before = scan.voxels.copy()
    first = model("XR").probabilities(scan)
    np.testing.assert_array_equal(first, model("XR").probabilities(scan))
    np.testing.assert_array_equal(scan.voxels, before)


def test_another_modality_is_refused_by_name():
    scan, _ = phantom.ct(0, (64, 72))
    with pytest.raises(InputError, match=r"phantom 0: it is CT, this model is for XR"):
        model("XR").probabilities(scan)


def test_confidence_is_the_logistic_of_the_distance_to_the_outline():
    plane = np.zeros((1, 9), np.bool_)
    plane[:, 5:] = True
    distance = np.array([-4.5, -3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
    np.testing.assert_array_equal(threshold_shape.signed_distance(plane)[0], distance)
    scan, _ = phantom.ct(0, (256, 256))  # the working grid itself
    values = model("CT").probabilities(scan)[0].astype(np.float64)
    found = values > 0.5
    expected = 1 / (1 + np.exp(-threshold_shape.signed_distance(found) / 4.0))
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_shapes_follow_pencil_and_paper():
    plane = draw("#....", "#....", "....#", ".....")
    np.testing.assert_array_equal(threshold_shape.at_least(plane, 2)[:, 0], [1, 1, 0, 0])
    assert threshold_shape.at_least(plane, 2).sum() == 2
    only_right = threshold_shape.touching(plane, threshold_shape.border(plane.shape))
    np.testing.assert_array_equal(only_right, plane)
    in_corner = threshold_shape.touching(plane, threshold_shape.corners(plane.shape))
    np.testing.assert_array_equal(in_corner, draw("#....", "#....", ".....", "....."))
    triangle = draw("#...#", ".....", "..#..")
    np.testing.assert_array_equal(threshold_shape.hull(triangle)[0], [1, 1, 1, 1, 1])
    np.testing.assert_array_equal(threshold_shape.each_hull(triangle), triangle)
    np.testing.assert_array_equal(threshold_shape.disc(1), draw(".#.", "###", ".#."))


def test_opening_removes_a_line_and_keeps_a_block_at_the_border():
    plane = np.zeros((20, 20), np.bool_)
    plane[:, 3] = True
    plane[8:, 10:] = True
    opened = threshold_shape.opened(plane, 2)
    assert not opened[:, :6].any()
    assert opened[12:, 14:].all()


def test_importing_the_baseline_does_not_import_tensorflow():
    code = (
        "import sys, models.threshold; "
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_plausible_on_an_xray_is_an_empty_mask():
    ramp = np.tile(np.linspace(0, 255, 64), (64, 1))
    assert threshold_xray.lung(np.zeros((64, 64))).sum() == 0
    assert threshold_xray.infection(ramp, np.zeros((64, 64), np.bool_)).sum() == 0
