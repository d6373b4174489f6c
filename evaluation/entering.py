"""From what a user typed to entrants and the manifest they are scored on."""

import pathlib
from collections.abc import Sequence

from data_pipeline import cases, location
from data_pipeline import labels as known_labels
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec
from evaluation import ensembles, entrants, runs
from evaluation.entrants import Classical, Entrant, MaskFolder
from evaluation.runs import Run

# Classical methods look at modality, labels and units of a spec, not at its tile.
_ANY_TILE = (256, 256)


def enter(
    models: Sequence[str],
    masks: Sequence[str] = (),
    data: pathlib.Path | None = None,
    modality: str | None = None,
    labels: str | None = None,
    *,
    averaged: Sequence[str] = (),
    tta: str | None = None,
) -> tuple[list[Entrant], pathlib.Path]:
    """Returns the entrants in the order given, and the manifest to score them on.

    Classical methods and mask folders take modality, labels, splits and manifest from the
    first run; `modality`, `labels` and `data` speak where there is none.

    Args:
      models: run directories and names of classical methods.
      masks: folders of masks, as [NAME=]DIR.
      data: the manifest.
      modality: XR or CT.
      labels: what is outlined.
      averaged: runs that answer together, as NAME=RUN,RUN.
      tta: test-time augmentation of all runs instead of their own, one of tta.CHOICES.

    Raises:
      InputError: if a model is neither a run nor a method, or nothing is given.
    """
    classical = _classical()
    given = [None if name in classical else runs.load(_directory(name), tta) for name in models]
    together = [_ensemble(text, tta) for text in averaged]
    first = next((run for run in [*given, *together] if run is not None), None)
    if not models and not masks and not averaged:
        raise InputError(
            f"nothing to score: name run directories, {' or '.join(classical)}, or --masks DIR"
        )
    if first is not None and (modality or labels):
        _check_agrees(first, modality, labels)
    manifest = _manifest(first, data)
    spec = _spec(first, manifest, modality, labels)
    splits = dict(first.splits) if first else {}
    found: list[Entrant] = []
    for name, run in zip(models, given, strict=True):
        found.append(run or Classical(name, classical[name](spec), splits))
    found += together
    for text in masks:
        name, folder = _mask_folder(text)
        found.append(MaskFolder(name, folder, spec.modality, spec.labels, splits))
    _check_names(found)
    return found, manifest


def _classical() -> dict[str, type]:
    # The networks in the same file bring TensorFlow; helper processes must not import it.
    from data_pipeline import quiet_tensorflow  # noqa: F401, I001 - first: it silences the import

    from models import zoo

    return dict(zoo.CLASSICAL)


def _ensemble(text: str, tta: str | None) -> Run:
    name, _, listed = text.partition("=")
    paths = [part.strip() for part in listed.split(",") if part.strip()]
    if not name or len(paths) < 2:
        raise InputError(f"--ensemble takes NAME=RUN,RUN with two runs or more; got {text}")
    return ensembles.load(name, [_directory(path) for path in paths], tta)


def _directory(name: str) -> pathlib.Path:
    path = pathlib.Path(name)
    if not path.is_dir():
        raise InputError(f"{name} is neither a run directory nor one of {', '.join(_classical())}")
    return path


def _check_agrees(first: Run, modality: str | None, labels: str | None) -> None:
    wanted = known_labels.parse(labels) if labels else first.labels
    if (modality or first.modality, wanted) != (first.modality, first.labels):
        raise InputError(
            f"{first.path} outlines {', '.join(first.labels)} on {first.modality}: leave out "
            "--modality and --labels, they are for scoring without a run"
        )


def _manifest(first: Run | None, data: pathlib.Path | None) -> pathlib.Path:
    if data is not None:
        return data
    if first is None:
        return cases.SAMPLE
    path = pathlib.Path(str(first.config.get("data") or cases.SAMPLE))
    if not location.is_remote(path) and not path.exists():
        raise InputError(
            f"{first.path} was trained from {path}, which is not there; say where with --data"
        )
    return path


def _spec(
    first: Run | None, manifest: pathlib.Path, modality: str | None, labels: str | None
) -> InputSpec:
    if first is not None:
        # Not its thresholds and cleaning: a baseline is the same beside any network.
        own = first.spec
        return InputSpec(own.modality, own.labels, _ANY_TILE, own.units)
    modality = modality or "XR"
    wanted = known_labels.parse(labels or "lung")
    units = entrants.first_units(cases.load(manifest), modality)
    return InputSpec(modality, wanted, _ANY_TILE, units)


def _mask_folder(text: str) -> tuple[str, pathlib.Path]:
    name, _, path = text.rpartition("=")
    folder = pathlib.Path(path)
    if not folder.is_dir():
        raise InputError(f"--masks {text}: {folder} is not a folder")
    return name or folder.name or folder.resolve().name, folder


def _check_names(found: Sequence[Entrant]) -> None:
    names = [entrant.name for entrant in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(
            f"two models are called {twice[0]!r}; rename a run directory, or give --masks NAME=DIR"
        )
