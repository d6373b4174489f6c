"""Calls a model server over REST, for networks where only HTTP passes."""

import base64
import json
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import urllib3

from serving import connection
from serving.connection import Access, Reply

_BUSY = (502, 503, 504)  # a proxy's and the server's own ways to say: not now
_NOT_FOUND = 404


class RestConnection:
    """See connection.Connection."""

    def __init__(self, access: Access) -> None:
        self.access = access
        scheme = "https" if access.ca_file else "http"
        self._root = f"{scheme}://{access.address}/v1/models"
        self._headers = {"Authorization": f"Bearer {access.token}"} if access.token else {}
        self._pool = urllib3.PoolManager(
            maxsize=16,
            retries=False,
            timeout=urllib3.Timeout(connect=access.deadline_s, read=access.deadline_s),
            ca_certs=access.ca_file or None,
        )

    def predict(
        self,
        model: str,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        *,
        version: int | None = None,
        outputs: Sequence[str] = (),
    ) -> Reply:
        """See connection.Connection. The server sends all outputs whatever is wanted."""
        which = "" if version is None else f"/versions/{version}"
        body = {
            "signature_name": signature,
            "inputs": {name: _plain(array) for name, array in inputs.items()},
        }
        answer = self._call("POST", f"/{_quoted(model)}{which}:predict", "outputs", body)
        if not isinstance(answer, dict):
            # One output comes without its name; whoever asked for one knows it.
            answer = {outputs[0] if outputs else "": answer}
        named = {name: _array(values) for name, values in answer.items()}
        return Reply({name: named[name] for name in outputs or named}, version)

    def version(self, model: str, label: str = "") -> int:
        """See connection.Connection."""
        if label:
            # The status passes over labels. The metadata are those of the version that has it.
            path = f"/{_quoted(model)}/labels/{_quoted(label)}/metadata"
            return int(self._call("GET", path, "model_spec")["version"])
        states = self._call("GET", f"/{_quoted(model)}", "model_version_status")
        available = [int(state["version"]) for state in states if state["state"] == "AVAILABLE"]
        if not available:
            told = [
                (int(one["version"]), one["state"], one.get("status", {}).get("error_message", ""))
                for one in states
            ]
            raise connection.NoneAvailable(self.access.address, model, told)
        return max(available)

    def close(self) -> None:
        """See connection.Connection."""
        self._pool.clear()

    def _call(self, verb: str, path: str, field: str, body: Any = None) -> Any:
        encoded = None if body is None else json.dumps(body).encode()
        answer = connection.patiently(lambda: self._once(verb, path, encoded), self.access)
        try:
            return json.loads(answer)[field]
        except (ValueError, KeyError, TypeError) as error:
            raise connection.Refused(
                f"{self.access.address} does not speak TensorFlow Serving's REST: {answer[:60]!r}"
            ) from error

    def _once(self, verb: str, path: str, body: bytes | None) -> bytes:
        headers = self._headers | ({"Content-Type": "application/json"} if body else {})
        try:
            response = self._pool.request(verb, self._root + path, body=body, headers=headers)
        except urllib3.exceptions.SSLError as error:
            raise connection.Refused(f"{self.access.address}: {error}") from error
        except urllib3.exceptions.HTTPError as error:
            raise connection.Busy(_reason(error)) from error
        if response.status == 200:
            return response.data
        raise _failure(response.status, response.data, self.access.address)


def _reason(error: Exception) -> str:
    """Returns what went wrong without the object that urllib3 puts before it."""
    return str(error).rpartition(">: ")[2].rpartition("): ")[2]


def _quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def _plain(array: np.ndarray) -> Any:
    """Returns nested lists; bytes as {"b64": text}."""
    if array.dtype != object:
        return array.tolist()
    coded = [{"b64": base64.b64encode(value).decode()} for value in array.ravel()]
    return np.array(coded, object).reshape(array.shape).tolist()


def _array(values: Any) -> np.ndarray:
    """Returns float32, or bytes in an array of dtype object; a JSON number is an exact float32."""
    first = values
    while isinstance(first, list) and first:
        first = first[0]
    if isinstance(first, str):
        return np.array([text.encode() for text in values], object)
    if isinstance(first, dict):
        return np.array([base64.b64decode(value["b64"]) for value in values], object)
    return np.array(values, np.float32)


def _failure(status: int, data: bytes, address: str) -> Exception:
    """Returns the exception that an HTTP status stands for."""
    try:
        text = str(json.loads(data)["error"])
    except (ValueError, KeyError, TypeError):
        text = data[:200].decode("utf-8", "replace")
    text = " ".join(text.split())
    if status in _BUSY:
        return connection.Busy(text or f"HTTP {status}")
    if status == _NOT_FOUND:
        return connection.NotServed(f"{address}: {text}")
    return connection.Refused(f"{address} answered HTTP {status}: {text}")
