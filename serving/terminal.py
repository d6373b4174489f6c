"""What somebody who segments a folder sees meanwhile."""

import pathlib
from collections.abc import Iterable, Iterator, Sequence

from rich import console as rich_console
from rich import markup, progress

from serving.report import Failure, Result

_SHOWN_FAILURES = 10
_UNITS = {"area_cm2": "cm2", "volume_ml": "ml"}  # of what report.json calls a size


class Terminal:
    """One line that moves, a line for each failure, and where the results lie."""

    def __init__(self, model: str, version: int, total: int, before: int) -> None:
        self._console = rich_console.Console(highlight=False, soft_wrap=True)
        self._total, self._before, self._shown = total, before, 0
        known = f", {before} done before" if before else ""
        self._console.print(f"{model} version {version}: {total} scans{known}")

    def progress(self, endings: Iterable[Result | Failure]) -> Iterator[Result | Failure]:
        """Passes endings on, and shows them."""
        columns = (
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
        )
        quiet = not self._console.is_terminal
        with progress.Progress(
            *columns, console=self._console, transient=True, disable=quiet
        ) as bar:
            task = bar.add_task("", total=self._total, completed=self._before)
            for ending in endings:
                bar.advance(task)
                if isinstance(ending, Failure):
                    self._failed(ending)
                elif self._total == 1:
                    self._one(ending)
                yield ending

    def _failed(self, failure: Failure) -> None:
        self._shown += 1
        if self._shown <= _SHOWN_FAILURES:
            self._console.print(f"[red]failed[/]: {markup.escape(failure.error)}")

    def _one(self, result: Result) -> None:
        """Tells of the only scan what was found."""
        for label, extent in result.labels.items():
            told = [f"{extent['pixels']:,} {'pixels' if len(result.grid) == 2 else 'voxels'}"]
            sizes = ((extent.get(name), unit) for name, unit in _UNITS.items())
            told += [f"{_short(size)} {unit}" for size, unit in sizes if size is not None]
            self._console.print(f"{label}: {', '.join(told)}")
        if result.infected_share_of_lung is not None:
            percent = _short(100 * result.infected_share_of_lung)
            self._console.print(f"infected share of the lung: {percent} %")
        seconds = ", ".join(f"{step} {spent:.2f} s" for step, spent in result.seconds.items())
        self._console.print(f"{seconds}; {result.files[-1]} shows it")

    def finished(self, report: pathlib.Path, failures: Sequence[Failure]) -> None:
        """Tells how it ended."""
        done = self._total - len(failures)
        failed = f", {len(failures)} failed (why: see there)" if failures else ""
        self._console.print(f"{done} of {self._total} scans done{failed}: {report}")

    def interrupted(self, report: pathlib.Path) -> None:
        """Tells how to go on."""
        self._console.print(f"stopped; the same command goes on from here. So far: {report}")


def _short(value: float) -> str:
    """Returns 5,765.5 or, of what is small, the digits that say it is there: 0.0375."""
    return f"{value:,.1f}" if value >= 1 or value == 0 else f"{value:.3g}"
