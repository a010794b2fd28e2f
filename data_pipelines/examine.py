"""Decodes every file of a class: what each split holds, and what is wrong with it."""

import collections
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data_pipelines import layout
from data_pipelines.arrangements import MVTEC_3D, SPLITS
from data_pipelines.decode import decode_rgb
from data_pipelines.errors import CorruptSampleError
from data_pipelines.layout import Layout
from data_pipelines.measured import measured
from data_pipelines.pairing import FILES, Fault, SampleFiles
from data_pipelines.remarks import GREY, NOTHING, SENTENCES
from data_pipelines.samples import (
    check_mask_size,
    check_xyz_size,
    load_mask,
    load_points,
    mask_flags,
    sha256,
)


class Row(NamedTuple):
    """What the samples of one split and defect hold."""

    split: str
    defect: str
    samples: int  # complete ones
    files: tuple[str, ...]  # kinds of files that any of them has
    sizes: tuple[tuple[int, int], ...]  # rows and columns that differ
    measured: tuple[float, float] | None  # least and greatest share of a sample
    distances: tuple[float, float] | None  # of the points of all samples, metres
    masks: int
    faults: int
    warnings: int


class Examined(NamedTuple):
    """A class that was decoded."""

    layout: Layout
    rows: tuple[Row, ...]
    faults: tuple[Fault, ...]


class _Seen(NamedTuple):
    """What one sample showed; None where that is not known."""

    files: SampleFiles
    size: tuple[int, int] | None
    measured: float | None
    distances: tuple[float, float] | None
    faults: list[Fault]


def examine(root: str | Path, category: str, name: str = MVTEC_3D) -> Examined:
    """Decodes every file of a class.

    Args:
        root: folder that holds the classes.
        category: name of a class.
        name: of the folder layout, one of `layout.LAYOUTS`.

    Raises:
        DatasetError: there is no such class.
    """
    found = layout.scan(root, category, name)
    files = sorted(found.samples + found.incomplete, key=lambda sample: sample[:3])
    bar = tqdm(files, desc=category, leave=False, disable=None)
    seen = [_seen(sample, found) for sample in bar]
    if all(any(fault.kind == GREY for fault in each.faults) for each in seen):
        for each in seen:  # a grey camera
            each.faults[:] = [fault for fault in each.faults if fault.kind != GREY]
    faults = [*found.faults, *(fault for each in seen for fault in each.faults)]
    faults += _across(str(Path(root) / category), seen)
    complete = {sample.key for sample in found.samples}
    return Examined(found, _rows(seen, complete, found.faults), tuple(faults))


def _across(place: str, seen: Sequence[_Seen]) -> list[Fault]:
    """Returns warnings of what no sample shows alone: sizes, and equal files."""
    faults = []
    sizes = collections.Counter(each.size for each in seen if each.size is not None)
    if len(sizes) > 1:
        listed = ", ".join(f"{h}x{w}: {n}" for (h, w), n in sorted(sizes.items()))
        message = f"images differ in size (rows x columns: number): {listed}"
        faults.append(Fault("image_sizes", place, message, True))
    images: dict[str, list[str]] = {}
    for each in seen:
        if each.size is not None:
            file = getattr(each.files, each.files.first)
            images.setdefault(sha256(file), []).append(each.files.key)
    for keys in images.values():
        if len(keys) > 1:
            message = f"the same image: {', '.join(keys)}"
            faults.append(Fault("duplicate", place, message, True))
    return faults


def _rows(
    seen: Sequence[_Seen], complete: set[str], faults: Sequence[Fault]
) -> tuple[Row, ...]:
    """Returns a row for each split and defect, in order of the splits."""
    groups: dict[tuple[int, str], list[_Seen]] = {}
    for each in seen:
        place = SPLITS.index(each.files.split), each.files.defect
        groups.setdefault(place, []).append(each)
    rows = []
    for (split, defect), group in sorted(groups.items()):
        own = [fault for each in group for fault in each.faults]
        folders = {
            str(getattr(each.files, name).parent)
            for each in group
            for name in FILES
            if getattr(each.files, name) is not None
        }
        own += [f for f in faults if str(Path(f.path).parent) in folders]
        shares = [each.measured for each in group if each.measured is not None]
        ranges = [each.distances for each in group if each.distances is not None]
        kinds = [n for n in FILES if any(getattr(each.files, n) for each in group)]
        rows.append(
            Row(
                SPLITS[split],
                defect,
                sum(each.files.key in complete for each in group),
                tuple("depth" if _is_depth(group, n) else n for n in kinds),
                tuple(sorted({each.size for each in group} - {None})),
                (min(shares), max(shares)) if shares else None,
                (min(r[0] for r in ranges), max(r[1] for r in ranges))
                if ranges
                else None,
                sum(each.files.gt is not None for each in group),
                sum(not fault.warning for fault in own),
                sum(fault.warning for fault in own),
            )
        )
    return tuple(rows)


