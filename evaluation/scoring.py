"""Scores trials one after the other, in this process and in helpers, in constant memory.

Networks answer in this process, where the device is; helpers score masks and run what needs
no network. Only a few answers are held at a time, so 10,000 cases need no more than 10.
"""

import collections
import concurrent.futures
import dataclasses
import logging
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from data_pipeline import cases, raster
from data_pipeline.cases import Case
from data_pipeline.errors import InputError
from data_pipeline.scan import Mask, Scan
from evaluation import score
from evaluation.entrants import safe_name
from evaluation.journal import Journal, Scored
from evaluation.score import Answer
from evaluation.selection import Trial

# Below this many trials, starting helpers takes longer than what they save.
_WORTH_HELPERS = 100
_MOST_HELPERS = 8
_WAITING_PER_HELPER = 2
_DIED = "the process that scored it died: out of memory, or a crash inside a library"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Failure:
    """A case that could not be scored, and why."""

    model: str
    case_id: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an evaluation gave, in the order of its trials."""

    scored: tuple[Scored, ...]
    failures: tuple[Failure, ...]


def helpers_for(trials: int, asked: int = 0) -> int:
    """Returns how many helper processes to start: as asked, or what pays off if 0."""
    if asked:
        return asked if asked > 1 else 0
    return 0 if trials < _WORTH_HELPERS else min(_MOST_HELPERS, os.cpu_count() or 1)


def run(
    trials: Sequence[Trial],
    journal: Journal,
    helpers: int = 0,
    tell: Callable[[str], None] = lambda what: None,
) -> Outcome:
    """Scores every trial that the journal does not hold yet.

    Args:
      trials: who is scored on what.
      journal: keeps each result, and the masks.
      helpers: processes beside this one; 0 does all here.
      tell: called with the case's id after each trial, done before or now.
    """
    failures = []
    todo = []
    for trial in trials:
        if (trial.entrant.name, trial.case.id) in journal.done:
            tell(trial.case.id)
        else:
            todo.append(trial)
    results = _alone(todo, journal.masks) if not helpers else _helped(todo, journal.masks, helpers)
    for trial, result in results:
        if isinstance(result, Scored):
            journal.add(result)
        else:
            failures.append(Failure(trial.entrant.name, trial.case.id, result))
        tell(trial.case.id)
    order = [(t.entrant.name, t.case.id) for t in trials]
    return Outcome(tuple(journal.done[k] for k in order if k in journal.done), tuple(failures))


# A trial's result, or why it failed.
Result = Scored | str


def _alone(trials: Sequence[Trial], masks: pathlib.Path) -> Iterator[tuple[Trial, Result]]:
    for trial in trials:
        yield trial, _attempt(trial, masks)


def _helped(
    trials: Sequence[Trial], masks: pathlib.Path, helpers: int
) -> Iterator[tuple[Trial, Result]]:
    todo = collections.deque(trials)
    while todo:
        suspects = yield from _pooled(todo, masks, helpers)
        # A helper that dies takes its pool with it; each case alone tells which one it was.
        for trial in suspects:
            if (yield from _pooled(collections.deque([trial]), masks, 1)):
                yield trial, _DIED


def _pooled(
    todo: collections.deque[Trial], masks: pathlib.Path, helpers: int
) -> Generator[tuple[Trial, Result], None, list[Trial]]:
    """Empties `todo`, or returns the trials that were under way when a helper died."""
    # Spawned, not forked: a fork of a process in which TensorFlow runs threads may hang.
    context = multiprocessing.get_context("spawn")
    waiting: dict[concurrent.futures.Future[Result], Trial] = {}
    with concurrent.futures.ProcessPoolExecutor(helpers, context, end_with_parent) as pool:
        try:
            while todo:
                if len(waiting) >= _WAITING_PER_HELPER * helpers:
                    yield from _finished(waiting, concurrent.futures.FIRST_COMPLETED)
                job = _submit(pool, todo[0], masks)
                trial = todo.popleft()
                if isinstance(job, str):
                    yield trial, job
                else:
                    waiting[job] = trial
            yield from _finished(waiting, concurrent.futures.ALL_COMPLETED)
        except BrokenProcessPool:
            return list(waiting.values()) or [todo.popleft()]
    return []


def end_with_parent() -> None:
    """Makes this helper end when the main process does: killed, that cannot tell it to."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _submit(
    pool: concurrent.futures.Executor, trial: Trial, masks: pathlib.Path
) -> "concurrent.futures.Future[Result] | str":
    """Hands a trial to a helper; what needs the network is answered first, here, and may fail."""
    if not trial.entrant.needs_network:
        return pool.submit(_attempt, trial, masks)
    try:
        scan, answer = _answer(trial)
    except Exception as error:  # as in _attempt
        return _reason(error)
    rest = (trial.entrant.name, trial.case, trial.seen, scan.shape, answer, masks)
    return pool.submit(_attempt_rest, *rest)


