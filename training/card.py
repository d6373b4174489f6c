"""The model card that a training writes, for whoever finds the network later."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from data_pipeline.spec import THRESHOLD
from training.plan import Plan

_ANSWERS = "## Validation, calibration and post-processing"
# With what follows it; earlier versions had another heading.
_ANSWERS_SECTION = re.compile(
    r"^## (?:Validation, c|C)alibration and post-processing\n.*?(?=\n\n)", re.DOTALL | re.MULTILINE
)

_PLACE = "<!-- scores end here -->"  # where evaluation.card puts them

_USE_AND_LIMITS = (
    "## Intended use",
    "Research on segmentation of lungs and infection. Not a medical device; not for "
    "diagnosis, treatment or triage, and not for measuring the course of a disease.",
    "",
    "## Limits",
    "- Trained on the data sets above only: other scanners, ages, views and label conventions "
    "will score lower, and nothing in an answer says so.",
    "- In the openly licensed X-rays COVID-19 cases are adults and the others mostly "
    "children, so differences between them say nothing about the disease.",
    "- Labels that a case lacks took no part in its loss; a data set that has only one label "
    "has taught only that one.",
)


def of_run(plan: Plan, written: Mapping[str, Any]) -> str:
    """Returns the card of one network.

    Args:
      plan: what was trained.
      written: its config.json.
    """
    counts = Counter(plan.splits[case.id] for case in plan.cases)
    evaluate = (
        f"    python -m evaluation.run {plan.directory} threshold --out results/"
        f"{plan.directory.name}"
    )
    lines = [
        _title(plan, written),
        "",
        f"Trained {written['started']} from `{written['data']}`, "
        f"{written['parameters']:,} parameters, {_spent(written)} on {_where(written)}",
        "",
        *_origin(plan, ", ".join(f"{n} {name}" for name, n in counts.items())),
        "",
        "## Scores",
        "On the original grid, with 95 % intervals; this command adds them here, and with `--split "
        "validation` or `--data OTHER_MANIFEST --split all` those of other cases:",
        "",
        evaluate,
        "",
        _PLACE,
        "",
        (
            "Validation Dice of the saved network is in the next section, unless calibration and "
            "cleaning were switched off; during training it is in `history.csv` and `curves.png`, "
            "on frames as the network sees them. It chose the weights, so it flatters them."
            if plan.part("validation")
            else "No case was left for validation: these are the last weights."
        ),
        "",
        _ANSWERS,
        *_listed(written["answers"]),
        "",
        *_USE_AND_LIMITS,
        "",
    ]
    return "\n".join(lines)


def of_folds(plans: Sequence[Plan], written: Sequence[Mapping[str, Any]]) -> str:
    """Returns the card of a cross-validation.

    Args:
      plans: its folds.
      written: the config.json of each.
    """
    plan, first = plans[0], written[0]
    folder = plan.directory.parent
    lines = [
        f"{_title(plan, first)}, {len(plans)} folds",
        "",
        f"{len(plans)} networks of {first['parameters']:,} parameters, each trained without the "
        f"cases of its fold, from {first['started']} on, from `{first['data']}` on "
        f"{_where(first, 'fold0/config.json')}",
        "",
        *_origin(plan, f"each held out by one of {len(plans)} folds"),
        "",
        "## Folds",
        "| fold | trained on | held out | training |",
        "|---|---|---|---|",
        *(_fold_row(one, of_one) for one, of_one in zip(plans, written, strict=True)),
        "",
        "What each has learnt about its answers is in its own `model_card.md`, and which cases it "
        "knows in its `splits.csv`.",
        "",
        "## Scores",
        "Each case is scored by the network that held it out, on the original grid, with 95 % "
        "intervals; this command adds the scores here, and with `--data OTHER_MANIFEST --split "
        "all` those of other cases, by the mean of all networks:",
        "",
        f"    python -m evaluation.run {folder} threshold --out results/{folder.name}",
        "",
        _PLACE,
        "",
        *_USE_AND_LIMITS,
        "- Exported, the folds are one model: the mean of their answers. Scores of held-out cases "
        "are of single networks and not of that mean.",
        "",
    ]
    return "\n".join(lines)


def restated(card: str, told: Mapping[str, Any]) -> str:
    """Returns the card of a run with what validation taught anew, see calibrate.Fitted."""
    section = "\n".join([_ANSWERS, *_listed(told)])
    return _ANSWERS_SECTION.sub(lambda _: section, card)


def _title(plan: Plan, written: Mapping[str, Any]) -> str:
    return f"# {written['model']}: {', '.join(plan.spec.labels)} on {plan.spec.modality}"


def _spent(written: Mapping[str, Any]) -> str:
    return f"{written['steps']} steps in {written['train_seconds'] / 60:.1f} minutes"


def _where(written: Mapping[str, Any], place: str = "config.json") -> str:
    return (
        f"{written['device']} ({written['precision_used']}); saved in float32. Seed "
        f"{written['seed']}, code {written['git_commit'][:12] or 'of no known commit'}, data "
        f"{written['data_sha256'][:12]}; all settings and versions are in `{place}`."
    )


def _fold_row(plan: Plan, written: Mapping[str, Any]) -> str:
    counts = [len(plan.part(name)) for name in ("train", "test")]
    return f"| {plan.directory.name} | {counts[0]} | {counts[1]} | {_spent(written)} |"


def gains(told: Mapping[str, Any]) -> list[str]:
    """Returns validation scores and what calibration and post-processing gained, a line each.

    Args:
      told: how it did, see calibrate.Fitted.
    """
    lines = [
        f"{label}: Dice {_interval(one)} on {one['cases']} validation cases of {one['patients']} "
        "patients, on which weights and all below were chosen, so it flatters"
        for label, one in told.get("validation", {}).items()
    ]
    lines += [
        f"{label}: temperature {one['temperature']:.3g}; NLL {one['nll'][0]:.4f} before, "
        f"{one['nll'][1]:.4f} after; ECE {one['ece'][0]:.4f} before, {one['ece'][1]:.4f} after"
        for label, one in told.get("calibration", {}).items()
    ]
    lines += [
        f"{one['label']}: threshold {one['threshold']:.3g} instead of 0.5 {_fate(one)}"
        for one in told.get("thresholds", [])
        if one["threshold"] != THRESHOLD
    ]
    lines += [
        f"{one['label']}: {_rule(one['rule'])} {_fate(one)}" for one in told.get("cleaning", [])
    ]
    return [f"calibration and post-processing: {told.get('learnt_from', 'none')}", *lines]


def _interval(one: Mapping[str, Any]) -> str:
    low, high = one["interval"] or (None, None)
    return f"{one['dice']:.3f}" + ("" if low is None else f" ({low:.3f}-{high:.3f})")


def _fate(one: Mapping[str, Any]) -> str:
    return (
        f"{'kept' if one['kept'] else 'left out'}; Dice {one['before']:.4f} without, "
        f"{one['after']:.4f} with, p = {one['p']:.2g}"
    )


def _rule(rule: Mapping[str, Any]) -> str:
    named = {
        "inside": f"inside the {rule['inside']}",
        "fill_holes": "holes filled",
        "smallest": f"components of at least {100 * rule['smallest']:.2g} % of a slice",
        "largest": f"the {rule['largest']} largest components",
    }
    return ", ".join(text for name, text in named.items() if rule[name])


def _listed(told: Mapping[str, Any]) -> list[str]:
    return [f"- {line}" for line in gains(told)]


def _origin(plan: Plan, divided: str) -> list[str]:
    """Returns how many cases of whom, under which licences, and what their labels mean.

    Args:
      plan: of the run, or of a fold.
      divided: what part each case has.
    """
    patients = len({case.patient for case in plan.cases})
    unknown = sum(not case.patient_id for case in plan.cases)
    lineage = Counter(
        (c.dataset, c.source, c.licence_image or "not stated", c.licence_mask or "not stated")
        for c in plan.cases
    )
    annotated = ", ".join(
        f"{label} in {sum(bool(case.annotated([label])) for case in plan.cases)}"
        for label in plan.spec.labels
    )
    return [
        "## Data",
        f"{len(plan.cases)} cases of {patients} patients"
        + (f" ({unknown} cases of unknown patients, each counted as its own)" if unknown else "")
        + f": {divided}. Splits are by patient; see `splits.csv`, of folds in "
        f"each. Annotated: {annotated}.",
        "",
        "| data set | source | licence of images | licence of masks | cases |",
        "|---|---|---|---|---|",
        *(f"| {d} | {s} | {i} | {m} | {n} |" for (d, s, i, m), n in sorted(lineage.items())),
        "",
        "The weights come from all of these. Whoever passes them on sees to it that each licence "
        "allows it, and names the sources; this code's licence does not cover them.",
        "",
        "## What a label covers",
        *(f"- {text}" for text in plan.spec.conventions or ("not recorded for this data",)),
    ]
