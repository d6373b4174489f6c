"""Reads DICOM files: one X-ray, or the slices of CT that `series` makes a volume of.

pydicom parses, `dicom_codecs` decompresses; what the numbers mean is decided here and in
`grayscale`.
"""

import dataclasses
import io
import logging
import pathlib
import zlib
from collections.abc import Callable, Sequence
from typing import BinaryIO

import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array

from data_pipeline import dicom_codecs, grayscale, raster, untrusted
from data_pipeline.errors import InputError
from data_pipeline.orientation import Stored

_LOG = logging.getLogger(__name__)

# pydicom would warn of values that break a rule and quote them, and they may be a patient's.
# What is used here is checked here.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

# PS3.3 C.7.3.1.1.1: what a file that shall be an X-ray may call itself. OT and SC are what
# converters from film and picture files write.
_FILM_MODALITIES = ("CR", "DX", "RG")
XRAY_MODALITIES = (*_FILM_MODALITIES, "OT", "SC", "XC", "")

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"  # and the multi-frame ones, .1 to .4

_AIR_HU = -1000.0
_LARGEST_INFLATED_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Member:
    """A DICOM file, on disk or inside a ZIP archive."""

    name: str  # what a user knows it by
    open: Callable[[], BinaryIO]


@dataclasses.dataclass(frozen=True)
class Heading:
    """Which series a DICOM file belongs to, and what kind of image it holds."""

    series: str  # SeriesInstanceUID
    series_number: str  # "?" if it has none
    modality: str
    is_localizer: bool
    is_screenshot: bool
    is_film: bool  # a grey X-ray; a digitised one is a film too, though a screenshot by its class
    has_image: bool  # a report or a presentation state has none, and a screenshot is none
    view: str  # ViewPosition
    patient: str = dataclasses.field(repr=False)  # PatientID, which no message tells


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """What the header says of one CT slice; its pixels are still in the file."""

    member: Member
    index: int  # of the frame in its file
    instance: str  # SOPInstanceUID
    series: str  # SeriesInstanceUID
    series_number: str
    kernel: str  # of the reconstruction
    is_localizer: bool
    shape: tuple[int, int]  # (rows, cols)
    spacing_mm: tuple[float, float]  # between rows, between columns
    corner_mm: np.ndarray  # (3,), LPS: centre of the first pixel
    down: np.ndarray  # (3,), LPS: unit vector from one row to the next
    right: np.ndarray  # (3,), LPS: from one column to the next
    rescale: tuple[float, float] | None  # slope and intercept to HU

    @property
    def normal(self) -> np.ndarray:
        """The unit vector, LPS, that is square to the slice."""
        return np.cross(self.right, self.down)


def member(path: pathlib.Path) -> Member:
    """Returns a file on disk."""
    return Member(str(path), lambda: path.open("rb"))


def is_dicom(file: Member) -> bool:
    """Whether a file has the DICOM mark behind its preamble."""
    with file.open() as opened:
        return opened.read(132)[128:] == b"DICM"


def heading(file: Member) -> Heading:
    """Returns what little it takes to sort files, which is quicker than to read a whole header.

    Raises:
      InputError: naming the file, if it is damaged.
    """
    keywords = [
        "SeriesInstanceUID", "SeriesNumber", "Modality", "ImageType", "Rows", "SOPClassUID",
        "PhotometricInterpretation", "ImagePositionPatient", "PatientID", "ViewPosition",
    ]  # fmt: skip
    with untrusted.damaged(file.name, "DICOM file"):
        return _heading(_dataset(file, pixels=False, only=keywords))


def _heading(dataset: pydicom.Dataset) -> Heading:
    modality = str(dataset.get("Modality") or "")
    is_grey = str(dataset.get("PhotometricInterpretation")).startswith("MONOCHROME")
    is_screenshot = _is_screenshot(dataset)
    return Heading(
        series=str(dataset.get("SeriesInstanceUID")),
        series_number=str(dataset.get("SeriesNumber") or "?"),
        modality=modality,
        is_localizer="LOCALIZER" in (dataset.get("ImageType") or ()),
        is_screenshot=is_screenshot,
        is_film=modality in _FILM_MODALITIES and "Rows" in dataset and is_grey,
        has_image="Rows" in dataset and not is_screenshot,
        view=str(dataset.get("ViewPosition") or ""),
        patient=str(dataset.get("PatientID") or "").strip(),
    )


