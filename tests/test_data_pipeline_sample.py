"""What must hold of the cases that are shipped."""

from data_pipeline import cases


def test_x_rays_from_hannover_are_the_square_that_was_annotated():
    # V7's masks of them are stretched from the middle square over the whole image.
    chosen = [c for c in cases.load(cases.SAMPLE) if c.dataset == "hannover_v7"]
    assert len(chosen) == 28
    for case in chosen:
        rows, cols = cases.read_scan(case).shape
        assert rows == cols, case.id
        assert cases.read_mask(case, ("lung",), (rows, cols)).planes.mean() > 0.15, case.id
