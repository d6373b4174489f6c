"""Writes the tables of results: trains what is not trained yet, scores all, and sums up.

    python -m evaluation.benchmark                     # 3 hours on 2 idle cores with bfloat16
    python -m evaluation.benchmark --readme README.md --models docs/models.md    # and shows them

Every network of the zoo and thresholding, on lungs in X-rays (patient-level test split) and
infection in CT slices (five-fold cross-validation, since few slices have a known patient). Runs
that are there are used, if they were trained as asked; delete one to train it anew. All results
lie in results/benchmark, what the README shows in results/README.
"""

import argparse
import dataclasses
import datetime
import importlib.metadata
import itertools
import json
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

import cv2
import rich.console

from data_pipeline import cases, location, machine, raster
from data_pipeline.errors import InputError, one_line_for_bad_input
from evaluation import costs, runs, summary, tables
from evaluation import run as scoring_command

NETWORKS = ("unet", "unet_residual", "light", "cnn")
BASELINE = "threshold"


@dataclasses.dataclass(frozen=True)
class Published:
    """What projects of this kind report of a family of models, on data of their own."""

    accuracy: float
    loss: float
    dice: float


# A yardstick beside our figures, not a comparison with them: other images, other masks.
PUBLISHED = {
    "unet": Published(0.95, 0.05, 0.92),
    "cnn": Published(0.90, 0.10, 0.85),
    "threshold": Published(0.75, 0.25, 0.70),
}

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
_SHOWN = ("scores.csv", "summary.json", "figures/comparison.png")


@dataclasses.dataclass(frozen=True)
class Task:
    """One structure in one modality."""

    name: str
    title: str
    modality: str
    label: str
    folds: int  # 0: one patient-level split


