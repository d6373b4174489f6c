"""The proof of an export, as those read it who serve it."""

import importlib
import json
import os

import pytest

from data_pipeline import onednn, ports
from data_pipeline.errors import InputError
from serving import batch_fit, launch, proof


def version(folder, **told):
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    (folder / proof.PLACE).write_text(json.dumps({"masks_equal": True} | told))
    return folder


def planned(base_path, policy=""):
    """What the launcher makes of a model, where it does not refuse it."""
    config = base_path.parent / "models.config"
    config.write_text(
        f'model_config_list {{ config {{ name: "m" base_path: "{base_path}" '
        f'model_platform: "tensorflow" model_version_policy {{ {policy} }} }} }}'
    )
    port, rest_port = ports.free_ports(2)
    flags = [f"--port={port}", f"--rest_api_port={rest_port}", f"--model_config_file={config}"]
    return launch.plan(flags, "embedded")


@pytest.mark.parametrize("setting", [True, False])
def test_versions_proven_with_one_setting_of_onednn_are_served_with_it(setting, tmp_path):
    versions = [version(tmp_path / name, onednn=setting) for name in "12"]
    assert proof.common_setting(versions) is setting


def test_versions_of_two_settings_cannot_share_a_server(tmp_path):
    versions = [version(tmp_path / "1", onednn=True), version(tmp_path / "2", onednn=False)]
    with pytest.raises(InputError, match=r"/1 was proven with oneDNN and \S+/2 without"):
        proof.common_setting(versions)


def test_a_proof_that_does_not_tell_of_onednn_is_not_guessed_at(tmp_path):
    with pytest.raises(InputError, match=r"parity\.json does not tell of oneDNN; export it anew"):
        proof.common_setting([version(tmp_path / "1")])


@pytest.mark.parametrize(
    ("here", "proven", "message"),
    [
        ("0", True, r"proven with oneDNN, but here .* without oneDNN.*; set \w+=1,"),
        ("1", False, r"proven without oneDNN, but here .* with oneDNN.*; set \w+=0,"),
    ],
)
def test_a_version_is_neither_launched_nor_measured_with_another_setting(
    here, proven, message, tmp_path, monkeypatch
):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", here)
    version(tmp_path / "m" / "2", onednn=proven)
    version(tmp_path / "m" / "1", onednn=not proven)  # older: no matter
    with pytest.raises(InputError, match=message):
        planned(tmp_path / "m")
    with pytest.raises(InputError, match=message):
        batch_fit.measure_s(tmp_path / "m" / "2")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "true" if proven else "false")
    planned(tmp_path / "m")


def test_a_model_without_a_proof_is_launched_all_the_same(tmp_path):
    version(tmp_path / "m" / "1", onednn=False)
    (tmp_path / "m" / "1" / proof.PLACE).unlink()
    planned(tmp_path / "m")


@pytest.mark.parametrize(
    ("policy", "refused"),
    [
        ("", False),
        ("latest { num_versions: 2 }", True),
        ("all {}", True),
        ("specific { versions: 1 versions: 2 }", True),
        ("specific { versions: 2 }", False),
        ("specific { versions: 1 }", True),
    ],
)
def test_of_several_versions_those_are_checked_that_the_configuration_names(
    policy, refused, tmp_path, monkeypatch
):
    monkeypatch.setenv(onednn.VARIABLE, "1")
    version(tmp_path / "m" / "1", onednn=False)
    version(tmp_path / "m" / "2", onednn=True)
    if refused:
        with pytest.raises(InputError, match=r"/m/1 was proven without oneDNN"):
            planned(tmp_path / "m", policy)
    else:
        planned(tmp_path / "m", policy)


def test_a_newer_version_that_the_configuration_does_not_name_is_no_matter(tmp_path, monkeypatch):
    monkeypatch.setenv(onednn.VARIABLE, "1")
    version(tmp_path / "m" / "1", onednn=True)
    version(tmp_path / "m" / "2", onednn=False)
    planned(tmp_path / "m", "specific { versions: 1 }")


@pytest.mark.parametrize("text", ["[]", "1", "null", "{"])
def test_a_proof_that_is_no_json_object_proves_nothing(text, tmp_path):
    version(tmp_path / "1")
    (tmp_path / "1" / proof.PLACE).write_text(text)
    with pytest.raises(InputError, match=r"parity\.json cannot be read, so nothing proves"):
        proof.read(tmp_path / "1")


@pytest.mark.parametrize(
    ("before", "uses"), [(None, True), ("", True), ("0", False), ("false", False), ("1", True)]
)
def test_onednn_is_on_unless_somebody_turns_it_off(before, uses, monkeypatch):
    monkeypatch.delenv(onednn.VARIABLE, raising=False)
    if before is not None:
        monkeypatch.setenv(onednn.VARIABLE, before)
    importlib.reload(onednn)
    assert onednn.enabled() is uses
    assert os.environ[onednn.VARIABLE] == (before or "1")
