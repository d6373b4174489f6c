import numpy as np
import pytest

from data_pipeline import cases, doctor, phantom
from data_pipeline.errors import InputError
from data_pipeline.scan import Mask, Scan

HU = phantom.ct(0)[0].voxels


def test_a_chest_in_hu_is_believed():
    assert doctor.unlike_hu(HU) is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.clip((HU + 1250) / 1500 * 255, 0, 255).round(), "between 0 and 255, as in a picture"),
        (np.clip((HU + 1250) / 1500, 0, 1), "between 0 and 1, as after normalising"),
        (HU + 1024, "if the file stores HU \\+ 1024, give rescale_intercept -1024"),
        (HU - 1024, "an intercept of -1024 that was applied twice"),
    ],
    ids=["a window", "normalised", "no intercept", "intercept twice"],
)
def test_values_that_cannot_be_hu_are_refused_with_what_they_look_like(values, reason):
    with pytest.raises(InputError, match=f"scan.nii: its values are not HU: .*{reason}"):
        doctor.refuse_unlike_hu(values, "scan.nii", told=False)


@pytest.mark.parametrize("padding", [-2000, -2048, -3024])
def test_padding_around_the_field_of_view_is_no_second_intercept(padding):
    values = HU.copy()
    values[:, :20] = padding
    assert doctor.unlike_hu(values) is None


def test_a_wrong_rescale_is_told_as_the_users():
    with pytest.raises(InputError, match="after the rescale_slope and rescale_intercept given"):
        doctor.refuse_unlike_hu(HU + 1024, "scan.nii", told=True)


def codes(scan, mask=None):
    return [(finding.severity, finding.code) for finding in doctor.examine(scan, mask)]


def on(voxels, modality="XR", units="stored"):
    return Scan(np.asarray(voxels, np.float32), modality, units, "some scan")


LABELS = ("lung", "infection")
XRAY, XRAY_MASK = phantom.xray(0)
# As X-rays are taken: the chest fills the image.
XRAY, XRAY_MASK = on(XRAY.voxels[20:86, 12:68]), Mask(XRAY_MASK.planes[:, 20:86, 12:68], LABELS)
CT, CT_MASK = phantom.ct(0)


def test_nothing_is_odd_about_the_phantoms():
    assert codes(XRAY, XRAY_MASK) == []
    assert codes(CT, CT_MASK) == []


def test_few_cases_of_the_sample_are_odd():
    chosen = [case for case in cases.load() if case.modality == "XR"]
    odd = 0
    for case in chosen:
        scan = cases.read_scan(case)
        odd += bool(codes(scan, cases.read_mask(case, ("lung", "infection"), scan.shape)))
    assert odd <= len(chosen) // 100


def test_a_negative_is_noticed_with_and_without_a_mask():
    negative = on(255 - XRAY.voxels)
    assert ("warning", "negative") in codes(negative)
    assert ("warning", "off_lung") in codes(negative, XRAY_MASK)


def test_a_ct_slice_sent_as_an_xray_is_noticed():
    body, _ = phantom.ct(0, (80, 90))
    small = np.full((160, 180), -1000.0)
    small[40:120, 45:135] = body.voxels
    assert ("error", "ct_as_xray") in codes(on(small))
    assert ("warning", "ct_as_xray") in codes(on((np.clip(small, -1000, 400) + 1000) / 5.5))


def test_a_16_bit_picture_of_a_ct_needs_its_meaning():
    assert codes(on(CT.voxels + 2000, "CT")) == [("warning", "unknown_units")]
    assert codes(on(np.clip(CT.voxels, 0, 255), "CT")) == []


def test_hu_that_cannot_be_are_an_error():
    assert codes(on(CT.voxels + 1024, "CT", "HU")) == [("error", "not_hu")]


def test_an_empty_lung_mask_is_odd_and_an_empty_infection_mask_is_not():
    nothing = np.zeros_like(XRAY_MASK.planes)
    assert codes(XRAY, Mask(nothing, LABELS)) == [("warning", "empty")]


def test_a_mask_that_covers_nearly_all_is_background():
    assert ("error", "covers_all") in codes(
        XRAY, Mask(np.ones_like(XRAY_MASK.planes[:1]), ("lung",))
    )


def test_a_mask_beside_the_body_is_an_error():
    planes = np.zeros_like(CT_MASK.planes[:1])
    planes[:, :, :6, :6] = True
    found = codes(CT, Mask(planes, ("infection",)))
    assert found == [("error", "outside_body")]


def test_a_lung_mask_on_soft_tissue_is_odd():
    planes = np.zeros_like(CT_MASK.planes[:1])
    planes[:, :, 30:34, 34:38] = True
    assert codes(CT, Mask(planes, ("lung",))) == [("warning", "off_lung")]


def test_infection_outside_the_lung_is_odd():
    planes = CT_MASK.planes.copy()
    planes[0] &= ~planes[1]
    assert codes(CT, Mask(planes, LABELS)) == [("warning", "outside_lung")]
