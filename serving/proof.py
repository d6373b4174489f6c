"""parity.json: what the proof of an exported version tells those who serve it."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping

from data_pipeline import onednn
from data_pipeline.errors import InputError

PLACE = pathlib.Path("assets.extra", "parity.json")  # in a version folder


@dataclasses.dataclass(frozen=True)
class Proof:
    """How a version was proven; serving.export writes it."""

    masks_equal: bool  # to those of the trained model in float32
    precision: str
    onednn: bool | None  # with oneDNN's kernels, which round differently; None: not told
    pass_ms: Mapping[int, float]  # of a row where it was exported, by threads an operation


def read(version: pathlib.Path) -> Proof:
    """Returns the proof of a version folder.

    Raises:
      InputError: if there is none.
    """
    path = version / PLACE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(told, dict):
            raise ValueError("not a JSON object")
        pass_ms = {int(threads): float(ms) for threads, ms in dict(told.get("pass_ms", {})).items()}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read, so nothing proves this version") from error
    return Proof(
        masks_equal=told.get("masks_equal") is True,
        precision=told.get("precision", "float32"),
        onednn=told.get("onednn"),
        pass_ms=pass_ms,
    )


def check_setting(version: pathlib.Path) -> None:
    """Checks that TensorFlow will round here as it did when a version was proven.

    Raises:
      InputError: if this process, and so what it starts, has another setting of oneDNN.
    """
    proven = read(version).onednn
    if proven is not None and proven != onednn.enabled():
        raise InputError(
            f"{version} was proven {_kernels(proven)}, but here TensorFlow would run it "
            f"{_kernels(not proven)}, which rounds differently; set "
            f"{onednn.VARIABLE}={onednn.value(proven)}, or export it anew"
        )


def common_setting(versions: list[pathlib.Path]) -> bool:
    """Returns whether all versions, which one server is to serve, were proven with oneDNN.

    Raises:
      InputError: if some were and some were not, or one does not tell.
    """
    proven = {version: read(version).onednn for version in versions}
    for version, setting in proven.items():
        if setting is None:
            raise InputError(f"{version / PLACE} does not tell of oneDNN; export it anew")
    with_it = [version for version, setting in proven.items() if setting]
    without = [version for version, setting in proven.items() if not setting]
    if with_it and without:
        raise InputError(
            f"{with_it[0]} was proven with oneDNN and {without[0]} without, but a server has one "
            f"setting for all; export both with the same {onednn.VARIABLE}"
        )
    return bool(with_it)


def _kernels(with_onednn: bool) -> str:
    return "with oneDNN" if with_onednn else "without oneDNN"
