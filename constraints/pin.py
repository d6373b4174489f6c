"""Writes constraints/LANE.txt: the versions that pip picks today, on each Python of a lane.

    python constraints/pin.py main python3.10 python3.11 python3.12 python3.13
    python constraints/pin.py tfio python3.10 python3.11 python3.12

Nothing is installed: pip only resolves, from the repository's root. A version that differs
between Pythons gets an environment marker. Run both test lanes before committing the result.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import tempfile

HERE = pathlib.Path(__file__).parent
EXTRAS = {"main": "test,dev,formats", "tfio": "tfio,test,formats"}

Versions = dict[str, str]  # of each package, by name


def main() -> None:
    """Resolves on each given Python and writes the merged pins."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lane", choices=sorted(EXTRAS))
    parser.add_argument("python", nargs="+", help="interpreters, each with a recent pip")
    flags = parser.parse_args()
    resolved = {}
    for python in flags.python:
        minor = _output(python, "-c", "import sys; print('3.%d' % sys.version_info.minor)").strip()
        print(f"resolving {flags.lane} on Python {minor} ...", flush=True)
        resolved[minor] = resolve(python, EXTRAS[flags.lane])
    pythons = sorted(resolved, key=lambda minor: int(minor.split(".")[1]))
    header = (
        f"# The {flags.lane} lane, as CI tests it: "
        f"Python {pythons[0]} to {pythons[-1]}, Linux x86-64.\n"
        f"# Written by: python constraints/pin.py {flags.lane} "
        f"{' '.join(f'python{minor}' for minor in pythons)}\n"
    )
    path = HERE / f"{flags.lane}.txt"
    path.write_text(header + "\n".join(merge(resolved, pythons)) + "\n", encoding="utf-8")
    print(f"wrote {path}")


def resolve(python: str, extras: str) -> Versions:
    """Returns the version of every package that this project with `extras` would install."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.json")
        _output(
            python, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
            "--report", str(report), f"{HERE.parent}[{extras}]",
        )  # fmt: skip
        chosen = json.loads(report.read_text(encoding="utf-8"))["install"]
    packages = [package["metadata"] for package in chosen if not package["is_direct"]]
    return {p["name"].lower().replace("_", "-"): p["version"] for p in packages}


def merge(resolved: dict[str, Versions], pythons: list[str]) -> list[str]:
    """Returns one line for each package and version, with a marker where not all agree.

    Args:
      resolved: the versions, by Python.
      pythons: its keys, the oldest first.
    """
    lines = []
    for name in sorted({name for versions in resolved.values() for name in versions}):
        where = collections.defaultdict(list)
        for python in pythons:
            where[resolved[python].get(name)].append(python)
        for version, those in where.items():
            if version is not None:
                lines.append(f"{name}=={version}" + _marker(those, pythons))
    return lines


def _marker(those: list[str], pythons: list[str]) -> str:
    """A marker for a run of Python versions; none where it is all of them."""
    if those[0] == those[-1]:
        return f'; python_version == "{those[0]}"'
    bounds = []
    if those[0] != pythons[0]:
        bounds.append(f'python_version >= "{those[0]}"')
    if those[-1] != pythons[-1]:
        bounds.append(f'python_version <= "{those[-1]}"')
    return f"; {' and '.join(bounds)}" if bounds else ""


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
