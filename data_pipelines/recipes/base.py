"""What a preprocessing recipe is, and the parts that recipes are composed of."""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ad3d_jax.metrics.regions import label_regions
from data_pipelines.errors import DatasetError

Parameters = Mapping[str, Any]
NOTHING: Parameters = MappingProxyType({})
Record = dict[str, np.ndarray]
Fields = dict[str, tuple[tuple[int, ...], str]]  # name -> (shape, dtype)


class Sample(NamedTuple):
    """A sample as decoded; what was not measured is None.

    Points in rows and columns, as a camera sees them, are [h,w,3]; a list of points is
    [n,1,3].
    """

    rgb: np.ndarray | None = None  # [h,w,3] uint8
    xyz: np.ndarray | None = None  # [h,w,3] float32 metres, (0,0,0) where unmeasured
    # [h,w] uint8, 0 = normal, or numbered regions int32; None = all normal.
    mask: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Returns rows and columns."""
        return (self.xyz if self.rgb is None else self.rgb).shape[:2]


class Applied(NamedTuple):
    """A preprocessed sample and what had to be given up for it."""

    record: Record
    flags: tuple[str, ...] = ()  # nothing_measured, nothing_found, …: see the recipe


class Regions(NamedTuple):
    """How many 8-connected defect regions a mask had, and how many a record lost."""

    count: int = 0
    lost: int = 0  # those of which the record's mask has no pixel


def numbered(mask: np.ndarray | None) -> tuple[np.ndarray | None, int]:
    """Returns a mask with its 8-connected regions numbered from 1 on, and how many.

    Labels of a list of points [n,1] are one region.
    """
    if mask is None:
        return None, 0
    defects = mask > 0
    if mask.shape[1] == 1:
        return defects.astype(np.int32), int(defects.any())
    regions = label_regions(defects[None])[0]
    return regions, int(regions.max(initial=0))


def regions_left(mask: np.ndarray, count: int) -> Regions:
    """Returns what became of `count` regions whose numbers are left in a mask."""
    return Regions(count, count - len(np.unique(mask[mask > 0])))


class Recipe(NamedTuple):
    """A named way of preprocessing: pure functions and their parameters.

    `fit(parameters, samples)` takes the defaults updated with the user's choice and the
    training samples, which it may visit once, and returns all that `apply` needs as a
    table that JSON can hold. `process(params, sample)` returns the record, what became
    of the regions of the mask, and `apply` the record alone: rgb [H,W,3]
    uint8, xyz [H,W,3] float32 metres, depth [H,W,1] float32 metres, valid and
    foreground [H,W,1] bool, mask [Hm,Wm,1] bool and the extras that the parameter
    `extras` names. Fields that need colour or points are absent for a sample without;
    a recipe that needs points refuses such a sample. `fields(params, measured)` returns
    shape and dtype of what `apply` makes of samples that have `measured`, of "rgb" and
    "xyz".
    """

    name: str
    defaults: Parameters
    fields: Callable[[Parameters, frozenset[str]], Fields]
    fit: Callable[[Parameters, Iterable[Sample]], dict[str, Any]]
    process: Callable[[Parameters, Sample], tuple[Applied, Regions]]
    extras: tuple[str, ...] = ()  # it can make; `defaults` has those it always does
    needs_xyz: bool = False  # its image, too, depends on the points
    takes_lists: bool = False  # of points, [n,1,3]

    def apply(self, params: Parameters, sample: Sample) -> Applied:
        """Returns a preprocessed sample."""
        return self.process(params, sample)[0]


class Scene(NamedTuple):
    """A sample in which the object was told from what lies around it.

    Maps have the rows and columns of the sample.
    """

    sample: Sample
    maps: Mapping[str, np.ndarray]  # depth in metres, valid and foreground, [h,w]
    flags: tuple[str, ...] = ()
    # Over the table [h,w] metres, and the range that is normalised; None = not known.
    height: np.ndarray | None = None
    height_range: tuple[float, float] | None = None
    # As the sensor has it, where this is the resized scene; None = as `sample`.
    sensed: Sample | None = None


class Background(NamedTuple):
    """The first step of a recipe: what is object, and what lies around it.

    `separate(params, sample)` gets a sample with points. `fit` is a recipe's, `check`
    raises DatasetError where a parameter is wrong.
    """

    name: str
    separate: Callable[[Parameters, Sample], Scene]
    defaults: Parameters = NOTHING
    check: Callable[[Parameters], None] = lambda parameters: None
    fit: Callable[[Parameters, Iterable[Sample]], dict[str, Any]] | None = None
    resized_first: bool = False  # it is done at the size of the images
    needs_xyz: bool = False  # it changes the image, too
    gives_height: bool = False


def side(size: int | tuple[int, int]) -> tuple[int, int]:
    """Returns (rows, columns) of a size given as one number or as two."""
    if isinstance(size, int):
        return size, size
    rows, columns = size
    return int(rows), int(columns)


def sizes(params: Parameters) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns (rows, columns) of the images and of the masks."""
    image = side(params["image_size"])
    mask = params["mask_size"]
    return image, image if mask is None else side(mask)


def check_choice(name: str, parameters: Parameters, allowed: tuple[str, ...]) -> None:
    """Raises DatasetError unless a parameter is one of `allowed`."""
    if parameters[name] not in allowed:
        raise DatasetError(
            f"recipe: {name}: expected {' or '.join(allowed)}, found "
            f"{parameters[name]!r}"
        )


def check_whole(
    name: str, parameters: Parameters, least: int, most: int | None = None
) -> None:
    """Raises DatasetError unless a parameter is a whole number from `least` on.

    `most` is the largest that it may be; None = any.
    """
    found = parameters[name]
    whole = isinstance(found, int) and not isinstance(found, bool)
    if not whole or found < least or (most is not None and found > most):
        within = f"{least} or more" if most is None else f"{least} to {most}"
        raise DatasetError(
            f"recipe: {name}: expected a whole number of {within}, found {found!r}"
        )


def check_metres(name: str, parameters: Parameters) -> None:
    """Raises DatasetError unless a parameter is a length between 0 and 1 metre."""
    found = parameters[name]
    if not (isinstance(found, int | float) and 0 < found < 1):
        raise DatasetError(
            f"recipe: {name}: expected metres, above 0 and below 1, found "
            f"{parameters[name]!r}"
        )


def check_share(name: str, parameters: Parameters) -> None:
    """Raises DatasetError unless a parameter is a share, 0 to 1."""
    found = parameters[name]
    if not (isinstance(found, int | float) and 0 <= found <= 1):
        raise DatasetError(f"recipe: {name}: expected a share, 0 to 1, found {found!r}")
