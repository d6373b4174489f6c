"""Reads NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd) volumes.

Both are a text header and one block of numbers, in the same file or beside it. Both count
columns first, so the stored array has its axes in the opposite order.
"""

import dataclasses
import gzip
import math
import pathlib
import zlib
from collections.abc import Iterable

import numpy as np

from data_pipeline import untrusted
from data_pipeline.errors import InputError
from data_pipeline.orientation import Stored

NRRD_SUFFIXES = (".nrrd", ".nhdr")
METAIMAGE_SUFFIXES = (".mha", ".mhd")

_LONGEST_HEADER_BYTES = 2**20

_NRRD_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_METAIMAGE_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
# From the world a NRRD file names to LPS.
_TO_LPS = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}


@dataclasses.dataclass(frozen=True)
class _Block:
    """Where the numbers lie and how they are written."""

    path: pathlib.Path
    offset: int  # bytes before them; -1: they are the last bytes of the file
    compression: str  # "", "gzip" or "zlib"
    dtype: np.dtype
    sizes: tuple[int, int, int]  # as the file has them: columns first


def read_nrrd(path: pathlib.Path) -> Stored:
    """Returns the volume as stored; its units unsaid.

    Raises:
      InputError: naming the file, if it is damaged or of a kind that is not read.
    """
    with untrusted.damaged(path, "NRRD file"):
        fields, end = _nrrd_header(path)
        block = _nrrd_block(path, fields, end)
        directions, origin = _nrrd_space(path, fields)
        spacing = _nrrd_spacing(fields, directions)
    return _stored(path, block, directions, origin, spacing)


def _nrrd_header(path: pathlib.Path) -> tuple[dict[str, str], int]:
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER_BYTES)
    if not start.startswith(b"NRRD000"):
        raise InputError(f"{path} is not a NRRD file")
    fields: dict[str, str] = {}
    position = 0
    for line in start.splitlines(keepends=True):
        position += len(line)
        text = line.decode("utf-8", "replace").strip()
        if not text:
            return fields, position
        key, colon, value = text.partition(": ")
        if colon and not text.startswith("#"):
            fields[key.lower()] = value.strip()
    return fields, position  # without an empty line: a header whose numbers lie beside it


def _nrrd_block(path: pathlib.Path, fields: dict[str, str], end: int) -> _Block:
    codes = {name: code for code, names in _NRRD_TYPES.items() for name in names}
    code = codes.get(fields["type"].lower())
    encoding = fields["encoding"].lower()
    compression = {"raw": "", "gzip": "gzip", "gz": "gzip"}.get(encoding)
    if code is None or compression is None:
        raise InputError(
            f"{path} has type {fields['type'][:24]!r}, encoding {encoding[:12]!r}; numbers in "
            "raw or gzip encoding are read"
        )
    endian = fields.get("endian", "little" if code[1] == "1" else "")
    if endian not in ("little", "big"):
        raise InputError(f"{path} does not say whether it is little or big endian")
    beside = fields.get("data file", fields.get("datafile"))
    where = path if beside is None else _beside(path, beside)
    skip = int(fields.get("byte skip", fields.get("byteskip", "0")))
    if int(fields.get("line skip", fields.get("lineskip", "0"))) or (skip and compression):
        raise InputError(f"{path} skips lines, or bytes of compressed numbers: not read")
    offset = -1 if skip == -1 else skip + (end if beside is None else 0)
    sizes = _sizes(path, [int(n) for n in fields["sizes"].split()])
    if int(fields["dimension"]) != len(fields["sizes"].split()):
        raise InputError(f"{path}: its dimension is not the number of its sizes")
    dtype = np.dtype({"little": "<", "big": ">"}[endian] + code)
    return _Block(where, offset, compression, dtype, sizes)


