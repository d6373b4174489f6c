"""The server without its network: models, labels and the configuration they come from."""

import contextlib
import logging
import threading
from collections.abc import Iterator

from tensorflow_serving.apis import model_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.server import model_config, status
from serving.server.servable import Servable
from serving.server.versions import State, Versions

logger = logging.getLogger(__name__)


class Core:
    """Finds the version that a request means, and changes which models are served."""

    def __init__(self, versions: Versions, *, labels_before_available: bool = False) -> None:
        self.versions = versions
        self._labels_before_available = labels_before_available
        self._config = model_server_config_pb2.ModelServerConfig()
        self._labels: dict[str, dict[str, int]] = {}
        self._reload_lock = threading.Lock()

    @contextlib.contextmanager
    def acquire(self, spec: model_pb2.ModelSpec) -> Iterator[Servable]:
        """The loaded version that a ModelSpec names.

        Raises:
          ServingError: if it names none, or an unknown label, model or version.
        """
        if not spec.name:
            raise status.invalid("ModelSpec has no name specified.")
        with self.versions.acquire(spec.name, self._number(spec)) as servable:
            yield servable

    def _number(self, spec: model_pb2.ModelSpec) -> int | None:
        choice = spec.WhichOneof("version_choice")
        if choice == "version":
            return int(spec.version.value)
        if choice == "version_label":
            number = self._labels.get(spec.name, {}).get(spec.version_label)
            if number is None:
                raise status.invalid(f"Unrecognized servable version label: {spec.version_label}")
            return number
        return None

    def reload(self, config: model_server_config_pb2.ModelServerConfig) -> None:
        """Takes a whole new configuration; returns once models new in it are available.

        Raises:
          ServingError: if it cannot be taken, or a new model fails to load.
        """
        with self._reload_lock:
            choice = config.WhichOneof("config")
            if choice is None:
                return
            model_config.check_transition(self._config, config)
            previous = {model.name for model in self._config.model_config_list.config}
            self._config = model_server_config_pb2.ModelServerConfig()
            self._config.CopyFrom(config)
            self._labels = self._checked_labels(config)
            models = list(config.model_config_list.config)
            self.versions.serve(models)
            self._wait([model.name for model in models if model.name not in previous])

    def _wait(self, names: list[str]) -> None:
        failed = self.versions.wait_available(names)
        if failed:
            reasons = "".join(
                f"{{{{name: {name}}} due to error: {status.absl_text(error)}}}, "
                for name, error in failed.items()
            )
            raise status.ServingError(
                status.code_of(2),
                f"{len(failed)} model(s) did not become available: {{{reasons}}}",
            )

    def _checked_labels(
        self, config: model_server_config_pb2.ModelServerConfig
    ) -> dict[str, dict[str, int]]:
        labels: dict[str, dict[str, int]] = {}
        for model in config.model_config_list.config:
            states = self.versions.states(model.name)
            for label, number in model.version_labels.items():
                available = states.get(number, (None, None))[0] is State.AVAILABLE
                if not available and not self._may_wait(model.name, label, number):
                    raise status.precondition(
                        f"Request to assign label to version {number} of model {model.name}, "
                        "which is not currently available for inference"
                    )
                labels.setdefault(model.name, {})[label] = number
        return labels

    def _may_wait(self, name: str, label: str, number: int) -> bool:
        """Whether a label may be set before its version is there; never by moving one in use."""
        current = self._labels.get(name, {}).get(label)
        return self._labels_before_available and current in (None, number)