def _is_screenshot(dataset: pydicom.Dataset) -> bool:
    """Whether a file is a picture beside a study, such as a dose report, and no slice."""
    uid = str(dataset.get("SOPClassUID"))
    is_capture = uid == _SECONDARY_CAPTURE or uid.startswith(f"{_SECONDARY_CAPTURE}.")
    is_grey = dataset.get("PhotometricInterpretation") == "MONOCHROME2"
    return is_capture and not (is_grey and "ImagePositionPatient" in dataset)


def xray(file: Member) -> Stored:
    """Reads a single X-ray: float32 (rows, cols), more is brighter (see `grayscale`).

    The pixels stay where they are stored, also where PatientOrientation says that the image
    is mirrored: a mask drawn on it has no such header.

    Raises:
      InputError: naming the file, if it is no such image or cannot be decoded.
    """
    with untrusted.damaged(file.name, "DICOM file"):
        dataset = _dataset(file)
        modality = dataset.get("Modality") or ""
        if modality not in XRAY_MODALITIES:
            hint = "; a model that was trained on CT takes its series" if modality == "CT" else ""
            raise InputError(f"{file.name} is {modality[:16]}, not an X-ray (CR or DX){hint}")
        if _frame_count(dataset) != 1:
            raise InputError(f"{file.name} has {dataset.NumberOfFrames} frames; an X-ray has one")
        _check_pixels(file, dataset)
        pixels = _decoded(file, dataset, 0)
        values = _grey(pixels, dataset, file.name)
        spacing_mm = _xray_spacing_mm(dataset, file.name)
    return Stored(values.astype(np.float32), "stored", spacing_mm)


def _xray_spacing_mm(dataset: pydicom.Dataset, name: str) -> tuple[float, float] | None:
    # PixelSpacing is calibrated to the patient; ImagerPixelSpacing holds at the detector, where
    # the patient's shadow is some 5 to 20 % larger (PS3.3 10.7.1.3).
    spacing = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing")
    if not spacing:
        return None
    rows_mm, cols_mm = float(spacing[0]), float(spacing[1])
    if not (np.isfinite([rows_mm, cols_mm]).all() and min(rows_mm, cols_mm) > 0):
        raise InputError(f"{name} has pixels of {rows_mm:g} x {cols_mm:g} mm")
    return rows_mm, cols_mm


def _grey(pixels: np.ndarray, dataset: pydicom.Dataset, name: str) -> np.ndarray:
    photometric = dataset.PhotometricInterpretation
    if photometric in ("MONOCHROME1", "MONOCHROME2"):
        return grayscale.p_values(pixels, dataset, name)
    if photometric == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InputError(f"{name} has the photometric interpretation {photometric[:16]!r}")
    return raster.luma(pixels)


def frames(file: Member, wanted: str = "") -> list[Frame]:
    """Returns what the header of a CT file says of its slices: one, or many if multi-frame.

    None for a report, a presentation state or a screenshot, which scanners and viewers put
    beside slices.

    Args:
      file: on disk or in an archive.
      wanted: SeriesNumber or SeriesInstanceUID, to get none of another series; empty for any.

    Raises:
      InputError: naming the file, if it is no CT image or a slice's place is not known.
    """
    with untrusted.damaged(file.name, "DICOM file"):
        dataset = _dataset(file, pixels=False)
        heading = _heading(dataset)
        if _is_screenshot(dataset) or (not heading.has_image and heading.modality != "CT"):
            _LOG.info("%s is %s and no slice", file.name, heading.modality[:16])
            return []
        if wanted not in ("", heading.series, heading.series_number):
            return []
        _check_is_ct(dataset, file.name)
        count = _frame_count(dataset)
        grouped = "PerFrameFunctionalGroupsSequence" in dataset
        if not grouped and count > 1:
            raise InputError(f"{file.name} has {count} frames and does not say where each lies")
        if grouped and len(dataset.PerFrameFunctionalGroupsSequence) != count:
            raise InputError(f"{file.name} has {count} frames and describes another number")
        return [_frame(file, dataset, heading, index) for index in range(count)]


