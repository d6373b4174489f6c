import json
import os
import pathlib
import subprocess
import sys
import zipfile

import cv2
import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

from data_pipeline import cases, read, volumes

ROOT = pathlib.Path(__file__).parents[1]
PYDICOM_FILES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
SEED = 20200311
LARGEST_BYTES = 1_200_000_000  # resident, libraries included


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Real files of every type that is read; the name starts with the modality."""
    folder = tmp_path_factory.mktemp("originals")
    known = {case.id: case for case in cases.load()}
    slices = sorted(known["Lung_Dx-A0002"].image.iterdir())
    folder.joinpath("ct deflated.dcm").write_bytes(slices[0].read_bytes())
    plain = pydicom.dcmread(slices[15])
    plain.Rows = plain.Columns = 64
    plain.PixelData = pydicom.dcmread(slices[15]).pixel_array[:64, :64].tobytes()
    plain.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    plain.save_as(folder / "ct plain.dcm")
    plain.compress(pydicom.uid.RLELossless)
    plain.save_as(folder / "ct run length.dcm")
    for name in ("693_J2KI.dcm", "CT_small.dcm"):
        folder.joinpath(f"ct {name}").write_bytes((PYDICOM_FILES / name).read_bytes())
    for name in ("JPEGLSNearLossless_16.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_rgb_jpeg_dcmtk.dcm"):
        folder.joinpath(f"xr {name}").write_bytes((PYDICOM_FILES / name).read_bytes())
    with zipfile.ZipFile(folder / "ct.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in slices[:3]:
            archive.write(path, path.name)
    volume = volumes.read_nrrd(known["cip-ct-64"].image)
    folder.joinpath("ct.nrrd").write_bytes(known["cip-ct-64"].image.read_bytes())
    image = nib.Nifti1Image(volume.values.T.astype(np.int16), np.diag([-4.0, -4, 4, 1]))
    nib.save(image, folder / "ct.nii")
    nib.save(image, folder / "ct packed.nii.gz")
    volumes.write_metaimage(folder / "ct.mha", volume.values.astype(np.uint8), volume.affine)
    picture = cv2.imread(str(known["hannover_v7-a38e1877"].image), cv2.IMREAD_UNCHANGED)
    for suffix in (".png", ".jpg", ".bmp", ".tif", ".gif"):
        Image.fromarray(picture).save(folder / f"xr{suffix}")
    cv2.imwrite(str(folder / "xr 16 bit.png"), picture.astype(np.uint16) * 257)
    Image.fromarray(picture).save(folder / "xr packed.tif", compression="tiff_lzw")
    return folder


def fuzzed(originals, first, count):
    """Reads `count` damaged copies in a process of its own; returns what it counted."""
    script = pathlib.Path(__file__).with_name("fuzz_readers.py")
    done = subprocess.run(
        [sys.executable, str(script), str(originals), str(SEED), str(first), str(count)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, f"exit code {done.returncode}: {done.stderr[-1500:]}"
    return json.loads(done.stdout.splitlines()[-1])


def test_the_undamaged_files_are_read(originals):
    for path in (p for p in originals.iterdir() if p.is_file()):
        if path.name != "ct.mha":  # 8 bit, so its numbers are not HU, and that is refused
            assert read.scan(path, "XR" if path.name.startswith("xr") else "CT").voxels.any()


def test_damaged_files_are_read_or_refused(originals):
    found = fuzzed(originals, first=0, count=210)
    assert found["read"] + found["refused"] == 210
    assert min(found["read"], found["refused"]) > 20
    assert found["peak_bytes"] < LARGEST_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 5200, 600))
def test_thousands_of_damaged_files_are_read_or_refused(originals, first):
    found = fuzzed(originals, first=first, count=600)
    assert found["read"] + found["refused"] == 600
    assert found["peak_bytes"] < LARGEST_BYTES
