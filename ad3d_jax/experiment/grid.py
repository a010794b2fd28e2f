"""A grid of systems, classes and seeds: one run a cell, then the tables of all.

Each cell is a run in a process of its own. What is done is skipped; a cell that fails
is told of and the others go on; a grid that was stopped goes on with the same call, and
may grow.
"""

import dataclasses
import itertools
import os
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from tqdm import tqdm

from ad3d_jax.experiment import pretrained, scopes, workers
from ad3d_jax.experiment.cells import SAMPLE_SET, Grid, cell_folder, keep
from ad3d_jax.experiment.config import (
    changed,
    from_plain,
    load,
    plain,
    read_texts,
    written,
)
from ad3d_jax.experiment.run import run
from ad3d_jax.experiment.state import build_system
from ad3d_jax.experiment.status import PREEMPTED
from ad3d_jax.experiment.table_files import write_tables
from ad3d_jax.workdir import names
from ad3d_jax.workdir.json_files import write_json
from ad3d_jax.workdir.places import local
from data_pipelines import layout, synthetic
from data_pipelines.arrangements import MVTEC_3D

ALL = "all"  # in place of the names of classes


class Cell(NamedTuple):
    """One run of the grid."""

    system: str
    category: str
    seed: int
    control: bool = False  # with random weights in place of its files'

    @property
    def folder(self) -> Path:
        """Returns the cell's place below the grid's folder."""
        return cell_folder(*self)


class GridResult(NamedTuple):
    """What became of a grid."""

    counts: dict[str, int]  # of cells that are done, failed and stopped
    tables: list[Path]  # Markdown, CSV, HTML and LaTeX; see `table_files`


def grid(
    systems: Sequence[str],
    categories: str | Sequence[str] = ALL,
    seeds: Sequence[int] = (0,),
    *,
    workdir: str | os.PathLike,
    data: str | os.PathLike = "",
    dataset: str = "",
    mask_size: int = 256,
    set: Mapping[str, Any] | Sequence[str] = (),
    control: bool = False,
    jobs: int = 1,
) -> GridResult:
    """Runs what is not done of a grid and writes its tables.

    Args:
        systems: names of configurations, such as "draem:cpu", paths of their files, or
            "module:NAME" of systems outside this library.
        categories: classes; "all" or none = all that the data hold.
        seeds: of training.
        workdir: folder of the grid; made if need be.
        data: folder of classes; "" = the generated sample set.
        dataset: whose published figures stand beside ours; "" = mvtec_3d, or none
            beside the sample set.
        mask_size: side of all maps and masks, pixels.
        set: fields by dotted names, or texts FIELD=VALUE, of every configuration, or
            NAME:FIELD of those of one name or system; see `scopes`.
        control: each configuration that has networks from files is run with random
            weights, too, and stands in the tables so.
        jobs: processes at a time.

    Raises:
        ValueError: a configuration or a field is unknown, a setting is for none of the
            configurations, or the folder holds a grid that was made under other
            conditions.
    """
    asked = ask(systems, categories, seeds, data, dataset, mask_size, set, control)
    return run_grid(asked, workdir, jobs)


def run_grid(asked: Grid, workdir: str | os.PathLike, jobs: int) -> GridResult:
    """Runs what is not done of a grid and writes its tables; see `grid`."""
    folder = local(workdir, "workdir")
    counts = run_cells(asked, folder, jobs)
    return GridResult(counts, write_tables(folder))


def ask(
    systems: Sequence[str],
    categories: str | Sequence[str],
    seeds: Sequence[int],
    data: str | os.PathLike,
    dataset: str,
    mask_size: int,
    set: Mapping[str, Any] | Sequence[str],
    control: bool,
) -> Grid:
    """Returns a grid whose configurations were all looked at; see `grid`."""
    root, texts = os.fspath(data), set
    if isinstance(set, Mapping):
        texts = [f"{name}={written(value)}" for name, value in set.items()]
    systems = tuple(dict.fromkeys(systems))
    for_all, own = scopes.apart(texts, {name: load(name).system for name in systems})
    asked = Grid(
        systems=systems,
        categories=classes(categories, root),
        seeds=tuple(dict.fromkeys(seeds)),
        dataset=dataset or (MVTEC_3D if root else SAMPLE_SET),
        mask_size=mask_size,
        data_root=root,
        overrides=for_all,
        settings=own,
    )
    configs = {cell.system: config for cell, config in configs_of(asked).items()}
    if not control:
        return asked
    parts = {x: pretrained.networks(y, build_system(y)) for x, y in configs.items()}
    controls = {name: found for name, found in parts.items() if found}
    tqdm.write(f"with random weights, too: {', '.join(controls) or 'none'}")
    return dataclasses.replace(asked, controls=controls)


