"""The library's own RGB-D sample set: procedural parts, scans and planted defects.

NumPy and SciPy alone; every sample is a pure function of its category, defect, seed and
size. `generate` writes the MVTec 3D-AD layout. `docs/sample_set.md` describes the set.
"""

import json
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image

from ad3d_jax.workdir.disk import writing
from data_pipelines.synthetic import sensor
from data_pipelines.synthetic.defects import DEFECTS, DEPTH_ONLY, MAKERS
from data_pipelines.synthetic.surfaces import SURFACES

CATEGORIES = tuple(sorted(SURFACES))
VERSION = 4
SHIFT = 3.5  # mm, largest displacement of a part along either axis
TURN = 8.0  # degrees, largest rotation of a part
MARKER = "sample_set.json"


class Sample(NamedTuple):
    """One scan."""

    rgb: np.ndarray  # [H,W,3] uint8
    xyz: (
        np.ndarray
    )  # [H,W,3] float32 metres in the camera's frame, (0,0,0) = unmeasured
    mask: np.ndarray  # [H,W] bool, defect pixels


def class_ids(category: str) -> dict[str, int]:
    """Returns the value of each defect in the masks: 255, 254, …; 0 is good."""
    ids = {name: 255 - index for index, name in enumerate(DEFECTS[category])}
    return {**ids, "good": 0}


def sample(category: str, defect: str, seed: int, size: int = 128) -> Sample:
    """Returns the scan of one part; `defect` is "good" or one of `DEFECTS[category]`.

    Part, pose, light and sensor noise depend on (category, seed) alone: a damaged part
    and the good one of the same seed are twins. Raises ValueError on an unknown name or
    a size below 32.
    """
    if category not in SURFACES:
        raise ValueError(f"category: expected one of {CATEGORIES}, found {category!r}")
    if defect != "good" and defect not in DEFECTS[category]:
        expected = ("good", *DEFECTS[category])
        raise ValueError(f"defect of {category}: expected {expected}, found {defect!r}")
    _require_at_least(0, seed=seed)
    _require_at_least(32, size=size)
    shape, pose, damage, colour_noise, depth_noise, dropouts = (
        np.random.default_rng([seed, zlib.crc32(category.encode()), stream])
        for stream in range(6)
    )
    x, y = _part_axes(pose, size)
    seen = sensor.view(pose)
    good = SURFACES[category](shape, x, y)
    colours = sensor.photograph(good, seen, size)
    part, mask = good, np.zeros((size, size), bool)
    if defect != "good":
        part, mask = MAKERS[defect](damage, good, x, y)
    if defect not in ("good", *DEPTH_ONLY):
        damaged = sensor.photograph(part, seen, size)
        colours = np.where(mask[..., None], damaged, colours)
    height = sensor.relief(part)
    # A smooth swelling hides no points, so that all it changes lies in its mask.
    outline = sensor.relief(good) if defect in DEPTH_ONLY else height
    valid = sensor.measured(outline, seen, dropouts)
    xyz = sensor.scan(height, valid, seen, depth_noise)
    return Sample(sensor.expose(colours, colour_noise), xyz, mask)


