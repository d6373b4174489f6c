import dataclasses

import numpy as np
import pytest

from data_pipeline import cases, preview, raster
from data_pipeline.errors import InputError
from data_pipeline.spec import InputSpec

PANEL = 256
ROW = PANEL + 20  # with its caption
LUNG_BLUE = (86, 180, 233)


def panel(picture, row, column):
    return picture[row * ROW : row * ROW + PANEL, column * PANEL : (column + 1) * PANEL]


def blue_pixels(picture):
    return int((picture == LUNG_BLUE).all(axis=-1).sum())


@pytest.fixture(scope="module")
def picture():
    case = next(c for c in cases.load() if c.id == "cip-ct-64")
    spec = InputSpec("CT", ("lung",), (128, 128), "HU", window=(-1000.0, 400.0))
    return preview.draw(case, spec)


def test_each_step_and_each_augmented_tile_has_its_panel_with_outlines(picture):
    assert picture.shape == (2 * ROW, 6 * PANEL, 3)
    assert all(blue_pixels(panel(picture, row, column)) for row in (0, 1) for column in range(6))


def test_every_panel_shows_something_else(picture):
    panels = [panel(picture, row, column) for row in (0, 1) for column in range(6)]
    assert len({p.tobytes() for p in panels}) == 12


def test_the_same_seed_draws_the_same_picture_and_another_seed_another(phantoms):
    case = cases.load(phantoms)[1]
    spec = InputSpec("XR", ("lung",), (64, 64))
    first, second, other = (preview.draw(case, spec, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert (first[ROW:] != other[ROW:]).any()
    np.testing.assert_array_equal(first[:ROW], other[:ROW])


def test_of_a_frame_that_is_cut_into_tiles_all_is_shown(phantoms):
    spec = InputSpec("XR", ("lung",), (32, 32), frame=(64, 64), window=(0.0, 255.0))
    assert preview.draw(cases.load(phantoms)[1], spec).shape == (2 * ROW, 6 * PANEL, 3)


def test_a_spec_for_volumes_is_refused(phantoms):
    spec = InputSpec("CT", ("lung",), (8, 64, 64), window=(-1000.0, 400.0))
    with pytest.raises(InputError, match=r"this spec has tiles of \(8, 64, 64\)"):
        preview.draw(cases.load(phantoms)[0], spec)


def test_the_command_writes_the_picture_of_a_case(phantoms, tmp_path, capsys):
    out = tmp_path / "preview.png"
    preview.main(["phantom-2", "--data", str(phantoms), "--out", str(out)])
    assert f"wrote {out}" in capsys.readouterr().out
    assert raster.size(out) == (2 * ROW, 6 * PANEL)


def test_an_unknown_case_is_told_with_some_that_are_known(phantoms, capsys):
    with pytest.raises(SystemExit) as caught:
        preview.main(["nobody", "--data", str(phantoms)])
    assert caught.value.code == 2
    assert "has no case 'nobody'; it has 12, such as phantom-0" in capsys.readouterr().err


def test_a_case_that_nobody_annotated_is_drawn_without_outlines(phantoms):
    case = dataclasses.replace(cases.load(phantoms)[1], lung_mask=None, infection_mask=None)
    picture = preview.draw(case, preview._default_spec(cases.read_scan(case)), 0)
    assert (picture[..., 0] == picture[..., 1]).all()
