"""The folder that an evaluation leaves: scores, summary, tables, figures and the dashboard."""

import csv
import dataclasses
import datetime
import hashlib
import importlib.metadata
import math
import os
import pathlib
import platform
import shutil
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from data_pipeline import cases, location, onednn, remote
from data_pipeline import write as data_write
from data_pipeline.cases import Case
from evaluation import (
    boundary,
    case_level,
    curves,
    dashboard,
    figures,
    gallery,
    hparams,
    metrics,
    pictures,
    scoring,
    summary,
    tables,
)
from evaluation.entrants import Entrant, safe_name
from evaluation.gallery import Pick
from evaluation.pictures import Picture
from evaluation.score import CaseScore, LabelScore
from evaluation.scoring import Outcome
from evaluation.selection import Trial
from evaluation.summary import Summary
from models import calibration, statistics

_PACKAGES = ("tensorflow", "keras", "numpy", "scipy", "opencv-python-headless")

# What the numbers of a summary were made with, so that it can be read without this code.
DEFINITIONS = {
    "f_beta": metrics.BETA,
    "hausdorff_percentile": boundary.HAUSDORFF_PERCENTILE,
    "surface_dice_tolerance_mm": boundary.TOLERANCE_MM,
    "calibration_bins": calibration.BINS,
    "bootstrap_resamples": statistics.RESAMPLES,
    "confidence": statistics.CONFIDENCE,
    "infection_is_present_from_percent_of_image": case_level.POSITIVE_PERCENT,
    "severity_grades": case_level.GRADES,
}


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What a reader must know to repeat an evaluation."""

    command: str
    date: str
    manifest: str
    manifest_sha256: str
    split: str
    seed: int
    entrants: dict[str, Mapping[str, object]]
    versions: dict[str, str]
    onednn: bool  # with oneDNN's kernels, which round differently

    @classmethod
    def of(
        cls,
        entrants: Iterable[Entrant],
        manifest: pathlib.Path,
        split: str,
        seed: int,
        command: str,
    ) -> "Provenance":
        """Describes the evaluation that is running."""
        file = cases.manifest_file(manifest)
        with remote.here(file) as local:
            digest = hashlib.sha256(local.read_bytes()).hexdigest()
        return cls(
            command=command,
            date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            manifest=str(location.within_here(manifest)),
            manifest_sha256=digest,
            split=split,
            seed=seed,
            entrants={entrant.name: entrant.describe() for entrant in entrants},
            versions={"python": platform.python_version(), **_versions()},
            onednn=onednn.enabled(),
        )


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write(
    out: pathlib.Path,
    trials: Sequence[Trial],
    outcome: Outcome,
    found: Summary,
    provenance: Provenance,
    *,
    keep_masks: bool,
) -> None:
    """Writes every file of a results folder, and removes what was kept for an interruption."""
    rows = [row for scored in outcome.scored for row in scored.rows]
    of_cases = [scored.case for scored in outcome.scored]
    write_csv(out / "scores.csv", LabelScore, rows)
    write_csv(out / "cases.csv", CaseScore, of_cases)
    summary.save_json(out / "summary.json", _json(found, outcome, provenance))
    body = tables.rows(found.labels)
    summary.save_text(out / "table.md", tables.markdown(tables.HEADER, body))
    summary.save_text(out / "table.tex", tables.latex(tables.HEADER, body))
    summary.save_text(out / "table.csv", tables.as_csv(found))
    summary.save_text(out / "groups.csv", tables.groups_csv(found))

    scores = summary.table([row for row in rows if row.case_id not in found.left_out], LabelScore)
    by_case = summary.table([c for c in of_cases if c.case_id not in found.left_out], CaseScore)
    drawings = figures.all_figures(scores, by_case, found)
    trained = curves.load(unique_entrants(trials))
    if trained:
        drawings["training"] = lambda: curves.draw(trained)
    figures.save(drawings, out / "figures")
    by_id = {trial.case.id: trial.case for trial in trials}
    masks = out / "unfinished" / "masks"
    chosen = gallery.picks(scores)
    gallery.save_sheet(out / "figures" / "gallery.png", chosen, by_id, masks)
    page = dashboard.Page(
        title=f"Segmentation scores: {out.resolve().name}",
        found=found,
        scores=scores,
        drawings=drawings,
        picks=chosen,
        pictures=_pictures(scores, chosen, by_id, masks),
        provenance=summary.plain(provenance),
    )
    summary.save_text(out / "dashboard.html", dashboard.render(page))
    hparams.write(out / "tensorboard", unique_entrants(trials), found)
    if keep_masks:
        _replace_folder(masks, out / "masks")
        _write_volumes(out / "masks", trials)
    # With failures it stays, so that the next try scores only what failed.
    if not outcome.failures:
        shutil.rmtree(out / "unfinished")


def unique_entrants(trials: Iterable[Trial]) -> list[Entrant]:
    """Returns the entrants of some trials, each once, in order."""
    return list({trial.entrant.name: trial.entrant for trial in trials}.values())


def _pictures(
    scores: pd.DataFrame, chosen: Sequence[Pick], by_id: Mapping[str, Case], masks: pathlib.Path
) -> list[Picture]:
    models = list(dict.fromkeys(scores["model"]))
    return [
        pictures.draw(by_id[case_id], label, models, masks)
        for case_id, label in pictures.choose(scores, chosen)
    ]


def _json(found: Summary, outcome: Outcome, provenance: Provenance) -> dict[str, object]:
    return {
        **{f.name: getattr(found, f.name) for f in dataclasses.fields(found)},
        "definitions": DEFINITIONS,
        "failures": outcome.failures,
        "provenance": provenance,
    }


def write_csv(
    path: pathlib.Path, kind: type, rows: Iterable[LabelScore] | Iterable[CaseScore]
) -> None:
    """Writes rows as CSV in the order of their fields; NaN is an empty cell."""
    names = [field.name for field in dataclasses.fields(kind)]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([_cell(getattr(row, name)) for name in names] for row in rows)
    unfinished.replace(path)


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.9g}"
    return value


def _write_volumes(folder: pathlib.Path, trials: Iterable[Trial]) -> None:
    """Turns the masks of volumes into NIfTI files that lie on their scans."""
    for trial in trials:
        for label in trial.entrant.labels:
            own = folder / trial.entrant.name
            name = f"{safe_name(trial.case.id)}_{label}"
            packed = own / f"{name}.npz"
            plane = scoring.load_mask(own, trial.case.id, label) if packed.is_file() else None
            if plane is not None:
                data_write.mask(own / f"{name}.nii.gz", plane, cases.read_scan(trial.case))
                packed.unlink()


def _replace_folder(source: pathlib.Path, target: pathlib.Path) -> None:
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    shutil.copytree(source, target)
    shutil.rmtree(old, ignore_errors=True)
