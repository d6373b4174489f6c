"""The life of a model's versions: found, loaded, served, unloaded.

A new version is loaded before the old one goes, and the old one goes only when its last
request has been answered. A version that fails to load leaves the old one serving.
"""

import concurrent.futures
import contextlib
import dataclasses
import enum
import functools
import logging
import threading
from collections.abc import Callable, Iterator

import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server import discovery, status, version_policy
from serving.server.servable import Servable

logger = logging.getLogger(__name__)

_States = get_model_status_pb2.ModelVersionStatus


class State(enum.IntEnum):
    """Where a version is in its life, numbered as GetModelStatus reports it."""

    START = _States.START
    LOADING = _States.LOADING
    AVAILABLE = _States.AVAILABLE
    UNLOADING = _States.UNLOADING
    END = _States.END


@dataclasses.dataclass
class Version:
    """One version that the server knows of."""

    number: int
    path: str
    state: State = State.START
    error: status.ServingError | None = None
    servable: Servable | None = None
    in_use: int = 0
    aspired: bool = True


@dataclasses.dataclass(frozen=True)
class Timing:
    """How often folders are looked at and loading is tried again."""

    poll_wait_s: float = 1.0
    load_retries: int = 5
    retry_interval_s: float = 60.0
    load_threads: int = 0
    unload_threads: int = 0


Loader = Callable[[str, int, str], Servable]

_DEFAULT_THREADS = 2


