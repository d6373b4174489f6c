"""What a run leaves in words: config.json, and model_card.md for whoever finds it later."""

import configparser
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from data_pipeline import machine, read, remote
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from data_pipeline.spec import THRESHOLD, InputSpec
from training import device
from training.pace import Pace
from training.plan import Plan

_ANSWERS = "## Calibration and post-processing"  # heading in model_card.md

# Settings that may differ between a run and its resumption: they do not change what is learnt.
_FREE = {
    "resume", "overwrite", "cache", "runs", "name", "data", "backup_seconds", "profile", "mlflow",
}  # fmt: skip


def start(plan: Plan) -> None:
    """Writes config.json: every setting, and on what it runs."""
    chosen = device.strategy()
    _write(
        plan.directory,
        _settings(plan)
        | {
            "spec": dataclasses.asdict(plan.spec),
            "fingerprint": dataclasses.asdict(plan.fingerprint),
            **_identity(plan),
            "device": device.describe(chosen),
            "devices": chosen.num_replicas_in_sync,
            "precision_used": device.precision(plan.config.precision),
            "xla": device.xla(),
            "versions": machine.versions(_packages()) | {"python": platform.python_version()},
            "git_commit": _git_commit(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        },
    )


def start_folds(plans: list[Plan]) -> None:
    """Writes the config.json that makes the folder of the folds a run of its own."""
    _write(plans[0].directory.parent, _settings(plans[0]))


def finish(
    plan: Plan, network: keras.Model, pace: Pace, spec: InputSpec, told: Mapping[str, Any]
) -> None:
    """Adds the outcome to config.json and writes model_card.md.

    Args:
      plan: what was trained.
      network: the outcome.
      pace: steps and seconds.
      spec: with what validation taught.
      told: how it did, see calibrate.Fitted.
    """
    written = _read(plan.directory)
    written["spec"] = dataclasses.asdict(spec)
    written["answers"] = told
    written["parameters"] = network.count_params()
    written["steps"] = pace.step
    written["train_seconds"] = round(pace.elapsed_s(), 1)
    written["timings_s"] = _timings(pace)
    _write(plan.directory, written)
    card = _card(plan, written)
    (plan.directory / "model_card.md").write_text(card, encoding="utf-8")


def _timings(pace: Pace) -> dict[str, float]:
    """Returns the seconds spent on what; what is left of the total was spent on training."""
    spent, total = dict(pace.spent_s), pace.elapsed_s()
    seconds = spent | {"training": total - sum(spent.values()), "total": total}
    return {name: round(value, 1) for name, value in seconds.items()}


def restate(directory: pathlib.Path, spec: InputSpec, told: Mapping[str, Any]) -> None:
    """Puts what validation taught anew into config.json and model_card.md of a finished run."""
    written = _read(directory) | {"spec": dataclasses.asdict(spec), "answers": told}
    _write(directory, written)
    path = directory / "model_card.md"
    before, heading, rest = path.read_text(encoding="utf-8").partition(_ANSWERS)
    if heading:
        _, _, after = rest.partition("\n\n")
        path.write_text("\n".join([before + heading, *_listed(told), "", after]), encoding="utf-8")


def learnt(directory: pathlib.Path) -> dict[str, Any]:
    """Returns what config.json says of calibration and post-processing."""
    return dict(_read(directory).get("answers", {}))


def manifest_of(directory: pathlib.Path) -> pathlib.Path:
    """Returns the manifest that a run was trained from."""
    return pathlib.Path(_read(directory)["data"])


def gains(told: Mapping[str, Any]) -> list[str]:
    """Returns what calibration, thresholds and post-processing gained, in a line each."""
    lines = [
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


def check_same(plan: Plan) -> None:
    """Refuses to resume a run with other settings or devices than it was started with.

    Raises:
      InputError: naming the first setting that differs.
    """
    before = _read(plan.directory)
    for name, value in _settings(plan).items():
        if name not in _FREE and before.get(name) != value:
            raise InputError(
                f"{plan.directory} was started with --{name.replace('_', '-')} "
                f"{before.get(name)}, not {value}; resume with the same settings"
            )
    devices = device.strategy().num_replicas_in_sync
    if before.get("devices", devices) != devices:
        raise InputError(
            f"{plan.directory} was started on {before['devices']} device(s), not {devices}: its "
            "steps would be of other batches; resume on as many"
        )
    if before.get("data_sha256") != _identity(plan)["data_sha256"]:
        raise InputError(f"{plan.directory} was started on other data than {plan.config.data}")


def _identity(plan: Plan) -> dict[str, str]:
    """Returns what config.json says of the data: digests of their content and of their stamps.

    Files of the sizes and times with which the run was started are not read again: a run that is
    resumed would fetch all of a bucket.
    """
    stamps = _digest(plan.cases, _stamps)
    begun = (plan.directory / "config.json").exists()
    before = _read(plan.directory) if begun else {}
    if before.get("data_stamps") == stamps:
        return {"data_sha256": before["data_sha256"], "data_stamps": stamps}
    return {"data_sha256": data_hash(plan.cases), "data_stamps": stamps}


@functools.cache  # a resumed run asks twice, a cross-validation once a fold
def data_hash(cases: tuple[Case, ...]) -> str:
    """Returns a digest of the images and masks of some cases, by content and meaning."""
    return _digest(cases, _contents)


def _contents(path: pathlib.Path) -> Iterator[bytes]:
    with remote.here(path) as local:
        for file in read.files(local):
            yield hashlib.sha256(file.read_bytes()).digest()


def _stamps(path: pathlib.Path) -> Iterator[bytes]:
    for file in read.files(path):
        yield repr((str(file), remote.stamp(file))).encode()


def _digest(cases: tuple[Case, ...], told_of: Callable[[pathlib.Path], Iterator[bytes]]) -> str:
    digest = hashlib.sha256()
    for case in sorted(cases, key=lambda c: c.id):
        digest.update(case.id.encode())
        meaning = (case.rescale_slope, case.rescale_intercept)
        digest.update(repr((*meaning, case.lung_values, case.infection_values)).encode())
        for path in (case.image, case.lung_mask, case.infection_mask):
            digest.update(b"|")  # a mask moved to another label's column is other data
            for part in () if path is None else told_of(path):
                digest.update(part)
    return digest.hexdigest()


def _settings(plan: Plan) -> dict[str, Any]:
    settings = dataclasses.asdict(plan.config)
    data = plan.config.data.resolve()
    inside = data.is_relative_to(pathlib.Path.cwd())
    settings["data"] = os.path.relpath(data) if inside else str(data)
    return {k: str(v) if isinstance(v, pathlib.Path) else v for k, v in settings.items()}


def _read(directory: pathlib.Path) -> dict[str, Any]:
    path = directory / "config.json"
    try:
        settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read, so {directory} is not a run: {error}") from error
    return settings


def _write(directory: pathlib.Path, content: dict[str, Any]) -> None:
    unfinished = directory / f".config.json.{os.getpid()}"
    unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    unfinished.replace(directory / "config.json")


def _packages() -> list[str]:
    """Returns the names of all packages that setup.cfg asks for, and the tfio lane's."""
    setup = configparser.ConfigParser()
    setup.read(pathlib.Path(__file__).parents[1] / "setup.cfg", encoding="utf-8")
    needed = setup["options"]["install_requires"]
    return [*re.findall(r"^[\w.-]+", needed, re.MULTILINE), "tensorflow-io"]


def _git_commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here = pathlib.Path(__file__).parent
    try:
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return found.stdout.strip()


def _card(plan: Plan, written: dict[str, Any]) -> str:
    evaluate = (
        f"    python -m evaluation.run {plan.directory} threshold --out results/"
        f"{plan.directory.name}"
    )
    lines = [
        f"# {written['model']}: {', '.join(plan.spec.labels)} on {plan.spec.modality}",
        "",
        f"Trained {written['started']} from `{written['data']}`, "
        f"{written['parameters']:,} parameters, {written['steps']} steps in "
        f"{written['train_seconds'] / 60:.1f} minutes on {written['device']} "
        f"({written['precision_used']}); saved in float32. Seed {written['seed']}, code "
        f"{written['git_commit'][:12] or 'of no known commit'}, data "
        f"{written['data_sha256'][:12]}; all settings and versions are in `config.json`.",
        "",
        "## Data",
        *_data(plan),
        "",
        "## What a label covers",
        *(f"- {text}" for text in plan.spec.conventions or ("not recorded for this data",)),
        "",
        "## Scores",
        "On the original grid, with 95 % intervals; this command adds them here, and with `--split "
        "validation` or `--data OTHER_MANIFEST --split all` those of other cases:",
        "",
        evaluate,
        "",
        # Where evaluation.card puts them.
        "<!-- scores end here -->",
        "",
        "Validation Dice during training is in `history.csv` and `curves.png`, on frames as the "
        "network sees them; it chose the weights, so it flatters them.",
        "",
        _ANSWERS,
        *_listed(written["answers"]),
        "",
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
        "",
    ]
    return "\n".join(lines)


def _data(plan: Plan) -> list[str]:
    """Returns how many cases of whom, and under which licences."""
    counts = Counter(plan.splits[case.id] for case in plan.cases)
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
        f"{len(plan.cases)} cases of {patients} patients"
        + (f" ({unknown} cases of unknown patients, each counted as its own)" if unknown else "")
        + ": "
        + ", ".join(f"{n} {name}" for name, n in counts.items())
        + f". Splits are by patient; see `splits.csv`. Annotated: {annotated}.",
        "",
        "| data set | source | licence of images | licence of masks | cases |",
        "|---|---|---|---|---|",
        *(f"| {d} | {s} | {i} | {m} | {n} |" for (d, s, i, m), n in sorted(lineage.items())),
        "",
        "The weights come from all of these. Whoever passes them on sees to it that each licence "
        "allows it, and names the sources; this code's licence does not cover them.",
    ]