def _check_is_ct(dataset: pydicom.Dataset, name: str) -> None:
    modality = dataset.get("Modality") or ""
    if modality != "CT":
        raise InputError(f"{name} is {modality[:16] or 'of unknown modality'}, not CT")
    if "Rows" not in dataset or "Columns" not in dataset:
        raise InputError(f"{name} holds no image")
    if dataset.get("SamplesPerPixel") != 1 or dataset.get("PhotometricInterpretation") != (
        "MONOCHROME2"
    ):
        raise InputError(
            f"{name} is {str(dataset.get('PhotometricInterpretation'))[:16]}; a CT with HU is "
            "MONOCHROME2"
        )


def _frame(file: Member, dataset: pydicom.Dataset, heading: Heading, index: int) -> Frame:
    def of_frame(group: str) -> pydicom.Dataset:
        return _functional_group(dataset, group, index)

    cosines = of_frame("PlaneOrientationSequence").get("ImageOrientationPatient")
    corner = of_frame("PlanePositionSequence").get("ImagePositionPatient")
    spacing = of_frame("PixelMeasuresSequence").get("PixelSpacing")
    image_type = of_frame("CTImageFrameTypeSequence").get("FrameType") or dataset.get("ImageType")
    is_localizer = "LOCALIZER" in (image_type or ())
    if not is_localizer and not (cosines and corner and spacing):
        raise InputError(
            f"{file.name} lacks the place of its slice: ImageOrientationPatient, "
            "ImagePositionPatient and PixelSpacing are needed"
        )
    vectors = np.array([float(c) for c in cosines or (1, 0, 0, 0, 1, 0)]).reshape(2, 3)
    return Frame(
        member=file,
        index=index,
        instance=str(dataset.get("SOPInstanceUID")),
        series=heading.series,
        series_number=heading.series_number,
        kernel=str(_first(dataset.get("ConvolutionKernel")) or ""),
        is_localizer=is_localizer,
        shape=(int(dataset.Rows), int(dataset.Columns)),
        spacing_mm=(float(spacing[0]), float(spacing[1])) if spacing else (0.0, 0.0),
        corner_mm=np.array([float(c) for c in corner or (0, 0, 0)]),
        right=vectors[0],
        down=vectors[1],
        rescale=_rescale(of_frame("PixelValueTransformationSequence"), file.name),
    )


def _first(value: object) -> object:
    return value[0] if isinstance(value, pydicom.multival.MultiValue) and value else value


def _functional_group(dataset: pydicom.Dataset, group: str, index: int) -> pydicom.Dataset:
    """Returns the item that holds a slice's attributes: its own, the shared, or the header."""
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        return dataset
    own = dataset.PerFrameFunctionalGroupsSequence[index]
    shared = dataset.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    for item in (own, shared[0]):
        if item.get(group):
            found: pydicom.Dataset = item[group].value[0]
            return found
    return pydicom.Dataset()


def _rescale(dataset: pydicom.Dataset, name: str) -> tuple[float, float] | None:
    slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    if slope is None or intercept is None:
        return None
    kind = dataset.get("RescaleType") or "HU"
    if kind != "HU":
        raise InputError(f"{name} rescales to {kind[:16]!r}, not to HU")
    if float(slope) == 0 or not np.isfinite([float(slope), float(intercept)]).all():
        raise InputError(f"{name} has RescaleSlope {slope} and RescaleIntercept {intercept}")
    return float(slope), float(intercept)


def hounsfield(
    file: Member, slices: Sequence[Frame], rescales: Sequence[tuple[float, float]]
) -> list[np.ndarray]:
    """Decodes slices of one file: float32 (rows, cols) in HU each; no padding above air.

    Args:
      file: which holds all of the slices.
      slices: which of its frames.
      rescales: slope and intercept for each.

    Raises:
      InputError: naming the file, if it cannot be decoded.
    """
    with untrusted.damaged(file.name, "DICOM file"):
        dataset = _dataset(file)
        _check_pixels(file, dataset)
        planes = []
        for frame, (slope, intercept) in zip(slices, rescales, strict=True):
            pixels = _decoded(file, dataset, frame.index)
            hu = slope * pixels.astype(np.float64) + intercept
            # Usual padding lies below air, where nothing looks; what does not would be tissue.
            padding = grayscale.is_padding(pixels, dataset)
            hu[padding & (hu > _AIR_HU)] = _AIR_HU
            planes.append(hu.astype(np.float32))
    return planes


