"""Lists what is wrong with a data set: `python -m data_pipelines.validate ROOT`.

Every file is decoded. Ends with 1 when anything is wrong; warnings alone end with 0.
"""

import collections
import sys
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from ad3d_jax.workdir.places import local
from data_pipelines import command, layout
from data_pipelines.decode import decode_rgb
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.layout import Fault, Layout, SampleFiles
from data_pipelines.measured import measured
from data_pipelines.remarks import GREY, NOTHING, SENTENCES
from data_pipelines.samples import (
    check_mask_size,
    check_xyz_size,
    load_mask,
    load_points,
    mask_flags,
    sha256,
)


def validate(
    root: str | Path, category: str, name: str = layout.MVTEC_3D
) -> list[Fault]:
    """Decodes every file of a class and returns all faults and warnings.

    Args:
        root: folder that holds the classes.
        category: name of a class.
        name: of the folder layout, one of `layout.LAYOUTS`.

    Raises:
        DatasetError: there is no such class.
    """
    found = layout.scan(root, category, name)
    faults = list(found.faults)
    sizes: dict[tuple[int, ...], int] = collections.Counter()
    images: dict[str, list[str]] = {}
    files = sorted(found.samples + found.incomplete, key=lambda sample: sample[:3])
    for sample in tqdm(files, desc=category, leave=False, disable=None):
        size = _check_sample(sample, found, faults)
        if size is not None:
            sizes[size] += 1
            file = getattr(sample, sample.first)
            images.setdefault(sha256(file), []).append(sample.key)
    if sum(fault.kind == GREY for fault in faults) == len(files):
        faults = [fault for fault in faults if fault.kind != GREY]  # a grey camera
    place = str(Path(root) / category)
    if len(sizes) > 1:
        listed = ", ".join(f"{h}x{w}: {n}" for (h, w), n in sorted(sizes.items()))
        message = f"images differ in size (rows x columns: number): {listed}"
        faults.append(Fault("image_sizes", place, message, True))
    for keys in images.values():
        if len(keys) > 1:
            message = f"the same image: {', '.join(keys)}"
            faults.append(Fault("duplicate", place, message, True))
    return faults


def counts(found: Layout) -> dict[str, dict[str, int]]:
    """Returns the number of complete samples by split and defect."""
    table: dict[str, dict[str, int]] = {split: {} for split in layout.SPLITS}
    for sample in found.samples:
        of_split = table[sample.split]
        of_split[sample.defect] = of_split.get(sample.defect, 0) + 1
    return table


def _check_sample(
    sample: SampleFiles, found: Layout, faults: list[Fault]
) -> tuple[int, int] | None:
    """Adds the faults of one sample and returns its size, if it could be decoded.

    Lists of points may differ in length, so that they have none.
    """
    sizes = {}
    try:
        if sample.rgb is not None:
            image = decode_rgb(sample.rgb)
            sizes["rgb"] = image.values.shape[:2]
            faults += _assumed(sample.rgb, image.flags)
    except CorruptSampleError as error:
        faults.append(_corrupt(error))
    try:
        if sample.xyz is not None:
            sizes["xyz"] = _check_points(sample.xyz, faults)
            if "rgb" in sizes:
                check_xyz_size(sample.xyz, sizes["xyz"], sizes["rgb"])
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
    return None if size is not None and size[1] == 1 else size


def _corrupt(error: CorruptSampleError) -> Fault:
    return Fault("corrupt", str(error.path), str(error))


def _assumed(path: Path, flags: tuple[str, ...]) -> list[Fault]:
    return [Fault(f, str(path), f"{path}: {SENTENCES[f]}", True) for f in flags]


def _check_points(path: Path, faults: list[Fault]) -> tuple[int, int]:
    xyz, flags, nonfinite = load_points(path)
    faults += _assumed(path, flags)
    if nonfinite:
        message = f"{path}: {nonfinite} points are NaN or infinite"
        faults.append(Fault("nonfinite", str(path), message, True))
    if not measured(xyz).any():
        faults += _assumed(path, (NOTHING,))
    return xyz.shape[:2]


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


def main(words: list[str]) -> int:
    """Reports on the classes of the root that the command line names."""
    if len(words) != 1:
        raise flags.Error("expected one folder, the root of the classes")
    root = str(local(words[0], "root"))
    names = flags.FLAGS.category or layout.categories(root)
    if not names:
        raise DatasetError(f"{root}: no class in it; expected\n{layout.EXPECTED}")
    for fault in () if flags.FLAGS.category else layout.strangers(root):
        sys.stdout.write(f"warning {fault}\n")
    wrong = [_report(root, category, flags.FLAGS.name) for category in names]
    return command.MISTAKE if any(wrong) else command.DONE


def _report(root: str, category: str, name: str) -> bool:
    try:
        faults = validate(root, category, name)
    except DatasetError as error:
        sys.stdout.write(f"fault {error}\n")  # other classes are looked at
        return True
    for split, table in counts(layout.scan(root, category, name)).items():
        listed = ", ".join(f"{defect} {n}" for defect, n in sorted(table.items()))
        sys.stdout.write(f"{category}/{split}: {listed or 'none'}\n")
    for fault in faults:
        kind = "warning" if fault.warning else "fault"
        sys.stdout.write(f"{kind} {fault}\n")
    return any(not fault.warning for fault in faults)


if __name__ == "__main__":
    flags.DEFINE_enum("name", layout.MVTEC_3D, layout.LAYOUTS, "Layout of the root.")
    flags.DEFINE_list("category", [], "Classes; all of them where none is named.")
    command.run(main)
