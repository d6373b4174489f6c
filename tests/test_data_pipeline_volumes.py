import gzip
import itertools

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from data_pipeline import cases, nifti, orientation, read, volumes, write
from data_pipeline.errors import InputError

# One volume, told apart at every voxel, of which a share looks like lung.
SIZES = (2, 3, 4)  # slices, rows, cols
CANONICAL = np.arange(24, dtype=np.float32).reshape(SIZES) * 50 - 900
AFFINE = np.array([[0, 0, 0.7, -9], [0, 0.6, 0, 8], [5.0, 0, 0, 7], [0, 0, 0, 1]])
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")


def every_orientation():
    """Yields each of the 48 ways to store CANONICAL: values and affine in the file's order."""
    for axes in itertools.permutations(range(3)):
        for reverse in itertools.product((False, True), repeat=3):
            how = orientation.Turn(axes, reverse)
            values = how.backward(CANONICAL)
            # The affine of the stored array: turning it must give AFFINE.
            affine = AFFINE.copy()
            for new, (old, flip) in enumerate(zip(axes, reverse, strict=True)):
                affine[:, old] = -AFFINE[:, new] if flip else AFFINE[:, new]
                if flip:
                    affine[:, 3] += AFFINE[:, new] * (SIZES[new] - 1)
            yield values, affine


