"""The main job on the shipped sample, with the commands that a user would type: `make demo`.

Trains a U-Net on X-ray lungs, scores it beside thresholding, exports it, serves it, segments
one X-ray over gRPC and one over REST, and checks that every pixel of both masks is the one
that was evaluated. About 6 minutes on 2 cores. The exit code is 0 only if all of it worked.
"""

import contextlib
import csv
import json
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from data_pipeline import ports

MODEL = "lung_unet"
SAMPLE = pathlib.Path("data_pipeline/sample")
RUN = pathlib.Path("runs/demo")
RESULTS = pathlib.Path("results/demo")
EXPORTS = pathlib.Path("exports") / MODEL
OUT = pathlib.Path("out/demo")

TRAINING_MINUTES = 4
SERVER_START_S = 300  # most of it is importing TensorFlow on a busy machine
SERVER_STOP_S = 60
CTRL_C_S = 60  # in which an interrupted training saves itself


class DemoError(Exception):
    """A step failed, or masks differ; the message says which."""


def main() -> int:
    """Runs all steps; returns the exit code."""
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        train_and_export()
        images = serve_and_segment()
    except DemoError as error:
        print(f"\ndemo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo stopped; `make demo` starts it again", file=sys.stderr)
        return 128 + signal.SIGINT
    heading(f"All of it worked, in {(time.monotonic() - began) / 60:.1f} minutes")
    print_scores()
    print("both masks, over gRPC and over REST, equal the evaluated one in every pixel")
    for api, image in images.items():
        print(f"overlay over {api:4}  {OUT / api / f'{image.stem}_overlay.png'}")
    print(f"figures            {RESULTS / 'figures'}")
    print("\nTo type such commands yourself: . .venv/bin/activate")
    return 0


def train_and_export() -> None:
    """Makes the run, its scores with the masks behind them, and the export."""
    heading("Train a U-Net on the lungs of the sample's X-rays")
    run(
        "training.run", "--model", "unet", "--name", RUN.name,
        "--minutes", str(TRAINING_MINUTES), "--overwrite",
    )  # fmt: skip
    heading("Score it on the patients it has not seen, beside thresholding")
    run(
        "evaluation.run", str(RUN), "threshold", "--split", "test", "--save-masks",
        "--out", str(RESULTS),
    )  # fmt: skip
    heading("Export it for TensorFlow Serving")
    run("serving.export", str(RUN), "--out", str(EXPORTS))


def serve_and_segment() -> dict[str, pathlib.Path]:
    """Serves the export and segments one X-ray over each API; returns the image of each.

    Raises:
      DemoError: if a mask differs from the evaluated one.
    """
    shutil.rmtree(OUT, ignore_errors=True)
    child, adult = test_images()
    images = {"grpc": adult, "rest": child}
    heading("Serve it")
    with server() as ports:
        for api, image in images.items():
            heading(f"Segment an X-ray of the test split over {api}")
            run(
                "serving.segment", str(image), "--server", f"localhost:{ports[api]}",
                "--api", api, "--model", MODEL, "--out", str(OUT / api),
            )  # fmt: skip
    for api, image in images.items():
        check_same_pixels(OUT / api / f"{image.stem}_lung.png", evaluated_mask(image))
    return images


def heading(text: str) -> None:
    """Says what comes."""
    print(f"\n== {text}", flush=True)


def run(module: str, *arguments: str) -> None:
    """Runs a command of this project in the foreground.

    Raises:
      DemoError: if it fails.
    """
    process = start(module, *arguments)
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the terminal has told the command too: let it save its work
        stop(process, after_s=CTRL_C_S)
        raise
    except SystemExit:
        stop(process)
        raise
    if code:
        raise DemoError(f"{module} ended with exit code {code}")


