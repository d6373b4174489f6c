"""Fits temperatures, thresholds and post-processing on cases that a network did not learn from.

    python -m training.calibrate runs/NAME
    python -m training.calibrate runs/NAME --cleaning none --calibration none

training.run does it at its end; this does it anew for a finished run, in the time of one
evaluation of its validation split. What is found goes into spec.json, so evaluation and export
follow it; what it gained goes into config.json and model_card.md.
"""

import argparse
import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from rich import console as rich_console

from data_pipeline import quiet_tensorflow  # noqa: F401 - before TensorFlow is imported

# isort: split

from data_pipeline import cases as case_files
from data_pipeline import inference, split
from data_pipeline.cases import Case
from data_pipeline.errors import InputError, one_line_for_bad_input
from data_pipeline.spec import THRESHOLD, InputSpec
from models import members, segmenter, statistics
from models.segmenter import Network
from training import card, cleanup, record, temperature, thresholds
from training.cleanup import Outlined
from training.config import CALIBRATION, CLEANING
from training.temperature import Counts, Evidence
from training.thresholds import Choice, Tally

MOST_CASES = 200  # of a split, spread over it: enough for a number a label

# A case may take so much longer than the one that was timed: they differ in size.
_SLOWER = 1.2

_SWITCHED_OFF = "switched off"


