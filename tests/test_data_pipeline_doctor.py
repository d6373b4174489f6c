import numpy as np
import pytest

from data_pipeline import doctor, phantom
from data_pipeline.errors import InputError

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