def _finished(
    waiting: dict["concurrent.futures.Future[Result]", Trial], until: str
) -> Iterator[tuple[Trial, Result]]:
    if not waiting:
        return
    done, _ = concurrent.futures.wait(waiting, return_when=until)
    for future in done:
        result = future.result()
        yield waiting.pop(future), result


def _attempt(trial: Trial, masks: pathlib.Path) -> Result:
    try:
        scan, answer = _answer(trial)
        return _score(trial.entrant.name, trial.case, trial.seen, scan.shape, answer, masks)
    except Exception as error:  # whatever it is, the other cases go on
        return _reason(error)


def _attempt_rest(
    model: str, case: Case, seen: str, grid: tuple[int, ...], answer: Answer, masks: pathlib.Path
) -> Result:
    try:
        return _score(model, case, seen, grid, answer, masks)
    except Exception as error:  # as in _attempt
        return _reason(error)


def _reason(error: Exception) -> str:
    """Returns why a case failed; an InputError names the file, what nobody foresaw its type."""
    if isinstance(error, InputError):
        return str(error)
    _log.debug("a case failed", exc_info=error)
    return f"{type(error).__name__}: {error}"


def _answer(trial: Trial) -> tuple[Scan, Answer]:
    scan = cases.read_scan(trial.case)
    return scan, trial.entrant.answer(trial.case, scan)


def _score(
    model: str, case: Case, seen: str, grid: tuple[int, ...], answer: Answer, masks: pathlib.Path
) -> Scored:
    truth = cases.read_mask(case, ("lung", "infection"), grid)
    rows = score.label_scores(model, case, truth, answer, seen)
    save_mask(masks / model, case, answer.mask)
    return Scored(
        tuple(row for row, _ in rows),
        score.case_score(model, case, truth, answer, seen),
        {row.label: reliability for row, reliability in rows if reliability is not None},
    )


def save_mask(folder: pathlib.Path, case: Case, mask: Mask) -> None:
    """Writes CASE_LABEL.png, 0 and 255 on the scan's grid; a volume becomes CASE_LABEL.npz."""
    for label, plane in zip(mask.labels, mask.planes, strict=True):
        name = f"{safe_name(case.id)}_{label}"
        if plane.ndim == 2:
            raster.write(folder / f"{name}.png", np.where(plane, np.uint8(255), np.uint8(0)))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(folder / f"{name}.npz", bits=np.packbits(plane), shape=plane.shape)


def load_mask(folder: pathlib.Path, case_id: str, label: str) -> np.ndarray | None:
    """Returns a bool plane that save_mask wrote; None if there is none."""
    path = folder / f"{safe_name(case_id)}_{label}.png"
    if path.is_file():
        return raster.read(path) > 0
    path = path.with_suffix(".npz")
    if not path.is_file():
        return None
    with np.load(path) as stored:
        shape = tuple(stored["shape"])
        return np.unpackbits(stored["bits"], count=int(np.prod(shape))).reshape(shape).astype(bool)