def start(module: str, *arguments: str, log: pathlib.Path | None = None) -> subprocess.Popen[bytes]:
    """Shows a command and starts it; with a log, away from the terminal and its Ctrl-C."""
    shown = shlex.join(["python", "-m", module, *arguments])
    print(f"$ {shown}" + (f" > {log} &" if log else ""), flush=True)
    command = [sys.executable, "-m", module, *arguments]
    if log is None:
        return subprocess.Popen(command)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def stop(process: subprocess.Popen[bytes], after_s: float = 0) -> None:
    """Ends a process, by force if it does not end when asked to."""
    for ask, patience_s in ((None, after_s), (process.terminate, SERVER_STOP_S)):
        if ask is not None:
            ask()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=patience_s)
            return
    process.kill()
    process.wait()


@contextlib.contextmanager
def server() -> Iterator[dict[str, int]]:
    """Serves the export on free ports while the block runs; yields the port of each API."""
    grpc, rest = ports.free_ports(2)
    log = OUT / "server.log"
    process = start(
        "serving.launch", "--model_name", MODEL, "--model_base_path", str(EXPORTS),
        "--port", str(grpc), "--rest_api_port", str(rest), log=log,
    )  # fmt: skip
    try:
        wait_until_available(process, rest, log)
        yield {"grpc": grpc, "rest": rest}
    finally:
        stop(process)
        print("the server is stopped", flush=True)


def wait_until_available(process: subprocess.Popen[bytes], port: int, log: pathlib.Path) -> None:
    """Returns when the model answers.

    Raises:
      DemoError: if the server ends or takes too long; with the end of its log.
    """
    deadline = time.monotonic() + SERVER_START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError, ValueError):
            with urllib.request.urlopen(
                f"http://localhost:{port}/v1/models/{MODEL}", timeout=5
            ) as r:
                versions = json.load(r)["model_version_status"]
            if any(version["state"] == "AVAILABLE" for version in versions):
                print(f"version {versions[0]['version']} is available", flush=True)
                return
        time.sleep(0.5)
    end = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise DemoError(f"the server did not come up; the end of {log}:\n{end}")


def test_images() -> Sequence[pathlib.Path]:
    """Returns two images of the run's test split: of a child and of an adult."""
    with (RUN / "splits.csv").open(newline="") as file:
        test = {row["case_id"] for row in csv.DictReader(file) if row["split"] == "test"}
    with (SAMPLE / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["id"] in test]
    return [
        next(SAMPLE / row["image"] for row in rows if row["dataset"] == dataset)
        for dataset in ("kermany_v7", "hannover_v7")
    ]


def evaluated_mask(image: pathlib.Path) -> pathlib.Path:
    """Returns where evaluation.run kept its mask of a sample image."""
    with (SAMPLE / "manifest.csv").open(newline="") as file:
        case = next(r["id"] for r in csv.DictReader(file) if SAMPLE / r["image"] == image)
    return RESULTS / "masks" / RUN.name / f"{case}_lung.png"


def check_same_pixels(served: pathlib.Path, evaluated: pathlib.Path) -> None:
    """Compares two masks pixel by pixel.

    Raises:
      DemoError: if they differ, or if there is nothing in them to compare.
    """
    one, other = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in (served, evaluated))
    if one is None or other is None or one.shape != other.shape:
        raise DemoError(f"{served} and {evaluated} are not two masks on one grid")
    differing = np.count_nonzero(one != other)
    if differing:
        raise DemoError(f"{served} differs from {evaluated} in {differing} of {one.size} pixels")
    if not one.any():
        raise DemoError(f"{served} is empty: that it equals {evaluated} says nothing")


def print_scores() -> None:
    """Prints the Dice of each model again, which has scrolled away by now."""
    summary = json.loads((RESULTS / "summary.json").read_text())
    for one in summary["labels"]:
        dice = one["metrics"]["dice"]["mean"]
        print(
            f"Dice of {one['label']}, {one['model']:10} {dice['value']:.3f} "
            f"(95 % interval {dice['low']:.3f} to {dice['high']:.3f}; {dice['cases']} cases)"
        )


if __name__ == "__main__":
    sys.exit(main())
