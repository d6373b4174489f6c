"""Segments scans with a model that a server has.

    python -m serving.segment scans/ --server localhost:8500 --model lung_unet --out out/

writes for each scan CASE_LABEL.png (0 and 255; .nii.gz for a volume) on the scan's own grid,
CASE_overlay.png to look at, and report.json for all. The same command goes on where it was
stopped. A token for a proxy is taken from $SERVING_TOKEN.
"""

import argparse
import dataclasses
import logging
import os
import pathlib
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent import futures

from data_pipeline.errors import InputError, one_line_for_bad_input
from data_pipeline.scan import MODALITIES, Mask, Scan
from serving import client, collect, connection, encoded, in_flight, report, terminal
from serving.collect import Item
from serving.connection import Access
from serving.report import Failure, Result

SOME_FAILED_EXIT_CODE = 1
INTERRUPTED_EXIT_CODE = 130  # as a shell gives for Ctrl-C
TOKEN_VARIABLE = "SERVING_TOKEN"  # not a flag: those can be read by every user of a machine
WORKERS = 4  # scans at work at once: while one waits for the server another is read

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Job:
    """How scans are to be segmented."""

    model: client.Model
    out: pathlib.Path
    rescale: tuple[float | None, float | None] = (None, None)
    send_files: bool = False  # let the server decode PNG and JPEG, rather than send voxels


def segment(
    items: Sequence[Item], job: Job, journal: report.Journal, workers: int = WORKERS
) -> Iterator[Result | Failure]:
    """Segments scans, a few at once, and yields what became of each, in the order they end.

    A scan that cannot be read or segmented is a Failure, and the others go on.

    Raises:
      ServerDown: if the server stays away; scans done until then are in the journal.
    """
    waiting = iter(items)
    with futures.ThreadPoolExecutor(workers) as pool:
        under_way: set[futures.Future[Result | Failure]] = set()
        try:
            # Not all at once: a scan that waits its turn must not hold memory.
            for item in waiting:
                under_way.add(pool.submit(_attempt, item, job, journal))
                if len(under_way) >= workers:
                    yield from _ended(under_way)
            while under_way:
                yield from _ended(under_way)
        finally:
            for future in under_way:
                future.cancel()


def _ended(under_way: "set[futures.Future[Result | Failure]]") -> Iterator[Result | Failure]:
    done, _ = futures.wait(under_way, return_when=futures.FIRST_COMPLETED)
    for future in done:
        under_way.discard(future)
        yield future.result()


def _attempt(item: Item, job: Job, journal: report.Journal) -> Result | Failure:
    try:
        result = one(item, job)
    except (connection.ServerDown, OSError):
        raise  # the next scan would fare no better
    except InputError as error:
        return Failure(item.name, str(item.path), str(error))
    except Exception as error:
        _LOG.exception("segmenting one scan failed")
        return Failure(item.name, str(item.path), f"{type(error).__name__}: {error}")
    journal.add(result)
    return result


def one(item: Item, job: Job) -> Result:
    """Segments one scan and writes its files.

    Raises:
      InputError: if it cannot be read, or the model was not made for it.
    """
    # Deferred: the readers of all formats are most of what a client loads, and not for --help.
    from data_pipeline import read

    fingerprint = item.fingerprint()
    started = time.perf_counter()
    scan = read.scan(item.path, job.model.spec.modality, *job.rescale)
    decoded = time.perf_counter()
    watch = in_flight.Stopwatch()

    def work(served: client.Served) -> tuple[Mask, int]:
        timed = dataclasses.replace(served, each=watch.timed(served.each))
        return _mask(timed, scan, item.path, send_file=job.send_files), served.version

    mask, version = job.model.on_one_version(work)
    masked = time.perf_counter()
    files = _write(item.name, scan, mask, job.out)
    seconds = {
        "decode": decoded - started,
        "preprocess": watch.preprocess_s,
        "server": watch.server_s,
        "postprocess": masked - decoded - watch.preprocess_s - watch.server_s,
        "write": time.perf_counter() - masked,
    }
    return Result(
        item.name,
        str(item.path),
        job.model.served.name,
        version,
        list(scan.shape),
        report.measure(mask, scan),
        report.infected_share(mask),
        files,
        {step: round(spent, 4) for step, spent in seconds.items()},
        watch.requests,
        fingerprint,
    )


