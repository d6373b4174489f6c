"""Groups of cases that readers ask about, each with the warning that belongs to it."""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

COVID, NON_COVID, NORMAL, UNKNOWN = "COVID-19", "non-COVID", "normal", "unknown"

# Who is on the images of data sets whose makers say so, by the start of a data set's name.
POPULATIONS = {
    "kermany": "children aged one to five from Guangzhou (Kermany et al., Cell 2018)",
    "hannover": "adults of one hospital in Hannover",
    "ieee": "adults, from publications",
    "medseg": "adults, slices chosen because they show COVID-19",
}


def diagnosis_group(diagnosis: str) -> str:
    """Returns COVID-19, non-COVID (another disease), normal, or unknown."""
    said = str(diagnosis).strip().lower()
    if said in ("", "nan", "unknown"):
        return UNKNOWN
    if said.startswith("non-covid"):
        return NON_COVID
    if "covid" in said or "sars-cov-2" in said:
        return COVID
    return NORMAL if said in ("normal", "healthy", "no finding") else NON_COVID


@dataclasses.dataclass(frozen=True)
class Stratification:
    """One way to divide the rows of scores.csv."""

    name: str
    file: str  # what a file about it is called
    group_of: Callable[[pd.DataFrame], pd.Series]


def _lesion_size(scores: pd.DataFrame) -> pd.Series:
    """Returns thirds of the true mask's share of the image; empty truths are their own group."""
    share = (scores["true_positive"] + scores["false_negative"]) / scores["n_pixels"]
    groups = pd.Series("empty", index=scores.index, dtype=object)
    for label, rows in scores.groupby("label").groups.items():
        there = share[rows][share[rows] > 0]
        if there.empty:
            continue
        low, high = np.quantile(there.groupby(scores["case_id"]).first(), [1 / 3, 2 / 3])
        groups[there.index] = [_third(label, value, low, high) for value in there]
    return groups


def _third(label: object, value: float, low: float, high: float) -> str:
    if value <= low:
        return f"small (up to {low:.1%} of the image)"
    return f"medium (up to {high:.1%})" if value <= high else f"large (above {high:.1%})"


def _view(scores: pd.DataFrame) -> pd.Series:
    # Data sets write one view in two ways: "pa" and "PA".
    return scores["view"].astype(str).str.strip().str.upper().replace("", "unknown")


STRATIFICATIONS = (
    Stratification(
        "diagnosis", "diagnosis", lambda scores: scores["diagnosis"].map(diagnosis_group)
    ),
    Stratification("dataset", "dataset", lambda scores: scores["dataset"].replace("", "unknown")),
    Stratification("modality", "modality", lambda scores: scores["modality"]),
    Stratification("view", "view", _view),
    Stratification("size of the true mask", "size", _lesion_size),
)


def in_order(groups: Iterable[str]) -> list[str]:
    """Returns groups as they are shown: diagnoses and sizes in their order, others by name."""
    known = [COVID, NON_COVID, NORMAL, "empty", "small", "medium", "large"]

    def place(group: str) -> tuple[bool, int, str]:
        first = group.split(" (")[0]
        return group == UNKNOWN, known.index(first) if first in known else len(known), group

    return sorted(groups, key=place)


def warning(stratification: Stratification, rows: pd.DataFrame) -> str:
    """Returns why the groups of a stratification cannot be compared; "" if nothing is known.

    Args:
      stratification: one of STRATIFICATIONS.
      rows: the columns of score.LabelScore, of one label.
    """
    if stratification.file == "diagnosis":
        return confounder(rows)
    groups = stratification.group_of(rows)
    if groups.nunique() < 2:
        return ""
    if stratification.file == "dataset":
        return "Data sets differ in who is on the images and in what annotators outline."
    if _mostly_shared(rows["dataset"], groups):
        return ""
    where = [
        f"{g}: {', '.join(sorted(set(rows.loc[groups == g, 'dataset'])))}"
        for g in sorted(groups.unique())
    ]
    return (
        f"CONFOUNDED: {stratification.name} goes with the data set ({'; '.join(where)}). A "
        "difference between these groups may be one between data sets."
    )


def _mostly_shared(datasets: pd.Series, groups: pd.Series) -> bool:
    """Whether most rows lie in data sets that hold more than one of the groups."""
    return bool((groups.groupby(datasets).transform("nunique") > 1).mean() > 0.5)


def confounder(rows: pd.DataFrame) -> str:
    """Returns why COVID-19 and other cases of a table cannot be compared; "" if they can.

    Where no data set holds both, whatever differs between data sets (age, hospital, device,
    the annotator's convention) passes for a difference between diseases.

    Args:
      rows: columns dataset and diagnosis; one row a case is enough.
    """
    groups = rows["diagnosis"].map(diagnosis_group)
    covid = set(rows.loc[groups == COVID, "dataset"])
    others = set(rows.loc[groups.isin((NON_COVID, NORMAL)), "dataset"])
    known = groups != UNKNOWN
    if (
        not covid
        or not others
        or _mostly_shared(rows.loc[known, "dataset"], groups[known] == COVID)
    ):
        return ""
    people = [
        f"{name} shows {who}"
        for name in sorted(covid | others)
        for start, who in POPULATIONS.items()
        if name.startswith(start)
    ]
    return (
        f"CONFOUNDED: COVID-19 cases come from {', '.join(sorted(covid))}, the others from "
        f"{', '.join(sorted(others))}"
        + (f" ({'; '.join(people)})" if people else "")
        + ". A difference between them may be age, hospital, device or annotation, not disease."
    )
