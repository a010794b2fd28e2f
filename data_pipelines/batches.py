"""Makes batches of arrays and checks batches that came from elsewhere."""

from collections.abc import Mapping

import jax
import numpy as np

from ad3d_jax.base import Batch
from data_pipelines.errors import DatasetError

MAX_METRES = 10.0
# Field -> (rank, size of the last axis or None, dtype).
FIELDS = {
    "rgb": (4, 3, "float32"),
    "xyz": (4, 3, "float32"),
    "depth": (4, 1, "float32"),
    "valid": (4, 1, "bool"),
    "foreground": (4, 1, "bool"),
    "weight": (1, None, "float32"),
    "id": (1, None, "int32"),
    "category": (1, None, "int32"),
    "mask": (4, 1, "bool"),
    "label": (1, None, "int32"),
}
IMAGES = ("rgb", "xyz", "depth", "valid", "foreground")


def assemble(arrays: Mapping[str, np.ndarray], batch_size: int) -> Batch:
    """Returns arrays as a batch, filled up with rows of zeros and of weight 0.

    Args:
        arrays: [n,...] of each field by name, n <= batch_size; rgb is uint8, or float32
            in [0,1]; names that `base.Batch` does not have become extras.
        batch_size: rows of the batch.
    """
    count = len(next(iter(arrays.values())))
    padding = batch_size - count

    def fill(array: np.ndarray) -> np.ndarray:
        if not padding:
            return array
        zeros = np.zeros((padding, *array.shape[1:]), array.dtype)
        return np.concatenate([array, zeros])

    full = {name: fill(array) for name, array in arrays.items()}
    if "rgb" in full and full["rgb"].dtype == np.uint8:
        full["rgb"] = full["rgb"].astype(np.float32) / np.float32(255)
    full["weight"] = fill(np.ones(count, np.float32))
    fields = {name: full.get(name) for name in FIELDS}
    extras = {name: array for name, array in full.items() if name not in FIELDS}
    return Batch(**fields, extras=extras)


def among(
    part: Batch, rows: slice, numbers: Mapping[str, np.ndarray], batch_size: int
) -> Batch:
    """Returns a batch of which some rows were read; of the others the pixels are 0.

    Args:
        part: the rows that were read, from `assemble`.
        rows: their places in the batch.
        numbers: [n] of every field of one number a row, for all n <= batch_size rows.
        batch_size: rows of the batch.
    """

    def spread(array: np.ndarray) -> np.ndarray:
        # Pages of zeros that nobody writes to take no memory.
        whole = np.zeros((batch_size, *array.shape[1:]), array.dtype)
        whole[rows] = array
        return whole

    count = len(next(iter(numbers.values())))
    whole = {**numbers, "weight": np.ones(count, np.float32)}
    fields = {
        name: np.concatenate([x, np.zeros(batch_size - count, x.dtype)])
        for name, x in whole.items()
    }
    pixels = part._replace(**dict.fromkeys(fields))
    return jax.tree.map(spread, pixels)._replace(**fields)


def check_batch(batch: Batch) -> None:
    """Checks the shapes, dtypes and ranges of a host batch against `base.Batch`.

    Raises:
        DatasetError: names the field, what was expected and what was found.
    """
    present = {n: getattr(batch, n) for n in FIELDS if getattr(batch, n) is not None}
    if not present:
        raise DatasetError("batch: expected at least one field, found none")
    shapes = {}
    for name, array in present.items():
        rank, last, dtype = FIELDS[name]
        if array.dtype != np.dtype(dtype):
            hint = ": divide by 255?" if array.dtype == np.uint8 else ""
            raise _wrong(name, f"dtype {dtype}", f"{array.dtype}{hint}")
        if array.ndim != rank or (last is not None and array.shape[-1] != last):
            expected = "[rows]" if last is None else f"[rows, height, width, {last}]"
            raise _wrong(name, expected, list(array.shape))
        shapes[name] = array.shape
    _check_agreement(shapes)
    for name, array in present.items():
        _check_range(name, np.asarray(array))
    rows = next(iter(shapes.values()))[0]
    for name, array in batch.extras.items():
        if array.ndim == 0 or len(array) != rows:
            raise _wrong(f"extras.{name}", f"{rows} rows", list(array.shape))


def _wrong(name: str, expected: str, found: object) -> DatasetError:
    return DatasetError(f"batch.{name}: expected {expected}, found {found}")


def _check_agreement(shapes: Mapping[str, tuple[int, ...]]) -> None:
    first, shape = next(iter(shapes.items()))
    for name, other in shapes.items():
        if other[0] != shape[0]:
            raise _wrong(name, f"{shape[0]} rows as {first}", other[0])
    images = [name for name in IMAGES if name in shapes]
    for name in images:
        expected = shapes[images[0]][1:3]
        if shapes[name][1:3] != expected:
            found = shapes[name][1:3]
            raise _wrong(name, f"height and width {expected} as {images[0]}", found)


def _check_range(name: str, array: np.ndarray) -> None:
    if array.dtype == bool or not array.size:
        return
    if array.dtype == np.float32 and not np.isfinite(array).all():
        raise _wrong(name, "finite values", "NaN or infinity")
    low, high = array.min(), array.max()
    if name == "rgb" and (low < 0 or high > 1):
        hint = ": 0 to 255?" if high > 2 else ": normalised already?"
        raise _wrong(name, "values in [0,1]", f"{low:g} to {high:g}{hint}")
    if name in ("xyz", "depth") and max(-low, high) >= MAX_METRES:
        found = f"values up to {max(-low, high):g}: millimetres?"
        raise _wrong(name, f"metres below {MAX_METRES:g}", found)
    if name in ("weight", "label") and not np.isin(array, (0, 1)).all():
        raise _wrong(name, "0 or 1", f"{low:g} to {high:g}")
    if name in ("id", "category") and low < 0:
        raise _wrong(name, "numbers from 0 on", low)
