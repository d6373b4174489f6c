import numpy as np
import pytest
from dicom_files import dataset
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from data_pipeline import grayscale
from data_pipeline.errors import InputError

PIXELS = np.array([[0, 1, 100], [2047, 4000, 4095]], np.uint16)


def p_values(pixels=PIXELS, bits_stored=12, **tags):
    made = dataset(pixels, bits_stored=bits_stored, **tags)
    return grayscale.p_values(pixels, made, "some.dcm")


def lut(entries, first, bits):
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.LUTData = list(entries)
    return [item]


def test_values_stay_when_the_header_asks_for_nothing():
    np.testing.assert_array_equal(p_values(), PIXELS)


def test_monochrome1_is_inverted_within_the_bits_that_are_stored():
    np.testing.assert_array_equal(
        p_values(PhotometricInterpretation="MONOCHROME1"), [[4095, 4094, 3995], [2048, 95, 0]]
    )


def test_signed_monochrome1_is_inverted_about_minus_one_half():
    pixels = np.array([[-2048, -1, 2047]], np.int16)
    inverted = p_values(pixels, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(inverted, [[2047, 0, -2048]])


def test_rescale_comes_before_the_window():
    # Rescaled: 2 * stored - 100. The window [0, 100] then holds stored 50 to 100.
    pixels = np.array([[0, 50, 75, 100, 4095]], np.uint16)
    values = p_values(
        pixels,
        RescaleSlope=2,
        RescaleIntercept=-100,
        WindowCenter=50,
        WindowWidth=100,
        VOILUTFunction="LINEAR_EXACT",
    )
    # The output range is that of the rescaled values: -100 to 8090, its middle 3995.
    np.testing.assert_allclose(values, [[-100, -100, 3995, 8090, 8090]])


def test_a_linear_window_is_that_of_the_standard():
    # PS3.3 C.11.2.1.2.1 for centre 2048, width 4096 is the identity on 12 bits.
    values = p_values(WindowCenter=2048, WindowWidth=4096)
    np.testing.assert_allclose(values, PIXELS)


def test_a_window_of_one_value_is_a_threshold():
    values = p_values(np.array([[99, 100, 101]], np.uint16), WindowCenter=100, WindowWidth=1)
    np.testing.assert_array_equal(values, [[0, 4095, 4095]])


def test_a_sigmoid_is_half_way_up_at_its_centre():
    values = p_values(
        np.array([[0, 100, 4095]], np.uint16),
        WindowCenter=100,
        WindowWidth=40,
        VOILUTFunction="SIGMOID",
    )
    assert values[0, 1] == 4095 / 2
    assert values[0, 0] == pytest.approx(4095 / (1 + np.exp(10)))
    assert values[0, 2] == pytest.approx(4095)


def test_the_window_acts_before_the_inversion():
    # The window of [0, 100]: above is white for MONOCHROME2, so black once inverted.
    values = p_values(
        np.array([[0, 4095]], np.uint16),
        WindowCenter=50,
        WindowWidth=100,
        PhotometricInterpretation="MONOCHROME1",
    )
    np.testing.assert_array_equal(values, [[4095, 0]])


def test_the_first_of_several_windows_counts():
    values = p_values(
        np.array([[0, 150, 4095]], np.uint16), WindowCenter=[150, 9], WindowWidth=[100, 9]
    )
    assert 0 < values[0, 1] < 4095


def test_a_voi_lut_counts_before_a_window():
    values = p_values(
        np.array([[9, 10, 11, 13, 200]], np.uint16),
        VOILUTSequence=lut([7, 5, 3, 1], first=10, bits=12),
        WindowCenter=50,
        WindowWidth=100,
    )
    np.testing.assert_array_equal(values, [[7, 7, 5, 1, 1]])


def test_a_lut_of_8_bits_maps_values_beyond_255():
    values = p_values(
        np.array([[0, 300, 511]], np.uint16),
        VOILUTSequence=lut([n // 2 for n in range(512)], first=0, bits=8),
    )
    np.testing.assert_array_equal(values, [[0, 150, 255]])


def test_an_inverted_lut_is_inverted_within_its_own_bits():
    values = p_values(
        np.array([[0, 1, 2, 3]], np.uint16),
        VOILUTSequence=lut([0, 100, 1000, 1023], first=0, bits=10),
        PhotometricInterpretation="MONOCHROME1",
    )
    np.testing.assert_array_equal(values, [[1023, 923, 23, 0]])


def test_a_modality_lut_counts_before_a_rescale():
    values = p_values(
        np.array([[0, 1]], np.uint16),
        ModalityLUTSequence=lut([500, 600], first=0, bits=12),
        RescaleSlope=9,
        RescaleIntercept=9,
    )
    np.testing.assert_array_equal(values, [[500, 600]])


def test_padding_becomes_the_darkest_value():
    values = p_values(
        np.array([[0, 50, 4000]], np.uint16),
        PhotometricInterpretation="MONOCHROME1",
        PixelPaddingValue=0,
    )
    np.testing.assert_array_equal(values, [[95, 4045, 95]])


def test_a_range_of_padding_is_padding():
    made = dataset(PIXELS, PixelPaddingValue=4000, PixelPaddingRangeLimit=4095)
    expected = [[False, False, False], [False, True, True]]
    np.testing.assert_array_equal(grayscale.is_padding(PIXELS, made), expected)


def test_padding_of_signed_pixels_may_be_written_unsigned():
    pixels = np.array([[-2000, 0]], np.int16)
    made = dataset(pixels)
    made.add_new("PixelPaddingValue", "US", 65536 - 2000)
    np.testing.assert_array_equal(grayscale.is_padding(pixels, made), [[True, False]])


@pytest.mark.parametrize(
    "tags",
    [
        {"WindowCenter": 1000, "WindowWidth": 777},
        {"WindowCenter": 1000, "WindowWidth": 777, "VOILUTFunction": "LINEAR_EXACT"},
        {"WindowCenter": 1000, "WindowWidth": 777, "VOILUTFunction": "SIGMOID"},
        {"RescaleSlope": 0.5, "RescaleIntercept": 3, "WindowCenter": 900, "WindowWidth": 500},
        {"RescaleSlope": 1, "RescaleIntercept": 0, "VOILUTSequence": lut(range(900), 50, 16)},
        {"ModalityLUTSequence": lut(range(0, 8000, 2), 5, 16), "WindowCenter": 9, "WindowWidth": 5},
    ],
)
@pytest.mark.filterwarnings("ignore:Applying a VOI LUT on a float")
def test_values_are_those_of_pydicom(tags):
    pixels = np.random.default_rng(0).integers(0, 4096, (20, 30)).astype(np.uint16)
    made = dataset(pixels, bits_stored=12, **tags)
    expected = apply_voi_lut(apply_modality_lut(pixels, made), made)
    values = grayscale.p_values(pixels, made, "some.dcm")
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"PresentationLUTShape": "INVERSE"}, "which one holds is unknown"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope 0"),
        ({"WindowCenter": 50, "WindowWidth": 0}, "window of centre 50.0, width 0.0"),
        ({"WindowCenter": 50, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "'CUBIC'"),
    ],
)
def test_a_header_that_asks_for_nonsense_is_refused(tags, message):
    with pytest.raises(InputError, match=message):
        p_values(**tags)


def test_a_lut_of_another_length_than_it_says_is_refused():
    table = lut([1, 2, 3], first=0, bits=12)
    table[0].LUTDescriptor = [4, 0, 12]
    with pytest.raises(InputError, match="table of 3 entries of 12 bits; its descriptor says 4"):
        p_values(VOILUTSequence=table)
