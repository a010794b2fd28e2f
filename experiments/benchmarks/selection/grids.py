"""The settings that are compared, fixed before any of their values was seen."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from ml_collections import ConfigDict

from ad3d_jax.experiment.config import changed, load
from ad3d_jax.experiment.state import build_system
from ad3d_jax.experiment.study import space

Point = Mapping[str, Any]  # fields of a setting
BACKBONE = "backbone"  # the part that `weights` brings


class Grid(NamedTuple):
    """The settings of one system."""

    config: str  # name of a configuration, which the settings change
    usual: Point  # the usual setting: the paper's, as far as the grid goes
    axes: Mapping[str, Sequence[Any]]  # field -> its values; all combinations
    scoring: tuple[
        str, ...
    ] = ()  # fields that change how is scored, not what is fitted


LAYERS = (
    ("layer1", "layer2", "layer3"),
    ("layer1", "layer2"),
    ("layer2", "layer3"),
    *(("layer1",), ("layer2",), ("layer3",)),
)
# Of PatchCore and SimpleNet, so that one pass of the backbone serves all three.
PIXELS = {"data.recipe_parameters.interpolation": "bilinear"}
GRIDS = {
    "patchcore": Grid(
        "patchcore:cpu",
        {
            "model.layers": ("layer2", "layer3"),
            "model.patch_size": 3,
            "model.fraction": 0.02,
        },
        {"model.layers": LAYERS, "model.patch_size": (3, 5)},
    ),
    "padim": Grid(
        "padim:cpu",
        {"model.layers": LAYERS[0], "model.dimensions": 60, **PIXELS},
        {"model.layers": LAYERS, "model.dimensions": (30, 60)},
    ),
    "simplenet": Grid(
        "simplenet:cpu",
        {"model.epochs": 20, "hyper.noise": 0.015},
        {"model.epochs": (5, 20), "hyper.noise": (0.005, 0.015, 0.05, 0.15)},
    ),
    "btf": Grid(
        "btf:cpu+resnet18",
        {"model.features": "rgb_fpfh", "model.fraction": 0.1},
        {
            "model.features": ("rgb_fpfh", "rgb", "fpfh", "raw", "hog", "sift"),
            "model.fraction": (0.02, 0.1),
        },
    ),
    "cfm": Grid(
        "cfm:cpu",
        {"model.layers": ("layer2", "layer3"), "model.aggregation": "product"},
        {
            "model.layers": (("layer2", "layer3"), ("layer1", "layer2")),
            "model.aggregation": ("product", "sum", "max", "min"),
        },
        scoring=("model.aggregation",),
    ),
}


def points(grid: Grid) -> list[dict[str, Any]]:
    """Returns the settings of a grid, in the order of its axes, the last the fastest.

    Each is checked as a study checks a space.
    """
    read = space.read_space(grid.axes)
    space.check(read, load(grid.config), "grid")
    trials = map(optuna.trial.FixedTrial, space.grid_points(read, 0))
    found = [space.suggested(read, trial) for trial in trials]

    def place(point: Point) -> list[int]:
        return [list(values).index(point[name]) for name, values in grid.axes.items()]

    return sorted(found, key=place)


def is_usual(grid: Grid, point: Point) -> bool:
    """Returns whether a setting is the usual one of its grid."""
    return all(grid.usual[name] == value for name, value in point.items())


def configured(grid: Grid, point: Point, weights: str, fields: Point) -> ConfigDict:
    """Returns the configuration of a setting.

    Args:
        grid: of the setting.
        point: the setting.
        weights: file or name of the backbone's; it is left out where there is none.
        fields: of data and all else, the same for all settings.
    """
    config = changed(load(grid.config), {**grid.usual, **fields, **point})
    parts = {part.name for part in build_system(config).pretrained}
    if BACKBONE not in parts or not weights:
        return config
    return changed(config, {f"weights.{BACKBONE}": weights})


def apart(points: Sequence[Point]) -> Iterator[str]:
    """Yields a name of each setting: the values of its fields, in order."""
    for point in points:
        yield " ".join(_word(value) for value in point.values())


def _word(value: Any) -> str:
    return "+".join(value) if isinstance(value, tuple | list) else str(value)
