"""Versions found, loaded, served and unloaded; configurations and labels."""

import pathlib
import shutil
import threading
import time

import grpc
import numpy as np
import pytest
import served_models
from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server import core, discovery, status, version_policy
from serving.server.servable import LoadOptions, Servable
from serving.server.versions import State, Timing, Versions

QUICK = Timing(poll_wait_s=0.05, load_retries=0, retry_interval_s=0)


class Fake:
    """Stands for a loaded model where loading a real one would prove no more."""

    def __init__(self, name: str, version: int) -> None:
        self.name, self.version = name, version
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Shop:
    """Loads fakes; version folders that hold a file named `broken` fail."""

    def __init__(self) -> None:
        self.loaded: list[Fake] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, name: str, version: int, path: str) -> Fake:
        self.gate.wait(10)
        if pathlib.Path(path, "broken").exists():
            raise ValueError("this model is broken")
        fake = Fake(name, version)
        self.loaded.append(fake)
        return fake

    def numbers(self) -> list[int]:
        return [fake.version for fake in self.loaded]


def add_version(base: pathlib.Path, name: str, *files: str) -> None:
    """Puts a version folder in place at once, as a careful deployment does."""
    folder = base.parent / f".{name}.partial"
    folder.mkdir(parents=True)
    for file in ("saved_model.pb", *files):
        (folder / file).write_bytes(b"x")
    base.mkdir(exist_ok=True)
    folder.rename(base / name)


def model(
    base: pathlib.Path, name: str = "m", **labels: int
) -> model_server_config_pb2.ModelConfig:
    config = model_server_config_pb2.ModelConfig(
        name=name, base_path=str(base), model_platform="tensorflow"
    )
    config.version_labels.update(labels)
    return config


def config_of(*models: model_server_config_pb2.ModelConfig):
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.config.extend(models)
    return config


@pytest.fixture
def shop():
    return Shop()


@pytest.fixture
def versions(shop):
    versions = Versions(shop, QUICK)
    versions.start()
    yield versions
    shop.gate.set()
    versions.close()


@pytest.fixture
def base(tmp_path):
    (tmp_path / "m").mkdir()
    return tmp_path / "m"


def until(condition, timeout_s=120.0):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def states(versions, name="m"):
    return {number: state.name for number, (state, _) in versions.states(name).items()}


def spec(name="m", version=None, label=""):
    given = model_pb2.ModelSpec(name=name)
    if label:
        given.version_label = label
    if version is not None:
        given.version.value = version
    return given


def served(any_core, **which) -> int:
    with any_core.acquire(spec(**which)) as servable:
        return servable.version


# What lies below a base path.


def test_every_integer_is_a_version_and_zeros_in_front_do_not_count(base):
    for name in ("1", "00000123", "-4", "x1", "1.5", ".7", "99999999999999999999"):
        (base / name).mkdir()
    assert sorted(discovery.versions_below(str(base))) == [-4, 1, 123]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [3]),
        ("latest { num_versions: 2 }", [2, 3]),
        ("latest { num_versions: 0 }", [3]),
        ("all {}", [1, 2, 3]),
        ("specific { versions: 1 versions: 3 versions: 8 }", [1, 3]),
    ],
)
def test_a_policy_chooses_versions(text, expected):
    from google.protobuf import text_format

    policy = text_format.Parse(text, version_policy.VersionPolicy())
    assert sorted(version_policy.chosen(policy, {1: "a", 2: "b", 3: "c"})) == expected


def test_a_folder_without_a_graph_is_not_ready(base):
    folder = base / "1"
    (folder / "variables").mkdir(parents=True)
    settling = discovery.Settling()
    assert not settling.ready(str(folder))
    (folder / "saved_model.pb").write_bytes(b"x")
    settling.ready(str(folder))
    assert settling.ready(str(folder))


def test_a_folder_whose_weights_are_still_missing_is_not_ready(base):
    folder = base / "1"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"x")
    (folder / "variables" / "variables.index").write_bytes(b"x")
    settling = discovery.Settling()
    assert not any(settling.ready(str(folder)) for _ in range(3))
    (folder / "variables" / "variables.data-00000-of-00002").write_bytes(b"x")
    assert not any(settling.ready(str(folder)) for _ in range(3))
    (folder / "variables" / "variables.data-00001-of-00002").write_bytes(b"x")
    settling.ready(str(folder))
    assert settling.ready(str(folder))


