import dataclasses

import pytest

from data_pipeline import spec
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec

XRAY = InputSpec("XR", ("lung",), (256, 256))


def test_a_spec_comes_back_from_its_file_as_it_was_saved(tmp_path):
    saved = InputSpec(
        modality="CT",
        labels=("lung", "infection"),
        shape=(64, 128, 96),
        units="HU",
        spacing_mm=(5.0, 1.5, 1.25),
        window=(-1000.0, 400.0),
        conventions=("lung: with the region behind the heart",),
    )
    saved.save(tmp_path / "spec.json")
    assert spec.load(tmp_path / "spec.json") == saved


def test_channels_count_the_slice_and_its_neighbours_on_both_sides():
    assert XRAY.channels == 1
    assert dataclasses.replace(XRAY, neighbours=2, window=(0.0, 255.0)).channels == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modality": "MR"}, "unknown modality MR; known: XR, CT"),
        ({"units": "grey"}, "unknown units grey; known: HU, stored"),
        ({"shape": (256,)}, r"a tile is \(rows, cols\) or \(slices, rows, cols\); got \(256,\)"),
        ({"shape": (256, 0)}, r"got \(256, 0\)"),
        ({"frame": (512, 512)}, r"needs a fixed window"),
        ({"spacing_mm": (1.0, 1.0)}, r"needs a fixed window"),
        ({"neighbours": 1}, r"needs a fixed window"),
        ({"shape": (8, 64, 64)}, r"and so does a volume"),
        ({"spacing_mm": (5.0, 1.0, 1.0)}, r"spacing_mm \(5.0, 1.0, 1.0\) does not fit tiles"),
        ({"spacing_mm": (1.0, 0.0)}, r"a spacing above 0"),
        ({"spacing_mm": (1.0, 1.0), "frame": (512, 512)}, r"to a spacing above 0 or into a frame"),
        (
            {"frame": (512, 128)},
            r"a tile of \(256, 256\) does not fit into a frame of \(512, 128\)",
        ),
        ({"shape": (8, 64, 64), "neighbours": 1}, r"a 2D network outlines; got 1 for tiles"),
        ({"frame": (512, 512), "window": (0.0, 255.0), "clahe": True}, r"at each tile's border"),
        (
            {"spacing_mm": (1.0, 1.0), "window": (0.0, 255.0), "clahe": True},
            r"at each tile's border",
        ),
        (
            {"spacing_mm": (1.0, 1.0), "window": (0.0, 255.0), "denoise": "median"},
            r"at each tile's border",
        ),
    ],
)
def test_a_spec_that_no_model_could_follow_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(XRAY, **change)


def test_an_image_cut_into_tiles_is_fine_with_a_fixed_window():
    tiled = dataclasses.replace(XRAY, frame=(512, 512), window=(0.0, 255.0))
    assert tiled.frame == (512, 512)


def test_a_missing_file_is_said_to_be_no_run(tmp_path):
    with pytest.raises(InputError, match=r"spec\.json is missing: this is not a run or an export"):
        spec.load(tmp_path / "spec.json")


@pytest.mark.parametrize("text", ["{", "[]", '{"modality": "XR"}', '{"window_hu": 3}'])
def test_a_file_that_holds_something_else_is_named(tmp_path, text):
    path = tmp_path / "spec.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"spec\.json is not a spec of this version"):
        spec.load(path)
