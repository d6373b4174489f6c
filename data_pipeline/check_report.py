"""What `data_pipeline.check` found, as HTML for people and JSON for programs."""

import html
import json
import os
import pathlib
from collections import Counter
from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from data_pipeline import raster
from data_pipeline.doctor import Finding
from data_pipeline.examination import THUMBNAIL_SIDE, Examined
from data_pipeline.labels import LABELS

_SHEET_CASES = 60
_SHEET_COLUMNS = 10
_CAPTION_ROWS = 16  # pixels below a picture
_COLOURS = {0: (160, 160, 160), 1: (230, 159, 0), 2: (213, 94, 0)}  # by severity, RGB
_BINS = 24

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 68rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
td, th { border: 1px solid #ccc; padding: .2rem .6rem; text-align: left; vertical-align: top }
.error { color: #b32400; font-weight: 600 } .warning { color: #8a5a00 }
.fit { color: #00613c } img { max-width: 100% } svg { background: #f4f4f4 }
"""


def summary(
    manifest: pathlib.Path,
    examined: Sequence[Examined],
    overall: Sequence[Finding],
    copies: int,
) -> dict[str, object]:
    """Returns the whole report as plain values, for report.json."""
    findings = [f for e in examined for f in e.findings] + list(overall)
    cases = [e.case for e in examined]
    errors = Counter(f.code for f in findings if f.severity == "error")
    return {
        "manifest": str(manifest),
        "fit": not errors,
        "cases": len(cases),
        "unreadable": sum(not e.shape for e in examined),
        "copies": copies,
        "errors": dict(errors.most_common()),
        "warnings": dict(Counter(f.code for f in findings if f.severity == "warning")),
        "patients": len({case.patient_id for case in cases if case.patient_id}),
        "cases_of_unknown_patient": sum(not case.patient_id for case in cases),
        "counts": {
            column: dict(Counter(getattr(case, column) or "unstated" for case in cases))
            for column in ("modality", "dataset", "diagnosis", "view", "split")
        },
        "labels": {label: _label_counts(examined, label) for label in LABELS},
        "sizes": dict(Counter(_by(e.shape) for e in examined if e.shape).most_common(20)),
        "spacings_mm": dict(Counter(_by_spacing(e.spacing_mm) for e in examined if e.shape)),
        "units": dict(Counter(e.units for e in examined if e.units)),
        "findings": [_finding(f) for f in overall]
        + [_finding(f) | {"case": e.case.id} for e in examined for f in e.findings],
        "each": [_case(e) for e in examined],
    }


def _label_counts(examined: Sequence[Examined], label: str) -> dict[str, int]:
    shares = [dict(e.shares)[label] for e in examined if label in dict(e.shares)]
    return {
        "not annotated": sum(e.case.mask_path(label) is None for e in examined),
        "empty": sum(share == 0 for share in shares),
        "outlined": sum(share > 0 for share in shares),
    }


def _finding(finding: Finding) -> dict[str, str]:
    return {
        "severity": finding.severity,
        "code": finding.code,
        "message": finding.message,
    }


def _case(e: Examined) -> dict[str, object]:
    return {
        "id": e.case.id,
        "shape": list(e.shape),
        "spacing_mm": e.spacing_mm and list(e.spacing_mm),
        "units": e.units,
        "percentiles_1_50_99": list(e.percentiles),
        "label_shares": dict(e.shares),
        "findings": [f.code for f in e.findings],
    }


def _by(shape: Iterable[float]) -> str:
    return " x ".join(map(str, shape))


def _by_spacing(spacing_mm: tuple[float, ...] | None) -> str:
    return "unknown" if spacing_mm is None else _by(round(s, 2) for s in spacing_mm)


def contact_sheet(examined: Sequence[Examined]) -> np.ndarray:
    """Returns pictures of cases with their outlines, the suspicious first: uint8 RGB.

    After those with errors and those with warnings come the ones whose masks are unusually
    large or small for the data set, so that a page of ordinary data shows its extremes.
    """
    chosen = [e for e in suspicious_first(examined) if e.thumbnail is not None][:_SHEET_CASES]
    columns = min(_SHEET_COLUMNS, max(1, len(chosen)))
    height = THUMBNAIL_SIDE + _CAPTION_ROWS
    rows = max(1, -(-len(chosen) // columns))
    sheet = np.full((rows * height, columns * THUMBNAIL_SIDE, 3), 24, np.uint8)
    for place, e in enumerate(chosen):
        top, left = place // columns * height, place % columns * THUMBNAIL_SIDE
        cell = sheet[top : top + height, left : left + THUMBNAIL_SIDE]
        picture = e.thumbnail
        if picture is not None:
            cell[: picture.shape[0], : picture.shape[1]] = picture
        caption = np.zeros((_CAPTION_ROWS, THUMBNAIL_SIDE, 3), np.uint8)
        text = e.case.id[-24:]
        cv2.putText(caption, text, (2, 11), cv2.FONT_HERSHEY_PLAIN, 0.75, _COLOURS[e.severity])
        cell[THUMBNAIL_SIDE:] = caption
    return sheet


def suspicious_first(examined: Sequence[Examined]) -> list[Examined]:
    """Returns cases by severity, then by how unusual the sizes of their masks are."""
    usual = {label: _spread(examined, label) for label in LABELS}

    def unusual(e: Examined) -> float:
        far = [abs(share - usual[label][0]) / usual[label][1] for label, share in e.shares]
        return max(far, default=0.0)

    return sorted(examined, key=lambda e: (-e.severity, -unusual(e), e.case.id))


def _spread(examined: Sequence[Examined], label: str) -> tuple[float, float]:
    """Returns the median of a label's shares, and their median distance from it."""
    shares = [share for e in examined for name, share in e.shares if name == label]
    if not shares:
        return 0.0, 1.0
    middle = float(np.median(shares))
    return middle, max(float(np.median(np.abs(np.array(shares) - middle))), 1e-6)


def write(
    out: pathlib.Path,
    told: dict[str, object],
    sheet: np.ndarray,
    examined: Sequence[Examined],
    overall: Sequence[Finding],
) -> None:
    """Writes report.json, contact_sheet.png and index.html; each appears whole."""
    raster.write(out / "contact_sheet.png", sheet)
    _write(out / "report.json", json.dumps(told, indent=1, ensure_ascii=False))
    _write(out / "index.html", _page(told, examined, overall))


def _write(path: pathlib.Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def _page(told: dict[str, object], examined: Sequence[Examined], overall: Sequence[Finding]) -> str:
    counts, labels = told["counts"], told["labels"]
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>Data report</title><style>{_STYLE}</style>",
        f"<h1>Data report</h1><p>{html.escape(str(told['manifest']))}</p>",
        _verdict(told),
        _table("Findings", ("", "kind", "case", "what"), _finding_rows(examined, overall)),
        "<h2>Cases, the suspicious first</h2><img src='contact_sheet.png' alt='contact sheet'>",
        _table(
            "Annotations",
            ("label", "outlined", "empty", "not annotated"),
            [
                (label, n["outlined"], n["empty"], n["not annotated"])
                for label, n in labels.items()  # type: ignore[attr-defined]
            ],
        ),
    ]
    for column, values in counts.items():  # type: ignore[attr-defined]
        parts.append(_table(column.capitalize(), (column, "cases"), values.items()))
    parts.append(_table("Size (pixels)", ("size", "cases"), told["sizes"].items()))  # type: ignore[attr-defined]
    spacings = told["spacings_mm"].items()  # type: ignore[attr-defined]
    parts.append(_table("Spacing (mm)", ("spacing", "cases"), spacings))
    parts.append("<h2>Intensity</h2>" + _histograms(examined))
    return "\n".join(parts)


def _verdict(told: dict[str, object]) -> str:
    if told["fit"]:
        verdict = "<p class='fit'>Fit to train on: no errors were found.</p>"
    else:
        verdict = "<p class='error'>Not fit to train on: see the errors below.</p>"
    return (
        f"{verdict}<p>{told['cases']} cases, {told['unreadable']} unreadable; {told['patients']} "
        f"known patients, and {told['cases_of_unknown_patient']} cases whose patient is unknown; "
        f"{told['copies']} pairs of copies.</p>"
    )


def _finding_rows(
    examined: Sequence[Examined], overall: Sequence[Finding]
) -> list[tuple[str, str, str, str]]:
    rows = [(f.severity, f.code, "", f.message) for f in overall]
    rows += [(f.severity, f.code, e.case.id, f.message) for e in examined for f in e.findings]
    return sorted(rows)


def _table(title: str, heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = []
    for row in rows:
        kind = str(row[0]) if row[0] in ("error", "warning") else ""
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row)
        lines.append(f"<tr class='{kind}'>{cells}</tr>")
    head = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    if not lines:
        return f"<h2>{title}</h2><p>None.</p>"
    return f"<h2>{title}</h2><table><tr>{head}</tr>{''.join(lines)}</table>"


def _histograms(examined: Sequence[Examined]) -> str:
    """Returns for each modality and unit how the 1st, 50th and 99th percentiles spread."""
    parts = []
    for kind in sorted({(e.case.modality, e.units) for e in examined if e.units}):
        values = np.array([e.percentiles for e in examined if (e.case.modality, e.units) == kind])
        edges = np.linspace(values.min(), max(values.max(), values.min() + 1), _BINS + 1)
        for place, name in enumerate(("1st percentile", "median", "99th percentile")):
            heights = np.histogram(values[:, place], edges)[0]
            label = f"{kind[0]}, {kind[1]}, {name}: {values[:, place].min():.0f} to "
            parts.append(f"<p>{label}{values[:, place].max():.0f}<br>{_bars(heights)}</p>")
    return "".join(parts)


def _bars(heights: np.ndarray) -> str:
    tallest = max(1, int(heights.max()))
    bars = "".join(
        f"<rect x='{12 * i}' y='{60 - 60 * int(h) / tallest:.1f}' width='11' "
        f"height='{60 * int(h) / tallest:.1f}' fill='#56b4e9'><title>{int(h)}</title></rect>"
        for i, h in enumerate(heights)
    )
    return f"<svg width='{12 * len(heights)}' height='60'>{bars}</svg>"