TASKS = (
    Task("xr-lung", "X-ray, lungs", "XR", "lung", 0),
    Task("ct-infection", "CT slices, infection", "CT", "infection", 5),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the benchmark is run with."""

    data: pathlib.Path
    runs: pathlib.Path
    results: pathlib.Path
    shown: pathlib.Path
    readme: pathlib.Path | None
    models: pathlib.Path | None
    seed: int
    xr_epochs: int
    ct_epochs: int
    tasks: tuple[str, ...]

    def epochs(self, task: Task) -> int:
        """Returns the budget of one training: of one fold, where there are folds."""
        return self.xr_epochs if task.modality == "XR" else self.ct_epochs


def from_flags(argv: list[str] | None = None) -> Settings:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.benchmark",
        description=__doc__.split("\n")[0],
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", type=pathlib.Path, default=cases.SAMPLE, help="manifest (default: the sample)")
    add("--runs", type=pathlib.Path, default=pathlib.Path("runs"), help="default: %(default)s")
    add("--results", type=pathlib.Path, default=pathlib.Path("results/benchmark"))
    add(
        "--shown",
        type=pathlib.Path,
        default=pathlib.Path("results/README"),
        help="where the small files that the README shows go (default: %(default)s)",
    )
    add("--readme", type=pathlib.Path, help=f"put the table between {BEGIN} and {END} of this")
    add("--models", type=pathlib.Path, help="likewise the table of models and what they cost")
    add("--seed", type=int, default=0)
    # Epochs, not minutes: a busy machine takes longer and gives the same table.
    add("--xr-epochs", type=int, default=96, help="a training (default: %(default)s)")
    add("--ct-epochs", type=int, default=112, help="a fold (default: %(default)s)")
    every = ",".join(task.name for task in TASKS)
    add("--tasks", default=every, help="default: %(default)s")  # fmt: skip
    given = vars(parser.parse_args(argv))
    given["data"] = location.within_here(given["data"])
    given["tasks"] = tuple(given["tasks"].split(","))
    unknown = set(given["tasks"]) - {task.name for task in TASKS}
    if unknown:
        known = ", ".join(task.name for task in TASKS)
        raise InputError(f"unknown task {', '.join(sorted(unknown))}; known: {known}")
    return Settings(**given)


def train_command(settings: Settings, task: Task, model: str, *, resume: bool) -> list[str]:
    """Returns the command that trains one model for one task."""
    command = [sys.executable, "-m", "training.run", "--model", model]
    command += ["--data", str(settings.data), "--modality", task.modality, "--labels", task.label]
    command += ["--epochs", str(settings.epochs(task)), "--seed", str(settings.seed)]
    command += ["--runs", str(settings.runs), "--name", run_name(task, model)]
    command += ["--folds", str(task.folds)] if task.folds else []
    return command + (["--resume"] if resume else [])


def run_name(task: Task, model: str) -> str:
    """Returns the name of a benchmark's run directory."""
    return f"benchmark-{task.name}-{model}"


def train(settings: Settings, task: Task, model: str) -> pathlib.Path:
    """Returns a finished run, training it first if there is none.

    Raises:
      InputError: if the training fails, or the run that is there was trained otherwise.
    """
    path = settings.runs / run_name(task, model)
    if is_trained(settings, task, model):
        return path
    done = subprocess.run(train_command(settings, task, model, resume=path.exists()), check=False)
    if done.returncode:
        raise InputError(f"training {path} ended with exit code {done.returncode}")
    return path


def is_trained(settings: Settings, task: Task, model: str) -> bool:
    """Returns whether there is a finished run, which needs no training.

    Raises:
      InputError: if it is of other data, epochs or seed.
    """
    path = settings.runs / run_name(task, model)
    try:
        config = runs.load(path).config
    except InputError:
        return False  # not there, or interrupted
    known: dict[str, object] = {name: config.get(name) for name in ("epochs", "seed")}
    asked: dict[str, object] = {"epochs": settings.epochs(task), "seed": settings.seed}
    known["data"] = cases.manifest_file(pathlib.Path(str(config.get("data")))).resolve()
    asked["data"] = cases.manifest_file(settings.data).resolve()
    for name, value in asked.items():
        if known[name] != value:
            raise InputError(
                f"{path} was trained with {name} {known[name]}, and {value} is asked for; "
                "delete it to train it anew, or choose another folder by --runs"
            )
    return True


def rows_of(task: Task, folder: pathlib.Path) -> list[tuple[str, ...]]:
    """Returns a task's rows of the README's table."""
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return [_row(task, item) for item in found["labels"]]


def _row(task: Task, item: dict[str, object]) -> tuple[str, ...]:
    measured = item["metrics"]
    if not isinstance(measured, dict):
        raise InputError("summary.json has no metrics; was it written by this version?")
    model = str(item["model"]).removeprefix(f"benchmark-{task.name}-")
    return (
        task.title,
        tables.MODELS.get(model, model),
        f"{measured['accuracy']['mean']['value']:.3f}",
        f"{measured['loss']['mean']['value']:.3f}",
        tables.with_stored_interval(measured["dice"]["mean"]),
        str(item["cases"]),
        *_published(model),
    )


def _published(model: str) -> tuple[str, ...]:
    known = PUBLISHED.get(model)
    return ("-",) * 3 if known is None else tuple(f"{v:.2f}" for v in dataclasses.astuple(known))


HEADER = (
    *("Task", "Model", "Accuracy", "Loss", "Dice (95 % interval)", "Cases"),
    *("Published: accuracy", "loss", "Dice"),
)


def table(settings: Settings, rows: Sequence[Sequence[str]]) -> str:
    """Returns the table in Markdown with what a reader must know beneath."""
    budgets = {
        "xr-lung": f"{settings.xr_epochs} epochs (X-ray)",
        "ct-infection": f"{settings.ct_epochs} epochs a fold (CT)",
    }
    text = (
        f"\nTrained for {' and '.join(budgets[task] for task in settings.tasks)} from seed "
        f"{settings.seed} by `python -m evaluation.benchmark` on "
        f"{datetime.date.today():%Y-%m-%d} with {_versions()}. "
        "Means over test cases that the model has not seen; splits are by patient. Loss is "
        "cross-entropy in nats per pixel; the interval is a bootstrap of patients. Published is "
        "what projects of this kind report on data of their own: a yardstick, no comparison.\n"
    )
    if "ct-infection" in settings.tasks:
        text += (
            "CT is cross-validated five-fold. Its slices' patients are unknown, so each slice "
            "counts as one and slices of one patient may be in training and test: read those "
            "rows as optimistic.\n"
        )
    return tables.markdown(HEADER, rows) + text


def _versions() -> str:
    packages = ("tensorflow", "keras", "numpy")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def put_into(readme: pathlib.Path, text: str) -> None:
    """Replaces what stands between the two markers of a page.

    Raises:
      InputError: if it has no such markers.
    """
    before = readme.read_text(encoding="utf-8")
    if BEGIN not in before or END not in before:
        raise InputError(f"{readme} has no place for the table: put {BEGIN} and {END} into it")
    head, _, rest = before.partition(BEGIN)
    _, _, tail = rest.partition(END)
    summary.save_text(readme, f"{head}{BEGIN}\n{text}{END}{tail}")


def show(out: pathlib.Path, folder: pathlib.Path) -> None:
    """Copies what is small enough for a repository, the gallery at half its size."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _SHOWN:
        shutil.copyfile(out / name, folder / pathlib.Path(name).name)
    sheet = cv2.imread(str(out / "figures" / "gallery.png"))
    if sheet is not None:
        half = cv2.resize(sheet, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        raster.write(folder / "gallery.png", half[..., ::-1])


def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    settings = from_flags(argv)
    console = rich.console.Console(highlight=False)
    rows, cost_rows = [], []
    tasks = [task for task in TASKS if task.name in settings.tasks]
    for task, model in itertools.product(tasks, NETWORKS):
        is_trained(settings, task, model)  # before hours of training: refuses what will not do
    for task in tasks:
        trained = [str(train(settings, task, model)) for model in NETWORKS]
        out = settings.results / task.name
        flags = ["--data", str(settings.data), "--split", "test", "--out", str(out)]
        if scoring_command.main([*trained, BASELINE, *flags, "--seed", str(settings.seed)]):
            raise InputError(f"some cases of {task.name} could not be scored; see {out}")
        rows += rows_of(task, out)
        cost_rows += costs.rows(task.title, out, [pathlib.Path(run) for run in trained])
        show(out, settings.shown / task.name)
    text = table(settings, rows)
    summary.save_text(settings.shown / "table.md", text)
    models = costs.table(cost_rows, _versions(), len(machine.cores()))
    summary.save_text(settings.shown / "models.md", models)
    for page, content in ((settings.readme, text), (settings.models, models)):
        if page is not None:
            put_into(page, content)
    console.print(text, markup=False)
    console.print(f"table: {settings.shown / 'table.md'}")


if __name__ == "__main__":
    with one_line_for_bad_input():
        main()
