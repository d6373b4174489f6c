"""What the gRPC and the REST client have in common: a call, its reply and its failures."""

import dataclasses
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np

from data_pipeline.errors import InputError

T = TypeVar("T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0


class ServerDown(InputError):
    """The server cannot be reached, or does not answer in time."""


class NotServed(InputError):
    """The server answers, and has no such model or version."""


class NoneAvailable(NotServed):
    """The server knows the model, and no version of it answers."""

    def __init__(self, address: str, model: str, states: Iterable[tuple[int, str, str]]) -> None:
        """Takes number, state and error of each version that the server knows."""
        told = [
            f"version {number} is {state}{': ' if error else ''}{error}"
            for number, state, error in states
        ]
        super().__init__(
            f"{address} has no version of {model} that answers: {'; '.join(told) or 'it has none'}"
        )


class Refused(InputError):
    """The server answers, and says what is wrong with the request."""


class Busy(Exception):
    """The server cannot answer now and may in a moment; carries what it said."""


@dataclasses.dataclass(frozen=True)
class Access:
    """How to reach a server."""

    address: str  # HOST:PORT
    ca_file: str = ""  # PEM of who signed the server's certificate; "" for no TLS
    token: str = ""  # sent as `Authorization: Bearer`, for a proxy that asks for one
    deadline_s: float = 120.0  # of one call
    outage_s: float = 30.0  # how long to go on trying while the server is away


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a model answered."""

    outputs: dict[str, np.ndarray]
    version: int | None  # of the model; None where the protocol does not tell


class Connection(Protocol):
    """A model server, over gRPC or REST."""

    access: Access

    def predict(
        self,
        model: str,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        outputs: Sequence[str] = (),
    ) -> Reply:
        """Runs a signature of a model.

        Args:
          model: its name.
          signature: for example "serving_default".
          inputs: by name; strings as bytes in an array of dtype object.
          version: None for the latest.
          outputs: which ones are wanted; empty for all.

        Raises:
          ServerDown: if it stays away for longer than access.outage_s.
          NotServed: if there is no such model or version.
          Refused: if the request is not one that the model takes.
        """
        ...

    def version(self, model: str, label: str = "") -> int:
        """Returns the latest version that answers, or the one that has a label.

        Raises:
          ServerDown: as above.
          NotServed: if there is no such model, or no version of it answers.
        """
        ...

    def close(self) -> None:
        """Ends the connection."""
        ...


def patiently(call: Callable[[], T], access: Access) -> T:
    """Returns what `call` returns, calling again with growing pauses while it raises Busy.

    Pauses have jitter, so that a server that comes back is not met by all clients at once.

    Raises:
      ServerDown: if `call` still raises Busy access.outage_s after it did first.
    """
    pause = _FIRST_PAUSE_S
    give_up_at: float | None = None
    while True:
        try:
            return call()
        except Busy as error:
            now = time.monotonic()
            give_up_at = give_up_at or now + access.outage_s
            if now + pause > give_up_at:
                raise ServerDown(f"no answer from {access.address}: {error}") from error
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, _LONGEST_PAUSE_S)
