"""Reads every case of a manifest once and keeps what a report on the data needs of it."""

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from data_pipeline import cases as manifests
from data_pipeline import doctor, duplicates, overlay
from data_pipeline.cases import Case
from data_pipeline.doctor import Finding
from data_pipeline.errors import InputError
from data_pipeline.labels import LABELS
from data_pipeline.scan import Mask, Scan

THUMBNAIL_SIDE = 160  # pixels
_PERCENTILES = (1, 50, 99)


@dataclasses.dataclass(frozen=True, eq=False)
class Examined:
    """What is known of a case after it was read; if it could not be, only the finding."""

    case: Case
    findings: tuple[Finding, ...]
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] | None = None
    units: str = ""
    percentiles: tuple[float, ...] = ()  # of intensity: the 1st, 50th and 99th
    shares: tuple[tuple[str, float], ...] = ()  # label and its share of the image
    print: duplicates.Fingerprint | None = None
    thumbnail: np.ndarray | None = None  # uint8 (rows, cols, 3), outlines drawn

    @property
    def severity(self) -> int:
        """2 if the case is unfit, 1 if something about it deserves a look, else 0."""
        found = {finding.severity for finding in self.findings}
        return 2 if "error" in found else int("warning" in found)


def examine_all(cases: Sequence[Case]) -> Iterator[Examined]:
    """Yields each case examined, in order, several at a time."""
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(examine, cases)


def examine(case: Case) -> Examined:
    """Reads a case with the masks it has; what cannot be read becomes a finding."""
    try:
        scan = manifests.read_scan(case)
    except InputError as error:
        return Examined(case, (Finding("error", "unreadable", str(error)),))
    findings, mask = _read_masks(case, scan)
    findings += doctor.examine(scan, mask)
    return Examined(
        case=case,
        findings=tuple(findings),
        shape=scan.shape,
        spacing_mm=scan.spacing_mm,
        units=scan.units,
        percentiles=tuple(np.percentile(scan.voxels, _PERCENTILES).tolist()),
        shares=tuple((label, float(mask.planes[i].mean())) for i, label in enumerate(mask.labels)),
        print=duplicates.fingerprint(scan),
        thumbnail=_thumbnail(scan, mask),
    )


def _read_masks(case: Case, scan: Scan) -> tuple[list[Finding], Mask]:
    """Reads the masks one by one, so that one that is broken does not hide the others."""
    findings, planes, labels = [], [], []
    for label in case.annotated(LABELS):
        try:
            planes.append(manifests.read_mask(case, (label,), scan.shape).planes[0])
            labels.append(label)
        except InputError as error:
            findings.append(Finding("error", "bad_mask", str(error)))
    stacked = np.stack(planes) if planes else np.zeros((0, *scan.shape), np.bool_)
    return findings, Mask(stacked, tuple(labels))


def _thumbnail(scan: Scan, mask: Mask) -> np.ndarray:
    """Draws the fullest slice; shrunk first, since outlines would not survive it."""
    voxels, planes = scan.voxels, mask.planes
    if voxels.ndim == 3:
        index = overlay.fullest_slice(mask)
        voxels, planes = voxels[index], planes[:, index]
    scale = THUMBNAIL_SIDE / max(voxels.shape)
    size = tuple(max(1, round(side * scale)) for side in voxels.shape[::-1])
    shrunk = [cv2.resize(p.astype(np.float32), size, interpolation=cv2.INTER_AREA) for p in planes]
    small = np.array(shrunk, np.float32).reshape(len(planes), *size[::-1]) > 0.5
    picture = np.asarray(cv2.resize(voxels, size, interpolation=cv2.INTER_AREA))
    return overlay.draw(
        Scan(picture, scan.modality, scan.units, scan.source), Mask(small, mask.labels)
    )
