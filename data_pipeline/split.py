"""Divides cases into train, validation and test, or into folds, without leakage.

What must stay together, the images of one patient and copies of one image, is a group, and a
group is never divided. The result depends on the cases and the seed alone, not on the order
of rows, the machine or the Python version.

    python -m data_pipeline.split manifest.csv --out splits.csv
    python -m data_pipeline.split manifest.csv --out folds.csv --folds 5
"""

import argparse
import csv
import hashlib
import os
import pathlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.progress import track

from data_pipeline import cases as manifests
from data_pipeline import duplicates
from data_pipeline.cases import SPLITS, Case
from data_pipeline.errors import InputError, one_line_for_bad_input
from data_pipeline.labels import LABELS

SHARES = (0.7, 0.15, 0.15)  # of train, validation, test


def assign(
    cases: Sequence[Case],
    seed: int,
    shares: tuple[float, float, float] = SHARES,
    *,
    copies: Iterable[tuple[str, str]] = (),
) -> dict[str, str]:
    """Returns the split of each case, by its id: "train", "validation" or "test".

    A split that a case brings along is kept, and holds for all its group. The other groups are
    divided among themselves, stratified by dataset, diagnosis and which labels are annotated.
    Where the manifest gives train and test to all, and validation to none, validation is
    taken out of its train groups.

    Args:
      cases: what to divide.
      seed: another one gives another split.
      shares: of train, validation and test, counted in cases; a share may be 0.
      copies: pairs of case ids known to show the same image; they stay together.

    Raises:
      InputError: if there are fewer groups than splits, or a group came already divided.
    """
    _check_shares(shares)
    groups = _groups(cases, copies)
    given = {name: _given_split(name, members) for name, members in groups.items()}
    free = {name: members for name, members in groups.items() if not given[name]}
    names: Sequence[str] = SPLITS
    parts: Sequence[float] = shares
    if not free and shares[1] and set(given.values()) == {"train", "test"}:
        free = {name: members for name, members in groups.items() if given[name] == "train"}
        names, parts = SPLITS[:2], shares[:2]
    wanted = [(name, share) for name, share in zip(names, parts, strict=True) if share > 0]
    if free:
        chosen = _divide(free, [share for _, share in wanted], seed)
        given |= {group: wanted[part][0] for group, part in chosen.items()}
    return {case.id: given[name] for name, members in groups.items() for case in members}


def folds(
    cases: Sequence[Case], count: int, seed: int, *, copies: Iterable[tuple[str, str]] = ()
) -> dict[str, int]:
    """Returns the fold of each case, 0 to count - 1, by its id; groups and strata as in assign.

    Every case gets a fold, whatever split it brings along: leave out those that a held-out
    test is made of.

    Raises:
      InputError: if there are fewer groups than folds, or fewer than two folds are asked for.
    """
    if count < 2:
        raise InputError(f"cross-validation needs at least 2 folds; got {count}")
    groups = _groups(cases, copies)
    chosen = _divide(groups, [1 / count] * count, seed)
    return {case.id: chosen[name] for name, members in groups.items() for case in members}


def save(path: pathlib.Path, cases: Iterable[Case], splits: Mapping[str, str]) -> None:
    """Writes case_id, patient_id and split of each case as CSV; the file appears whole."""
    _write(path, "split", [(case, splits[case.id]) for case in cases])


def save_folds(path: pathlib.Path, cases: Iterable[Case], of_case: Mapping[str, int]) -> None:
    """Writes case_id, patient_id and fold of each case as CSV; the file appears whole."""
    _write(path, "fold", [(case, of_case[case.id]) for case in cases])


