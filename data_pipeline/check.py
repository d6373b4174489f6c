"""Reports on the data of a manifest before anybody trains on them.

    python -m data_pipeline.check manifest.csv --out report

Reads every case once; writes report/index.html to look at, report/report.json to compute with
and report/contact_sheet.png, the suspicious first. The exit code is 0 if the data are fit to
train on, 1 if they are not, 2 if the manifest itself cannot be used.
"""

import argparse
import dataclasses
import json
import pathlib
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track

from data_pipeline import cases as manifests
from data_pipeline import check_report, duplicates, examination
from data_pipeline.cases import Case
from data_pipeline.doctor import Finding
from data_pipeline.errors import InputError, one_line_for_bad_input
from data_pipeline.examination import Examined

NOT_FIT_EXIT_CODE = 1


@dataclasses.dataclass(frozen=True)
class Copies:
    """Two cases that show the same image."""

    one: Case
    other: Case
    exact: bool

    @property
    def across_patients(self) -> bool:
        """Whether a split by patient could put them on both sides."""
        return self.one.patient != self.other.patient

    @property
    def across_splits(self) -> bool:
        """Whether the manifest's own split does."""
        return bool(self.one.split and self.other.split) and self.one.split != self.other.split


def copies(examined: Sequence[Examined]) -> list[Copies]:
    """Returns the exact and near copies among cases that could be read."""
    printed = [(e.case, e.print) for e in examined if e.print is not None]
    found = duplicates.pairs([fingerprint for _, fingerprint in printed])
    return [Copies(printed[a][0], printed[b][0], exact) for a, b, exact in found]


def of_all(examined: Sequence[Examined], found: Sequence[Copies]) -> list[Finding]:
    """Returns what is odd about the data as a whole: leakage, copies, mixed units."""
    findings = _leakage([e.case for e in examined])
    for pair in found:
        ids = f"{pair.one.id} and {pair.other.id}"
        kind = "exact" if pair.exact else "near"
        if pair.across_splits:
            parts = f"{pair.one.split} and {pair.other.split}"
            message = f"{ids} are {kind} copies of one image, in {parts}"
            findings.append(Finding("error", "leakage", message))
        elif pair.across_patients:
            message = f"{ids} are {kind} copies of one image, of different patients"
            findings.append(Finding("warning", "copies", message))
    for modality in sorted({e.case.modality for e in examined}):
        units = Counter(e.units for e in examined if e.units and e.case.modality == modality)
        if len(units) > 1:
            told = ", ".join(f"{count} in {name}" for name, count in units.most_common())
            message = f"{modality} has cases of different units: {told}; train on one kind"
            findings.append(Finding("warning", "mixed_units", message))
    return findings


def _leakage(cases: Sequence[Case]) -> list[Finding]:
    splits: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        if case.split:
            splits[case.patient].add(case.split)
    return [
        Finding("error", "leakage", f"patient {patient} is in {' and '.join(sorted(names))}")
        for patient, names in sorted(splits.items())
        if len(names) > 1
    ]


def main(argv: list[str] | None = None) -> None:
    """Parses flags, examines the cases, writes the report and leaves with its verdict."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.check", description="Report on the data of a manifest."
    )
    parser.add_argument("manifest", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("report"))
    flags = parser.parse_args(argv)
    with one_line_for_bad_input():
        fit = run(flags.manifest, flags.out)
    sys.exit(0 if fit else NOT_FIT_EXIT_CODE)


def run(manifest: pathlib.Path, out: pathlib.Path) -> bool:
    """Writes the report on a manifest and returns whether its data are fit to train on.

    Raises:
      InputError: if the manifest cannot be used.
    """
    cases = manifests.load(manifest)
    if not cases:
        raise InputError(f"{manifest} has no cases")
    console = Console(highlight=False, soft_wrap=True)
    examining = examination.examine_all(cases)
    examined = list(track(examining, "reading", total=len(cases), transient=True, console=console))
    found = copies(examined)
    overall = of_all(examined, found)
    summary = check_report.summary(manifest, examined, overall, len(found))
    out.mkdir(parents=True, exist_ok=True)
    sheet = check_report.contact_sheet(examined)
    check_report.write(out, summary, sheet, examined, overall)
    _tell(console, summary, out)
    return bool(summary["fit"])


def _tell(console: Console, summary: dict[str, object], out: pathlib.Path) -> None:
    told = json.loads(json.dumps(summary))
    console.print(f"cases: {told['cases']}, unreadable: {told['unreadable']}")
    console.print(f"copies of one image: {told['copies']} pairs")
    for severity in ("errors", "warnings"):
        kinds = ", ".join(f"{code} {count}" for code, count in told[severity].items())
        console.print(f"{severity}: {kinds or 'none'}")
    verdict = "fit to train on" if told["fit"] else "NOT fit to train on; the report says why"
    console.print(f"{verdict}: {out / 'index.html'}")


if __name__ == "__main__":
    main()