def classes(categories: str | Sequence[str], root: str) -> tuple[str, ...]:
    """Returns the names of classes; those that the data hold where all are asked for.

    Raises:
        ValueError: the data hold none.
    """
    named = (categories,) if isinstance(categories, str) else tuple(categories)
    if named not in ((), (ALL,)):
        return tuple(dict.fromkeys(named))
    if not root:
        return synthetic.CATEGORIES
    found = layout.categories(Path(root).expanduser())
    if not found:
        raise ValueError(f"categories: {root} has no folder with train in it")
    return tuple(found)


def configs_of(asked: Grid) -> dict[Cell, ConfigDict]:
    """Returns the configuration of each cell, controls behind their systems.

    Raises:
        ValueError: nothing is asked for, or a configuration is wrong.
    """
    for name in ("systems", "categories", "seeds"):
        if not getattr(asked, name):
            raise ValueError(f"{name}: expected one at least, found none")
    rows = [(x, c) for x in asked.systems for c in (False, True)]
    rows = [(x, control) for x, control in rows if not control or x in asked.controls]
    cells = [
        Cell(system, category, seed, control)
        for (system, control), category, seed in itertools.product(
            rows, asked.categories, asked.seeds
        )
    ]
    configs = {cell: config_of(asked, cell) for cell in cells}
    for config in configs.values():
        build_system(config)
    return configs


def run_cells(asked: Grid, folder: Path, jobs: int = 1) -> dict[str, int]:
    """Runs what is not done and returns how many cells are done, failed and stopped.

    Raises:
        ValueError: see `grid`.
    """
    configs = configs_of(asked)
    keep(asked, folder)
    due = [c for c in configs if not (folder / c.folder / names.METRICS).exists()]
    done = len(configs) - len(due)
    tqdm.write(f"{len(configs)} cells, {done} of them done")
    counts = {"done": done, "failed": 0, "stopped": 0}
    running: list[workers.Process] = []
    with workers.stopping(running) as asked_to_stop, ThreadPoolExecutor(jobs) as pool:

        def work(cell: Cell) -> str:
            if asked_to_stop():
                return "stopped"
            return run_cell(configs[cell], folder / cell.folder, running)

        with tqdm(total=len(due), unit="cell") as bar:
            for cell, state in zip(due, pool.map(work, due), strict=True):
                counts[state] += 1
                bar.update()
                if state != "done":
                    bar.write(f"{state}: {cell.folder}")
    return counts


def config_of(asked: Grid, cell: Cell) -> ConfigDict:
    """Returns the configuration of a cell.

    Raises:
        ValueError: it, or a field, is unknown.
    """
    fields = {
        "seed": cell.seed,
        "data.category": cell.category,
        "data.root": asked.data_root,
        "data.mask_size": asked.mask_size,
    }
    texts = (*asked.overrides, *asked.settings.get(cell.system, ()))
    config = changed(load(cell.system), fields)
    try:
        config = changed(config, read_texts(config, texts))
    except ValueError as error:
        raise ValueError(f"{cell.system}: {error}") from None
    if cell.control:
        parts = asked.controls[cell.system]
        config = changed(config, {f"weights.{part}": "" for part in parts})
    return config


def run_cell(config: ConfigDict, place: Path, running: list[workers.Process]) -> str:
    """Runs one cell to its end and returns done, failed or stopped."""
    place.mkdir(parents=True, exist_ok=True)
    (place / names.FAILED).unlink(missing_ok=True)
    arguments = {"config": plain(config), "workdir": str(place)}
    with (place / names.OUTPUT).open("a", encoding="utf-8") as output:
        process = workers.start(f"{__name__}:fit_and_evaluate", arguments, output)
        running.append(process)
        code = process.wait()
        running.remove(process)
    if code in (PREEMPTED, -signal.SIGTERM):  # the latter out of training
        return "stopped"
    if code == 0 and (place / names.METRICS).exists():
        return "done"
    reason = last_line(place / names.OUTPUT)
    write_json(place / names.FAILED, {"code": code, "reason": reason})
    return "failed"


def fit_and_evaluate(config: Mapping[str, Any], workdir: str) -> None:
    """Runs a cell in this process."""
    run(from_plain(config), workdir)


def last_line(path: Path) -> str:
    """Returns the last line that says anything."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
