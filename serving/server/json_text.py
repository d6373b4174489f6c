"""JSON as the server reads and writes it: RapidJSON's parser and its pretty printer's layout.

The texts go to people and programs that compare them, so the layout is kept to the space:
four per level, an array's values one a line or, where the reply asks for it, on one line.
"""

import math
from collections.abc import Callable

import rapidjson

from serving.server import json_numbers, status

# Deeper nesting than any tensor has; it bounds the recursion of whoever walks the document.
MAX_DEPTH = 512
# Values outside long arrays of numbers: each costs some 100 bytes and holds everybody up.
MAX_VALUES = 4_000_000

_TRAILING = "The document root must not be followed by other values."
_INDENT = "    "
_ESCAPES = {
    **{chr(code): f"\\u{code:04X}" for code in range(0x20)},
    **{"\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"},
    '"': '\\"',
    "\\": "\\\\",
}
_ESCAPE_TABLE = str.maketrans(_ESCAPES)


def parse(body: bytes) -> object:
    """The first JSON value of a body; what follows it is not looked at.

    NaN, Infinity and -Infinity are numbers here.

    Raises:
      ServingError: INVALID_ARGUMENT with RapidJSON's reason and the byte it stopped at.
    """
    if not body:
        raise status.invalid("JSON Parse error: The document is empty")
    body = body.removeprefix(b"\xef\xbb\xbf")
    if len(body) >= json_numbers.SMALLEST_RUN:
        shorter, found = json_numbers.cut_out(body)
        if found:
            return json_numbers.put_back(_parsed(shorter), found)
    return _parsed(body)


def _parsed(body: bytes) -> object:
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise status.invalid(
            f"JSON Parse error: more than {MAX_VALUES} values outside regular arrays of numbers; "
            "send large tensors over gRPC"
        )
    try:
        return _loads(body)
    except rapidjson.JSONDecodeError as error:
        reason, offset = _reason(error)
    except UnicodeDecodeError as error:
        reason, offset = "Invalid encoding in string.", error.start
    except RecursionError:
        reason, offset = f"Nested deeper than {MAX_DEPTH} levels.", _depth_offset(body)
    if reason == _TRAILING:
        return _parsed(body[:offset].rstrip())
    raise status.invalid(f"JSON Parse error: {reason} at offset: {offset}")


def _loads(body: bytes) -> object:
    mode = rapidjson.NM_NATIVE | rapidjson.NM_NAN
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        _check_depth(body)
    return rapidjson.loads(body, number_mode=mode)


def _check_depth(body: bytes) -> None:
    if _depth_offset(body) >= 0:
        raise RecursionError


def _depth_offset(body: bytes) -> int:
    """Where nesting first goes past MAX_DEPTH; -1 if it never does. Strings may mislead it."""
    opened = b"[" * (MAX_DEPTH + 1)
    return body.replace(b"{", b"[").translate(None, b" \t\r\n").find(opened)


def _reason(error: rapidjson.JSONDecodeError) -> tuple[str, int]:
    """Reason and offset out of "Parse error at offset 5: Invalid value."."""
    place, _, reason = str(error).partition(": ")
    return reason, int(place.rsplit(" ", 1)[1])


def type_name(value: object) -> str:
    """The JSON type in messages."""
    if value is None:
        return "Null"
    if isinstance(value, bool):
        return "True" if value else "False"
    names = {dict: "Object", list: "Array", json_numbers.Numbers: "Array", str: "String"}
    return names.get(type(value), "Number")


def quoted(text: str) -> str:
    """A JSON string; everything but quotes, backslashes and control characters as it is."""
    return f'"{text.translate(_ESCAPE_TABLE)}"'


def debug(value: object, limit: int = 256) -> str:
    """A value as error messages show it: pretty printed, stopped once `limit` is reached."""
    writer = _LimitedWriter(limit)
    writer.write(value, 0)
    return "".join(writer.parts)


class _LimitedWriter:
    """Pretty printer that adds no further token once a size is reached."""

    def __init__(self, limit: int) -> None:
        self.parts: list[str] = []
        self._size = 0
        self._limit = limit

    def _put(self, prefix: str, token: str) -> bool:
        if self._size >= self._limit:
            return False
        self.parts.append(prefix + token)
        self._size += len((prefix + token).encode("utf-8", "replace"))
        return True

    def write(self, value: object, level: int, prefix: str = "") -> bool:
        if isinstance(value, dict):
            return self._object(value, level, prefix)
        if isinstance(value, json_numbers.Numbers):
            value = value.beginning()
        if isinstance(value, list):
            return self._array(value, level, prefix)
        return self._put(prefix, _scalar(value))

    def _object(self, value: dict, level: int, prefix: str) -> bool:
        if not self._put(prefix, "{"):
            return False
        for index, (key, item) in enumerate(value.items()):
            comma = "," if index else ""
            if not self._put(f"{comma}\n{_INDENT * (level + 1)}", quoted(key)):
                return False
            if not self.write(item, level + 1, ": "):
                return False
        return self._put(f"\n{_INDENT * level}" if value else "", "}")

    def _array(self, value: list, level: int, prefix: str) -> bool:
        if not self._put(prefix, "["):
            return False
        for index, item in enumerate(value):
            if not self.write(item, level + 1, ", " if index else ""):
                return False
        return self._put("", "]")


def _scalar(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return repr(value)


def error_body(message: str) -> bytes:
    """The body of every failed REST request."""
    text = quoted(message)
    return f'{{\n{_INDENT}"error": {text}\n}}'.encode("utf-8", "replace")


Formatter = Callable[[object], str]
