"""Scores models on cases and shows how they compare.

    python -m evaluation.run runs/unet runs/cnn threshold --split test --out results/demo
    python -m evaluation.run runs/unet --data ANY_MANIFEST --split all --out results/other
    python -m evaluation.run --ensemble both=runs/a,runs/b --tta flips --out results/both
    python -m evaluation.run threshold --modality XR --labels lung --split all --out results/xr

The shipped sample's 23 test X-rays take about 20 seconds for three models. The result is a
folder: scores.csv, summary.json, dashboard.html, figures, tables.
"""

import argparse
import dataclasses
import logging
import pathlib
import shlex
import sys
from collections.abc import Sequence

import rich.console
import rich.progress

from data_pipeline import cases, tta
from data_pipeline.errors import InputError, one_line_for_bad_input
from data_pipeline.scan import MODALITIES
from evaluation import card, entering, results, scoring, selection, summary, tables
from evaluation.entrants import Entrant
from evaluation.journal import Journal
from evaluation.runs import Run


@dataclasses.dataclass(frozen=True)
class Settings:
    """Scores runs, classical methods and folders of masks against annotators' masks."""

    models: tuple[str, ...]
    out: pathlib.Path
    masks: tuple[str, ...] = ()
    ensembles: tuple[str, ...] = ()
    tta: str | None = None
    data: pathlib.Path | None = None
    split: str = "test"
    modality: str | None = None
    labels: str | None = None
    save_masks: bool = False
    processes: int = 0
    seed: int = 0


def from_flags(argv: list[str] | None = None) -> Settings:
    """Parses the command line; a misspelt flag is an error."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.run", description=Settings.__doc__, allow_abbrev=False
    )
    add = parser.add_argument
    add("models", nargs="*", metavar="MODEL", help="a run directory, or threshold")
    add(
        "--masks",
        action="append",
        metavar="[NAME=]DIR",
        help="masks that another tool wrote, named CASE_LABEL.png (or .nii.gz, ...); repeatable",
    )
    add(
        "--ensemble",
        action="append",
        dest="ensembles",
        metavar="NAME=RUN,RUN",
        help="runs whose probabilities are averaged, as one model; repeatable",
    )
    add("--tta", choices=tta.CHOICES, help="of all runs, instead of each run's own")
    add("--out", type=pathlib.Path, required=True, help="folder for the results")
    add("--data", type=pathlib.Path, help="manifest; default: the one that the runs trained from")
    add("--split", choices=selection.SPLITS, default="test", help="default: %(default)s")
    add("--modality", choices=MODALITIES, help="only needed without a run; default: XR")
    add("--labels", help="only needed without a run, for example lung,infection; default: lung")
    add("--save-masks", action="store_true", help="keep OUT/masks/MODEL/CASE_LABEL.png")
    add("--processes", type=int, default=0, help="helpers that score; 0: as many as pay off")
    add("--seed", type=int, default=0, help="of the bootstrap")  # fmt: skip
    given = vars(parser.parse_args(argv))
    for name in ("models", "masks", "ensembles"):
        given[name] = tuple(given[name] or ())
    return Settings(**given)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; 0 if all cases were scored, 1 if some failed."""
    settings = from_flags(argv)
    # Each network of a cross-validation is traced once; TensorFlow takes that for a mistake.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    console = rich.console.Console()
    entrants, manifest_path = entering.enter(
        settings.models,
        settings.masks,
        settings.data,
        settings.modality,
        settings.labels,
        averaged=settings.ensembles,
        tta=settings.tta,
    )
    _introduce(entrants, console)
    manifest = cases.load(manifest_path)
    trials = selection.trials(entrants, manifest, settings.split)
    journal = Journal(settings.out / "unfinished", trials)
    if journal.done:
        console.print(f"Going on with {len(journal.done)} of {len(trials)} already scored")
    helpers = scoring.helpers_for(len(trials), settings.processes)
    with rich.progress.Progress(console=console, transient=True) as progress:
        task = progress.add_task("Scoring", total=len(trials))
        outcome = scoring.run(trials, journal, helpers, lambda _: progress.advance(task))
    if not outcome.scored:
        raise InputError(f"no case could be scored; the first: {outcome.failures[0].reason}")
    asked_for_training = settings.split in ("train", "validation")
    found = summary.make(outcome.scored, training_asked_for=asked_for_training, seed=settings.seed)
    command = shlex.join(["python", "-m", "evaluation.run", *(argv or sys.argv[1:])])
    told = results.Provenance.of(entrants, manifest_path, settings.split, settings.seed, command)
    results.write(settings.out, trials, outcome, found, told, keep_masks=settings.save_masks)
    _report(console, settings.out, found, outcome)
    for entrant in entrants:
        path = card.complete(entrant, found, told) if isinstance(entrant, Run) else None
        if path:
            console.print(f"Model card completed: {path}", highlight=False)
    return 1 if outcome.failures else 0


def _introduce(found: Sequence[Entrant], console: rich.console.Console) -> None:
    """Says which models ask more than one network once."""
    for entrant in found:
        if isinstance(entrant, Run):
            # Of a cross-validation one network answers, the one that held the case out.
            networks = 1 if entrant.fold_of else len(entrant.folds)
            if cost := tta.cost(entrant.spec, networks):
                console.print(f"{entrant.name}: {cost}", highlight=False, soft_wrap=True)


def _report(
    console: rich.console.Console,
    out: pathlib.Path,
    found: summary.Summary,
    outcome: scoring.Outcome,
) -> None:
    console.print(tables.for_terminal(found.labels))
    for comparison in found.comparisons:
        result = comparison.result
        if comparison.metric == "dice":
            console.print(
                f"Dice of {comparison.label}: {result.first} - {result.second} = "
                f"{tables.with_interval(result.difference)}, p = {tables.p_value(result.holm_p)} "
                "(Wilcoxon over patients, Holm)",
                highlight=False,
            )
    for warning in found.warnings:
        console.print(f"! {warning}", style="yellow", highlight=False)
    for failure in outcome.failures:
        console.print(
            f"not scored: {failure.model}, case {failure.case_id}: {failure.reason}",
            style="red", highlight=False, markup=False,
        )  # fmt: skip
    console.print(f"Results: {out}", highlight=False)


if __name__ == "__main__":
    with one_line_for_bad_input():
        sys.exit(main())
