"""Writes tiny classes in the MVTec 3D-AD layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

SIDE = 32


def scene(seed: int, height: int = SIDE, width: int = SIDE):
    """Returns (rgb, xyz) of a box of 20 mm on a tilted table 0.6 m away."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((height, width))
    z = 0.6 + 1e-4 * rows + 5e-5 * columns
    z[height // 4 : height // 2, width // 4 : width // 2] -= 0.02
    z += random.normal(0, 1e-4, z.shape)
    z[random.random(z.shape) < 0.1] = 0
    x, y = (columns - width / 2) * 1e-3, (rows - height / 2) * 1e-3
    xyz = np.stack([x, y, z], -1) * (z > 0)[..., None]
    rgb = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return rgb, xyz.astype(np.float32)


def write_sample(folder: Path, stem: str, seed: int, size=(SIDE, SIDE), gt=None):
    """Writes rgb and xyz, and gt with a patch of the value `gt` unless that is None."""
    rgb, xyz = scene(seed, *size)
    for modality in ("rgb", "xyz") + (("gt",) if gt is not None else ()):
        (folder / modality).mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgb).save(folder / "rgb" / f"{stem}.png")
    tifffile.imwrite(folder / "xyz" / f"{stem}.tiff", xyz, photometric="rgb")
    if gt is not None:
        mask = np.zeros(size, np.uint8)
        mask[8:14, 8:14] = gt
        Image.fromarray(mask).save(folder / "gt" / f"{stem}.png")


def write_class(root: Path, name: str = "box", train: int = 5) -> Path:
    """Writes a class: `train`, 2 validation, 2 good and 2 dented samples."""
    folder = root / name
    for k in range(train):
        write_sample(folder / "train/good", f"{k:03d}", k)
    for k in range(2):
        write_sample(folder / "validation/good", f"{k:03d}", 100 + k)
        write_sample(folder / "test/good", f"{k:03d}", 200 + k, gt=0)
        write_sample(folder / "test/dent", f"{k:03d}", 300 + k, gt=255 - k)
    table = {"0": "good", "255": "dent", "254": "bump"}
    (folder / "class_ids.json").write_text(json.dumps(table))
    return folder


@pytest.fixture
def box(tmp_path) -> Path:
    """Returns the folder of a fresh class `box`; its parent is the root."""
    return write_class(tmp_path / "data")


@pytest.fixture
def write():
    """Returns the functions that write classes, samples and scenes."""

    class Write:
        sample = staticmethod(write_sample)
        whole = staticmethod(write_class)
        scene = staticmethod(scene)

    return Write
