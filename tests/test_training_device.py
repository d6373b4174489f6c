import json

import pytest

from data_pipeline.errors import InputError
from training import device


def test_several_workers_are_refused_in_words(monkeypatch):
    two = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(two))
    device.strategy.cache_clear()
    with pytest.raises(InputError, match=r"TF_CONFIG names 2 workers, .* unset TF_CONFIG"):
        device.strategy()
