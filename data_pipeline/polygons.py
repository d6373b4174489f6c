"""Makes mask files of polygons that annotators drew in LabelMe, V7 Darwin or COCO tools.

    python -m data_pipeline.polygons FILE.json --label lung=Lung --label infection=GGO,Other

Writes OUT/LABEL_masks/IMAGE.png for each image that the file describes; `data_pipeline.index`
finds them beside images/. Which annotated names make up a label has to be said: they differ
from project to project.
"""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from data_pipeline import labels as known_labels
from data_pipeline import masks, raster, untrusted
from data_pipeline.errors import InputError, one_line_for_bad_input
from data_pipeline.scan import Mask

Ring = Sequence[Sequence[float]]  # corners (x, y) in pixels


@dataclasses.dataclass(frozen=True)
class Outline:
    """One annotated structure: its rings, of which one inside another is a hole."""

    name: str
    rings: tuple[Ring, ...]


@dataclasses.dataclass(frozen=True)
class Annotated:
    """All that was outlined on one image."""

    image: str  # file name, as the annotation states it
    shape: tuple[int, int]  # (rows, cols)
    outlines: tuple[Outline, ...]


def read(path: pathlib.Path) -> list[Annotated]:
    """Reads a file of LabelMe, V7 Darwin (1 and 2) or COCO.

    Raises:
      InputError: naming the file, if it is none of these, or holds outlines that are no
        polygons (COCO run lengths, LabelMe circles).
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable JSON file: {error}") from error
    with untrusted.damaged(path, "annotation of a kind that is known"):
        if "shapes" in document:
            return [_labelme(document, path)]
        if "annotations" in document and "categories" in document:
            return list(_coco(document, path))
        if "annotations" in document and ("item" in document or "image" in document):
            return [_darwin(document)]
    raise InputError(f"{path} is no LabelMe, V7 Darwin or COCO annotation")


def _labelme(document: dict[str, Any], path: pathlib.Path) -> Annotated:
    shape = (document["imageHeight"], document["imageWidth"])
    outlines = []
    for drawn in document["shapes"]:
        if drawn.get("shape_type", "polygon") != "polygon":
            raise InputError(f"{path} holds a {drawn['shape_type'][:20]}; polygons are read")
        outlines.append(Outline(drawn["label"], (drawn["points"],)))
    return Annotated(document["imagePath"], shape, tuple(outlines))


def _darwin(document: dict[str, Any]) -> Annotated:
    item = document.get("item") or document["image"]
    size = item["slots"][0] if "slots" in item else item
    outlines = []
    for drawn in document["annotations"]:
        polygon = drawn.get("polygon") or drawn.get("complex_polygon")
        if polygon is None:
            continue  # tags, boxes and the like outline nothing
        paths = polygon.get("paths") or polygon["path"]
        paths = paths if isinstance(paths[0], list) else [paths]
        paths = [*paths, *polygon.get("additional_paths", ())]
        rings = tuple([(corner["x"], corner["y"]) for corner in ring] for ring in paths)
        outlines.append(Outline(drawn["name"], rings))
    name = item.get("name") or item["filename"]
    return Annotated(name, (size["height"], size["width"]), tuple(outlines))


def _coco(document: dict[str, Any], path: pathlib.Path) -> Iterator[Annotated]:
    names = {category["id"]: category["name"] for category in document["categories"]}
    for image in document["images"]:
        outlines = []
        for drawn in document["annotations"]:
            if drawn["image_id"] != image["id"]:
                continue
            if not isinstance(drawn["segmentation"], list):
                raise InputError(f"{path} holds run lengths; polygons are read")
            for flat in drawn["segmentation"]:  # parts of one structure, never holes
                ring = list(zip(flat[::2], flat[1::2], strict=True))
                outlines.append(Outline(names[drawn["category_id"]], (ring,)))
        shape = (image["height"], image["width"])
        yield Annotated(image["file_name"], shape, tuple(outlines))


def mask(annotated: Annotated, names: Mapping[str, Sequence[str]]) -> Mask:
    """Returns one plane a label, filled as `masks.from_polygons` does.

    Args:
      annotated: an image as `read` returned it.
      names: label to the annotated names that make it up: {"lung": ("Left lung", "Right lung")}.

    Raises:
      InputError: if an outline is no polygon, or the image is too large.
    """
    labels = known_labels.parse(names)
    rows, cols = annotated.shape
    if not 0 < rows * cols <= untrusted.LARGEST_IMAGE_PIXELS:
        raise InputError(f"{annotated.image} is said to have {rows} x {cols} pixels")
    planes = np.zeros((len(labels), rows, cols), np.bool_)
    for plane, label in zip(planes, labels, strict=True):
        for outline in annotated.outlines:
            if outline.name in names[label]:
                plane |= masks.fill((rows, cols), outline.rings)
    return Mask(planes, labels)


def main(argv: list[str] | None = None) -> None:
    """Parses flags and writes a mask for each label of each image."""
    parser = argparse.ArgumentParser(
        prog="python -m data_pipeline.polygons", description="Make masks of annotated polygons."
    )
    parser.add_argument("annotations", type=pathlib.Path, nargs="+")
    parser.add_argument(
        "--label", action="append", required=True, metavar="LABEL=NAME,NAME", dest="labels"
    )
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path())
    flags = parser.parse_args(argv)
    with one_line_for_bad_input():
        names = dict(_label_flag(text) for text in flags.labels)
        console = Console(highlight=False, soft_wrap=True)
        for path in flags.annotations:
            for annotated in read(path):
                _check_names(annotated, names, path)
                made = mask(annotated, names)
                for label, plane in zip(made.labels, made.planes, strict=True):
                    where = (
                        flags.out / f"{label}_masks" / f"{pathlib.Path(annotated.image).stem}.png"
                    )
                    raster.write(where, np.where(plane, np.uint8(255), np.uint8(0)))
                    console.print(f"wrote {where}: {plane.mean():.1%} of the image")


def _label_flag(text: str) -> tuple[str, tuple[str, ...]]:
    label, equals, names = text.partition("=")
    if not equals or not names:
        raise InputError(f"--label is {text!r}; write LABEL=NAME,NAME with the annotated names")
    return known_labels.parse(label)[0], tuple(names.split(","))


def _check_names(
    annotated: Annotated, names: Mapping[str, Sequence[str]], path: pathlib.Path
) -> None:
    present = {outline.name for outline in annotated.outlines}
    if present and not present & {name for group in names.values() for name in group}:
        raise InputError(
            f"{path}: none of its names is asked for; it has {', '.join(sorted(present))}"
        )


if __name__ == "__main__":
    main()