def _is_depth(group: Sequence[_Seen], name: str) -> bool:
    return name == "xyz" and bool(group[0].files.sensor.depth)


def _seen(sample: SampleFiles, found: Layout) -> _Seen:
    """Returns what a sample shows, and its faults.

    Lists of points may differ in length, so that they have no size.
    """
    sizes: dict[str, tuple[int, int]] = {}
    faults: list[Fault] = []
    share = distances = None
    try:
        if sample.rgb is not None:
            image = decode_rgb(sample.rgb)
            sizes["rgb"] = image.values.shape[:2]
            faults += _assumed(sample.rgb, image.flags)
    except CorruptSampleError as error:
        faults.append(_corrupt(error))
    try:
        if sample.xyz is not None:
            xyz = _points(sample, sizes.get("rgb"), faults)
            sizes["xyz"] = xyz.shape[:2]
            if "rgb" in sizes:
                check_xyz_size(sample.xyz, sizes["xyz"], sizes["rgb"])
            there = measured(xyz)
            share = float(there.mean())
            if there.any() and xyz.shape[1] > 1:
                z = xyz[there][:, 2]
                distances = float(z.min()), float(z.max())
    except CorruptSampleError as error:
        faults.append(_corrupt(error))
    try:
        if sample.gt is not None:
            mask, labelled = load_mask(sample.gt)
            faults += _assumed(sample.gt, mask.flags)
            size = sizes.get(sample.first)
            if size is not None and labelled is None:
                check_mask_size(sample.gt, mask.values.shape, size)
            _check_mask(sample, mask.values, found.class_ids, faults)
    except CorruptSampleError as error:
        faults.append(_corrupt(error))
    size = sizes.get(sample.first)
    listed = size is not None and size[1] == 1
    return _Seen(sample, None if listed else size, share, distances, faults)


def _corrupt(error: CorruptSampleError) -> Fault:
    return Fault("corrupt", str(error.path), str(error))


def _assumed(path: Path, flags: tuple[str, ...]) -> list[Fault]:
    return [Fault(f, str(path), f"{path}: {SENTENCES[f]}", True) for f in flags]


def _points(
    sample: SampleFiles, size: tuple[int, int] | None, faults: list[Fault]
) -> np.ndarray:
    path = sample.xyz
    xyz, flags, nonfinite = load_points(path, sample.sensor, sample.camera, size)
    faults += _assumed(path, flags)
    if nonfinite:
        message = f"{path}: {nonfinite} points are NaN or infinite"
        faults.append(Fault("nonfinite", str(path), message, True))
    if not measured(xyz).any():
        faults += _assumed(path, (NOTHING,))
    return xyz


def _check_mask(
    sample: SampleFiles,
    mask: np.ndarray,
    class_ids: dict[int, str] | None,
    faults: list[Fault],
) -> None:
    path = str(sample.gt)
    for flag in mask_flags(sample.defect, mask):
        if flag == "several_values":  # they are looked up below
            continue
        message = f"{path}: {SENTENCES[flag]} ({sample.defect})"
        faults.append(Fault("mask_label", path, message, True))
    known = {0, 1, 255} if class_ids is None else {0, *class_ids}
    unknown = sorted({int(value) for value in np.unique(mask)} - known)
    if unknown:
        table = "class_ids.json" if class_ids is not None else "0, 1 and 255"
        message = f"{path}: values {unknown} are not among {table}; counted as defect"
        faults.append(Fault("unknown_id", path, message, True))
