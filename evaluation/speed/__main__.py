"""Chooses what to measure: `python -m evaluation.speed pipeline --help`.

To add a measurement: a module with `main(argv)`, whose docstring's first line says what it
measures, and a line in COMMANDS. Modules import what is heavy only in the processes they start.
"""

import argparse
import sys
from collections.abc import Mapping
from types import ModuleType

from data_pipeline.errors import one_line_for_bad_input
from evaluation.speed import pipeline, serving, start, store, training

COMMANDS: Mapping[str, ModuleType] = {
    "pipeline": pipeline,
    "serving": serving,
    "start": start,
    "store": store,
    "training": training,
}


def main(argv: list[str] | None = None) -> None:
    """Hands the rest of the command line to the measurement that it names."""
    told = "\n".join(f"  {name:10} {_purpose(module)}" for name, module in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.speed",
        description=f"Measures speed beside other libraries:\n\n{told}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("what", choices=COMMANDS)
    words = sys.argv[1:] if argv is None else argv
    COMMANDS[parser.parse_args(words[:1]).what].main(words[1:])


def _purpose(module: ModuleType) -> str:
    return (module.__doc__ or "").partition("\n")[0]


if __name__ == "__main__":
    with one_line_for_bad_input():
        main()
