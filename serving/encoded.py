"""What the signatures `encoded` and `masks` take and give: files in, masks as PNG out."""

import cv2
import numpy as np

from data_pipeline.scan import Mask
from data_pipeline.spec import InputSpec

SIGNATURES = ("encoded", "masks")

LARGEST_PNG_CHANNELS = 3  # a fourth one would be transparency


def takes_files(spec: InputSpec) -> bool:
    """Whether a graph can go from a PNG or JPEG file to its mask.

    It can where the file says all that the model needs (stored values, one tile) and the mask
    is not cleaned, which needs components.
    """
    return (
        spec.units == "stored"
        and len(spec.shape) == 2
        and spec.neighbours == 0
        and spec.spacing_mm is None
        and spec.frame in (None, spec.shape)
        and not spec.cleaning
        and len(spec.labels) <= LARGEST_PNG_CHANNELS
    )


def mask_from_png(png: bytes, labels: tuple[str, ...]) -> Mask:
    """Returns the mask in a PNG: grey for one label, else a channel a label.

    Raises:
      ValueError: if it is no PNG.
    """
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError("the server's mask_bytes is no PNG")
    planes = image[None] if image.ndim == 2 else np.moveaxis(image[..., ::-1], -1, 0)
    return Mask(planes[: len(labels)] > 0, labels)
