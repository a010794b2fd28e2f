"""The files of an ensemble: its members' detectors, and how their scores surprise."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from ad3d_jax.experiment import detector
from ad3d_jax.experiment.config import from_plain, plain
from ad3d_jax.experiment.ensemble.members import TAILS, Member, Size, tail_arrays
from ad3d_jax.metrics.surprise import Tail
from ad3d_jax.workdir import names
from ad3d_jax.workdir.arrays import read_arrays, write_arrays
from ad3d_jax.workdir.calibration import (
    Calibration,
    read_calibration,
    write_calibration,
)
from ad3d_jax.workdir.json_files import read_json, write_json
from ad3d_jax.workdir.unreadable import reading

Parts = tuple[ConfigDict, tuple[Member, ...], Size, Calibration]


def is_ensemble(folder: Path) -> bool:
    """Returns whether a folder holds an ensemble that was written to its end."""
    return (folder / names.ENSEMBLE).exists()


def write(
    folder: Path,
    config: ConfigDict,
    members: Sequence[Member],
    size: Size,
    calibration: Calibration,
) -> None:
    """Writes what `read` reads into a folder that is held; members lie within it.

    Raises:
        DiskFullError: no space is left.
    """
    for member in members:
        member.detector.save(folder / names.MEMBERS / member.name)
    (folder / names.CHECKPOINTS).mkdir(exist_ok=True)
    write_arrays(folder / names.TAILS, tail_arrays(members))
    write_calibration(folder / names.CALIBRATION, calibration)
    told = {"members": [member.name for member in members], "size": size}
    write_json(folder / names.ENSEMBLE, {"config": plain(config), **told})


def read(folder: Path) -> Parts:
    """Returns configuration, members, size of the maps and calibration.

    Raises:
        ValueError: a file is missing or damaged; it is named.
    """
    path = folder / names.ENSEMBLE
    told = read_json(path, needs=("config.eval.alpha", "members", "size"))
    with reading(path):
        config, size = from_plain(told["config"]), tuple(map(int, told["size"]))
        called = [str(name) for name in told["members"]]
        if not all(_is_plain(name) for name in called):
            raise ValueError(f"members: expected names of folders, found {called}")
    calibration = read_calibration(folder / names.CALIBRATION)
    if calibration is None:
        raise ValueError(f"{folder / names.CALIBRATION}: expected a file, found none")
    arrays = read_arrays(folder / names.TAILS)
    members = []
    for number, name in enumerate(called):
        with reading(folder / names.TAILS):
            tails = [_tail(arrays, f"{number}/{tail}") for tail in TAILS]
        own = detector.load(folder / names.MEMBERS / name)
        members.append(Member(name, own, *tails))
    return config, tuple(members), size, calibration


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and not set(name) & set("/\\:\0")


def _tail(arrays: dict[str, np.ndarray], place: str) -> Tail:
    values, heights, scale = (arrays[f"{place}/{name}"] for name in Tail._fields)
    sound = values.ndim == 1 and values.shape == heights.shape and scale.shape == ()
    if not sound or not len(values) or not scale > 0:
        raise ValueError(f"{place}: expected values, as many heights, and a scale")
    if not np.isfinite(values).all() or not np.isfinite(heights).all():
        raise ValueError(f"{place}: expected finite numbers")
    return Tail(values, heights, float(scale))
