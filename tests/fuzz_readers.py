"""Reads damaged copies of real files, in a process of its own so that a crash is seen.

python tests/fuzz_readers.py FOLDER SEED FIRST COUNT    (the project's root as working folder)

Prints one line of JSON: how many copies were read, how many refused, and the peak of memory.
Anything but a scan or an InputError ends the process with a traceback, which names the copy.
"""

import json
import pathlib
import resource
import signal
import sys
import warnings

import numpy as np

from data_pipeline import read
from data_pipeline.errors import InputError

SECONDS_A_FILE = 20
ADDRESS_SPACE_BYTES = 6 * 2**30  # TensorFlow is not loaded here; libraries take about one

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


def mutate(original, rng):
    """Returns a damaged copy of a file's bytes."""
    data = bytearray(original)
    kind = rng.integers(6)
    # Half of the damage is done where the headers are.
    reach = len(data) if rng.random() < 0.5 else min(len(data), 2000)
    place = int(rng.integers(reach))
    if kind == 0:
        for _ in range(int(rng.integers(1, 9))):
            data[int(rng.integers(reach))] = int(rng.integers(256))
    elif kind == 1:
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == 2:
        del data[place:]
    elif kind == 3:
        del data[place : place + int(rng.integers(1, 65))]
    elif kind == 4:
        data[place:place] = bytes(rng.integers(0, 256, int(rng.integers(1, 65)), np.uint8))
    else:
        number = int(rng.choice(_EXTREMES))
        size = 4 if number > 0xFFFF else 2
        data[place : place + size] = number.to_bytes(size, ("little", "big")[rng.integers(2)])
    return bytes(data)


def outcome(path, modality):
    """Returns "read" or "refused", after checking that what was read is whole."""
    try:
        scan = read.scan(path, modality)
    except InputError as error:
        text = str(error)
        if "\n" in text or not text:
            raise AssertionError(f"not one line: {text!r}") from error
        return "refused"
    if not np.isfinite(scan.voxels).all():
        raise AssertionError("voxels that are no numbers")
    return "read"


def main(folder, seed, first, count):
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    warnings.simplefilter("ignore")
    originals = sorted(p for p in folder.iterdir() if p.is_file())
    found = {"read": 0, "refused": 0}
    copy = folder / "damaged"
    copy.mkdir(exist_ok=True)
    for number in range(first, first + count):
        original = originals[number % len(originals)]
        path = copy / f"{first}{''.join(original.suffixes)}"
        path.write_bytes(mutate(original.read_bytes(), np.random.default_rng((seed, number))))
        print(f"{number} {original.name}", file=sys.stderr, flush=True)
        signal.alarm(SECONDS_A_FILE)
        modality = "XR" if original.name.startswith("xr") else "CT"
        found[outcome(path, modality)] += 1
        signal.alarm(0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(found | {"peak_bytes": peak}))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
