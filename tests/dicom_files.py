"""Makes small DICOM files for tests."""

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
)

SERIES = "1.2.826.0.1.3680043.8.498.1"


def dataset(pixels, *, syntax=ExplicitVRLittleEndian, bits_stored=None, **tags):
    """Returns a DX dataset around pixels of uint8, uint16 or int16; tags overwrite, None omits."""
    made = pydicom.Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.SOPClassUID = DigitalXRayImageStorageForPresentation
    made.SOPInstanceUID = pydicom.uid.generate_uid()
    made.SeriesInstanceUID = SERIES
    made.PatientName = "Secret^Name"
    made.PatientID = "secret-id"
    made.Modality = "DX"
    made.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        made.PlanarConfiguration = 0
    made.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
    made.Rows, made.Columns = pixels.shape[:2]
    made.BitsAllocated = 8 * pixels.dtype.itemsize
    made.BitsStored = bits_stored or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    byte_order = "<" if syntax.is_little_endian else ">"
    made.PixelData = pixels.astype(pixels.dtype.newbyteorder(byte_order)).tobytes()
    if len(made.PixelData) % 2:
        made.PixelData += b"\0"
    made["PixelData"].VR = "OB" if made.BitsAllocated == 8 else "OW"
    for name, value in tags.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


def ct(pixels, position=(0.0, 0.0, 0.0), **tags):
    """Returns one CT slice, axial, 0.5 x 0.75 mm, intercept -1024."""
    own = {
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "ImagePositionPatient": list(position),
        "PixelSpacing": [0.5, 0.75],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    made = dataset(pixels, **(own | {name: v for name, v in tags.items() if v is not None}))
    for name, value in tags.items():
        if value is None:
            delattr(made, name)
    return made


def save(path, made):
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)
    return path


def series(folder, count=5, gap=2.0, shape=(4, 6), **tags):
    """Writes a series whose slice n (from below) stores 100 n + col; names are shuffled."""
    for n in range(count):
        pixels = np.full(shape, 100 * n, np.uint16) + np.arange(shape[1], dtype=np.uint16)
        name = f"{(n * 7) % 11:02d}.dcm"
        save(folder / name, ct(pixels, (10.0, 20.0, 30.0 + gap * n), InstanceNumber=99 - n, **tags))
    return folder