def test_a_folder_that_still_grows_is_not_ready(base):
    folder = base / "1"
    folder.mkdir()
    settling = discovery.Settling()
    for size in range(1, 6):
        (folder / "saved_model.pb").write_bytes(b"x" * size)
        assert not settling.ready(str(folder))
    assert settling.ready(str(folder))


# The life of versions.


def test_the_newest_version_is_served_and_the_one_before_is_unloaded(versions, shop, base):
    add_version(base, "1")
    versions.serve([model(base)])
    assert versions.wait_available(["m"]) == {}
    add_version(base, "2")
    until(lambda: states(versions) == {2: "AVAILABLE", 1: "END"})
    assert shop.loaded[0].closed.is_set()
    with versions.acquire("m", None) as servable:
        assert servable.version == 2


def test_the_old_version_serves_until_the_new_one_is_loaded(versions, shop, base):
    add_version(base, "1")
    versions.serve([model(base)])
    versions.wait_available(["m"])
    shop.gate.clear()
    add_version(base, "2")
    until(lambda: states(versions).get(2) == "LOADING")
    with versions.acquire("m", None) as servable:
        assert servable.version == 1
    shop.gate.set()
    until(lambda: states(versions) == {2: "AVAILABLE", 1: "END"})


def test_a_version_in_use_is_not_unloaded_before_its_request_ends(versions, shop, base):
    add_version(base, "1")
    versions.serve([model(base)])
    versions.wait_available(["m"])
    with versions.acquire("m", None) as servable:
        add_version(base, "2")
        until(lambda: states(versions) == {2: "AVAILABLE", 1: "UNLOADING"})
        assert not servable.closed.is_set()
    until(lambda: servable.closed.is_set())


def test_a_version_that_fails_leaves_the_old_one_serving(versions, base):
    add_version(base, "1")
    versions.serve([model(base)])
    versions.wait_available(["m"])
    add_version(base, "2", "broken")
    until(lambda: states(versions).get(2) == "END")
    time.sleep(0.3)
    assert states(versions) == {2: "END", 1: "AVAILABLE"}
    error = versions.states("m")[2][1]
    assert "this model is broken" in error.message
    add_version(base, "3")
    until(lambda: states(versions) == {3: "AVAILABLE", 2: "END", 1: "END"})


def test_a_failed_load_is_tried_again_as_often_as_told(shop, base):
    attempts = []

    def failing(name, version, path):
        attempts.append(version)
        raise OSError("not now")

    versions = Versions(failing, Timing(poll_wait_s=0.05, load_retries=2, retry_interval_s=0.01))
    versions.start()
    add_version(base, "1")
    versions.serve([model(base)])
    failed = versions.wait_available(["m"])
    versions.close()
    assert attempts == [1, 1, 1]
    assert "not now" in failed["m"].message


def test_a_version_that_is_deleted_is_unloaded_and_may_come_back(versions, base):
    add_version(base, "1")
    add_version(base, "2")
    versions.serve([model(base)])
    versions.wait_available(["m"])
    shutil.rmtree(base / "2")
    until(lambda: states(versions) == {2: "END", 1: "AVAILABLE"})
    add_version(base, "2")
    until(lambda: states(versions) == {2: "AVAILABLE", 1: "END"})


def test_a_base_path_that_is_away_for_a_moment_unloads_nothing(versions, base):
    add_version(base, "1")
    versions.serve([model(base)])
    versions.wait_available(["m"])
    base.rename(base.parent / "elsewhere")
    time.sleep(0.3)
    assert states(versions) == {1: "AVAILABLE"}


def test_a_model_left_out_of_the_configuration_is_unloaded(versions, base):
    add_version(base, "1")
    versions.serve([model(base)])
    versions.wait_available(["m"])
    versions.serve([])
    until(lambda: states(versions) == {1: "END"})
    with pytest.raises(status.ServingError, match=r"Servable not found for request: Latest\(m\)"):
        with versions.acquire("m", None):
            pass


# Configurations and labels.


@pytest.fixture
def any_core(versions):
    return core.Core(versions)


def test_reload_returns_once_new_models_are_available(any_core, base):
    add_version(base, "1")
    any_core.reload(config_of(model(base)))
    assert served(any_core) == 1


def test_reload_tells_which_model_did_not_load(any_core, base):
    add_version(base, "1", "broken")
    with pytest.raises(status.ServingError, match="1 model\\(s\\) did not become available") as e:
        any_core.reload(config_of(model(base)))
    assert e.value.code is grpc.StatusCode.UNKNOWN
    assert "this model is broken" in e.value.message


