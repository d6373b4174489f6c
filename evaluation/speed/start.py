"""What importing the client costs: beside NumPy alone, the official stubs, and TensorFlow.

Each import has a new process, and all take turns, so that what else the machine does meets them
alike. The first round, which may read from disk, does not count.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence

import rich.console
import rich.table

from data_pipeline import machine
from data_pipeline.errors import InputError

WAYS: Mapping[str, str] = {
    "NumPy": "import numpy",
    "our client": "from serving import client",
    "serving.segment": "from serving import segment",
    "tensorflow-serving-api": "from tensorflow_serving.apis import prediction_service_pb2_grpc",
    "TensorFlow": "import tensorflow",
}

# ru_maxrss would be that of the process that started this one, where that was larger.
_MEASURE = """
import json, pathlib, time
wall, cpu = time.perf_counter(), time.process_time()
{}
spent = time.perf_counter() - wall, time.process_time() - cpu
[peak] = [line.split()[1] for line in pathlib.Path("/proc/self/status").read_text().splitlines()
          if line.startswith("VmHWM:")]
print(json.dumps([*spent, int(peak) / 1024]))
"""


def measure(code: str) -> tuple[float, float, float]:
    """Returns seconds, seconds of CPU time and peak MiB of a new process that runs some code.

    Raises:
      InputError: if it fails.
    """
    command = [sys.executable, "-c", _MEASURE.format(code)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        told = run.stderr.strip() or f"exit code {run.returncode}"  # nothing, if it was killed
        raise InputError(f"{code}: {told.splitlines()[-1]}")
    wall_s, cpu_s, peak_mib = json.loads(run.stdout)
    return wall_s, cpu_s, peak_mib


def main(argv: Sequence[str]) -> None:
    """Parses flags, measures and prints a table."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.speed start", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--rounds", type=int, default=10, help="default: %(default)s")
    rounds = parser.parse_args(argv).rounds
    if rounds < 1:
        parser.error(f"--rounds is 1 or more, not {rounds}")
    found = [{way: measure(code) for way, code in WAYS.items()} for _ in range(rounds + 1)][1:]
    table = rich.table.Table("import", "s", "CPU s", "MiB")
    for way in WAYS:
        wall_s, cpu_s, mib = map(statistics.median, zip(*(one[way] for one in found), strict=True))
        table.add_row(way, f"{wall_s:.2f}", f"{cpu_s:.2f}", f"{mib:.0f}")
    console = rich.console.Console(highlight=False)
    console.print(table)
    console.print(machine.describe(["tensorflow", "numpy", "grpcio", "protobuf"]))
