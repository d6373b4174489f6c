import configparser
import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pin():
    specification = importlib.util.spec_from_file_location("pin", ROOT / "constraints/pin.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_a_version_that_all_pythons_share_needs_no_marker(pin):
    assert pin.merge({"3.10": {"six": "1"}, "3.11": {"six": "1"}}, ["3.10", "3.11"]) == ["six==1"]


def test_versions_that_differ_are_told_apart_by_the_pythons_they_are_for(pin):
    resolved = {
        "3.10": {"numpy": "2.2", "tomli": "2"},
        "3.11": {"numpy": "2.4"},
        "3.12": {"numpy": "2.5"},
        "3.13": {"numpy": "2.5"},
    }
    assert pin.merge(resolved, list(resolved)) == [
        'numpy==2.2; python_version == "3.10"',
        'numpy==2.4; python_version == "3.11"',
        'numpy==2.5; python_version >= "3.12"',
        'tomli==2; python_version == "3.10"',
    ]


def test_a_run_of_pythons_in_the_middle_is_bounded_on_both_sides(pin):
    versions = {"3.10": {"a": "1"}, "3.11": {"a": "2"}, "3.12": {"a": "2"}, "3.13": {}}
    lines = pin.merge(versions, list(versions))
    assert lines[1] == 'a==2; python_version >= "3.11" and python_version <= "3.12"'


@pytest.mark.parametrize(("lane", "without"), [("main", "tensorflow-io"), ("tfio", "ruff")])
def test_a_lane_pins_everything_that_setup_cfg_asks_for(lane, without):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    wanted = setup["options"]["install_requires"] + extras["test"] + extras["formats"]
    lines = [line.strip() for line in wanted.splitlines()]
    names = {line.split(">")[0].lower() for line in lines if line and not line.startswith("#")}
    pins = (ROOT / f"constraints/{lane}.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in pins if not line.startswith("#")}
    assert names - pinned == set()
    assert without not in pinned


def test_nothing_of_ours_is_installed_where_it_could_overwrite_another_models_folder():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options"]["packages"] == ""
