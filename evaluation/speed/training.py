"""Dice against minutes of training, beside MONAI's BasicUNet and nnU-Net's DynUNet.

    python -m evaluation.speed training --minutes 4
    python -m evaluation.speed training --minutes 8 --modality CT --labels infection --units stored

Each trains for as many minutes, one after the other, on the same frames and split of the shipped
sample, validation included; where the CPU has bfloat16, all train in it. Then all outline the test
cases, averaging the same mirror images, and are scored together. Needs the extra `rivals`.
"""

import argparse
import csv
import dataclasses
import importlib.util
import itertools
import json
import math
import pathlib
import subprocess
import sys

import matplotlib.figure
import rich.console

from data_pipeline import cases, machine
from data_pipeline.errors import InputError
from evaluation import appearance, summary, tables
from evaluation import run as scoring_command

RIVALS = ("BasicUNet", "DynUNet")


# Of our config.json.
_TOLD = ("parameters", "steps", "train_seconds", "precision_used")


@dataclasses.dataclass(frozen=True)
class Curve:
    """One training: validation Dice against the seconds trained."""

    name: str
    elapsed_s: tuple[float, ...]
    dice: tuple[float, ...]
    about: dict[str, object]


def train_ours(given: argparse.Namespace, model: str) -> pathlib.Path:
    """Trains one of our networks as a user would and returns its run directory."""
    command = [sys.executable, "-m", "training.run", "--model", model, "--overwrite"]
    command += ["--data", str(given.data), "--modality", given.modality, "--labels", given.labels]
    command += ["--minutes", str(given.minutes), "--seed", str(given.seed)]
    command += ["--runs", str(given.out / "runs"), "--name", model]
    command += ["--units", given.units] if given.units else []
    # The rivals' minutes are for steps and validation, and nothing is learnt after them.
    _call([*command, "--calibration", "none", "--cleaning", "none"])
    return pathlib.Path(given.out / "runs" / model)


def train_rival(given: argparse.Namespace, run: pathlib.Path, network: str) -> pathlib.Path:
    """Trains a rival on the frames and the split of our run and returns its folder."""
    out = pathlib.Path(given.out / "rivals" / network)
    command = [sys.executable, "-m", "evaluation.speed.monai_training", "--run", str(run)]
    command += ["--network", network, "--minutes", str(given.minutes), "--out", str(out)]
    _call([*command, "--seed", str(given.seed)])
    return out


def _call(command: list[str]) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise InputError(f"{' '.join(command[1:4])} ended with exit code {done.returncode}")


def our_curve(run: pathlib.Path) -> Curve:
    """Reads the curve of one of our runs."""
    rows = _rows(run / "history.csv")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    return Curve(
        run.name,
        tuple(float(row["elapsed_s"]) for row in rows),
        tuple(float(row["val_dice"]) for row in rows),
        {name: config.get(name) for name in _TOLD},
    )


def rival_curve(folder: pathlib.Path) -> Curve:
    """Reads the curve of a rival."""
    rows = _rows(folder / "history.csv")
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    return Curve(
        folder.name,
        tuple(float(row["elapsed_s"]) for row in rows),
        tuple(float(row["dice"]) for row in rows),
        about,
    )


def _rows(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw(curves: list[Curve], title: str) -> matplotlib.figure.Figure:
    """Draws Dice of the validation frames over minutes of training; a mark is a validation."""
    colour = appearance.colours([curve.name for curve in curves])
    figure = appearance.figure(7.0, 4.0)
    axis = figure.subplots()
    for curve, marker in zip(curves, itertools.cycle(appearance.MARKERS), strict=False):
        axis.plot(
            [seconds / 60 for seconds in curve.elapsed_s],
            curve.dice,
            color=colour[curve.name],
            label=curve.name,
            linewidth=1.6,
            marker=marker,
            markersize=4,
        )
    axis.set(xlabel="minutes of training", ylabel="Dice, validation frames", title=title)
    lowest = min((dice for curve in curves for dice in curve.dice), default=1.0)
    axis.set_ylim(bottom=min(0.5, math.floor(10 * lowest) / 10), top=1.0)
    axis.set_xlim(left=0.0)
    axis.grid(linewidth=0.6)
    axis.legend(loc="best")
    return figure


HEADER = ("Network", "Parameters", "Steps", "Dice (95 % interval)", "Cases")


def _table(curves: list[Curve], scored: pathlib.Path) -> list[tuple[str, ...]]:
    found = json.loads((scored / "summary.json").read_text(encoding="utf-8"))
    about = {curve.name: curve.about for curve in curves}
    rows: list[tuple[str, ...]] = []
    for item in found["labels"]:
        told = about[item["model"]]
        rows.append(
            (
                item["model"],
                f"{told['parameters']:,}",
                str(told["steps"]),
                tables.with_stored_interval(item["metrics"]["dice"]["mean"]),
                str(item["cases"]),
            )
        )
    return rows


def _flags(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.speed training",
        description=__doc__.partition("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--minutes", type=float, default=4.0, help="for each network (default: %(default)s)")
    add("--data", type=pathlib.Path, default=cases.SAMPLE, help="manifest (default: the sample)")
    add("--modality", default="XR")
    add("--labels", default="lung", help="one label")
    add("--units", default="")
    add("--models", default="unet", help="of ours, separated by commas (default: %(default)s)")
    add("--rivals", default=",".join(RIVALS), help="default: %(default)s")
    add("--seed", type=int, default=0)
    add("--out", type=pathlib.Path, default=pathlib.Path("results/speed_training"))
    given = parser.parse_args(argv)
    if "," in given.labels:
        parser.error(f"--labels is one label here; got {given.labels}")
    return given


def main(argv: list[str]) -> None:
    """Parses flags, trains, scores and tells."""
    given = _flags(argv)
    rivals = [name for name in given.rivals.split(",") if name]
    if unknown := sorted(set(rivals) - set(RIVALS)):
        raise InputError(f"unknown rivals {', '.join(unknown)}; known: {', '.join(RIVALS)}")
    console = rich.console.Console(highlight=False)
    if rivals and importlib.util.find_spec("monai") is None:
        console.print("without MONAI: pip install --editable '.[rivals]' brings it")
        rivals = []
    ours = [train_ours(given, model) for model in given.models.split(",")]
    folders = [train_rival(given, ours[0], network) for network in rivals]
    curves = [our_curve(run) for run in ours] + [rival_curve(folder) for folder in folders]
    scored = given.out / "scores"
    masks = [word for f in folders for word in ("--masks", f"{f.name}={f / 'masks'}")]
    scoring_command.main([*map(str, ours), *masks, "--split", "test", "--out", str(scored)])

    with appearance.style():
        title = f"{given.modality} {given.labels}, {given.minutes:g} min each"
        draw(curves, title).savefig(given.out / "curves.png", dpi=130)
    rows = _table(curves, scored)
    about = machine.describe(["tensorflow", "keras", "monai", "torch", "numpy"])
    content = {"machine": about, "curves": [dataclasses.asdict(curve) for curve in curves]}
    summary.save_json(given.out / "training.json", content)
    summary.save_text(given.out / "table.md", tables.markdown(HEADER, rows))
    console.print(tables.markdown(HEADER, rows), markup=False)
    console.print(f"curves: {given.out / 'curves.png'}")