def _part_axes(pose: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns each pixel's place (x, y), each [H,W] mm, on a randomly laid part."""
    shift, turn = pose.uniform(-SHIFT, SHIFT, 2), np.deg2rad(pose.uniform(-TURN, TURN))
    axis = ((np.arange(size) + 0.5) / size - 0.5) * sensor.FIELD
    right, down = axis[None, :] - shift[0], axis[:, None] - shift[1]
    x = np.cos(turn) * right + np.sin(turn) * down
    return x, np.cos(turn) * down - np.sin(turn) * right


def generate(
    root: str | os.PathLike,
    categories: Sequence[str] = CATEGORIES,
    size: int = 128,
    train: int = 80,
    validation: int = 10,
    test_good: int = 16,
    test_per_defect: int = 8,
    seed: int = 0,
) -> Path:
    """Writes the sample set as `root`/category/… in the MVTec 3D-AD layout.

    A category that is there with the same settings is left alone, one of other settings
    is replaced as a whole. The counts are samples a split and, of `test_per_defect`, a
    defect. Returns `root` as a path. Raises ValueError on an unknown category, a size
    or count out of range, and where a folder was not written by this function.
    """
    root = Path(root)
    counts = {
        "train": train,
        "validation": validation,
        "test_good": test_good,
        "test_per_defect": test_per_defect,
    }
    _require_at_least(0, seed=seed, **counts)
    _require_at_least(32, size=size)
    unknown = [category for category in categories if category not in SURFACES]
    if unknown:
        raise ValueError(f"categories: expected {CATEGORIES}, found {unknown}")
    for category in categories:
        settings = {"version": VERSION, "category": category, "size": size}
        settings |= {**counts, "seed": seed}
        if _settings_of(root / category) != settings:
            _replace(root / category, settings)
    return root


def _require_at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, found {value}")


def _settings_of(folder: Path) -> dict | None:
    """Returns the settings of a written category, None where there is none."""
    if not folder.exists():
        return None
    marker = folder / MARKER
    if not marker.is_file():
        raise ValueError(
            f"{folder}: expected a generated category or nothing, found a folder"
            f" without {MARKER}; choose another root"
        )
    return json.loads(marker.read_text())


def _replace(folder: Path, settings: dict) -> None:
    """Writes a category beside `folder` and moves it there at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratches = tempfile.TemporaryDirectory(prefix=".", dir=folder.parent)
    with writing(folder), scratches as scratch:
        fresh = Path(scratch) / "fresh"
        _write_category(fresh, settings)
        # Another process may be putting the same category there at the same time.
        try:
            if folder.exists():
                if _settings_of(folder) == settings:
                    return
                folder.rename(Path(scratch) / "old")
            fresh.rename(folder)
        except OSError:
            if _settings_of(folder) != settings:
                raise


def _write_category(folder: Path, settings: dict) -> None:
    category, size = settings["category"], settings["size"]
    ids = class_ids(category)
    plan = [("train", "good", settings["train"])]
    plan += [("validation", "good", settings["validation"])]
    plan += [("test", "good", settings["test_good"])]
    plan += [("test", name, settings["test_per_defect"]) for name in DEFECTS[category]]
    for split, defect, count in plan:
        for index in range(count):
            name = f"{split}/{defect}/{index}".encode()
            seed = settings["seed"] << 32 | zlib.crc32(name)
            scan = sample(category, defect, seed, size)
            code = ids[defect] if split == "test" else None
            _write_sample(folder / split / defect, f"{index:03d}", scan, code)
    (folder / "calibration").mkdir()
    text = json.dumps(sensor.camera_parameters(size), indent=2)
    (folder / "calibration" / "camera_parameters.json").write_text(text)
    names = {str(code): name for name, code in ids.items()}
    (folder / "class_ids.json").write_text(json.dumps(names, indent=2))
    (folder / MARKER).write_text(json.dumps(settings, indent=2))


def _write_sample(folder: Path, stem: str, scan: Sample, code: int | None) -> None:
    """Writes rgb, xyz and, where `code` is given, the mask with that value."""
    for kind in ("rgb", "xyz") + (("gt",) if code is not None else ()):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(scan.rgb).save(folder / "rgb" / f"{stem}.png")
    tifffile.imwrite(
        folder / "xyz" / f"{stem}.tiff",
        scan.xyz,
        photometric="rgb",
        compression="zlib",
        compressionargs={"level": 1},
        metadata=None,
    )
    if code is not None:
        values = np.where(scan.mask, code, 0).astype(np.uint8)
        Image.fromarray(values).save(folder / "gt" / f"{stem}.png")
