"""Versions and labels of a deployment that is already served."""

import json
import os
import re
import time

import pytest
import served_models

from data_pipeline.errors import InputError
from serving import rollout

NAME = "half"


def proven(folder, onednn=True):
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    told = json.dumps({"masks_equal": True, "onednn": onednn})
    (folder / "assets.extra" / "parity.json").write_text(told)


def written(folder, *models, base="/models/"):
    """What `python -m serving.deployment` would write next, two minutes after the last time."""
    config = folder / "models.config"
    if config.exists():
        os.utime(config, (0, time.time() - 120))
    steps = [rollout.next_step(model, config) for model in models]
    unfinished = folder / "unfinished.config"  # a server may be reading
    unfinished.write_text(rollout.models_config(steps).replace("/models/", base))
    unfinished.replace(config)
    return steps


def told(step):
    return step.stable, step.canary, step.versions


def test_a_new_version_is_loaded_before_labels_move_to_it(tmp_path):
    exports = tmp_path / NAME
    for version in (1, 2):
        proven(exports / str(version))
    [first] = written(tmp_path, rollout.survey(exports))
    assert told(first) == (1, 2, [1, 2])
    [again] = written(tmp_path, rollout.survey(exports))
    assert again == first
    proven(exports / "3")
    [step] = written(tmp_path, rollout.survey(exports))
    assert told(step) == (1, 2, [1, 2, 3])
    [step] = written(tmp_path, rollout.survey(exports))
    assert told(step) == (2, 3, [2, 3])
    assert not step.loading


def test_labels_that_move_among_loaded_versions_move_at_once(tmp_path):
    exports = tmp_path / NAME
    for version in (1, 2):
        proven(exports / str(version))
    written(tmp_path, rollout.survey(exports))
    [step] = written(tmp_path, rollout.survey(exports, stable=2))
    assert told(step) == (2, 2, [2])
    # Back: version 1 has been unloaded.
    [step] = written(tmp_path, rollout.survey(exports, stable=1))
    assert told(step) == (2, 2, [1, 2])


def test_a_model_that_is_new_or_whose_labelled_versions_are_gone_is_not_waited_for(tmp_path):
    for name in ("a", "b"):
        proven(tmp_path / name / "1")
    written(tmp_path, rollout.survey(tmp_path / "a"))
    steps = written(tmp_path, rollout.survey(tmp_path / "a"), rollout.survey(tmp_path / "b"))
    assert [told(step) for step in steps] == [(1, 1, [1]), (1, 1, [1])]
    proven(tmp_path / "a" / "2")
    (tmp_path / "a" / "1").rename(tmp_path / "gone")
    [step] = written(tmp_path, rollout.survey(tmp_path / "a"))
    assert told(step) == (2, 2, [2])


def test_labels_wait_until_a_server_can_have_read_what_to_load(tmp_path):
    exports = tmp_path / NAME
    proven(exports / "1")
    written(tmp_path, rollout.survey(exports))
    proven(exports / "2")
    written(tmp_path, rollout.survey(exports))
    config = tmp_path / "models.config"
    os.utime(config, (0, time.time() - 10))
    with pytest.raises(InputError, match=r"written 10 s ago, .* again in 50 s, once they are AVAI"):
        rollout.next_step(rollout.survey(exports), config)
    os.utime(config, (0, time.time() - 61))
    assert told(rollout.next_step(rollout.survey(exports), config)) == (1, 2, [1, 2])


def test_versions_of_other_kernels_need_a_server_that_starts_anew(tmp_path):
    exports = tmp_path / NAME
    proven(exports / "1")
    written(tmp_path, rollout.survey(exports))
    proven(exports / "2", onednn=False)
    [step] = written(tmp_path, rollout.survey(exports, stable=2))
    assert told(step) == (2, 2, [2])


def test_a_file_that_is_no_configuration_is_told_of(tmp_path):
    proven(tmp_path / NAME / "1")
    (tmp_path / "models.config").write_text("model {")
    with pytest.raises(InputError, match=r"Error parsing text-format .*models\.config"):
        rollout.next_step(rollout.survey(tmp_path / NAME), tmp_path / "models.config")


def test_a_running_server_follows_step_by_step_and_answers_all_the_while(tmp_path):
    exports, config = tmp_path / NAME, tmp_path / "models.config"

    def export(version):
        # In one move, since a server looks all the time; y = x / 2 + version.
        served_models.half_plus(tmp_path / "unfinished", float(version))
        proof = tmp_path / "unfinished" / "assets.extra" / "parity.json"
        proof.parent.mkdir()
        proof.write_text(json.dumps({"masks_equal": True, "onednn": True}))
        exports.mkdir(exist_ok=True)
        (tmp_path / "unfinished").rename(exports / str(version))

    def deploy():
        [step] = written(tmp_path, rollout.survey(exports), base=f"{tmp_path}/")
        return step

    def answers(running):
        said = []
        for label in ("stable", "canary"):
            path = f"/v1/models/{NAME}/labels/{label}:predict"
            code, text = running.post(path, '{"instances": [0.0]}')
            assert code == 200, text
            said.append(json.loads(text)["predictions"][0])
        return said

    def wait_for(condition):
        end = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.2)

    export(1)
    deploy()
    flags = (
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=1",
        "--allow_version_labels_for_unavailable_models",
    )
    with served_models.serving(*flags, log=tmp_path / "log") as running:
        assert answers(running) == [1.0, 1.0]
        export(2)
        assert deploy().loading
        status = f"/v1/models/{NAME}/versions/2"
        wait_for(lambda: "AVAILABLE" in running.get(status)[1])
        assert answers(running) == [1.0, 1.0]
        assert not deploy().loading
        wait_for(lambda: answers(running) == [1.0, 2.0])
    assert not re.search("not currently available", (tmp_path / "log").read_text())