def test_reload_replaces_the_whole_configuration(any_core, base, tmp_path):
    add_version(base, "1")
    add_version(tmp_path / "other", "5")
    any_core.reload(config_of(model(base)))
    any_core.reload(config_of(model(tmp_path / "other", "other")))
    assert served(any_core, name="other") == 5
    until(lambda: states(any_core.versions) == {1: "END"})


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([("a", "/x", "tensorflow"), ("a", "/y", "tensorflow")], "list model a multiple times"),
        ([("a", "x", "tensorflow")], "Expected model a to have an absolute path or URI"),
        ([("a", "/x", "")], "Illegal setting neither"),
        ([("a", "/x", "caffe")], "Model a requests unsupported platform caffe"),
    ],
)
def test_reload_refuses_wrong_lists_and_keeps_the_old(any_core, base, models, words):
    add_version(base, "1")
    any_core.reload(config_of(model(base)))
    wrong = config_of()
    for name, path, platform in models:
        wrong.model_config_list.config.add(name=name, base_path=path, model_platform=platform)
    with pytest.raises(status.ServingError, match=words) as caught:
        any_core.reload(wrong)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert served(any_core) == 1


def test_labels_name_versions_and_may_be_moved(any_core, base):
    add_version(base, "1")
    add_version(base, "2")
    both = model(base)
    both.model_version_policy.all.SetInParent()
    any_core.reload(config_of(both))
    until(lambda: states(any_core.versions) == {2: "AVAILABLE", 1: "AVAILABLE"})
    both.version_labels.update(stable=1, canary=2)
    any_core.reload(config_of(both))
    assert served(any_core, label="stable") == 1
    assert served(any_core, label="canary") == 2
    both.version_labels["stable"] = 2
    any_core.reload(config_of(both))
    assert served(any_core, label="stable") == 2


def test_a_label_on_a_version_that_is_not_loaded_is_refused(any_core, base):
    add_version(base, "1")
    any_core.reload(config_of(model(base)))
    with pytest.raises(status.ServingError, match="not currently available for inference") as e:
        any_core.reload(config_of(model(base, stable=7)))
    assert e.value.code is grpc.StatusCode.FAILED_PRECONDITION


def test_new_labels_may_come_before_their_versions_if_allowed(versions, base):
    lenient = core.Core(versions, labels_before_available=True)
    add_version(base, "1")
    lenient.reload(config_of(model(base, stable=1)))
    assert served(lenient, label="stable") == 1
    with pytest.raises(status.ServingError, match="not currently available"):
        lenient.reload(config_of(model(base, stable=9)))


# Real models.


def test_a_real_model_is_swapped_under_load_without_a_failed_or_wrong_answer(tmp_path):
    base = tmp_path / "half"
    options = LoadOptions()
    versions = Versions(lambda *which: Servable(*which, options), QUICK)
    versions.start()
    any_core = core.Core(versions)
    served_models.half_plus(tmp_path / "first", 1.0)
    base.mkdir()
    (tmp_path / "first").rename(base / "1")
    any_core.reload(config_of(model(base, "half")))
    stop, wrong, answers = threading.Event(), [], [0]

    def client():
        while not stop.is_set():
            try:
                with any_core.acquire(spec("half")) as servable:
                    signature = servable.signatures["serving_default"]
                    feeds = {signature.inputs["x"].name: np.zeros(3, np.float32)}
                    (y,) = servable.run(feeds, [signature.outputs["y"].name])
                    # Version n adds n.
                    if y.tolist() != [float(servable.version)] * 3:
                        wrong.append((servable.version, y.tolist()))
                    answers[0] += 1
            except status.ServingError as error:
                wrong.append(str(error))

    clients = [threading.Thread(target=client) for _ in range(3)]
    for thread in clients:
        thread.start()
    for number in range(2, 6):
        served_models.half_plus(tmp_path / "next", float(number))
        (tmp_path / "next").rename(base / str(number))
        until(lambda n=number: states(versions, "half").get(n) == "AVAILABLE", 30)
    stop.set()
    for thread in clients:
        thread.join()
    versions.close()
    assert wrong == []
    assert answers[0] > 100


def test_timeouts_end_a_run_that_takes_too_long(tmp_path):
    path = served_models.spinning(tmp_path / "1")
    servable = Servable("slow", 1, str(path), LoadOptions())
    signature = servable.signatures["serving_default"]
    feeds = {signature.inputs["steps"].name: np.int32(2_000_000_000)}
    start = time.monotonic()
    with pytest.raises(status.ServingError) as caught:
        servable.run(feeds, [signature.outputs["y"].name], 0.3)
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - start < 10
    assert State.AVAILABLE == 30
    servable.close()