class Versions:
    """All versions of all models. Thread-safe."""

    def __init__(self, load: Loader, timing: Timing) -> None:
        self._load = load
        self._timing = timing
        self._models: dict[str, model_server_config_pb2.ModelConfig] = {}
        self._versions: dict[str, dict[int, Version]] = {}
        self._changed = threading.Condition()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._settling = discovery.Settling()
        self._loaders = concurrent.futures.ThreadPoolExecutor(
            timing.load_threads or _DEFAULT_THREADS, "load"
        )
        self._unloaders = concurrent.futures.ThreadPoolExecutor(
            timing.unload_threads or _DEFAULT_THREADS, "unload"
        )
        self._poller = threading.Thread(target=self._poll, name="versions", daemon=True)

    def start(self) -> None:
        """Begins to look for versions, now and then at every poll interval."""
        self._poller.start()

    def close(self) -> None:
        """Stops looking, waits for loads under way, and unloads every version."""
        self._stop.set()
        self._wake.set()
        if self._poller.is_alive():
            self._poller.join()
        self._loaders.shutdown(cancel_futures=True)
        with self._changed:
            loaded = [v for _, v in self._all() if v.state is State.AVAILABLE]
            for version in loaded:
                version.state = State.UNLOADING
        for version in loaded:
            self._unload(version)
        self._unloaders.shutdown()

    def serve(self, models: list[model_server_config_pb2.ModelConfig]) -> None:
        """Replaces the set of models; those left out are unloaded."""
        with self._changed:
            self._models = {model.name: model for model in models}
            for name, versions in self._versions.items():
                if name not in self._models:
                    self._reconcile(name, {}, versions)
        self._wake.set()

    @contextlib.contextmanager
    def acquire(self, name: str, number: int | None) -> Iterator[Servable]:
        """A loaded version that stays loaded while in use; None takes the newest.

        Raises:
          ServingError: NOT_FOUND if there is none.
        """
        with self._changed:
            version = self._find(name, number)
            version.in_use += 1
        try:
            if version.servable is None:
                raise status.internal(f"version {version.number} of {name} has gone")
            yield version.servable
        finally:
            with self._changed:
                version.in_use -= 1
                if not version.in_use and version.state is not State.AVAILABLE:
                    self._changed.notify_all()

    def _find(self, name: str, number: int | None) -> Version:
        versions = self._versions.get(name, {})
        ready = [v for v in versions.values() if v.state is State.AVAILABLE]
        if number is not None:
            ready = [v for v in ready if v.number == number]
        if not ready:
            asked = f"Latest({name})" if number is None else f"Specific({name}, {number})"
            raise status.not_found(f"Servable not found for request: {asked}")
        return max(ready, key=lambda version: version.number)

    def states(self, name: str) -> dict[int, tuple[State, status.ServingError | None]]:
        """State and error of every version of a model ever seen, newest version first."""
        with self._changed:
            versions = self._versions.get(name, {})
            return {
                number: (versions[number].state, versions[number].error)
                for number in sorted(versions, reverse=True)
            }

    def wait_available(self, names: list[str]) -> dict[str, status.ServingError]:
        """Waits until each model has an available version, or none that may still become one.

        Returns:
          The models that failed, with the reason.
        """
        failed: dict[str, status.ServingError] = {}
        with self._changed:
            for name in names:
                self._changed.wait_for(functools.partial(self._settled, name))
                if self._stop.is_set():
                    failed[name] = status.internal("the server is stopping")
                elif (error := self._failure(name)) is not None:
                    failed[name] = error
        return failed

    def _settled(self, name: str) -> bool:
        if self._stop.is_set():
            return True
        versions = [v for v in self._versions.get(name, {}).values() if v.aspired]
        if any(version.state is State.AVAILABLE for version in versions):
            return True
        return bool(versions) and all(version.state is State.END for version in versions)

    def _failure(self, name: str) -> status.ServingError | None:
        versions = [v for v in self._versions[name].values() if v.aspired]
        if any(version.state is State.AVAILABLE for version in versions):
            return None
        errors = [version.error for version in versions if version.error]
        return errors[0] if errors else status.internal("no version became available")

    # The poller.

    def _poll(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            with self._changed:
                models = list(self._models.values())
            for model in models:
                self._look_at(model)
            wait_s = self._timing.poll_wait_s
            self._wake.wait(wait_s if wait_s > 0 else None)

    def _look_at(self, model: model_server_config_pb2.ModelConfig) -> None:
        try:
            found = discovery.versions_below(model.base_path)
        except OSError as error:
            # Versions stay loaded: a base path that is away for a moment unloads nothing.
            logger.warning("cannot list the base path of model %s: %s", model.name, error)
            return
        known = self._known(model.name)
        usable = {
            number: path
            for number, path in found.items()
            if number in known or self._settling.ready(path)
        }
        if not found:
            logger.warning(
                "no version of model %s below %s; a version is a folder with a number for a name",
                model.name,
                model.base_path,
            )
        elif not usable:
            logger.warning(
                "no version of model %s below %s is a complete SavedModel yet",
                model.name,
                model.base_path,
            )
        aspired = version_policy.chosen(model.model_version_policy, usable)
        with self._changed:
            if model.name in self._models and self._models[model.name] == model:
                versions = self._versions.setdefault(model.name, {})
                self._reconcile(model.name, aspired, versions)

    def _known(self, name: str) -> set[int]:
        with self._changed:
            versions = self._versions.get(name, {})
            return {number for number, version in versions.items() if version.aspired}

    def _reconcile(self, name: str, aspired: dict[int, str], versions: dict[int, Version]) -> None:
        """Starts the loads and unloads that bring the versions to what is aspired."""
        for number, version in versions.items():
            version.aspired = number in aspired
        for number in sorted(aspired, reverse=True):
            known = versions.get(number)
            if known is None or (known.state is State.END and known.path == ""):
                versions[number] = Version(number, aspired[number])
                self._loaders.submit(self._bring_up, name, versions[number])
        self._drop_unaspired(versions)
        self._changed.notify_all()

    def _drop_unaspired(self, versions: dict[int, Version]) -> None:
        """Unloads what is no longer aspired, unless that would leave nothing serving."""
        old = [v for v in versions.values() if v.state is State.AVAILABLE and not v.aspired]
        aspired = [v for v in versions.values() if v.aspired]
        if aspired and not any(v.state is State.AVAILABLE for v in aspired):
            old = sorted(old, key=lambda version: version.number)[:-1]
        for version in old:
            version.state = State.UNLOADING
            self._unloaders.submit(self._unload, version)
        for version in versions.values():
            if version.state is State.END and not version.aspired:
                version.path = ""  # may be loaded anew if it comes back

    # The loaders and unloaders.

    def _bring_up(self, name: str, version: Version) -> None:
        error: status.ServingError | None = None
        for attempt in range(self._timing.load_retries + 1):
            if attempt and self._stop.wait(max(self._timing.retry_interval_s, 0)):
                break
            if not self._still_wanted(version):
                break
            try:
                servable = self._load(name, version.number, version.path)
            except Exception as reason:  # whatever TensorFlow raises on a broken model
                error = _as_error(reason)
                logger.error(
                    "loading version %d of model %s failed (attempt %d): %s",
                    version.number,
                    name,
                    attempt + 1,
                    error,
                )
                continue
            self._loaded(name, version, servable)
            return
        with self._changed:
            version.state, version.error = State.END, error
            if not version.aspired:
                version.path = ""
            self._changed.notify_all()

    def _still_wanted(self, version: Version) -> bool:
        with self._changed:
            if version.aspired and not self._stop.is_set():
                version.state = State.LOADING
                return True
            return False

    def _loaded(self, name: str, version: Version, servable: Servable) -> None:
        logger.info("version %d of model %s is available", version.number, name)
        with self._changed:
            version.servable = servable
            version.state, version.error = State.AVAILABLE, None
            self._drop_unaspired(self._versions[name])
            self._changed.notify_all()

    def _unload(self, version: Version) -> None:
        with self._changed:
            self._changed.wait_for(lambda: version.in_use == 0)
            servable, version.servable = version.servable, None
        if servable is not None:
            servable.close()
            logger.info("version %d of model %s is unloaded", servable.version, servable.name)
        with self._changed:
            version.state, version.path = State.END, ""
            self._changed.notify_all()
        self._wake.set()

    def _all(self) -> Iterator[tuple[str, Version]]:
        for name, versions in self._versions.items():
            for version in versions.values():
                yield name, version


def _as_error(reason: Exception) -> status.ServingError:
    if isinstance(reason, status.ServingError):
        return reason
    if isinstance(reason, tf.errors.OpError):
        return status.ServingError(status.code_of(reason.error_code), reason.message)
    return status.ServingError(status.code_of(2), f"{type(reason).__name__}: {reason}")
