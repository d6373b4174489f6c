"""Long arrays of numbers in JSON, read in short steps and without a Python object a value.

A parser that works through a hundred megabytes in one go keeps every other thread of this
process waiting. So the long runs of numbers are cut out of a body first, checked as a whole
for being a regular array, and read a few thousand values at a time; what remains of the body
is small. A run that is not regular stays where it is, for the parser to say what is wrong.
"""

import dataclasses
import math
import secrets
from collections.abc import Iterator

import numpy as np
import rapidjson

# Shorter runs are not worth the trouble; bytes.
SMALLEST_RUN = 1 << 16

_WINDOW = 1 << 20  # bytes looked at in one step
_BEGINNING = 4096  # bytes; more than a message shows
_STEP = 1 << 16  # bytes of numbers parsed in one step: about 2 ms
_NUMBER_CHARACTERS = b"0123456789eE+-.NaInfity"  # with those of NaN and Infinity
_IN_RUN = np.zeros(256, bool)
_IN_RUN[list(_NUMBER_CHARACTERS + b"[], \t\r\n")] = True
_OPEN, _CLOSE, _COMMA = b"[],"
_MODE = rapidjson.NM_NATIVE | rapidjson.NM_NAN


@dataclasses.dataclass(frozen=True, eq=False)
class Numbers:
    """A regular nested list of numbers, in the place of that list."""

    shape: tuple[int, ...]
    values: np.ndarray  # 1-D, int64 if every number is an integer, else float64
    text: bytes  # the JSON it was read from

    @property
    def integers(self) -> bool:
        """Whether no number has a fraction or an exponent."""
        return self.values.dtype == np.int64

    def __len__(self) -> int:
        """The length of the outermost list."""
        return self.shape[0]

    def as_lists(self) -> list:
        """The nested list itself, each number of the type it was written in."""
        nested: list = rapidjson.loads(self.text, number_mode=_MODE)
        return nested

    def beginning(self) -> list:
        """The first of the list's numbers, nested as they are."""
        start = self.text[:_BEGINNING]
        if len(start) < len(self.text):
            start = start[: start.rfind(b",")]
            start += b"]" * (start.count(b"[") - start.count(b"]"))
        nested: list = rapidjson.loads(start, number_mode=_MODE)
        return nested


def cut_out(body: bytes) -> tuple[bytes, dict[str, Numbers]]:
    """Replaces every long regular array of numbers by a string.

    Returns:
      The shorter body, and what each of its strings stands for. The strings are random, so
      that no client can guess one.
    """
    parts: list[bytes] = []
    found: dict[str, Numbers] = {}
    end = 0
    for start, stop in _runs(body):
        start, stop = _balanced(body, start, stop)
        numbers = _read(body[start:stop])
        if numbers is None:
            continue
        token = secrets.token_hex(16)
        found[token] = numbers
        parts += [body[end:start], b'"', token.encode(), b'"']
        end = stop
    return b"".join([*parts, body[end:]]) if found else body, found


def put_back(document: object, found: dict[str, Numbers]) -> object:
    """The parsed document with the arrays in the place of their strings."""
    if isinstance(document, str):
        return found.get(document, document)
    waiting = [document]
    while waiting:
        container = waiting.pop()
        if isinstance(container, dict):
            items = list(container.items())
        elif isinstance(container, list):
            items = list(enumerate(container))
        else:
            continue
        for key, value in items:
            if isinstance(value, str):
                if value in found:
                    container[key] = found[value]
            elif isinstance(value, dict | list):
                waiting.append(value)
    return document


def _runs(body: bytes) -> Iterator[tuple[int, int]]:
    """Where only brackets, commas, spaces and numbers stand for long enough."""
    characters = np.frombuffer(body, np.uint8)
    last = -1
    for offset in range(0, len(body), _WINDOW):
        others = np.flatnonzero(~_IN_RUN[characters[offset : offset + _WINDOW]]) + offset
        borders = np.concatenate([[last], others])
        for index in np.flatnonzero(np.diff(borders) > SMALLEST_RUN).tolist():
            yield int(borders[index]) + 1, int(borders[index + 1])
        last = int(borders[-1])
    if len(body) - last > SMALLEST_RUN:
        yield last + 1, len(body)


def _balanced(body: bytes, start: int, stop: int) -> tuple[int, int]:
    """A run without the brackets at its ends that belong to lists around it."""
    surplus = body.count(b"[", start, stop) - body.count(b"]", start, stop)
    for _ in range(surplus):
        start = body.find(b"[", start, stop) + 1
    start = body.find(b"[", start, stop)
    for _ in range(-surplus):
        stop = body.rfind(b"]", start, stop)
    stop = body.rfind(b"]", start, stop) + 1
    return (start, stop) if 0 <= start < stop else (0, 0)


def _read(run: bytes) -> Numbers | None:
    """The array that a run of text is; None if it is not a regular one."""
    if len(run) < SMALLEST_RUN:
        return None
    text = run.replace(b", ", b",")
    if any(space in text for space in b" \t\r\n") or b"[]" in text:
        return None
    shape = _shape(text.translate(None, _NUMBER_CHARACTERS))
    if shape is None or not _brackets_stand_between_commas(text):
        return None
    values = _values(text.translate(None, b"[]"))
    if values is None or len(values) != math.prod(shape):
        return None
    return Numbers(shape, values, run)


def _shape(structure: bytes) -> tuple[int, ...] | None:
    """The shape of a nested list, from its brackets and commas alone."""
    depth = len(structure) - len(structure.lstrip(b"["))
    inner = b"[" + b"," * (structure.find(b"]") - depth) + b"]"
    shape = [len(inner) - 1]
    for level in range(depth - 1, 0, -1):
        count, position = 1, level + len(inner)
        while structure[position : position + 1] == b",":
            position += len(inner) + 1
            count += 1
        if count * (len(inner) + 1) + 1 > len(structure):
            return None
        inner = b"[" + b",".join([inner] * count) + b"]"
        shape.append(count)
    return tuple(reversed(shape)) if inner == structure else None


def _brackets_stand_between_commas(text: bytes) -> bool:
    """Whether no number touches a list from outside, as in `1[2]` or `[2]1`."""
    characters = np.frombuffer(text, np.uint8)
    for offset in range(0, len(text) - 1, _WINDOW):
        window = characters[offset : offset + _WINDOW + 1]
        left, right = window[:-1], window[1:]
        before = (right == _OPEN) & (left != _OPEN) & (left != _COMMA)
        after = (left == _CLOSE) & (right != _CLOSE) & (right != _COMMA)
        if before.any() or after.any():
            return False
    return True


def _values(text: bytes) -> np.ndarray | None:
    """The numbers of a comma-separated text; None if one of them is none."""
    pieces = []
    start = 0
    while start < len(text):
        stop = text.find(b",", start + _STEP)
        stop = len(text) if stop < 0 else stop
        try:
            listed = rapidjson.loads(b"[" + text[start:stop] + b"]", number_mode=_MODE)
        except rapidjson.JSONDecodeError:
            return None
        piece = np.array(listed)
        if piece.dtype not in (np.int64, np.float64):
            return None
        pieces.append(piece)
        start = stop + 1
    return np.concatenate(pieces) if pieces else None
