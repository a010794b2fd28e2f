"""Compares planted with real defects over grids of settings, cell by cell.

    python -m experiments.benchmarks.selection --output=FOLDER \
        --weights=RESNET18 [--data=FOLDER] [--classes=cable_gland,biscuit] \
        [--systems=patchcore,padim] [--train=60] [--minutes=30] \
        [--set=FIELD=VALUE ...] [--readme=docs/selection.md]

A cell is a class, a system and one of its settings: fitted once on good samples, scored
once on planted defects, as a study does, and once on the real defects of the class,
which serve this table alone. The folder gets one JSON file a cell, so that the command
goes on where it was stopped, and tables of all cells that are there as selection.md;
`--readme` puts them into a text between the lines `<!-- results of selection -->` and
`<!-- end of results -->`. `--minutes` begins no further cell of a class and system
after that time; with 0 the tables are made of what is there. A class is one of the
sample set, which is made on the spot, or a folder of --data.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from ad3d_jax.experiment.config import load, read_texts
from ad3d_jax.experiment.facts import commit
from ad3d_jax.experiment.study.grounds import Grounds
from ad3d_jax.experiment.table_files import put_into
from ad3d_jax.fit.cache_store import Store
from ad3d_jax.workdir.atomic import write_text
from ad3d_jax.workdir.json_files import read_json, write_json
from ad3d_jax.workdir.names import plain_name
from ad3d_jax.workdir.places import local
from data_pipelines import synthetic
from experiments import command
from experiments.benchmarks.selection import grids, tables
from experiments.benchmarks.selection.cells import Class, Fitted, cell, class_of

CELLS, PAGE = "cells", "selection.md"


def file_of(folder: Path, category: str, system: str, name: str) -> Path:
    """Returns the file of a cell; `name` as from `grids.apart`."""
    plain = plain_name(name.replace("+", "-").replace(" ", "_"))
    return folder / CELLS / category / system / f"{plain}.json"


def run(
    folder: Path,
    own: Class,
    system: str,
    weights: str,
    minutes: float,
    texts: Sequence[str],
    grounds: Grounds,
) -> int:
    """Makes the cells of a class and a system that are not there; returns how many.

    Args:
        folder: of the output.
        own: the class.
        system: a name of `grids.GRIDS`.
        weights: file or name of the backbone's, "" = at random.
        minutes: after which no further cell begins.
        texts: FIELD=VALUE for all settings.
        grounds: whose store keeps the frozen features of the class.

    Raises:
        ValueError: a field is wrong, or a file of the folder is damaged.
    """
    grid = grids.GRIDS[system]
    fields = {**own.fields, **read_texts(load(grid.config), texts)}
    points = grids.points(grid)
    fitted, start, made = Fitted(grid), time.monotonic(), 0
    for point, name in zip(points, grids.apart(points), strict=True):
        path = file_of(folder, own.category, system, name)
        if path.exists():
            continue
        if time.monotonic() - start >= 60 * minutes:
            logging.warning(
                "%s, %s: %g minutes are over; the rest of the grid is left for another "
                "call",
                *(own.category, system, minutes),
            )
            break
        config = grids.configured(grid, point, weights, fields)
        found = cell(config, own, grounds, fitted, point)
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "name": name,
            "usual": grids.is_usual(grid, point),
            "weights": Path(weights).name,
            "commit": commit(),
        }
        write_json(path, {**facts, **found})
        made += 1
    return made


def cells_of(folder: Path) -> list[dict[str, Any]]:
    """Returns all cells of a folder, by class, system and setting.

    Raises:
        UnreadableError: a file is damaged.
    """
    needs = ("category", "system", "name", "planted", "real", "draws")
    paths = sorted((folder / CELLS).glob("*/*/*.json"))
    return [read_json(path, needs=needs) for path in paths]


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    folder, systems = Path(values.output), values.systems
    if unknown := [name for name in systems if name not in grids.GRIDS]:
        known = ", ".join(grids.GRIDS)
        raise ValueError(f"systems: expected some of {known}, found {unknown[0]!r}")
    classes = [class_of(name, values.data, values.train) for name in values.classes]
    for own in classes:
        grounds = Grounds(Store(lasting=True))
        for system in systems:
            asked = values.weights, values.minutes, values.set, grounds
            run(folder, own, system, *asked)
            write_text(folder / PAGE, tables.page(cells_of(folder)))
    page = (folder / PAGE).read_text(encoding="utf-8")
    if values.readme:
        put_into(local(values.readme, "readme"), "selection", page)
    print(page)


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string("output", None, "Folder to write to.", required=True)
    flags.DEFINE_string("data", "", "Folder of classes, MVTec 3D-AD's layout.")
    flags.DEFINE_list("classes", list(synthetic.CATEGORIES), "Names of classes.")
    flags.DEFINE_string("weights", "", "Of a ResNet-18, file or name; '' = random.")
    flags.DEFINE_list("systems", list(grids.GRIDS), "Whose grids are run.")
    flags.DEFINE_integer("train", 60, "Training samples that are used.", 10)
    flags.DEFINE_float("minutes", 60.0, "For a class and a system.", 0.0)
    flags.DEFINE_string("readme", "", "Text whose tables are replaced.")
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE in all configurations.")


if __name__ == "__main__":
    define_flags()
    command.run(main)