def save(path, values, affine):
    """Writes (slices, rows, cols) with SimpleITK, which is the judge of what the formats mean."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(values))
    directions = affine[:3, 2::-1]
    spacing = np.linalg.norm(directions, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((directions / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_orientation_is_turned_to_the_canonical_one(tmp_path, suffix):
    for number, (values, affine) in enumerate(every_orientation()):
        path = save(tmp_path / f"{number}{suffix}", values.astype(np.int16), affine)
        scan = read.scan(path, "CT")
        np.testing.assert_array_equal(scan.voxels, CANONICAL)
        np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-5)
        np.testing.assert_allclose(scan.spacing_mm, (5.0, 0.6, 0.7), rtol=1e-6)
        assert scan.units == "HU"


@pytest.mark.parametrize("source", SUFFIXES)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_mask_is_written_back_on_the_grid_and_in_the_orientation_of_its_source(
    tmp_path, source, suffix
):
    plane = CANONICAL > 0
    for values, affine in itertools.islice(every_orientation(), 0, None, 5):
        scan = read.scan(save(tmp_path / f"scan{source}", values.astype(np.int16), affine), "CT")
        path = tmp_path / f"mask{suffix}"
        write.mask(path, plane, scan)
        written = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(written), values > 0)
        there = sitk.ReadImage(str(tmp_path / f"scan{source}"))
        np.testing.assert_allclose(written.GetOrigin(), there.GetOrigin(), atol=1e-5)
        np.testing.assert_allclose(written.GetDirection(), there.GetDirection(), atol=1e-6)
        np.testing.assert_allclose(written.GetSpacing(), there.GetSpacing(), rtol=1e-6)
        np.testing.assert_array_equal(read.classes(path), plane)
    assert {p.name for p in tmp_path.iterdir()} <= {"scan.raw", f"scan{source}", f"mask{suffix}"}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_numbers_of_every_type_are_read(tmp_path, suffix, dtype):
    values = np.arange(24).reshape(SIZES).astype(dtype)
    path = save(tmp_path / f"mask{suffix}", values, AFFINE)
    np.testing.assert_array_equal(read.classes(path), values)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
def test_compressed_volumes_are_read(tmp_path, suffix):
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(SIZES))
    path = tmp_path / f"mask{suffix}"
    sitk.WriteImage(image, str(path), useCompression=True)
    np.testing.assert_array_equal(read.classes(path), np.arange(24).reshape(SIZES))


def test_an_oblique_volume_keeps_its_obliqueness_in_the_affine(tmp_path):
    turn = np.eye(4)
    angle = np.radians(20)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    path = save(tmp_path / "oblique.nii.gz", CANONICAL, turn @ AFFINE)
    scan = read.scan(path, "CT")
    np.testing.assert_array_equal(scan.voxels, CANONICAL)
    np.testing.assert_allclose(scan.affine, turn @ AFFINE, atol=1e-5)


def test_the_sample_volume_lies_where_simpleitk_says():
    case = next(c for c in cases.load() if c.id == "cip-ct-64")
    scan = cases.read_scan(case)
    image = sitk.ReadImage(str(case.image))
    np.testing.assert_array_equal(scan.voxels, sitk.GetArrayFromImage(image))
    np.testing.assert_allclose((scan.affine @ [0, 0, 0, 1])[:3], image.GetOrigin())
    lung = cases.read_mask(case, ("lung",), scan.shape).plane("lung")
    assert scan.voxels[lung].mean() < -700
    assert scan.voxels[~lung].mean() > -700


def nifti_file(path, values=CANONICAL, affine=None, change=lambda image: None):
    image = nib.Nifti1Image(values.T, affine)
    change(image)
    nib.save(image, path)
    return path


def test_slope_and_intercept_of_nifti_are_applied(tmp_path):
    def change(image):
        image.header.set_slope_inter(2.0, -1000.0)

    stored = np.arange(24, dtype=np.int16).reshape(SIZES) * 50
    path = nifti_file(tmp_path / "scaled.nii", stored, np.eye(4), change)
    raw = bytearray(path.read_bytes())  # nibabel scales what it writes; set both by hand
    raw[112:120] = np.array([2.0, -1000.0], "<f4").tobytes()
    path.write_bytes(raw)
    stored_again = np.frombuffer(raw[352:], "<i2").reshape(SIZES)
    values = nifti.read(path).values
    np.testing.assert_array_equal(values, stored_again * 2.0 - 1000.0)


def test_nifti_without_orientation_keeps_the_order_of_the_file(tmp_path):
    path = nifti_file(tmp_path / "x.nii", affine=np.diag([0.7, 0.6, 5.0, 1]))
    raw = bytearray(path.read_bytes())
    raw[252:256] = bytes(4)  # qform_code and sform_code
    path.write_bytes(raw)
    scan = read.scan(path, "CT")
    np.testing.assert_array_equal(scan.voxels, CANONICAL)
    assert scan.affine is None
    np.testing.assert_allclose(scan.spacing_mm, (5.0, 0.6, 0.7), rtol=1e-6)


def test_nifti_in_micrometres_is_converted(tmp_path):
    def change(image):
        image.header.set_xyzt_units("micron")

    path = nifti_file(tmp_path / "x.nii", affine=np.diag([700.0, 600, 5000, 1]), change=change)
    np.testing.assert_allclose(read.scan(path, "CT").spacing_mm, (5.0, 0.6, 0.7), rtol=1e-6)


def test_nifti_whose_sform_and_qform_disagree_is_refused(tmp_path):
    def change(image):
        image.set_sform(np.diag([1.0, 1, 1, 1]), code=1)
        image.set_qform(np.diag([-1.0, 1, 1, 1]), code=1)

    path = nifti_file(tmp_path / "x.nii", change=change)
    with pytest.raises(InputError, match="sform says RAS and its qform LAS; which one holds"):
        read.scan(path, "CT")


def test_a_sheared_volume_is_refused_with_its_angle(tmp_path):
    sheared = np.diag([1.0, 1, 1, 1])
    sheared[1, 2] = 0.25  # 14.0 degrees
    with pytest.raises(InputError, match=r"x.nii: its axes are 14.0 degrees off right angles"):
        read.scan(nifti_file(tmp_path / "x.nii", affine=sheared), "CT")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((4, 3, 2, 5), np.float32), "a volume has three axes"),
        (np.zeros((4, 3, 2), np.complex64), "stores complex64; plain numbers are read"),
    ],
)
def test_nifti_that_is_no_volume_of_numbers_is_refused(tmp_path, values, message):
    path = tmp_path / "x.nii"
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    with pytest.raises(InputError, match=message):
        read.scan(path, "CT")


def test_a_trailing_axis_of_one_is_no_axis(tmp_path):
    path = tmp_path / "x.nii"
    nib.save(nib.Nifti1Image(CANONICAL.T[..., None], np.diag([-1.0, -1, 1, 1])), path)
    np.testing.assert_array_equal(read.scan(path, "CT").voxels, CANONICAL)


def test_one_axial_slice_is_an_image(tmp_path):
    path = save(tmp_path / "x.nii.gz", CANONICAL[:1], AFFINE)
    scan = read.scan(path, "CT")
    assert scan.shape == (3, 4)
    np.testing.assert_allclose(scan.spacing_mm, (0.6, 0.7), rtol=1e-6)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_volume_cut_short_is_refused(tmp_path, suffix):
    values = np.random.default_rng(0).integers(-900, 300, (20, 30, 40)).astype(np.int16)
    path = save(tmp_path / f"x{suffix}", values, AFFINE)
    data = path.with_suffix(".raw") if suffix == ".mhd" else path
    data.write_bytes(data.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"cut short|damaged"):
        read.scan(path, "CT")


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_damaged_check_sum_of_a_compressed_volume_is_refused(tmp_path, suffix):
    values = np.random.default_rng(0).integers(-900, 300, (20, 30, 40)).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    path = tmp_path / f"x{suffix}"
    sitk.WriteImage(image, str(path), useCompression=True)
    whole = path.read_bytes()
    assert read.scan(path, "CT").shape == (20, 30, 40)
    for damaged in (
        whole[:-2],  # of gzip's length, or of zlib's check sum
        whole[:-6] + bytes([whole[-6] ^ 255]) + whole[-5:]
        if suffix != ".mha"
        else whole[:-1] + bytes([whole[-1] ^ 255]),
    ):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"cut short|damaged"):
            read.scan(path, "CT")


def test_nifti_that_goes_on_behind_its_image_is_refused(tmp_path):
    path = save(tmp_path / "x.nii.gz", CANONICAL, AFFINE)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(2**21)))
    with pytest.raises(InputError, match="holds more than its header says"):
        read.scan(path, "CT")


def test_slope_and_intercept_of_nifti_in_float64_are_applied_as_by_simpleitk(tmp_path):
    stored = np.arange(24, dtype=np.float64).reshape(SIZES) * 50 - 1000 + 1 / 3
    path = nifti_file(tmp_path / "scaled.nii", stored, np.eye(4), lambda image: None)
    raw = bytearray(path.read_bytes())
    raw[112:120] = np.array([0.5, -300.0], "<f4").tobytes()
    path.write_bytes(raw)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    np.testing.assert_allclose(nifti.read(path).values, expected, atol=1e-3)
    assert expected.min() < -790  # that is -1000 / 2 - 300


def test_a_header_that_asks_for_more_than_there_is_takes_no_memory(tmp_path):
    path = tmp_path / "x.nrrd"
    path.write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nsizes: 60000 60000 9\nendian: little\n"
        b"encoding: gzip\n\n" + gzip.compress(b"\0" * 100)
    )
    with pytest.raises(InputError, match=r"says that its image has 64,800,000,000 bytes"):
        read.scan(path, "CT")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type: block", "has type 'block', encoding 'raw'"),
        ("encoding: bzip2", "encoding 'bzip2'"),
        ("endian: middle", "does not say whether it is little or big endian"),
        ("sizes: 4 3", "its dimension is not the number of its sizes"),
        ("sizes: 4 0 2", "a volume has three axes"),
        ("data file: ../secret.raw", "names a data file outside its folder"),
        ("data file: other.raw", "which is missing"),
        ("data file: LIST", "spreads its numbers over several files"),
        ("line skip: 2", "skips lines"),
    ],
)
def test_a_nrrd_file_that_is_not_read_says_why(tmp_path, text, message):
    path = tmp_path / "x.nrrd"
    fields = {"type": "short", "dimension": "3", "sizes": "4 3 2", "endian": "little"}
    fields |= {"encoding": "raw"} | dict([text.split(": ")])
    header = "".join(f"{key}: {value}\n" for key, value in fields.items())
    path.write_bytes(b"NRRD0004\n" + header.encode() + b"\n" + b"\1" * 48)
    with pytest.raises(InputError, match=message):
        read.scan(path, "CT")


def test_a_nrrd_file_may_hold_comments_big_endian_numbers_and_another_space(tmp_path):
    path = tmp_path / "x.nrrd"
    path.write_bytes(
        b"NRRD0005\n# made by hand\nname:=value\ntype: short\ndimension: 3\nsizes: 4 3 2\n"
        b"space: right-anterior-superior\nspace directions: (-0.7,0,0) (0,-0.6,0) (0,0,5)\n"
        b"space origin: (9,-8,7)\nendian: big\nencoding: raw\n\n"
        + CANONICAL.astype(">i2").tobytes()
    )
    scan = read.scan(path, "CT")
    np.testing.assert_array_equal(scan.voxels, CANONICAL)
    np.testing.assert_allclose(scan.affine, AFFINE)


def test_a_detached_nrrd_header_finds_its_numbers(tmp_path):
    (tmp_path / "x.raw").write_bytes(b"skip" + CANONICAL.astype("<i2").tobytes())
    path = tmp_path / "x.nhdr"
    path.write_text(
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 2\nspacings: 0.7 0.6 5\n"
        "endian: little\nencoding: raw\nbyte skip: 4\ndata file: x.raw\n"
    )
    scan = read.scan(path, "CT")
    np.testing.assert_array_equal(scan.voxels, CANONICAL)
    assert (scan.affine, scan.spacing_mm) == (None, (5.0, 0.6, 0.7))


def test_a_metaimage_header_may_be_old_and_its_numbers_last_in_the_file(tmp_path):
    (tmp_path / "x.img").write_bytes(b"old header" + CANONICAL.astype(">i2").tobytes())
    path = tmp_path / "x.mhd"
    path.write_text(
        "ObjectType = Image\nNDims = 3\nElementByteOrderMSB = True\nHeaderSize = -1\n"
        "Orientation = 1 0 0 0 1 0 0 0 1\nPosition = -9 8 7\nElementSpacing = 0.7 0.6 5\n"
        "DimSize = 4 3 2\nElementType = MET_SHORT\nElementDataFile = x.img\n"
    )
    scan = read.scan(path, "CT")
    np.testing.assert_array_equal(scan.voxels, CANONICAL)
    np.testing.assert_allclose(scan.affine, AFFINE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ElementType = MET_BLOCK", "ElementType 'MET_BLOCK'"),
        ("ElementNumberOfChannels = 3", "with 3 channels"),
        ("BinaryData = False", "binary numbers"),
        ("DimSize = 4 3", "NDims is not the number of sizes"),
        ("NDims = two", "is damaged"),
    ],
)
def test_a_metaimage_file_that_is_not_read_says_why(tmp_path, text, message):
    fields = {"NDims": "3", "DimSize": "4 3 2", "ElementType": "MET_SHORT"}
    fields |= dict([text.split(" = ")]) | {"ElementDataFile": "LOCAL"}
    path = tmp_path / "x.mha"
    header = "".join(f"{key} = {value}\n" for key, value in fields.items())
    path.write_bytes(header.encode() + b"\1" * 48)
    with pytest.raises(InputError, match=message):
        volumes.read_metaimage(path)


def test_a_mask_of_fractions_is_refused(tmp_path):
    path = save(tmp_path / "x.nii.gz", CANONICAL / 7, AFFINE)
    with pytest.raises(InputError, match="holds fractions"):
        read.classes(path)


def case(tmp_path, image_affine, mask_affine, **more):
    image = save(tmp_path / "image.nii.gz", CANONICAL, image_affine)
    mask = save(tmp_path / "mask.nii.gz", (CANONICAL > 0).astype(np.uint8), mask_affine)
    return cases.Case("c", "CT", image, lung_mask=mask, **more)


def test_a_mask_that_lies_elsewhere_than_its_image_is_refused(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] += 0.5  # of 0.7 mm a column
    with pytest.raises(InputError, match=r"mask.nii.gz lies elsewhere than its image"):
        cases.read_mask(case(tmp_path, AFFINE, moved), ("lung",), SIZES)


def test_a_mask_a_rounding_error_away_lies_on_its_image(tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] += 0.01
    mask = cases.read_mask(case(tmp_path, AFFINE, moved), ("lung",), SIZES)
    np.testing.assert_array_equal(mask.plane("lung"), CANONICAL > 0)


def test_a_mask_stored_the_other_way_round_is_turned_onto_its_image(tmp_path):
    for values, affine in itertools.islice(every_orientation(), 0, None, 7):
        image = save(tmp_path / "image.nii.gz", CANONICAL, AFFINE)
        mask = save(tmp_path / "mask.nrrd", (values > 0).astype(np.uint8), affine)
        made = cases.Case("c", "CT", image, lung_mask=mask)
        read_mask = cases.read_mask(made, ("lung",), SIZES)
        np.testing.assert_array_equal(read_mask.plane("lung"), CANONICAL > 0)


def test_a_mask_without_orientation_is_refused_where_its_image_was_turned(tmp_path):
    values, affine = next(itertools.islice(every_orientation(), 3, None))
    image = save(tmp_path / "image.nii.gz", values, affine)
    (tmp_path / "mask.raw").write_bytes(np.ones(24, np.uint8).tobytes())
    mask = tmp_path / "mask.mhd"
    mask.write_text(
        "NDims = 3\nDimSize = 4 3 2\nElementType = MET_UCHAR\nElementDataFile = mask.raw\n"
    )
    made = cases.Case("c", "CT", image, lung_mask=mask)
    with pytest.raises(InputError, match="lies elsewhere than its image"):
        cases.read_mask(made, ("lung",), SIZES)


def test_only_the_class_numbers_that_the_manifest_names_count(tmp_path):
    image = save(tmp_path / "image.nii.gz", CANONICAL, AFFINE)
    classes = np.arange(24, dtype=np.uint8).reshape(SIZES) % 6
    mask = save(tmp_path / "mask.nii.gz", classes, AFFINE)
    made = cases.Case("c", "CT", image, lung_mask=mask, lung_values=(3, 4))
    read_mask = cases.read_mask(made, ("lung",), SIZES)
    np.testing.assert_array_equal(read_mask.plane("lung"), (classes == 3) | (classes == 4))


@pytest.mark.parametrize("values", ["one", "1,2", "0 1", "-1"])
def test_class_numbers_that_are_none_are_refused(tmp_path, values):
    path = tmp_path / "manifest.csv"
    path.write_text(f'id,modality,image,lung_values\nc,CT,x.nii,"{values}"\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"line 2: lung_values is .*; class numbers above 0"):
        cases.load(path)


def test_a_mask_that_is_an_image_is_refused(tmp_path):
    image = save(tmp_path / "image.nii.gz", CANONICAL, AFFINE)
    made = cases.Case("c", "CT", image, lung_mask=image)
    with pytest.raises(InputError, match="holds 24 different values from -900 to 250"):
        cases.read_mask(made, ("lung",), SIZES)


def test_a_volume_is_no_xray(tmp_path):
    with pytest.raises(InputError, match="is a volume; an X-ray is one image"):
        read.scan(save(tmp_path / "x.nii.gz", CANONICAL, AFFINE), "XR")


def test_a_mask_for_a_volume_is_not_written_as_png(tmp_path):
    scan = read.scan(save(tmp_path / "x.nii.gz", CANONICAL, AFFINE), "CT")
    with pytest.raises(InputError, match="but PNG is for images"):
        write.mask(tmp_path / "mask.png", CANONICAL > 0, scan)


def test_a_mask_on_another_grid_is_not_written(tmp_path):
    scan = read.scan(save(tmp_path / "x.nii.gz", CANONICAL, AFFINE), "CT")
    with pytest.raises(ValueError, match=r"mask is bool \(3, 4\), scan is \(2, 3, 4\)"):
        write.mask(tmp_path / "mask.nii.gz", CANONICAL[0] > 0, scan)
