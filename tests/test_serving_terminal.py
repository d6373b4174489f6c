"""What the terminal says of a single scan."""

import pytest

from serving import terminal
from serving.report import Result


def told(capsys, grid, labels, share):
    result = Result(
        "a", "a", "m", 1, grid, labels, share, ["a.png", "o.png"], {"decode": 1.5}, 1, ""
    )
    assert list(terminal.Terminal("m", 1, 1, 0).progress([result])) == [result]
    return capsys.readouterr().out.splitlines()[1:]


@pytest.mark.parametrize(
    ("grid", "extent", "line"),
    [
        (
            [30, 512, 512],
            {"pixels": 1627230, "volume_ml": 5765.451},
            "1,627,230 voxels, 5,765.5 ml",
        ),
        ([30, 512, 512], {"pixels": 25, "volume_ml": 0.0375}, "25 voxels, 0.0375 ml"),
        ([512, 512], {"pixels": 24, "area_cm2": 1.04}, "24 pixels, 1.0 cm2"),
        ([8, 8], {"pixels": 0, "area_cm2": None}, "0 pixels"),
    ],
)
def test_extent_is_told_in_units_that_the_scan_knows(capsys, grid, extent, line):
    assert told(capsys, grid, {"lung": extent}, None) == [
        f"lung: {line}", "decode 1.50 s; o.png shows it",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("share", "percent"), [(0.125, "12.5"), (0.000126, "0.0126"), (0.0, "0.0")]
)
def test_the_infected_share_is_told_where_it_is_known(capsys, share, percent):
    lines = told(capsys, [8, 8], {"lung": {"pixels": 40, "area_cm2": None}}, share)
    assert lines[1] == f"infected share of the lung: {percent} %"
