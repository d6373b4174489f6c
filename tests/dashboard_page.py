"""A small dashboard to look at: the threshold, and a tool that copies the truth."""

import pathlib
import shutil

from data_pipeline import cases, phantom
from evaluation import run


def write(folder: pathlib.Path) -> pathlib.Path:
    """Scores both on ten phantoms, and returns the page."""
    manifest = phantom.write_manifest(folder / "data", count=10)
    (folder / "perfect").mkdir()
    for case in cases.load(manifest):
        shutil.copy(case.lung_mask, folder / "perfect" / f"{case.id}_lung.png")
    masks = ["--masks", f"perfect={folder / 'perfect'}"]
    flags = ["--data", str(manifest), "--split", "all", "--out", str(folder / "results")]
    assert run.main(["threshold", *masks, *flags]) == 0
    return folder / "results" / "dashboard.html"
