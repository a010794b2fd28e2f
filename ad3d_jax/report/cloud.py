"""Coloured point clouds: PLY files and still images of them."""

from pathlib import Path

import numpy as np

from ad3d_jax.workdir.atomic import write_bytes

BACKGROUND = np.array((247, 248, 250), np.uint8)
TILT, TURN = np.radians(-38.0), np.radians(18.0)


def write_ply(path: Path, xyz: np.ndarray, colors: np.ndarray) -> None:
    """Writes a coloured point cloud as binary little-endian PLY.

    Args:
        path: file to write.
        xyz: [N,3] points in metres, written as float32.
        colors: [N,3] uint8, red, green, blue.

    Raises:
        ValueError: the shapes or the type of the colours are not as above.
    """
    xyz, colors = np.asarray(xyz), np.asarray(colors)
    if xyz.ndim != 2 or xyz.shape[1] != 3 or colors.shape != xyz.shape:
        raise ValueError(
            f"{path}: expected points and colours [N,3], "
            f"found {xyz.shape} and {colors.shape}"
        )
    if colors.dtype != np.uint8:
        raise ValueError(f"{path}: expected uint8 colours, found {colors.dtype}")
    vertices = np.empty(len(xyz), [("xyz", "<f4", 3), ("rgb", "u1", 3)])
    vertices["xyz"], vertices["rgb"] = xyz, colors
    header = (
        "ply\nformat binary_little_endian 1.0\ncomment unit: metre\n"
        f"element vertex {len(xyz)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\n"
        "end_header\n"
    )
    write_bytes(path, header.encode("ascii") + vertices.tobytes())


def cloud_image(
    xyz: np.ndarray, colors: np.ndarray, focus: np.ndarray, size: int
) -> np.ndarray:
    """Returns uint8 [size,size,3]: an orthographic oblique view of a point cloud.

    Args:
        xyz: [N,3] points, x right, y down, z away from the camera.
        colors: [N,3] uint8.
        focus: [N] bool, points that the view is fitted to; all if none is marked.
        size: height and width in pixels.
    """
    view = np.broadcast_to(BACKGROUND, (size, size, 3)).copy()
    if len(xyz) == 0:
        return view
    focus = focus if focus.any() else np.ones(len(xyz), bool)
    low, high = np.percentile(xyz[focus], (1, 99), axis=0)
    turned = (xyz - (low + high) / 2) @ rotation().T
    low, high = np.percentile(turned[focus], (1, 99), axis=0)
    scale = 0.8 * size / max(float((high - low)[:2].max()), 1e-9)
    center = (low + high)[:2] / 2
    at = np.rint((turned[:, :2] - center) * scale + size / 2).astype(np.int64)
    order = np.argsort(-turned[:, 2], kind="stable")  # the nearest is painted last
    spread = max(1, round(scale * spacing(turned[:, :2])))
    for down in range(spread):
        for right in range(spread):
            x, y = at[order, 0] + right, at[order, 1] + down
            seen = (x >= 0) & (x < size) & (y >= 0) & (y < size)
            view[y[seen], x[seen]] = colors[order][seen]
    return view


def rotation() -> np.ndarray:
    """Returns the [3,3] rotation from camera axes to those of the oblique view."""
    turn = np.array(
        [
            [np.cos(TURN), 0, np.sin(TURN)],
            [0, 1, 0],
            [-np.sin(TURN), 0, np.cos(TURN)],
        ]
    )
    tilt = np.array(
        [
            [1, 0, 0],
            [0, np.cos(TILT), -np.sin(TILT)],
            [0, np.sin(TILT), np.cos(TILT)],
        ]
    )
    return tilt @ turn


def spacing(points: np.ndarray) -> float:
    """Returns the typical distance of neighbouring points [N,2], from their extent."""
    extent = np.ptp(points, axis=0)
    return float(np.sqrt(np.prod(extent) / len(points)))