def _mask(served: client.Served, scan: Scan, path: pathlib.Path, *, send_file: bool) -> Mask:
    from data_pipeline import inference, raster

    inference.check_suits(scan, served.spec)
    fits = scan.units == "stored" and encoded.takes_files(served.spec)
    if send_file and fits and path.suffix.lower() in raster.GRAPH_SUFFIXES:
        try:
            return served.mask_of_file(path.read_bytes())
        except connection.Refused as error:
            # Such as a CMYK JPEG, or a TIFF that is called .png: what a graph does not decode.
            _LOG.info("sending voxels, since the server does not decode the file: %s", error)
    return served.mask(scan)


def _write(case: str, scan: Scan, mask: Mask, out: pathlib.Path) -> list[str]:
    from data_pipeline import overlay, raster, write

    end = ".png" if len(scan.shape) == 2 else ".nii.gz"
    files = []
    for label, plane in zip(mask.labels, mask.planes, strict=True):
        files.append(f"{case}_{label}{end}")
        write.mask(out / files[-1], plane, scan)
    files.append(f"{case}_overlay.png")
    raster.write(out / files[-1], overlay.draw(scan, mask))
    return files


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the flags, segments, and says where the results lie."""
    flags = _parser().parse_args(argv)
    with one_line_for_bad_input():
        access = _access(flags)
        model = client.reach(
            access, flags.model, api=flags.api, label=flags.label, parallel=flags.parallel
        )
        try:
            code = _run(flags, model)
        finally:
            model.close()
    sys.exit(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="serving.segment", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("paths", type=pathlib.Path, nargs="+", metavar="PATH", help="files and folders")
    add("--model", required=True, help="the name it is served under")
    add("--out", type=pathlib.Path, required=True, help="folder for masks and report.json")
    add("--server", default="", help="HOST:PORT (localhost:8500, or :8501 with --api rest)")
    add("--api", choices=tuple(client.APIS), default="grpc")
    add("--label", default="", help="of the version to use, such as stable; default the latest")
    add("--modality", choices=MODALITIES, help="of the scans; only to be told if it does not suit")
    add("--rescale-slope", type=float, help="CT as PNG: HU = slope * stored + intercept")
    add("--rescale-intercept", type=float, help="likewise, in HU")
    add("--again", action="store_true", help="segment also what is done already")
    add("--workers", type=int, default=WORKERS, help="scans at work at once")
    add("--parallel", type=int, default=client.PARALLEL, help="requests on their way at once")
    add("--ca", default="", metavar="FILE", help="PEM of who signed the server's certificate")
    add("--deadline", type=float, default=Access.deadline_s, help="seconds for one answer")
    add("--outage", type=float, default=Access.outage_s, help="seconds to wait if it goes away")
    return parser


def _access(flags: argparse.Namespace) -> Access:
    address = flags.server or {"grpc": "localhost:8500", "rest": "localhost:8501"}[flags.api]
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise InputError(f"--server takes HOST:PORT, such as localhost:8500; got {address}")
    for name in ("workers", "parallel"):
        if getattr(flags, name) < 1:
            raise InputError(f"--{name} is at least 1; got {getattr(flags, name)}")
    token = os.environ.get(TOKEN_VARIABLE, "")
    return Access(address, flags.ca, token, flags.deadline, flags.outage)


def _run(flags: argparse.Namespace, model: client.Model) -> int:
    spec = model.spec
    if flags.modality not in (None, spec.modality):
        raise InputError(f"{flags.model} was trained on {spec.modality}, not {flags.modality}")
    items = collect.items(flags.paths, spec.modality, flags.out)
    journal = report.Journal(flags.out)
    version = model.served.version
    todo = [item for item in items if flags.again or not journal.has(item, flags.model, version)]
    rescale = (flags.rescale_slope, flags.rescale_intercept)
    job = Job(model, flags.out, rescale, send_files=flags.api == "rest")
    failures: list[Failure] = []
    about = {
        "model": flags.model,
        "server": model.server.access.address,
        "api": flags.api,
        "modality": spec.modality,
        "labels": spec.labels,
        "conventions": spec.conventions,
    }

    def write_report() -> pathlib.Path:
        return journal.write_report([item.name for item in items], failures, about)

    command = terminal.Terminal(flags.model, version, len(items), len(items) - len(todo))
    try:
        for ended in command.progress(segment(todo, job, journal, flags.workers)):
            if isinstance(ended, Failure):
                failures.append(ended)
    except connection.ServerDown as error:
        write_report()
        raise connection.ServerDown(f"{error}; the same command goes on from here") from error
    except KeyboardInterrupt:
        command.interrupted(write_report())
        return INTERRUPTED_EXIT_CODE
    command.finished(write_report(), failures)
    return SOME_FAILED_EXIT_CODE if failures else 0


if __name__ == "__main__":
    main()
