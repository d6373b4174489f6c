"""The proof of an export, as those read it who serve it."""

import json

import pytest

from data_pipeline.errors import InputError
from serving import batch_fit, launch, proof


def version(folder, **told):
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    (folder / proof.PLACE).write_text(json.dumps({"masks_equal": True} | told))
    return folder


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
        launch._check_versions(launch.Model("m", str(tmp_path / "m")))
    with pytest.raises(InputError, match=message):
        batch_fit.measure_s(tmp_path / "m" / "2")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "true" if proven else "false")
    launch._check_versions(launch.Model("m", str(tmp_path / "m")))


def test_a_model_without_a_proof_is_launched_all_the_same(tmp_path):
    version(tmp_path / "m" / "1", onednn=False)
    (tmp_path / "m" / "1" / proof.PLACE).unlink()
    launch._check_versions(launch.Model("m", str(tmp_path / "m")))
