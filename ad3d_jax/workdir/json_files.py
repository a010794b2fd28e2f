"""JSON files, and what values have a form in JSON."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ad3d_jax.workdir.atomic import write_text
from ad3d_jax.workdir.unreadable import reading

DEEPEST = 50  # what any file of a run has is far from it


def read_json(
    path: str | Path, hint: str = "", needs: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns the object that a JSON file holds.

    Args:
        path: the file.
        hint: what to do where it is missing, such as "name a finished run".
        needs: names that it must hold; dots lead into objects within.

    Raises:
        UnreadableError: the file is missing or damaged, or holds something else.
    """
    with reading(path, hint):
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            kind = type(found).__name__
            raise ValueError(f"expected a JSON object, found a {kind}")
        if _is_deep(found):
            raise ValueError(f"expected at most {DEEPEST} objects one within another")
        for name in needs:
            _within(found, name)
    return found


def _is_deep(value: Any) -> bool:
    """Returns whether objects and lists lie deeper than DEEPEST."""
    level = [value]
    for _ in range(DEEPEST):
        groups = [x.values() if isinstance(x, dict) else x for x in level]
        level = [x for group in groups for x in group if isinstance(x, dict | list)]
    return bool(level)


def _within(table: Any, name: str) -> Any:
    """Returns what a dotted name leads to; KeyError where there is nothing."""
    for part in name.split("."):
        if not isinstance(table, dict) or part not in table:
            raise KeyError(name)
        table = table[part]
    return table


def write_json(path: str | Path, value: Any) -> None:
    """Writes a value as JSON, whole or not at all; NaN and infinities become null.

    OSError if the file cannot be written, DiskFullError if no space is left; an
    earlier file then stays as it was.
    """
    text = json.dumps(to_json(value), indent=2, ensure_ascii=False, allow_nan=False)
    # A name that is no UTF-8 is written as JSON writes such a character: \udcff.
    write_text(path, text.encode("utf-8", "backslashreplace").decode() + "\n")


def to_json(value: Any) -> Any:
    """Returns a value made of what JSON knows; arrays become lists, NaN and ±inf None.

    TypeError for what is neither a number, text, bool, None, array, path nor a list,
    tuple or mapping of these.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return to_json(np.asarray(value).tolist())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if hasattr(value, "items"):
        return {str(name): to_json(item) for name, item in value.items()}
    raise TypeError(f"no JSON form for a {type(value).__name__}: {value!r}")


def is_finite(value: Any) -> bool:
    """Returns whether no number inside a value for `to_json` is NaN or infinite."""
    if isinstance(value, list | tuple):
        return all(is_finite(item) for item in value)
    if hasattr(value, "items"):
        return all(is_finite(item) for _, item in value.items())
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return is_finite(np.asarray(value).tolist())
    return not isinstance(value, float) or math.isfinite(value)
