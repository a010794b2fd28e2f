"""What files of weights hold: safetensors and npz, checked before it is used."""

import io
import json
import math
import tokenize
import zipfile
import zlib
from typing import BinaryIO

import jax.numpy as jnp
import numpy as np
import safetensors

# Of safetensors' names, those that NumPy and JAX can hold.
DTYPES = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8},
    "BOOL": np.bool_,
}
# What NumPy's reading of a header, which is a Python literal, can end in.
HEADER_ERRORS = (
    *(ValueError, TypeError, SyntaxError, tokenize.TokenError),
    *(RecursionError, MemoryError),
)
# Weights are noise that is hardly compressed; small archives may be all zeros.
INFLATION, SMALL = 20, 2**26  # times, bytes


def is_pickle(data: bytes) -> bool:
    """Says whether the bytes are a binary pickle or a zip archive around one."""
    if data.startswith(b"PK"):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                return any(name.endswith(".pkl") for name in archive.namelist())
        except (zipfile.BadZipFile, RuntimeError, ValueError, OSError):
            return False  # damaged: the reader of the format says how
    # A safetensors header of 640 bytes begins like a pickle of protocol 2.
    header = data[3:9] == b"\0\0\0\0\0{"
    return (
        data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5") and not header
    )


def read_safetensors(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns the arrays of a safetensors file by name, and the text beside them.

    The library refuses headers that are cut, not JSON, or that say anything else of
    the bytes behind them than what is there. It takes a name that stands in the header
    twice, where the last of its entries fits; that is refused here.

    Args:
        data: the whole file.

    Raises:
        ValueError: it is no such file, a name is repeated, or a tensor's dtype is not
            one of DTYPES.
    """
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise ValueError(f"expected safetensors, found: {error}") from error
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size].decode(), object_pairs_hook=_unique)
    arrays = {}
    for name, tensor in tensors:
        if tensor["dtype"] not in DTYPES:
            raise ValueError(
                f"tensor {name!r}: expected a dtype of {', '.join(DTYPES)},"
                f" found {tensor['dtype']}"
            )
        flat = np.frombuffer(tensor["data"], DTYPES[tensor["dtype"]])
        arrays[name] = flat.reshape(tensor["shape"])
    return arrays, header.get("__metadata__") or {}


def read_npz(data: bytes) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz archive by name.

    Args:
        data: the whole file.

    Raises:
        ValueError: it is no such archive, or a member is not an array of numbers as
            large as its header says.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_inflated(archive, len(data))
            for member in archive.infolist():
                _check_suffix(member.filename)
                with archive.open(member) as file:
                    _check_size(file, member.filename, member.file_size)
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise ValueError(f"expected an npz archive, found: {error}") from error


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Returns the pairs of a JSON object; a repeated name is a ValueError."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the header holds a name twice: {repeated}")
    return found


def _check_inflated(archive: zipfile.ZipFile, size: int) -> None:
    """Raises ValueError where an archive of few bytes unfolds to many."""
    total = sum(member.file_size for member in archive.infolist())
    most = max(INFLATION * size, SMALL)
    if total > most:
        raise ValueError(
            f"expected at most {most} bytes of arrays in an archive of {size}, found "
            f"{total}"
        )


def _check_suffix(name: str) -> None:
    if not name.endswith(".npy"):
        raise ValueError(f"expected arrays as .npy alone, found {name!r}")


def _check_size(file: BinaryIO, name: str, size: int) -> None:
    """Raises a ValueError unless a file is an array as large as its header says."""
    try:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise ValueError("expected npy 1.0 or 2.0")
        shape, _, dtype = readers[version](file)
    except HEADER_ERRORS as error:
        raise ValueError(f"{name}: {error}") from error
    if dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected numbers, found an array of dtype {dtype}")
    needed = file.tell() + math.prod(shape) * dtype.itemsize
    if needed != size:
        raise ValueError(
            f"{name}: expected {needed} bytes for {dtype} {list(shape)}, found {size}"
        )
