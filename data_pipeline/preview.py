"""Draws what becomes of a case on its way into a network, as one picture.

    python -m data_pipeline.preview CASE --out preview.png
    python -m data_pipeline.preview CASE --data manifest.csv --spec runs/NAME/spec.json

The first row shows the scan with its outlines as it is, on the network's frame, and after each
step of preprocessing; the second row shows augmented tiles with the masks that moved along.
"""

from data_pipeline import quiet_tensorflow  # isort: skip  # noqa: F401 - before all else

import argparse
import dataclasses
import pathlib

import cv2
import numpy as np
import tensorflow as tf
from rich.console import Console

from data_pipeline import augment, cases, inference, intensity, overlay, raster
from data_pipeline import spec as specs
from data_pipeline.cases import Case
from data_pipeline.errors import InputError, one_line_for_bad_input
from data_pipeline.labels import LABELS
from data_pipeline.scan import Mask, Scan
from data_pipeline.spec import InputSpec

_SIDE = 256  # pixels of a panel
_CAPTION_ROWS = 20
_AUGMENTED = 6

Panel = tuple[str, np.ndarray]  # caption, uint8 RGB


def draw(case: Case, spec: InputSpec, seed: int = 0) -> np.ndarray:
    """Returns the picture of a case: uint8 RGB.

    Args:
      case: whatever can be read; a volume is shown by its slice with most mask.
      spec: names the frame and the window; denoising and CLAHE are shown in any case.
      seed: of the augmentation.

    Raises:
      InputError: if the case cannot be read, or the spec is for volumes.
    """
    if len(spec.shape) != 2:
        raise InputError(f"previews are of slices and X-rays; this spec has tiles of {spec.shape}")
    scan, mask = _slice(case)
    spec = dataclasses.replace(spec, neighbours=0, units=scan.units, modality=scan.modality)
    placement = inference.place(scan, spec)
    # The whole frame is shown, not a tile of it, so steps that look around a pixel can be shown.
    spec = dataclasses.replace(spec, shape=placement.frame, frame=None, spacing_mm=None)
    frame = placement.forward(scan.voxels)[..., None]
    shares = placement.forward_mask(mask.planes)
    on_frame = Mask(shares > 0.5, mask.labels)
    panels = [("as stored", overlay.draw(scan, mask))]
    panels.append((f"on a frame of {_by(frame.shape[:2])}", _plain(frame[..., 0], on_frame)))
    panels += [
        (caption, _of_unit(_normalised(frame, variant), on_frame))
        for caption, variant in _variants(spec)
    ]
    return np.concatenate([_row(panels), _row(_augmented(frame, shares, mask.labels, spec, seed))])


def _slice(case: Case) -> tuple[Scan, Mask]:
    scan = cases.read_scan(case)
    mask = cases.read_mask(case, tuple(LABELS), scan.shape)
    if scan.voxels.ndim == 2:
        return scan, mask
    index = overlay.fullest_slice(mask)
    spacing = scan.spacing_mm[1:] if scan.spacing_mm else None
    single = dataclasses.replace(scan, voxels=scan.voxels[index], spacing_mm=spacing)
    return single, Mask(mask.planes[:, index], mask.labels)


def _variants(spec: InputSpec) -> list[tuple[str, InputSpec]]:
    """Returns each step of preprocessing: what it does, and the spec that ends with it."""
    plain = dataclasses.replace(spec, denoise="none", clahe=False)
    window = (
        f"window {spec.window[0]:g} to {spec.window[1]:g}"
        if spec.window
        else f"percentiles {spec.percentiles[0]:g} to {spec.percentiles[1]:g}"
    )
    return [
        (window, plain),
        ("median, window", dataclasses.replace(plain, denoise="median")),
        ("gaussian, window", dataclasses.replace(plain, denoise="gaussian")),
        ("window, CLAHE", dataclasses.replace(plain, clahe=True)),
    ]


