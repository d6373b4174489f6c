"""How fast the parts are, each beside its rivals in one run: `python -m evaluation.speed`."""