@dataclasses.dataclass(frozen=True)
class Heard:
    """What a network said of some cases."""

    evidence: tuple[Evidence, ...]  # a label
    tallies: tuple[list[Tally], ...]  # a label, of cases in which it is annotated
    outlined: tuple[Outlined, ...]  # a case


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A spec with what was learnt, and what config.json says of how."""

    spec: InputSpec
    told: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Cost:
    """About how many seconds `learn` takes, its network made anew for it."""

    first_s: float  # for the network, and the first answer
    a_case_s: float

    def of(self, count: int) -> float:
        """Returns the seconds for as many cases."""
        return self.first_s + self.a_case_s * min(count, MOST_CASES)


def spread(cases: Sequence[Case], count: int) -> list[Case]:
    """Returns as many cases, spread over all."""
    return [cases[i * len(cases) // count] for i in range(count)]


def hear(network: Network, cases: Sequence[Case], *, outlines: bool) -> Heard:
    """Asks a network for up to MOST_CASES cases.

    Args:
      network: to ask; its spec without cleaning.
      cases: not trained on.
      outlines: keep the masks too, packed: 20 MB a label of a volume of 300 slices.

    Raises:
      InputError: naming a case that cannot be read.
    """
    spec = network.spec
    evidence = tuple(Evidence() for _ in spec.labels)
    tallies: tuple[list[Tally], ...] = tuple([] for _ in spec.labels)
    outlined = []
    for case in spread(cases, min(len(cases), MOST_CASES)):
        scan = case_files.read_scan(case)
        truth = case_files.read_mask(case, spec.labels, scan.shape)
        values = network.probabilities(scan)
        found = inference.mask(values, spec).planes
        true = [truth.plane(label) for label in spec.labels]
        for one, several, said, plane in zip(evidence, tallies, values, true, strict=True):
            if plane is not None:
                counts = Counts.of(said, plane)
                one.add(counts)
                several.append(Tally.of(case.patient, counts))
        if outlines:
            outlined.append(Outlined.of(case.patient, found, true))
    return Heard(evidence, tallies, tuple(outlined))


def learn(
    network: Network, cases: Sequence[Case], *, calibration: str = "fit", cleaning: str = "learn"
) -> Fitted:
    """Returns what the validation cases of a network teach.

    Args:
      network: trained; what its spec has learnt before is forgotten.
      cases: not trained on; without any, nothing is learnt.
      calibration: one of config.CALIBRATION.
      cleaning: one of config.CLEANING.
    """
    spec = _plain(network.spec)
    if not cases or (calibration, cleaning) == ("none", "none"):
        return Fitted(spec, {"learnt_from": _SWITCHED_OFF if cases else "no validation split"})
    heard = hear(_asked(network), cases, outlines=cleaning == "learn")
    told: dict[str, Any] = {"learnt_from": f"{min(len(cases), MOST_CASES)} validation cases"}
    if calibration == "fit":
        spec = _at_temperatures(spec, heard.evidence)
        told["calibration"] = _gains(spec, heard.evidence)
    if cleaning != "none":
        spec, chosen = _above_thresholds(spec, heard.tallies)
        told["thresholds"] = [dataclasses.asdict(choice) for choice in chosen]
    if cleaning == "learn":
        if spec.thresholds:  # masks are other ones now
            heard = hear(Network(network.network, spec), cases, outlines=True)
        spec, tried = cleanup.learn(heard.outlined, spec)
        told["cleaning"] = [dataclasses.asdict(change) for change in tried]
    return Fitted(spec, told | {"validation": _scores(spec, heard)})


def _scores(spec: InputSpec, heard: Heard) -> dict[str, Any]:
    """Returns the mean Dice of each label with its interval, of masks as they will be made.

    As in evaluation a case says nothing where there is nothing and nothing is found.
    """
    scores = {}
    [warm] = spec.temperatures or [(1.0,) * len(spec.labels)]
    for index, (label, tallies) in enumerate(zip(spec.labels, heard.tallies, strict=True)):
        if heard.outlined:
            dice = cleanup.dice(heard.outlined, spec, index)
        else:
            dice = thresholds.dice(tallies, warm[index], spec.above[index])
        silent = [one.truth == 0 and value == 1 for one, value in zip(tallies, dice, strict=True)]
        patients = [one.patient for one in tallies]
        found = statistics.mean(np.where(silent, np.nan, dice), patients).clipped(0, 1)
        if found.cases:
            scores[label] = {
                "dice": round(found.value, 4),
                "interval": [round(found.low, 4), round(found.high, 4)]
                if found.patients > 1
                else None,
                "cases": found.cases,
                "patients": found.patients,
            }
    return scores


def _at_temperatures(spec: InputSpec, evidence: Sequence[Evidence]) -> InputSpec:
    fitted = tuple(temperature.fit(one) if one.cases else 1.0 for one in evidence)
    return dataclasses.replace(spec, temperatures=(fitted,))


def _above_thresholds(
    spec: InputSpec, tallies: Sequence[Sequence[Tally]]
) -> tuple[InputSpec, list[Choice]]:
    """Returns the spec with the thresholds that help, and the best of each label."""
    [warm] = spec.temperatures or [(1.0,) * len(spec.labels)]
    chosen = {
        label: thresholds.learn(label, several, value)
        for label, several, value in zip(spec.labels, tallies, warm, strict=True)
        if several
    }
    if any(choice.kept for choice in chosen.values()):
        used = (chosen[label].used if label in chosen else THRESHOLD for label in spec.labels)
        spec = dataclasses.replace(spec, thresholds=tuple(used))
    return spec, list(chosen.values())


def cost(
    network: keras.Model,
    spec: InputSpec,
    cases: Sequence[Case],
    *,
    calibration: str = "fit",
    cleaning: str = "learn",
) -> Cost:
    """Returns what two of the cases took: the first, and one with as many labels as any."""
    if not cases or (calibration, cleaning) == ("none", "none"):
        return Cost(0.0, 0.0)
    outlines = cleaning == "learn"
    annotated = [len(case.annotated(spec.labels)) for case in cases]
    dearest = [case for case, n in zip(cases, annotated, strict=True) if n == max(annotated)]
    began_s = time.monotonic()
    asked = Network(network, _plain(spec))  # folding is part of it
    hear(asked, cases[:1], outlines=outlines)  # the first answer builds the graph
    built_s = time.monotonic()
    heard = hear(asked, [dearest[len(dearest) // 2]], outlines=outlines)
    heard_s = time.monotonic()
    if outlines:
        cleanup.learn(heard.outlined, asked.spec)
    cleaned_s = time.monotonic()
    # Where a threshold is kept, cleaning is learnt on masks that are asked for once more.
    enough = len({case.patient for case in cases}) >= thresholds.FEWEST_PATIENTS
    passes = 2 if outlines and enough else 1
    a_case_s = passes * (heard_s - built_s) + cleaned_s - heard_s
    return Cost(passes * (built_s - began_s), _SLOWER * a_case_s)


def learn_folds(
    networks: Sequence[Network],
    held_out: Sequence[Sequence[Case]],
    *,
    calibration: str = "fit",
    cleaning: str = "learn",
) -> list[Fitted]:
    """Returns what the held-out cases of a cross-validation teach.

    Temperatures and thresholds of a fold come from the cases that the other folds held out, so
    that the cases it is scored on are no evidence for them (the networks that answered have been
    trained on those cases, though). Rules of cleaning are not learnt.
    """
    if (calibration, cleaning) == ("none", "none"):
        return [Fitted(_plain(n.spec), {"learnt_from": _SWITCHED_OFF}) for n in networks]
    heard = [hear(_asked(n), c, outlines=False) for n, c in zip(networks, held_out, strict=True)]
    fitted = []
    for number, network in enumerate(networks):
        others = [one for index, one in enumerate(heard) if index != number]
        spec = _plain(network.spec)
        told: dict[str, Any] = {"learnt_from": "cases held out by the other folds"}
        if calibration == "fit":
            spec = _at_temperatures(spec, _pooled([one.evidence for one in others]))
            told["calibration"] = _gains(spec, heard[number].evidence)
            told["learnt_from"] += "; gains of temperatures are on this fold's own"
        if cleaning != "none":
            spec, chosen = _above_thresholds(spec, _pooled([one.tallies for one in others]))
            told["thresholds"] = [dataclasses.asdict(choice) for choice in chosen]
        fitted.append(Fitted(spec, told))
    return fitted


def _pooled(of_folds: Sequence[Sequence[Any]]) -> list[Any]:
    """Returns the sum over folds, a label each, of what can be added up."""
    return [sum(parts[1:], parts[0]) for parts in zip(*of_folds, strict=True)]


def _plain(spec: InputSpec) -> InputSpec:
    return dataclasses.replace(spec, temperatures=(), thresholds=(), cleaning=())


def _asked(network: Network) -> Network:
    spec = _plain(network.spec)
    return network if network.spec == spec else Network(network.network, spec)


def _gains(spec: InputSpec, evidence: Sequence[Evidence]) -> dict[str, Any]:
    [fitted] = spec.temperatures
    return {
        label: {
            "temperature": value,
            "cases": one.cases,
            "nll": [round(one.nll(), 5), round(one.nll(value), 5)],
            "ece": [round(one.expected_error(), 5), round(one.expected_error(value), 5)],
        }
        for label, one, value in zip(spec.labels, evidence, fitted, strict=True)
        if one.cases
    }


def again(
    directories: Sequence[pathlib.Path],
    known: Sequence[Case],
    *,
    folds: bool,
    calibration: str = "fit",
    cleaning: str = "learn",
) -> list[Fitted]:
    """Learns for finished networks and writes it into their directories.

    Args:
      directories: of one run, or of the folds of a cross-validation.
      known: the manifest they were trained from.
      folds: whether they are folds.
      calibration: one of config.CALIBRATION.
      cleaning: one of config.CLEANING; of folds thresholds are learnt and no more.

    Raises:
      InputError: if the cases are not in the manifest, or cannot be read.
    """
    networks = [segmenter.load(directory) for directory in directories]
    if not folds:
        cases = _part(known, directories[0], "validation")
        fitted = [learn(networks[0], cases, calibration=calibration, cleaning=cleaning)]
    else:
        held_out = [_part(known, d, "test") for d in directories]
        fitted = learn_folds(networks, held_out, calibration=calibration, cleaning=cleaning)
    for directory, one in zip(directories, fitted, strict=True):
        unfinished = directory / ".spec.json"
        one.spec.save(unfinished)
        unfinished.replace(directory / "spec.json")
        record.restate(directory, one.spec, one.told)
    return fitted


def main(argv: list[str] | None = None) -> None:
    """Parses the flags, learns, and says what was gained."""
    parser = argparse.ArgumentParser(
        prog="python -m training.calibrate", description=__doc__.split("\n")[0]
    )
    parser.add_argument("run", type=pathlib.Path, help="a finished run, runs/NAME")
    parser.add_argument("--calibration", choices=CALIBRATION, default=CALIBRATION[0])
    parser.add_argument("--cleaning", choices=CLEANING, default=CLEANING[0])
    parser.add_argument("--data", type=pathlib.Path, help="where the run's manifest is now")
    flags = parser.parse_args(argv)
    console = rich_console.Console(highlight=False, soft_wrap=True)
    with one_line_for_bad_input():
        directories = members.directories([flags.run])
        fitted = again(
            directories,
            case_files.load(flags.data or record.manifest_of(directories[0])),
            folds=directories != (flags.run,),
            calibration=flags.calibration,
            cleaning=flags.cleaning,
        )
    for directory, one in zip(directories, fitted, strict=True):
        console.print(f"{directory}", *card.gains(one.told), sep="\n  ")


def _part(known: Sequence[Case], directory: pathlib.Path, name: str) -> list[Case]:
    splits = split.load(directory / "splits.csv")
    part = [case for case in known if splits.get(case.id) == name]
    if name in splits.values() and not part:
        raise InputError(
            f"the manifest has none of the {name} cases of {directory}; say where with --data"
        )
    return part


if __name__ == "__main__":
    main()