def _normalised(frame: np.ndarray, spec: InputSpec) -> np.ndarray:
    normalised: np.ndarray = np.asarray(intensity.normalise(tf.constant(frame[None]), spec))[0]
    return normalised


def _augmented(
    frame: np.ndarray, shares: np.ndarray, labels: tuple[str, ...], spec: InputSpec, seed: int
) -> list[Panel]:
    image = tf.constant(_normalised(frame, spec))
    # Augmentation moves a target along; of a case without masks, an empty one.
    shares = shares if labels else np.zeros((1, *frame.shape[:2]), np.float32)
    target = tf.constant(np.moveaxis(shares, 0, -1))
    policy = augment.XRAY if spec.modality == "XR" else augment.CT
    panels = []
    for number in range(_AUGMENTED):
        moved, moved_target = augment.augment(image, target, tf.constant([seed, number]), policy)
        planes = np.moveaxis(np.asarray(moved_target) > 0.5, -1, 0)[: len(labels)]
        panels.append((f"augmented {number}", _of_unit(np.asarray(moved), Mask(planes, labels))))
    return panels


def _plain(image: np.ndarray, mask: Mask) -> np.ndarray:
    return overlay.draw(Scan(image.astype(np.float32), "XR", "stored", "preview"), mask)


def _of_unit(image: np.ndarray, mask: Mask) -> np.ndarray:
    """Draws an image in [0, 1] as it is, without stretching what the window left."""
    grey = np.rint(255 * image[..., 0]).astype(np.uint8)
    drawn = np.repeat(grey[..., None], 3, axis=-1)
    for label, plane in zip(mask.labels, mask.planes, strict=True):
        drawn[overlay.outline(plane)] = LABELS[label].colour_rgb
    return drawn


def _row(panels: list[Panel]) -> np.ndarray:
    return np.concatenate([_cell(caption, picture) for caption, picture in panels], axis=1)


def _cell(caption: str, picture: np.ndarray) -> np.ndarray:
    cell = np.full((_SIDE + _CAPTION_ROWS, _SIDE, 3), 24, np.uint8)
    rows, cols = picture.shape[:2]
    scale = _SIDE / max(rows, cols)
    size = (max(1, round(cols * scale)), max(1, round(rows * scale)))
    shrunk = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    cell[: size[1], : size[0]] = shrunk
    place = (4, _SIDE + _CAPTION_ROWS - 6)
    cv2.putText(
        cell, caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (230, 230, 230), 1, cv2.LINE_AA
    )
    return cell


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _default_spec(scan: Scan) -> InputSpec:
    window = intensity.LUNG_WINDOW_HU if scan.units == "HU" else None
    return InputSpec(scan.modality, tuple(LABELS), (_SIDE, _SIDE), scan.units, window=window)


def main(argv: list[str] | None = None) -> None:
    """Parses flags, draws the case and says where the picture lies."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.preview",
        description="Draw a case, each step of its preprocessing and some augmented tiles.",
    )
    parser.add_argument("case", help="id of a case of the manifest")
    parser.add_argument(
        "--data", type=pathlib.Path, default=cases.SAMPLE, help="manifest or folder"
    )
    parser.add_argument("--spec", type=pathlib.Path, help="spec.json of a run or an export")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("preview.png"))
    flags = parser.parse_args(argv)
    with one_line_for_bad_input():
        case = _find(flags.case, flags.data)
        spec = specs.load(flags.spec) if flags.spec else _default_spec(cases.read_scan(case))
        raster.write(flags.out, draw(case, spec, flags.seed))
        Console(highlight=False, soft_wrap=True).print(f"wrote {flags.out}")


def _find(case_id: str, manifest: pathlib.Path) -> Case:
    known = cases.load(manifest)
    for case in known:
        if case.id == case_id:
            return case
    some = ", ".join(case.id for case in known[:3])
    raise InputError(f"{manifest} has no case {case_id!r}; it has {len(known)}, such as {some}")


if __name__ == "__main__":
    main()