def _nrrd_space(
    path: pathlib.Path, fields: dict[str, str]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Returns directions (3, 3), one axis of the file a row, and the origin, both in LPS."""
    signs = _TO_LPS.get(fields.get("space", "").lower())
    text = fields.get("space directions")
    if signs is None or text is None:
        return None, None
    vectors = [_vector(part) for part in text.split(")") if part.strip()]
    origin = _vector(fields.get("space origin", "(0,0,0)").rstrip(")"))
    if [len(v) for v in vectors] != [3, 3, 3] or len(origin) != 3:
        raise InputError(f"{path}: space directions must be three vectors; got {text[:80]!r}")
    return np.array(vectors) * signs, np.array(origin) * signs


def _vector(text: str) -> list[float]:
    return [float(number) for number in text.strip().lstrip("(").split(",")]


def _nrrd_spacing(
    fields: dict[str, str], directions: np.ndarray | None
) -> tuple[float, ...] | None:
    if directions is not None:
        return tuple(np.linalg.norm(directions, axis=1).tolist())
    if "spacings" not in fields:
        return None
    return _known([float(s) for s in fields["spacings"].split()[:3]])


def _known(spacing: list[float]) -> tuple[float, ...] | None:
    return tuple(spacing) if np.isfinite(spacing).all() and min(spacing) > 0 else None


def read_metaimage(path: pathlib.Path) -> Stored:
    """Returns the volume as stored; its units unsaid.

    Raises:
      InputError: naming the file, if it is damaged or of a kind that is not read.
    """
    with untrusted.damaged(path, "MetaImage file"):
        fields, end = _metaimage_header(path)
        block = _metaimage_block(path, fields, end)
        spacing = _first(fields, ("ElementSpacing", "ElementSize"))
        matrix = _first(fields, ("TransformMatrix", "Rotation", "Orientation"))
        origin = _first(fields, ("Offset", "Position", "Origin"))
        known = _known(_numbers(spacing)[:3]) if spacing else None
        directions = None
        if matrix is not None and known is not None:
            cosines = np.array(_numbers(matrix)).reshape(len(_numbers(spacing or "")), -1)
            directions = cosines[:3, :3] * np.array(known)[:, None]
        start = np.array(_numbers(origin)[:3]) if origin else np.zeros(3)
    return _stored(path, block, directions, start, known)


def _metaimage_header(path: pathlib.Path) -> tuple[dict[str, str], int]:
    with path.open("rb") as file:
        start = file.read(_LONGEST_HEADER_BYTES)
    fields: dict[str, str] = {}
    position = 0
    for line in start.splitlines(keepends=True):
        position += len(line)
        key, equals, value = line.decode("utf-8", "replace").partition("=")
        if not equals:
            break
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":  # always the last line
            return fields, position
    raise InputError(f"{path} is not a MetaImage file: its header has no ElementDataFile")


def _metaimage_block(path: pathlib.Path, fields: dict[str, str], end: int) -> _Block:
    code = _METAIMAGE_TYPES.get(fields["ElementType"])
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    if code is None or channels != 1 or not _yes(fields, "BinaryData", "True"):
        raise InputError(
            f"{path} has ElementType {fields['ElementType'][:24]!r} with {channels} channels; "
            "binary numbers with one channel are read"
        )
    big = _yes(fields, "BinaryDataByteOrderMSB") or _yes(fields, "ElementByteOrderMSB")
    local = fields["ElementDataFile"].upper() == "LOCAL"
    where = path if local else _beside(path, fields["ElementDataFile"])
    header = int(fields.get("HeaderSize", "0"))
    offset = -1 if header == -1 else header + (end if local else 0)
    sizes = [int(n) for n in fields["DimSize"].split()]
    if len(sizes) != int(fields["NDims"]):
        raise InputError(f"{path}: NDims is not the number of sizes in DimSize")
    compression = "zlib" if _yes(fields, "CompressedData") else ""
    dtype = np.dtype((">" if big else "<") + code)
    return _Block(where, offset, compression, dtype, _sizes(path, sizes))


def _yes(fields: dict[str, str], key: str, otherwise: str = "False") -> bool:
    return fields.get(key, otherwise).lower() in ("true", "1")


def _first(fields: dict[str, str], keys: Iterable[str]) -> str | None:
    return next((fields[key] for key in keys if key in fields), None)


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split()]


def _sizes(path: pathlib.Path, sizes: list[int]) -> tuple[int, int, int]:
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes = sizes[:-1]
    sizes = [*sizes, 1] if len(sizes) == 2 else sizes
    if len(sizes) != 3 or min(sizes) < 1:
        raise InputError(f"{path} has the sizes {sizes[:9]}; a volume has three axes")
    return (sizes[0], sizes[1], sizes[2])


def _beside(path: pathlib.Path, name: str) -> pathlib.Path:
    """Returns the file with the numbers, which may not lie outside the header's folder."""
    where = path.parent / name
    if name.upper().startswith("LIST") or "%" in name:
        raise InputError(f"{path} spreads its numbers over several files; one is read")
    if not where.resolve().is_relative_to(path.parent.resolve()):
        raise InputError(f"{path} names a data file outside its folder")
    if not where.is_file():
        raise InputError(f"{path} needs {where}, which is missing")
    return where


def _stored(
    path: pathlib.Path,
    block: _Block,
    directions: np.ndarray | None,
    origin: np.ndarray | None,
    spacing: tuple[float, ...] | None,
) -> Stored:
    affine = None
    if directions is not None and origin is not None:
        affine = np.eye(4)
        affine[:3, :3] = directions[::-1].T
        affine[:3, 3] = origin
    values = _values(path, block)
    spacing_mm = spacing[::-1] if spacing and len(spacing) == 3 else None
    return Stored(values, "stored", spacing_mm, affine)


def _values(path: pathlib.Path, block: _Block) -> np.ndarray:
    claimed = math.prod(block.sizes) * block.dtype.itemsize
    size = untrusted.file_bytes(block.path)
    offset = size - claimed if block.offset == -1 else block.offset
    if offset < 0:
        raise InputError(f"{path} is cut short: its header asks for {claimed:,} bytes")
    ratio = untrusted.DEFLATE_RATIO if block.compression else 1
    untrusted.check_claim(path, claimed, max(0, size - offset), ratio)
    with untrusted.damaged(path, "volume"), block.path.open("rb") as file:
        file.seek(offset)
        if block.compression == "gzip":
            inflated = gzip.GzipFile(fileobj=file)
            data = inflated.read(claimed)
            untrusted.check_end(path, inflated)
        elif block.compression == "zlib":
            inflater = zlib.decompressobj()
            data = inflater.decompress(file.read(), claimed)
            inflater.decompress(inflater.unconsumed_tail, 1)  # to the check sum, which it compares
            if not inflater.eof:
                raise InputError(f"{path} is cut short, or holds more than its header says")
        else:
            data = file.read(claimed)
    untrusted.check_claim(path, claimed, len(data))
    return np.frombuffer(data, block.dtype).reshape(block.sizes[::-1])


def write_nrrd(path: pathlib.Path, values: np.ndarray, lps: np.ndarray | None) -> None:
    """Writes uint8 (slices, rows, cols) with the affine of their axes, if it is known."""
    lines = ["NRRD0004", "type: uint8", "dimension: 3", _text("sizes: ", values.shape[::-1])]
    if lps is not None:
        vectors = " ".join(f"({','.join(map(repr, v))})" for v in lps[:3, 2::-1].T.tolist())
        lines += ["space: left-posterior-superior", f"space directions: {vectors}"]
        lines += [f"space origin: ({','.join(map(repr, lps[:3, 3].tolist()))})"]
    lines += ["kinds: domain domain domain", "encoding: gzip", "", ""]
    path.write_bytes("\n".join(lines).encode() + gzip.compress(values.tobytes(), 6, mtime=0))


def write_metaimage(path: pathlib.Path, values: np.ndarray, lps: np.ndarray | None) -> None:
    """Writes uint8 (slices, rows, cols) with the affine of their axes, if it is known."""
    data = zlib.compress(values.tobytes(), 6)
    lines = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "CompressedData = True"]
    lines += [f"CompressedDataSize = {len(data)}"]
    if lps is not None:
        spacing = np.linalg.norm(lps[:3, 2::-1], axis=0)
        cosines = (lps[:3, 2::-1] / spacing).T
        lines += [_text("TransformMatrix = ", cosines.ravel().tolist())]
        lines += [_text("Offset = ", lps[:3, 3].tolist())]
        lines += [_text("ElementSpacing = ", spacing.tolist())]
    lines += [_text("DimSize = ", values.shape[::-1]), "ElementType = MET_UCHAR"]
    lines += ["ElementDataFile = LOCAL", ""]
    path.write_bytes("\n".join(lines).encode() + data)


def _text(start: str, numbers: Iterable[float]) -> str:
    return start + " ".join(map(repr, numbers))
