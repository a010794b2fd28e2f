"""The light on a class of parts, estimated from good samples, and what it does.

Grey levels follow a + b . n of the unit normal n: Lambert's law under a distant light
and an even one from all around, the first four spherical harmonics (Basri and Jacobs,
PAMI 2003; Ramamoorthi and Hanrahan, JOSA A 2001). Colours of the part that do not go
with its normals leave both unbiased and cancel in a ratio of two shadings.
"""

from typing import NamedTuple

import numpy as np

ROUNDS, OUTLYING = 4, 2.5  # of the fit; standard deviations beyond which a pixel is out
DARKEST = 0.1  # of the light on a surface that faces the camera: the least there is
FEWEST = 200  # pixels from which a light is estimated
FACING = np.array([0.0, 0.0, -1.0])  # the normal that looks at the camera


class Light(NamedTuple):
    """What a white surface reflects: ambient + direction . normal, any unit."""

    ambient: float
    direction: np.ndarray  # [3] float64, x to the right, y down, z from the camera

    def shade(self, normals: np.ndarray) -> np.ndarray:
        """Returns the light [...] that surfaces of unit normals [...,3] reflect."""
        facing = self.ambient + FACING @ self.direction
        least = DARKEST * max(facing, 1e-6)
        return np.maximum(self.ambient + normals @ self.direction, least)


# Where nothing says what the light is: from above and the left.
ASSUMED = Light(0.4, 0.6 * np.array([-0.3, -0.4, -0.866]))


def estimate(normals: np.ndarray, grey: np.ndarray) -> Light:
    """Returns the light by trimmed least squares, `ASSUMED` where it cannot be told.

    Args:
        normals: [N,3] unit normals of the part, of one or many good samples.
        grey: [N] grey levels there, in proportion to the light.
    """
    if len(grey) < FEWEST:
        return ASSUMED
    terms = np.concatenate([np.ones((len(normals), 1)), normals], 1)
    kept = np.ones(len(grey), bool)
    for _ in range(ROUNDS):
        found = np.linalg.lstsq(terms[kept], grey[kept], rcond=None)[0]
        away = np.abs(grey - terms @ found)
        kept = away <= OUTLYING * 1.4826 * np.median(away) + 1e-9
    light = Light(float(found[0]), found[1:])
    faces = light.ambient + FACING @ light.direction
    return light if faces > 0 else ASSUMED
