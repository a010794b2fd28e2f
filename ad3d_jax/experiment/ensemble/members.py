"""The members of an ensemble, and what they say together."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ad3d_jax.base import Scores
from ad3d_jax.experiment.detector import Detector
from ad3d_jax.experiment.export import resizing
from ad3d_jax.metrics.surprise import Tail, combined, surprise

TAILS = ("image", "pixel")  # of each member
Size = tuple[int, int]  # rows and columns


class Member(NamedTuple):
    """A detector of an ensemble, and how its scores surprise."""

    name: str
    detector: Detector
    image: Tail  # of image scores
    pixel: Tail  # of values of the map, at the ensemble's size


def together(members: Sequence[Member], said: Sequence[Scores], size: Size) -> Scores:
    """Returns the scores of an ensemble.

    They are surprises: minus the natural logarithm of the harmonic mean of p-values. A
    part "map_NAME" of each member holds the surprises that its map gives alone.

    Args:
        members: in order.
        said: what each says of the same samples.
        size: rows and columns of the maps.
    """
    pairs = [*zip(members, said, strict=True)]
    image = np.stack([surprise(m.image, scores.image) for m, scores in pairs])
    maps = np.stack(
        [surprise(m.pixel, at_size(scores.map[..., 0], size)) for m, scores in pairs]
    )
    parts = {
        f"map_{member.name}": own[..., None].astype(np.float32)
        for member, own in zip(members, maps, strict=True)
    }
    return Scores(combined(maps)[..., None], combined(image), parts)


def at_size(maps: np.ndarray, size: Size) -> np.ndarray:
    """Returns maps [B,H,W] at a size, as the script of an export makes them."""
    return np.stack([resizing.linear(np.asarray(map), size) for map in maps])


def tail_arrays(members: Sequence[Member]) -> dict[str, np.ndarray]:
    """Returns how scores of all members surprise: arrays called number/tail/field."""
    return {
        f"{number}/{tail}/{name}": np.asarray(value)
        for number, member in enumerate(members)
        for tail in TAILS
        for name, value in getattr(member, tail)._asdict().items()
    }
