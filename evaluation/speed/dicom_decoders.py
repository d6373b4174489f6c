"""tensorflow-io's DICOM decoder beside pydicom, for `pipeline` in the tensorflow-io lane.

Why data_pipeline reads DICOM with pydicom alone: the other one is slower, and wrong for files
that are signed or rescaled. Both decode through tf.data, as loading would.
"""

import json
import os
import pathlib
import sys
import tempfile
import time

import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataset import FileMetaDataset

SIDE, FILES = 2048, 12
_SIGNED, _RESCALED = "MR_small.dcm", "CT_small.dcm"  # shipped with pydicom


def measure() -> dict[str, object]:
    """Returns files a second of both decoders on unsigned X-rays, and values on other files."""
    from data_pipeline import quiet_tensorflow  # noqa: F401, I001 - before TensorFlow is imported
    import tensorflow as tf
    import tensorflow_io as tfio  # type: ignore[import-not-found]

    def tensorflow_io(path: tf.Tensor) -> tf.Tensor:
        decoded = tfio.image.decode_dicom_image(tf.io.read_file(path), dtype=tf.uint16)
        return tf.reshape(decoded, (SIDE, SIDE))

    def with_pydicom(path: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(
            lambda name: pydicom.dcmread(name.decode()).pixel_array, (path,), tf.uint16
        )

    with tempfile.TemporaryDirectory() as folder:
        paths = _unsigned_xrays(pathlib.Path(folder))
        rates, values = {}, {}
        for name, decode in (("tensorflow-io", tensorflow_io), ("pydicom", with_pydicom)):
            files = tf.data.Dataset.from_tensor_slices(paths).map(decode, tf.data.AUTOTUNE)
            values[name] = [np.asarray(image) for image in files]  # warms up, too
            began = time.perf_counter()
            for _ in files:
                pass
            rates[name] = len(paths) / (time.perf_counter() - began)
    pairs = zip(*values.values(), strict=True)
    equal = all(np.array_equal(one, other) for one, other in pairs)
    others = [_range(name, tf, tfio) for name in (_SIGNED, _RESCALED)]
    return {"files_per_s": rates, "equal_on_unsigned": equal, "elsewhere": others}


def _range(name: str, tf: object, tfio: object) -> dict[str, object]:
    """Returns the lowest and highest value that each decoder finds in a file of pydicom's."""
    path = str(get_testdata_file(name))
    dataset = pydicom.dcmread(path)
    encoded = tf.io.read_file(path)  # type: ignore[attr-defined]
    theirs = np.asarray(
        tfio.image.decode_dicom_image(  # type: ignore[attr-defined]
            encoded,
            dtype=tf.float32,  # type: ignore[attr-defined]
            scale="preserve",
        )
    )
    return {
        "file": name,
        "stored": _ends(dataset.pixel_array),
        "tensorflow_io": _ends(theirs),
        "rescale": [
            float(dataset.get("RescaleSlope", 1)),
            float(dataset.get("RescaleIntercept", 0)),
        ],
    }


def _ends(values: np.ndarray) -> list[float]:
    return [float(values.min()), float(values.max())]


def _unsigned_xrays(folder: pathlib.Path) -> list[str]:
    rng = np.random.default_rng(0)
    paths = []
    for number in range(FILES):
        made = pydicom.Dataset()
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        made.SOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
        made.SOPInstanceUID = pydicom.uid.generate_uid()
        made.Modality, made.PhotometricInterpretation = "DX", "MONOCHROME2"
        made.Rows = made.Columns = SIDE
        made.SamplesPerPixel, made.PixelRepresentation = 1, 0
        made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
        made.PixelData = rng.integers(0, 4096, (SIDE, SIDE), np.uint16).tobytes()
        made["PixelData"].VR = "OW"
        paths.append(str(folder / f"{number}.dcm"))
        made.save_as(paths[-1], enforce_file_format=True)
    return paths


def main() -> None:
    """Measures and writes one line of JSON."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stdout.write(json.dumps(measure()) + "\n")


if __name__ == "__main__":
    main()