def _write(path: pathlib.Path, column: str, values: Iterable[tuple[Case, str | int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("case_id", "patient_id", column))
        writer.writerows((case.id, case.patient_id, value) for case, value in values)
    unfinished.replace(path)


def load(path: pathlib.Path) -> dict[str, str]:
    """Reads a splits.csv: the split of each case id.

    Raises:
      InputError: if the file is missing, is no such table, or holds an unknown split.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; `data_pipeline.split` writes one") from None
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise InputError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not rows or not {"case_id", "split"} <= set(rows[0]):
        raise InputError(f"{path} is not a splits.csv: it needs the columns case_id and split")
    splits = {row["case_id"]: row["split"] for row in rows}
    unknown = sorted(set(splits.values()) - set(SPLITS))
    if unknown:
        raise InputError(f"{path}: split is {unknown[0]!r}; known: {', '.join(SPLITS)}")
    if len(splits) != len(rows):
        twice = Counter(row["case_id"] for row in rows).most_common(1)[0][0]
        raise InputError(f"{path}: case {twice!r} stands twice")
    return splits


def _check_shares(shares: Sequence[float]) -> None:
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise InputError(f"the shares of {', '.join(SPLITS)} must add up to 1; got {shares}")


def _groups(cases: Sequence[Case], copies: Iterable[tuple[str, str]] = ()) -> dict[str, list[Case]]:
    """Returns what must stay together, by the name of its (alphabetically) first patient."""
    patient_of = {case.id: case.patient for case in cases}
    first_of = {patient: patient for patient in patient_of.values()}

    def first(patient: str) -> str:
        while first_of[patient] != patient:
            patient = first_of[patient]
        return patient

    for one, other in copies:
        low, high = sorted((first(patient_of[one]), first(patient_of[other])))
        first_of[high] = low
    groups = defaultdict(list)
    for case in cases:
        groups[first(case.patient)].append(case)
    return dict(groups)


def _given_split(group: str, members: Sequence[Case]) -> str:
    given = sorted({case.split for case in members} - {""})
    if len(given) > 1:
        ids = ", ".join(case.id for case in members if case.split)[:200]
        raise InputError(
            f"the manifest puts cases of one patient, or copies of one image, into "
            f"{' and '.join(given)}: {ids}; give them one split, or empty their split column"
        )
    return given[0] if given else ""


def _divide(
    groups: Mapping[str, Sequence[Case]], shares: Sequence[float], seed: int
) -> dict[str, int]:
    """Returns which part each group goes to, the parts being as large as `shares` say.

    Walks through the groups stratum by stratum and gives each group to the part that is
    furthest behind its share of what was seen so far. So every stratum is divided as the
    shares say, to within one group, and so is the whole.
    """
    if len(groups) < len(shares):
        raise InputError(
            f"{len(groups)} patients cannot be divided into {len(shares)} parts without "
            "showing one patient to two of them; give more patients or ask for fewer parts"
        )
    sizes = [0] * len(shares)
    parts = {}
    for name in _in_order(groups, seed):
        seen = sum(sizes) + len(groups[name])
        behind = [share * seen - size for share, size in zip(shares, sizes, strict=True)]
        parts[name] = behind.index(max(behind))
        sizes[parts[name]] += len(groups[name])
    for part in range(len(shares)):
        if part not in parts.values():
            largest = Counter(parts.values()).most_common(1)[0][0]
            parts[min(_in_part(parts, largest), key=lambda name: len(groups[name]))] = part
    return parts


def _in_part(parts: Mapping[str, int], part: int) -> Iterator[str]:
    return (name for name, its_part in parts.items() if its_part == part)


def _in_order(groups: Mapping[str, Sequence[Case]], seed: int) -> list[str]:
    """Returns the groups stratum by stratum, in an order that depends on the seed within each.

    The strata come in such an order too: a stratum of few groups would otherwise always end up
    in the same part.
    """

    def key(name: str) -> tuple[str, str, str]:
        stratum = _stratum(groups[name])
        return _shuffle(stratum, seed), stratum, _shuffle(name, seed)

    return sorted(groups, key=key)


def _stratum(members: Sequence[Case]) -> str:
    kinds = {(case.dataset, case.diagnosis, *case.annotated(LABELS)) for case in members}
    return repr(sorted(kinds))


def _shuffle(name: str, seed: int) -> str:
    # Not Python's hash(), which differs from one process to the next.
    return hashlib.sha256(f"{seed}\n{name}".encode()).hexdigest()


def sample(cases: Sequence[Case], most: int, seed: int) -> list[Case]:
    """Returns up to `most` of the cases, the same ones on any machine for the same seed."""
    return sorted(cases, key=lambda case: _shuffle(case.id, seed))[:most]


def copies_among(cases: Sequence[Case]) -> list[tuple[str, str]]:
    """Reads every scan and returns the pairs of cases that show the same image.

    Raises:
      InputError: naming the file, if a scan cannot be read.
    """
    prints = [
        duplicates.fingerprint(manifests.read_scan(case))
        for case in track(cases, description="looking for copies", transient=True)
    ]
    return [(cases[one].id, cases[other].id) for one, other, _ in duplicates.pairs(prints)]


def main(argv: list[str] | None = None) -> None:
    """Parses flags, writes the split or the folds and tells what is in each part."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.split",
        description="Divide the cases of a manifest by patient, stratified, into splits or folds.",
    )
    parser.add_argument("manifest", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("splits.csv"))
    parser.add_argument("--folds", type=int, help="write so many folds instead of splits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--shares", type=float, nargs=3, default=SHARES, metavar=("TRAIN", "VALIDATION", "TEST")
    )
    parser.add_argument(
        "--trust-patients",
        action="store_true",
        help="do not read the images to keep copies of one together",
    )
    flags = parser.parse_args(argv)
    with one_line_for_bad_input():
        cases = manifests.load(flags.manifest)
        copies = [] if flags.trust_patients else copies_among(cases)
        console = Console(highlight=False, soft_wrap=True)
        parts: Mapping[str, str]
        if flags.folds is not None:
            of_fold = folds(cases, flags.folds, flags.seed, copies=copies)
            save_folds(flags.out, cases, of_fold)
            parts = {case_id: f"fold {fold}" for case_id, fold in of_fold.items()}
        else:
            splits = assign(cases, flags.seed, tuple(flags.shares), copies=copies)
            save(flags.out, cases, splits)
            parts = splits
        _tell(console, cases, parts, copies)
        console.print(f"wrote {flags.out}")


def _tell(
    console: Console,
    cases: Sequence[Case],
    parts: Mapping[str, str],
    copies: Sequence[tuple[str, str]],
) -> None:
    in_order = [name for name in SPLITS if name in parts.values()]
    in_order = in_order or sorted(set(parts.values()), key=lambda name: (len(name), name))
    for part in in_order:
        members = [case for case in cases if parts[case.id] == part]
        told = [f"{len(members)} cases", f"{len({case.patient for case in members})} patients"]
        told += [
            f"{label} {sum(c.mask_path(label) is not None for c in members)}" for label in LABELS
        ]
        told += [f"{name or 'unstated'} {n}" for name, n in _diagnoses(members)]
        console.print(f"{part}: {', '.join(told)}")
    unknown = sum(not case.patient_id for case in cases)
    console.print(
        f"patients unknown: {unknown} cases, each treated as a patient of its own"
        + ("; leakage between parts cannot be excluded" if unknown else "")
    )
    if copies:
        console.print(f"copies of one image kept together: {len(copies)} pairs")


def _diagnoses(members: Iterable[Case]) -> list[tuple[str, int]]:
    return Counter(case.diagnosis for case in members).most_common(4)


if __name__ == "__main__":
    main()