def _dataset(
    file: Member, *, pixels: bool = True, only: Sequence[str] | None = None
) -> pydicom.Dataset:
    with file.open() as opened:
        _check_inflates(file.name, opened)
        opened.seek(0)
        tags = None if only is None else list(only)
        return pydicom.dcmread(opened, stop_before_pixels=not pixels, specific_tags=tags)


def _check_inflates(name: str, opened: BinaryIO) -> None:
    """Refuses a deflated file that would fill the memory when pydicom inflates it whole."""
    size = opened.seek(0, io.SEEK_END)
    opened.seek(0)
    if size * untrusted.DEFLATE_RATIO <= _LARGEST_INFLATED_BYTES:
        return
    head = pydicom.filereader.read_file_meta_info(opened)  # type: ignore[arg-type]
    if head.get("TransferSyntaxUID") != pydicom.uid.DeflatedExplicitVRLittleEndian:
        return
    # The preamble, "DICM", the element that holds the group's length, and the group.
    opened.seek(128 + 4 + 12 + head.FileMetaInformationGroupLength)
    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while part := inflater.unconsumed_tail or opened.read(2**20):
        inflated += len(inflater.decompress(part, 2**24))
        if inflated > _LARGEST_INFLATED_BYTES:
            raise InputError(f"{name} inflates to more than {_LARGEST_INFLATED_BYTES:,} bytes")


def _check_pixels(file: Member, dataset: pydicom.Dataset) -> None:
    """Refuses pixels that are absent, of a kind that is not read, or more than there are."""
    name = file.name
    if "PixelData" not in dataset:
        raise InputError(f"{name} holds no image of whole numbers")
    if "TransferSyntaxUID" not in dataset.file_meta:
        raise InputError(f"{name} does not name its transfer syntax")
    try:
        dicom_codecs.plugin(dataset.file_meta.TransferSyntaxUID)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    bits, stored = dataset.BitsAllocated, dataset.BitsStored
    if bits not in (8, 16, 32) or dataset.get("HighBit", stored - 1) != stored - 1:
        raise InputError(
            f"{name} stores {stored} of {bits} bits up to bit {dataset.get('HighBit')}; "
            "8, 16 and 32 bits, filled from the lowest, are read"
        )
    pixels = dataset.Rows * dataset.Columns
    if pixels > untrusted.LARGEST_IMAGE_PIXELS:
        raise InputError(f"{name} says that it has {pixels:,} pixels")
    count = _frame_count(dataset)
    claimed = pixels * dataset.SamplesPerPixel * bits // 8 * count
    size = len(dataset.PixelData)
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        untrusted.check_image_claim(name, claimed, size)
    elif dataset.PhotometricInterpretation == "YBR_FULL_422":
        untrusted.check_claim(name, claimed, size * 3 // 2)
    else:
        untrusted.check_claim(name, claimed, size)


def _decoded(file: Member, dataset: pydicom.Dataset, index: int) -> np.ndarray:
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in (pydicom.uid.JPEG2000, pydicom.uid.JPEG2000Lossless):
        stream = get_frame(dataset.PixelData, index, number_of_frames=_frame_count(dataset))
        dicom_codecs.check_stream(stream, dataset.Rows, dataset.Columns)
    plugin = dicom_codecs.plugin(syntax)
    pixels: np.ndarray = pixel_array(dataset, index=index, decoding_plugin=plugin)
    rows_cols = (dataset.Rows, dataset.Columns)
    if pixels.shape[:2] != rows_cols:
        raise InputError(f"{file.name} decodes to {pixels.shape[:2]}; its header says {rows_cols}")
    return pixels


def _frame_count(dataset: pydicom.Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)
