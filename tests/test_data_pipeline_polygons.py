import json

import numpy as np
import pytest

from data_pipeline import polygons, raster
from data_pipeline.errors import InputError

SQUARE = [[1, 1], [3, 1], [3, 3], [1, 3]]  # pixels 1 and 2 of rows 1 and 2
EXPECTED = np.zeros((4, 5), np.bool_)
EXPECTED[1:3, 1:3] = True

LABELME = {
    "imagePath": "a.jpg",
    "imageHeight": 4,
    "imageWidth": 5,
    "shapes": [{"label": "Left lung", "points": SQUARE, "shape_type": "polygon"}],
}
COCO = {
    "images": [{"id": 7, "file_name": "a.jpg", "height": 4, "width": 5}],
    "categories": [{"id": 2, "name": "Left lung"}],
    "annotations": [
        {"image_id": 7, "category_id": 2, "segmentation": [[1, 1, 3, 1, 3, 3, 1, 3]]},
        {"image_id": 8, "category_id": 2, "segmentation": [[0, 0, 5, 0, 5, 4, 0, 4]]},
    ],
}
CORNERS = [{"x": x, "y": y} for x, y in SQUARE]
DARWIN_1 = {
    "image": {"filename": "a.jpg", "height": 4, "width": 5},
    "annotations": [{"name": "Left lung", "polygon": {"path": CORNERS}}, {"name": "t", "tag": {}}],
}
DARWIN_2 = {
    "item": {"name": "a.jpg", "slots": [{"height": 4, "width": 5}]},
    "annotations": [{"name": "Left lung", "polygon": {"paths": [CORNERS]}}],
}


def saved(tmp_path, document):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "document",
    [LABELME, COCO, DARWIN_1, DARWIN_2],
    ids=["LabelMe", "COCO", "V7 Darwin 1", "V7 Darwin 2"],
)
def test_each_kind_of_annotation_gives_the_same_mask(tmp_path, document):
    (annotated,) = polygons.read(saved(tmp_path, document))
    assert (annotated.image, annotated.shape) == ("a.jpg", (4, 5))
    made = polygons.mask(annotated, {"lung": ("Left lung", "Right lung"), "infection": ("GGO",)})
    np.testing.assert_array_equal(made.plane("lung"), EXPECTED)
    assert not made.plane("infection").any()


@pytest.mark.parametrize("where", ["paths", "additional_paths"])
def test_a_second_path_of_darwin_is_a_hole(tmp_path, where):
    outer = [{"x": x, "y": y} for x, y in ((0, 0), (5, 0), (5, 4), (0, 4))]
    polygon = {"paths": [outer, CORNERS]}
    if where == "additional_paths":
        polygon = {"path": outer, "additional_paths": [CORNERS]}
    document = DARWIN_1 | {"annotations": [{"name": "Lung", "polygon": polygon}]}
    (annotated,) = polygons.read(saved(tmp_path, document))
    np.testing.assert_array_equal(
        polygons.mask(annotated, {"lung": ("Lung",)}).planes[0], ~EXPECTED
    )


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "is no LabelMe, V7 Darwin or COCO annotation"),
        ({"shapes": [{"label": "x", "points": [], "shape_type": "circle"}]}, "is damaged"),
        (
            LABELME | {"shapes": [{"label": "x", "points": [], "shape_type": "circle"}]},
            "holds a circle; polygons are read",
        ),
        (
            COCO | {"annotations": [{"image_id": 7, "category_id": 2, "segmentation": {}}]},
            "holds run lengths; polygons are read",
        ),
    ],
)
def test_what_is_no_polygon_is_refused(tmp_path, document, message):
    with pytest.raises(InputError, match=message):
        polygons.read(saved(tmp_path, document))


def test_the_command_writes_a_mask_a_label(tmp_path, capsys):
    path = saved(tmp_path, LABELME)
    polygons.main([str(path), "--label", "lung=Left lung,Right lung", "--out", str(tmp_path)])
    written = tmp_path / "lung_masks" / "a.png"
    np.testing.assert_array_equal(raster.read(written), EXPECTED * np.uint8(255))
    assert f"wrote {written}: 20.0% of the image" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("lung", "write LABEL=NAME,NAME"),
        ("heart=Heart", "unknown label heart"),
        ("lung=Lungs", "none of its names is asked for; it has Left lung"),
    ],
)
def test_the_command_tells_a_users_mistake(tmp_path, capsys, flag, message):
    with pytest.raises(SystemExit) as caught:
        polygons.main([str(saved(tmp_path, LABELME)), "--label", flag, "--out", str(tmp_path)])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
