import pytest

from evaluation.speed import __main__ as speed
from evaluation.speed import machine


def test_every_measurement_says_what_it_measures(capsys):
    with pytest.raises(SystemExit) as left:
        speed.main(["--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert all(f"  {name}" in told for name in speed.COMMANDS)


def test_an_unknown_measurement_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as left:
        speed.main(["everything"])
    assert left.value.code == 2
    assert "pipeline" in capsys.readouterr().err


def test_the_rest_of_the_command_line_is_the_measurement_s_own(capsys):
    with pytest.raises(SystemExit) as left:
        speed.main(["pipeline", "--no-such-flag"])
    assert left.value.code == 2
    assert "evaluation.speed pipeline" in capsys.readouterr().err


def test_the_machine_names_versions_of_what_is_installed_only():
    told = machine.describe(["numpy", "no-such-package"])
    assert list(told["versions"]) == ["numpy"]
    assert told["cores"] >= 1
