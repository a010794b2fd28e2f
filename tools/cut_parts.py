"""Cuts a part out of one RGB-D frame many times, as a camera would see a series of it.

    python tools/cut_parts.py --color=FILE --depth=FILE --camera=FILE --output=FOLDER \
        [--centre=ROW,COLUMN] [--side=160] [--good=60] [--altered=10] [--seed=0]

Each sample is a window around the part, moved by some pixels, with the light and the
depth a little different. Altered ones have a stain, a scratch or a bump. What is
written is what a line's camera writes, and no layout of a data set:

    FOLDER/good/{rgb,depth,camera}/NNN.{png,png,json}
    FOLDER/altered/{rgb,depth,camera}/NNN.{png,png,json}

Depth has 16 bits in the units of the frame; each sample has intrinsics of its own,
since its window moves. The camera file has fx, fy, cx, cy and scale, metres a unit.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

MOVES = 4  # pixels, at most, in each direction
GAIN = 0.03  # standard deviation of the light
NOISE = 1.0  # grey levels
DEPTH_NOISE = 1.0  # units
KINDS = ("stain", "scratch", "bump")


def cut(
    color: np.ndarray,
    depth: np.ndarray,
    camera: dict[str, float],
    centre: tuple[int, int],
    side: int,
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Returns one window: image [side,side,3] uint8, depth uint16, its camera."""
    top, left = (c - side // 2 + random.integers(-MOVES, MOVES + 1) for c in centre)
    there = slice(top, top + side), slice(left, left + side)
    gain = 1 + GAIN * random.standard_normal()
    image = color[there] * gain + NOISE * random.standard_normal((side, side, 3))
    units = depth[there].astype(np.float64)
    units += np.where(units > 0, DEPTH_NOISE * random.standard_normal(units.shape), 0)
    own = camera | {"cx": camera["cx"] - int(left), "cy": camera["cy"] - int(top)}
    return to_uint8(image), np.rint(units).clip(0, 65534).astype(np.uint16), own


def alter(
    image: np.ndarray, depth: np.ndarray, kind: str, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns image and depth with one of KINDS near the middle of the window."""
    side = len(image)
    rows, columns = np.mgrid[:side, :side]
    row, column = side / 2 + random.uniform(-side / 10, side / 10, 2)
    away = np.hypot(rows - row, columns - column) / (side / 14)
    if kind == "stain":
        strength = 0.7 * (away < 1)[..., None]
        return to_uint8(image * (1 - strength)), depth
    if kind == "scratch":
        angle = random.uniform(0, np.pi)
        across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
        line = (np.abs(across) < 1.2) & (away < 2)
        return np.where(line[..., None], np.uint8(235), image), depth
    height = 0.03 * np.median(depth[depth > 0]) * np.exp(-(away**2))
    raised = np.where(depth > 0, depth - height, 0)
    return image, np.rint(raised).clip(0).astype(np.uint16)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Returns grey levels rounded and clipped to 8 bits."""
    return np.rint(image).clip(0, 255).astype(np.uint8)


def write(
    folder: Path, number: int, image: np.ndarray, depth: np.ndarray, camera: dict
) -> None:
    """Writes the three files of a sample."""
    for name in ("rgb", "depth", "camera"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / "rgb" / f"{number:03}.png")
    Image.fromarray(depth).save(folder / "depth" / f"{number:03}.png")
    text = json.dumps(camera, indent=1)
    (folder / "camera" / f"{number:03}.json").write_text(text + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("color", "depth", "camera", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--centre", help="ROW,COLUMN of the part; default the middle")
    for name, value in {"side": 160, "good": 60, "altered": 10, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args(arguments)
    color = np.asarray(Image.open(given.color).convert("RGB")).astype(np.float64)
    depth = np.asarray(Image.open(given.depth))
    camera = json.loads(given.camera.read_text(encoding="utf-8"))
    centre = tuple(size // 2 for size in depth.shape)
    if given.centre:
        centre = tuple(map(int, given.centre.split(",")))
    half = given.side // 2 + MOVES
    if color.shape[:2] != depth.shape or not all(
        half <= place <= size - half
        for place, size in zip(centre, depth.shape, strict=True)
    ):
        parser.error(
            f"expected a window of {given.side} pixels around {centre}, moved by "
            f"{MOVES}, within image and depth of one size, found {color.shape[:2]} "
            f"and {depth.shape}"
        )
    if given.output.exists() and any(given.output.iterdir()):
        parser.error(f"{given.output}: expected an empty folder")
    random = np.random.default_rng(given.seed)
    for number in range(given.good):
        own = cut(color, depth, camera, centre, given.side, random)
        write(given.output / "good", number, *own)
    for number in range(given.altered):
        image, units, own = cut(color, depth, camera, centre, given.side, random)
        kind = KINDS[number % len(KINDS)]
        write(given.output / "altered", number, *alter(image, units, kind, random), own)
    print(f"{given.output}: {given.good} good samples, {given.altered} altered ones")


if __name__ == "__main__":
    main()
