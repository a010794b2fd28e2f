"""The header of a safetensors file, checked before any tensor of it is touched."""

import json
import math
import os
from typing import NamedTuple

HEADER_LIMIT = 16 * 1024 * 1024  # bytes; thousands of tensors need less than one MiB
ITEM_BYTES = {
    **{"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4},
    **{"F16": 2, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1},
}


class Entry(NamedTuple):
    """Where a tensor lies among the bytes behind the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def check_header(data: bytes) -> list[Entry]:
    """Returns the tensors that a safetensors file declares, in the order of the bytes.

    Args:
        data: the whole file.

    Raises:
        ValueError: the header is longer than the file or than 16 MiB, is not the JSON
            that the format asks for, names a tensor twice, or the tensors do not lie
            one behind the other over exactly the bytes that follow the header.
    """
    header, size = _parsed(data, len(data))
    header.pop("__metadata__", None)
    entries = sorted(
        (_entry(name, fields) for name, fields in header.items()),
        key=lambda entry: (entry.begin, entry.end),
    )
    _check_places(entries, len(data) - 8 - size)
    return entries


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """Returns the text that a safetensors file carries beside its tensors.

    Args:
        path: the file; its header alone is read.

    Raises:
        ValueError: the header is too long or not what the format asks for; the message
            names the file.
    """
    with open(path, "rb") as file:
        start = file.read(8)
        start += file.read(min(int.from_bytes(start, "little"), HEADER_LIMIT))
        length = os.fstat(file.fileno()).st_size
    try:
        header, _ = _parsed(start, length)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return header.get("__metadata__", {})


def _parsed(data: bytes, length: int) -> tuple[dict[str, object], int]:
    """Returns the header and its size in bytes; what its tensors say is not checked.

    Args:
        data: the file's beginning, at least the whole header.
        length: of the file, bytes.
    """
    if length < 8:
        raise ValueError(f"expected 8 bytes of header length, found {length} bytes")
    size = int.from_bytes(data[:8], "little")
    if size > min(HEADER_LIMIT, length - 8):
        raise ValueError(
            f"expected a header of at most {HEADER_LIMIT} bytes inside a file of"
            f" {length}, found a header length of {size}"
        )
    try:
        header = json.loads(data[8 : 8 + size], object_pairs_hook=_without_repeats)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"the header is not JSON: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"expected a JSON object, found {type(header).__name__}")
    _check_metadata(header.get("__metadata__", {}))
    return header, size


def _entry(name: str, fields: object) -> Entry:
    """Returns one tensor's declaration, or raises a ValueError that names it."""
    if not isinstance(fields, dict) or set(fields) != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        raise ValueError(f"tensor {name!r}: expected dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ValueError(
            f"tensor {name!r}: expected a dtype of {sorted(ITEM_BYTES)},"
            f" found {dtype!r}"
        )
    if not _whole_numbers(shape) or len(shape) > 32:
        raise ValueError(f"tensor {name!r}: expected whole numbers as shape")
    if not _whole_numbers(offsets) or len(offsets) != 2:
        raise ValueError(f"tensor {name!r}: expected two whole numbers as data_offsets")
    begin, end = offsets
    needed = math.prod(shape) * ITEM_BYTES[dtype]
    if end - begin != needed:
        raise ValueError(
            f"tensor {name!r}: expected {needed} bytes for {dtype} {shape},"
            f" found data_offsets {offsets}"
        )
    return Entry(name, dtype, tuple(shape), begin, end)


def _check_places(entries: list[Entry], size: int) -> None:
    """Raises a ValueError unless the entries cover [0,size) without gap or overlap."""
    position = 0
    for entry in entries:
        if entry.begin != position:
            kind = "overlap" if entry.begin < position else "gap"
            raise ValueError(
                f"tensor {entry.name!r}: expected to begin at byte {position},"
                f" found {entry.begin} ({kind})"
            )
        position = entry.end
    if position != size:
        raise ValueError(
            f"expected {position} bytes of tensors behind the header, found {size}"
        )


def _check_metadata(metadata: object) -> None:
    """Raises a ValueError unless the metadata map text to text."""
    if not isinstance(metadata, dict) or not all(
        isinstance(value, str) for value in metadata.values()
    ):
        raise ValueError("expected __metadata__ to hold text alone")


def _whole_numbers(values: object) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and value >= 0 for value in values
    )


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Returns the pairs as a dictionary; a repeated key is an error."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the header holds a name twice: {repeated}")
    return found
