"""What a measurement was taken on, or a network trained: it goes beside the numbers."""

import datetime
import importlib.metadata
import math
import os
import pathlib
import platform
from collections.abc import Iterable


def processor() -> str:
    """Returns the processor's name and the widest vector instructions that it has."""
    name, flags = platform.processor() or platform.machine(), ""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            name = value.strip() if key.strip() == "model name" else name
            flags = value if key.strip() == "flags" else flags
    except OSError:  # not Linux
        return name
    widest = [told for flag, told in _VECTORS.items() if flag in flags.split()]
    return ", ".join([name, *widest[:1]])


# The widest first.
_VECTORS = {"avx512_bf16": "AVX-512 with bfloat16", "avx512f": "AVX-512", "avx2": "AVX2"}


def cores() -> list[int]:
    """Returns the numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))  # macOS and Windows pin nothing


def pin(numbers: Iterable[int]) -> None:
    """Keeps this process, and those that it starts, on some cores, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, numbers)


def cpu_s(process_id: int) -> float:
    """Returns the seconds of CPU time that a process has taken; NaN without a /proc."""
    try:
        text = pathlib.Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8")
    except OSError:
        return math.nan
    # After the name, which may have spaces: user and system time are fields 14 and 15.
    ticks = text.rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / float(os.sysconf("SC_CLK_TCK"))


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Returns the versions of those packages that are installed."""
    return {name: found for name in packages if (found := _version(name))}


def describe(packages: Iterable[str]) -> dict[str, object]:
    """Returns date, processor, cores and the versions of those packages that are installed."""
    return {
        "date": f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}",
        "processor": processor(),
        "cores": len(cores()),
        "python": platform.python_version(),
        "versions": versions(packages),
    }


def is_installed(package: str) -> bool:
    """Whether a package is there, without importing it."""
    return bool(_version(package))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
