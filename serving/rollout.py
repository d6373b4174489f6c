"""Which versions of a model a server loads, and under which labels they are asked for.

`stable` is what most are to ask for, `canary` a newer version that is tried first.
"""

import dataclasses
import pathlib
import re
import time
from collections.abc import Sequence

from data_pipeline.errors import InputError
from serving import proof
from serving.server import model_config

LABELS = ("stable", "canary")
_READ_WITHIN_S = 60  # twice what deployments say with --model_config_file_poll_wait_seconds


@dataclasses.dataclass(frozen=True)
class Served:
    """A model of the deployment."""

    name: str
    folder: pathlib.Path  # with its version folders
    stable: int
    canary: int  # the same, or a newer one to be tried first
    loading: tuple[int, ...] = ()  # to be loaded before a label moves to them

    @property
    def versions(self) -> list[int]:
        """The versions to be loaded."""
        return sorted({self.stable, self.canary, *self.loading})

    @property
    def version_folders(self) -> list[pathlib.Path]:
        """Their folders."""
        return [self.folder / str(version) for version in self.versions]


def survey(folder: pathlib.Path, stable: int | None = None) -> Served:
    """Returns an export to be deployed: its newest version is the canary.

    Args:
      folder: of the versions.
      stable: None for the version before the newest; the newest if it is the only one.

    Raises:
      InputError: if a version is not there, or was not proven to give the trained masks.
    """
    name = folder.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise InputError(f"{name!r} cannot be a model's name; use letters, digits, _, . and -")
    found = folder.iterdir() if folder.is_dir() else ()
    versions = sorted(int(p.name) for p in found if p.name.isascii() and p.name.isdigit())
    if not versions:
        raise InputError(f"{folder} has no version folder; `python -m serving.export` writes one")
    stable = versions[-2:][0] if stable is None else stable
    if stable not in versions:
        raise InputError(f"{folder} has no version {stable}; it has {versions}")
    served = Served(name, folder, stable, versions[-1])
    for version in served.version_folders:
        _check_proof(version)
    return served


def next_step(wanted: Served, config: pathlib.Path) -> Served:
    """Returns what a server that runs on a configuration can take up next on the way to another.

    TensorFlow Serving moves a label only to a version that it has loaded, and refuses the whole
    configuration otherwise. So new versions are loaded first, while the labels stay.

    Args:
      wanted: what it is to serve in the end.
      config: models.config as it was written last; it need not exist.

    Returns:
      `wanted`, if that can be taken up at once, or only by a server that starts anew, as with
      another setting of oneDNN; else versions with `loading`.

    Raises:
      InputError: if the file is no configuration, or labels are to move before a server can have
        read it.
    """
    if not config.exists():
        return wanted
    written = model_config.read_models(str(config)).model_config_list.config
    before = next((model for model in written if model.name == wanted.name), None)
    if before is None or set(before.version_labels) != set(LABELS):
        return wanted
    stable, canary = (int(before.version_labels[label]) for label in LABELS)
    new = set(wanted.versions) - set(before.model_version_policy.specific.versions)
    if not new:
        if (stable, canary) != (wanted.stable, wanted.canary):
            _check_was_read(config)
        return wanted
    labelled = [wanted.folder / str(version) for version in (stable, canary)]
    if not all(path.is_dir() for path in labelled):
        return wanted
    if len({proof.read(path).onednn for path in (*labelled, *wanted.version_folders)}) > 1:
        return wanted
    return dataclasses.replace(wanted, stable=stable, canary=canary, loading=tuple(wanted.versions))


def _check_was_read(config: pathlib.Path) -> None:
    """Raises InputError while a server may not have loaded what a configuration names."""
    age_s = time.time() - config.stat().st_mtime
    if age_s < _READ_WITHIN_S:
        raise InputError(
            f"{config} was written {age_s:.0f} s ago, and a server reads it every 30 s: labels "
            "must not move before it has loaded the versions. Run this again in "
            f"{_READ_WITHIN_S - age_s:.0f} s, once they are AVAILABLE; or delete the file, if no "
            "server runs on it"
        )


def _check_proof(folder: pathlib.Path) -> None:
    told = proof.read(folder)
    if not told.masks_equal or not (folder / "saved_model.pb").exists():
        raise InputError(
            f"{folder} was not proven to give the trained model's masks (parity.json, "
            f"masks_equal; precision {told.precision})"
        )


def models_config(models: Sequence[Served]) -> str:
    """Returns the text of a ModelServerConfig with labels `stable` and `canary`."""
    lines = ["# Generated by serving.deployment; read by --model_config_file."]
    lines.append("model_config_list {")
    for model in models:
        versions = " ".join(f"versions: {version}" for version in model.versions)
        lines += [
            "  config {",
            f'    name: "{model.name}"',
            f'    base_path: "/models/{model.name}"',
            '    model_platform: "tensorflow"',
            f"    model_version_policy {{ specific {{ {versions} }} }}",
            f'    version_labels {{ key: "stable" value: {model.stable} }}',
            f'    version_labels {{ key: "canary" value: {model.canary} }}',
            "  }",
        ]
    return "\n".join([*lines, "}", ""])
