"""Arrays as a sensor gives them, checked and in the types that recipes take."""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ad3d_jax.base import Batch
from data_pipelines.batches import check_batch
from data_pipelines.camera import Intrinsics, intrinsics_of, metres, xyz_from_depth
from data_pipelines.samples import sample_id
from data_pipelines.sensor import Sensor, in_metres

LEVELS = 255  # of an 8-bit image, which recipes work on
Camera = Intrinsics | Mapping[str, float] | str | os.PathLike


def measured_of(
    rgb, xyz, depth, intrinsics, sensor: Sensor | None
) -> dict[str, np.ndarray]:
    """Returns what was given as rgb and xyz, with or without the axis of samples."""
    given = {"rgb": rgb, "xyz": xyz}
    given = {name: array_of(name, x) for name, x in given.items() if x is not None}
    if "xyz" in given and given["xyz"].ndim == 2:
        given["xyz"] = given["xyz"][:, None]
    declared = sensor is not None and sensor.points is not None
    if declared and "xyz" in given and given["xyz"].shape[-1] == 3:
        given["xyz"] = in_metres(given["xyz"], sensor)
    if depth is None:
        return given
    if xyz is not None:
        raise ValueError("score: expected xyz or depth, found both")
    missing = None
    if intrinsics is None and sensor is not None:
        intrinsics, missing = sensor.intrinsics, sensor.missing
    if intrinsics is None:
        raise ValueError("score: depth needs the intrinsics of its camera")
    camera = intrinsics_of(intrinsics)
    depth = array_of("depth", depth)
    if depth.shape[-1:] == (1,):
        depth = depth[..., 0]
    if depth.ndim not in (2, 3):
        found = list(depth.shape)
        raise ValueError(f"depth: expected [H,W] or [B,H,W], found {found}")
    if depth.dtype.kind in "iu":
        if depth.dtype.itemsize == 1:
            raise ValueError(f"depth: expected 16 bits or more, found {depth.dtype}")
        depth = metres(depth, camera.scale, missing)
    depth = np.where(np.isfinite(depth), depth, np.float32(0))
    frames = depth.reshape(-1, *depth.shape[-2:])
    points = np.stack([xyz_from_depth(frame, camera) for frame in frames])
    given["xyz"] = points.reshape(*depth.shape, 3)
    return given


def array_of(name: str, given: Any) -> np.ndarray:
    """Returns what was given as an array of numbers; 0 where it is masked."""
    try:
        array = np.asanyarray(given)
    except ValueError as error:  # of samples whose sizes differ
        raise ValueError(f"{name}: expected one array, found {error}") from None
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected numbers, found {array.dtype}")
    if np.ma.isMaskedArray(array):
        if name == "rgb":
            raise ValueError("rgb: expected all pixels, found a masked array")
        return array.filled(0)
    return np.asarray(array)


def check_measured(measured: dict[str, np.ndarray]) -> None:
    """Brings what was measured into the recipe's types, after a check of each field.

    Raises:
        ValueError: a field is not as `Detector.score` says.
    """
    for name, array in measured.items():
        if array.dtype.kind == "f":
            measured[name] = array.astype(np.float32, copy=False)
    if "xyz" in measured and measured["xyz"].dtype == np.float32:
        finite = np.isfinite(measured["xyz"])
        if not finite.all():
            there = finite.all(-1, keepdims=True)
            measured["xyz"] = np.where(there, measured["xyz"], np.float32(0))
    checked = dict(measured)
    eight_bits = "rgb" in measured and measured["rgb"].dtype == np.uint8
    if eight_bits:  # in range whatever they are
        checked["rgb"] = np.broadcast_to(np.float32(0), measured["rgb"].shape)
    check_batch(Batch(**checked))
    if "rgb" in measured and not eight_bits:
        measured["rgb"] = np.round(measured["rgb"] * LEVELS).astype(np.uint8)


def ids_of(measured, id, count: int) -> list[int]:
    """Returns the ids of samples, from the bytes of all their arrays if need be."""
    if id is None:
        digests = [hashlib.sha256() for _ in range(count)]
        for array in measured.values():
            for digest, row in zip(digests, array, strict=True):
                digest.update(np.ascontiguousarray(row))
        return [sample_id(digest.hexdigest()) for digest in digests]
    ids = [int(number) for number in np.ravel(id)]
    whole = np.asarray(id).dtype.kind in "iu"
    if not whole or len(ids) != count or not all(0 <= number < 2**31 for number in ids):
        raise ValueError(
            f"id: expected {count} whole numbers of 0 to 2**31 - 1, found {id!r}"
        )
    return ids
