"""The examples that stand in the documentation, to be run as a reader would run them."""

import pathlib
import re
import subprocess

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def example(page: str, holds: str) -> str:
    """Returns the one example of a page of docs/ that holds some words."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = [body for body in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S) if holds in body]
    assert len(found) == 1, f"{len(found)} examples of {page} hold {holds!r}"
    return found[0]


def commands(text: str) -> list[tuple[str, str]]:
    """Returns the commands of an example, each with the output that is shown below it.

    Where a command shows output it begins with "$ "; an example without is one script.
    """
    if not text.startswith("$ "):
        return [(text, "")]
    parts = []
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, output = re.fullmatch(r"((?:.*\\\n)*.*\n)([\s\S]*)", part).groups()
        parts.append((command, output))
    return parts


def run(command: str, folder: pathlib.Path, **instead: str) -> str:
    """Runs a command in a folder, with some words replaced, and returns what it printed."""
    for old, new in instead.items():
        command = command.replace(old, new)
    script = ["bash", "-euo", "pipefail", "-c", command]
    done = subprocess.run(script, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}\n{done.stderr}"
    return done.stdout


def agrees(shown: str, printed: str) -> bool:
    """Whether an output is the one shown; white space does not count, "..." is anything."""
    pattern = ".*".join(re.escape("".join(part.split())) for part in shown.split("..."))
    return re.fullmatch(pattern, "".join(printed.split()), re.S) is not None
