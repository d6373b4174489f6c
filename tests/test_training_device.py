import json

import pytest
import tensorflow as tf

from data_pipeline.errors import InputError
from training import device


@pytest.fixture
def tell(monkeypatch):
    def tell(cluster, kind, index):
        told = {"cluster": cluster, "task": {"type": kind, "index": index}}
        monkeypatch.setenv("TF_CONFIG", json.dumps(told))

    return tell


def test_the_chief_or_else_the_first_worker_writes(tell):
    tell({"worker": ["a:1", "b:1"]}, "worker", 0)
    assert device.is_one_of_several()
    assert device.is_chief()
    tell({"worker": ["a:1", "b:1"]}, "worker", 1)
    assert not device.is_chief()
    tell({"chief": ["a:1"], "worker": ["b:1"]}, "worker", 0)
    assert device.is_one_of_several()
    assert not device.is_chief()
    tell({"chief": ["a:1"], "worker": ["b:1"]}, "chief", 0)
    assert device.is_chief()


def test_another_workers_loss_is_told_in_words_and_nothing_else_is(tell):
    gone = tf.errors.UnavailableError(None, None, "Connection reset by peer")
    tell({"worker": ["a:1", "b:1"]}, "worker", 0)
    with (
        pytest.raises(
            InputError,
            match=r"another worker .* was lost .* with --resume if the training had begun",
        ),
        device.lost_worker_in_words(),
    ):
        raise gone
    tell({"worker": ["a:1"]}, "worker", 0)
    with pytest.raises(tf.errors.UnavailableError), device.lost_worker_in_words():
        raise gone


def test_one_worker_is_a_machine_like_any_other(tell):
    tell({"worker": ["a:1"]}, "worker", 0)
    assert not device.is_one_of_several()
    assert device.is_chief()


def test_a_task_that_is_no_worker_or_not_in_the_cluster_is_refused_in_words(tell, monkeypatch):
    tell({"worker": ["a:1", "b:1"], "ps": ["c:1"]}, "ps", 0)
    with pytest.raises(InputError, match="only chief and worker can train here, no ps"):
        device.is_one_of_several()
    tell({"worker": ["a:1", "b:1"]}, "worker", 2)
    with pytest.raises(InputError, match="TF_CONFIG is not understood"):
        device.is_one_of_several()
    tell({"worker": ["a:1", "b:1"]}, "worker", -1)
    with pytest.raises(InputError, match="index -1 is below 0"):
        device.is_one_of_several()
    for text in ("{", "[]", "null", '"worker"'):
        monkeypatch.setenv("TF_CONFIG", text)
        with pytest.raises(InputError, match="it looks like"):
            device.is_one_of_several()


def test_xla_is_left_to_keras_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    assert device.xla() == "off"
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    assert device.xla() == "auto"
