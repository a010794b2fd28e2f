"""A made-up cloud with known normals, for tests of rendered views."""

import numpy as np


def dome() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns points, normals and colours [N,3] of an oval dome half a metre away.

    In the window's axes: x to the right, y up, z towards the viewer.
    """
    around, up = np.meshgrid(np.arange(60) * np.pi / 30, np.linspace(0.1, 1.4, 24))
    outwards = np.stack(
        [np.cos(around) * np.cos(up), np.sin(around) * np.cos(up), np.sin(up)], -1
    ).reshape(-1, 3)
    axes = np.array([0.05, 0.03, 0.02])
    normals = outwards / axes
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    colours = np.stack([around, up, around * up], -1).reshape(-1, 3)
    return [0.01, 0.02, -0.5] + outwards * axes, normals, colours / colours.max(0)
