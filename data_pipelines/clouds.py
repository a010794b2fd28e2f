"""Reads lists of points, PLY and PCD files, and the labels of points, text files.

Headers are not trusted: what they promise is compared with the file's size before
memory is asked for. Compressed PCD and big-endian PLY files are refused.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.decode import check_file
from data_pipelines.errors import CorruptSampleError

SUFFIXES = (".ply", ".pcd")
LABEL_SUFFIX = ".txt"
MAX_BYTES = 512 * 2**20
MAX_HEADER = 64 * 2**10
PLY_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "<i2", "ushort": "<u2", "int": "<i4"},
    **{"uint": "<u4", "float": "<f4", "double": "<f8", "int8": "i1", "uint8": "u1"},
    **{"int16": "<i2", "uint16": "<u2", "int32": "<i4", "uint32": "<u4"},
    **{"float32": "<f4", "float64": "<f8"},
}
PCD_KINDS = {"F": "f", "I": "i", "U": "u"}


class _Table(NamedTuple):
    """What a header says of the points that follow it."""

    fields: list[tuple[str, str]]  # name and NumPy type of each number
    count: int  # points
    text: bool  # or little-endian bytes
    start: int  # byte of the first point


class Labelled(NamedTuple):
    """Labels of points and, where the file has them, the points themselves."""

    labels: np.ndarray  # [n,1] uint8, 0 = normal
    xyz: np.ndarray | None  # [n,1,3] float32


def read_points(path: str | Path) -> tuple[np.ndarray, int]:
    """Reads the points of a PLY or PCD file, in the unit of the file.

    Returns:
        (xyz, nonfinite): [n,1,3] float32 with (0,0,0) where a point was not finite, and
        the number of such points.

    Raises:
        CorruptSampleError: the file is not of these formats, is cut short, has no x, y
            and z, or no point.
    """
    path = Path(path)
    data = _bytes_of(path)
    try:
        table = (_ply if path.suffix.lower() == ".ply" else _pcd)(data)
        xyz = _columns(data, table)
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        raise CorruptSampleError(path, f"cannot be decoded: {error}") from error
    return _checked(path, xyz)


def told_size(path: Path) -> tuple[int, int] | None:
    """Returns rows and columns that the header of a PCD file tells, if more than one.

    Raises:
        CorruptSampleError: the file cannot be read.
    """
    if path.suffix.lower() != ".pcd":
        return None
    try:
        lines, _ = _header(_bytes_of(path), "DATA")
        told = {words[0]: words[1:] for words in lines if words}
        rows, columns = int(told["HEIGHT"][0]), int(told["WIDTH"][0])
    except (ValueError, LookupError):
        return None
    return (rows, columns) if min(rows, columns) > 1 else None


def read_labels(path: str | Path) -> Labelled:
    """Reads the labels of points: a line a point, `label` or `x y z label`.

    The latter is the form of Real3D-AD and Anomaly-ShapeNet, whose points then count in
    place of those in the PCD file beside it. Any label above 0 is a defect.

    Raises:
        CorruptSampleError: the file has lines of another form, or none.
    """
    path = Path(path)
    text = _bytes_of(path).decode("ascii", "replace").replace(",", " ")
    try:
        rows = np.array([line.split() for line in text.splitlines() if line.strip()])
        values = rows.astype(np.float64)
    except ValueError as error:
        raise CorruptSampleError(path, f"expected numbers in rows: {error}") from error
    if values.ndim != 2 or values.shape[1] not in (1, 4) or not len(values):
        raise CorruptSampleError(
            path,
            "expected a line a point, `label` or `x y z label`, found "
            f"{list(values.shape)} numbers",
        )
    if not (values[:, -1] >= 0).all():  # NaN and marks such as -1 are no labels
        found = values[~(values[:, -1] >= 0), -1][0]
        raise CorruptSampleError(path, f"expected labels of 0 or more, found {found:g}")
    labels = (values[:, -1:] > 0).astype(np.uint8)
    if values.shape[1] == 1:
        return Labelled(labels, None)
    return Labelled(labels, _checked(path, values[:, :3])[0])


def _bytes_of(path: Path) -> bytes:
    check_file(path, MAX_BYTES)
    return path.read_bytes()


def _checked(path: Path, xyz: np.ndarray) -> tuple[np.ndarray, int]:
    if not len(xyz):
        raise CorruptSampleError(path, "holds no point")
    xyz = xyz.astype(np.float32)
    finite = np.isfinite(xyz).all(1)
    xyz = np.where(finite[:, None], xyz, np.float32(0))
    return xyz[:, None], int(finite.size - finite.sum())


def _header(data: bytes, last: str) -> tuple[list[list[str]], int]:
    """Returns the words of each line up to the one that begins with `last`."""
    lines, start = [], 0
    while start < min(len(data), MAX_HEADER):
        end = data.find(b"\n", start)
        if end < 0:
            break
        words = data[start:end].decode("ascii", "replace").split()
        lines.append(words)
        start = end + 1
        if words[:1] == [last]:
            return lines, start
    raise ValueError(f"no line {last!r} ends its header")


def _ply(data: bytes) -> _Table:
    lines, start = _header(data, "end_header")
    if lines[0] != ["ply"]:
        raise ValueError("does not begin with 'ply'")
    forms = [words[1] for words in lines if words[:1] == ["format"]]
    form = forms[0] if forms else "none"
    if form not in ("ascii", "binary_little_endian"):
        raise ValueError(f"format: expected ascii or little-endian, found {form}")
    fields, count, element = [], 0, ""
    for words in lines:
        if words[:1] == ["element"]:
            if not fields and words[1] != "vertex":
                raise ValueError(f"expected the element vertex first, found {words[1]}")
            element = words[1]
            count = int(words[2]) if element == "vertex" else count
        elif words[:1] == ["property"] and element == "vertex":
            fields.append((words[2], PLY_TYPES[words[1]]))
    return _Table(fields, count, form == "ascii", start)


def _pcd(data: bytes) -> _Table:
    lines, start = _header(data, "DATA")
    told = {words[0]: words[1:] for words in lines if words}
    if told["DATA"] not in (["ascii"], ["binary"]):
        raise ValueError(f"DATA: expected ascii or binary, found {told['DATA']}")
    counts = map(int, told.get("COUNT", ["1"] * len(told["FIELDS"])))
    fields = [
        (f"{name}{k or ''}", f"<{PCD_KINDS[kind]}{int(size)}")
        for name, kind, size, many in zip(
            *(told["FIELDS"], told["TYPE"], told["SIZE"], counts), strict=True
        )
        for k in range(many)
    ]
    return _Table(fields, int(told["POINTS"][0]), told["DATA"] == ["ascii"], start)


def _columns(data: bytes, table: _Table) -> np.ndarray:
    """Returns x, y and z of all points, [n,3]."""
    if table.count < 0:
        raise ValueError(f"promises {table.count} points")
    names = [name for name, _ in table.fields]
    places = [names.index(axis) for axis in "xyz"]
    if table.text:
        lines = data[table.start :].split(b"\n", table.count)[: table.count]
        rows = [line.split() for line in lines if line.strip()]
        values = [[float(row[place]) for place in places] for row in rows]
        found = len(values)
    else:
        kind = np.dtype([(f"{k}", form) for k, (_, form) in enumerate(table.fields)])
        found = (len(data) - table.start) // kind.itemsize
        count = min(found, table.count)
        whole = np.frombuffer(data, kind, count, table.start)
        values = np.stack([whole[f"{place}"] for place in places], axis=-1)
    if found < table.count:
        raise ValueError(f"is cut short: {table.count} points promised, {found} found")
    return np.asarray(values, np.float64).reshape(-1, 3)
