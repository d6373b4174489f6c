"""What a run leaves in words: config.json, and the model card that training.card writes."""

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
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from data_pipeline import location, machine, read, remote
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec
from training import card, device
from training.pace import Pace
from training.plan import Plan

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


def start_folds(plans: list[Plan], *, anew: bool) -> None:
    """Writes what makes the folder of the folds a run of its own: config.json, model_card.md.

    Args:
      plans: of all folds.
      anew: whether one was trained now; else a card stays, with the scores that were put into it.
    """
    folder = plans[0].directory.parent
    _write(folder, _settings(plans[0]))
    path = folder / "model_card.md"
    if anew or not path.exists():
        told_of = card.of_folds(plans, [_read(plan.directory) for plan in plans])
        path.write_text(told_of, encoding="utf-8")


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
    told_of = card.of_run(plan, written)
    (plan.directory / "model_card.md").write_text(told_of, encoding="utf-8")


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
    path.write_text(card.restated(path.read_text(encoding="utf-8"), told), encoding="utf-8")


def learnt(directory: pathlib.Path) -> dict[str, Any]:
    """Returns what config.json says of calibration and post-processing."""
    return dict(_read(directory).get("answers", {}))


def manifest_of(directory: pathlib.Path) -> pathlib.Path:
    """Returns the manifest that a run was trained from."""
    return pathlib.Path(_read(directory)["data"])


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
    settings["data"] = location.within_here(plan.config.data.resolve())
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
