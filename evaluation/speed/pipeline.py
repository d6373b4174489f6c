"""Tiles a second of the input pipeline, on this machine."""

import argparse

import rich.console

from evaluation.speed import machine


def main(argv: list[str]) -> None:
    """Parses flags, measures and tells."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.speed pipeline", description=__doc__, allow_abbrev=False
    )
    parser.parse_args(argv)
    console = rich.console.Console(highlight=False)
    console.print(machine.describe(["tensorflow", "keras", "numpy"]))
