"""Runs a grid of systems, categories and seeds, one workdir a cell, and makes a table.

    python -m experiments.benchmark_table --systems=draem:cpu,patchcore --seeds=0,1,2 \
        --categories=bun,rope --workdir=DIR [--data_root=FOLDER] [--mask_size=256] \
        [--set=FIELD=VALUE …] [--jobs=1]

Each cell is a run of `experiments.main` in a process of its own. What is done is
skipped; a cell that fails is told of and the others go on; a grid that was killed goes
on with the same command, and may grow. Afterwards, and at any time, `python -m
experiments.collect DIR` makes the tables from the files.
"""

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from absl import app, flags
from tqdm import tqdm

from ad3d_jax.workdir import names
from ad3d_jax.workdir.json_files import write_json
from data_pipelines import layout
from experiments import collect, flag_errors

CONFIGS = Path(__file__).parent / "configs"
EXIT_STOPPED = 75  # as of a run that was asked to stop while it trained


@dataclass(frozen=True)
class Grid:
    """What a table is made of; kept as grid.json."""

    systems: tuple[str, ...]  # file of experiments/configs, with a variant: "draem:cpu"
    categories: tuple[str, ...]
    seeds: tuple[int, ...]
    dataset: str  # whose published figures stand beside: mvtec_3d | mvtec_ad | any name
    mask_size: int  # side that all maps are resized to, pixels
    data_root: str  # "" = the generated sample set
    overrides: tuple[str, ...]  # FIELD=VALUE of every configuration


class Cell(NamedTuple):
    """One run of the grid."""

    system: str
    category: str
    seed: int

    @property
    def folder(self) -> Path:
        """Returns the cell's place below the grid's folder."""
        return collect.cell_folder(*self)


def run(grid: Grid, workdir: str | Path, jobs: int = 1) -> dict[str, int]:
    """Runs what is not done and returns how many cells are done, failed and stopped.

    Args:
        grid: what to run.
        workdir: folder of the grid; made if need be.
        jobs: processes at a time.

    Raises:
        ValueError: a configuration or an override is unknown, or the folder holds a
            grid that was made under other conditions.
    """
    folder = Path(workdir).expanduser()
    for system in grid.systems:
        flag_errors.check_overrides(arguments(grid, Cell(system, "", 0), folder), "")
    keep(grid, folder)
    cells = [Cell(*c) for c in itertools.product(*of(grid))]
    due = [c for c in cells if not (folder / c.folder / names.METRICS).exists()]
    tqdm.write(f"{len(cells)} cells, {len(cells) - len(due)} of them done")
    counts = {"done": len(cells) - len(due), "failed": 0, "stopped": 0}
    running: set[subprocess.Popen] = set()
    with stopping(running) as asked, ThreadPoolExecutor(jobs) as pool:

        def work(cell: Cell) -> str:
            return "stopped" if asked() else run_cell(grid, cell, folder, running)

        with tqdm(total=len(due), unit="cell") as bar:
            for cell, state in zip(due, pool.map(work, due), strict=True):
                counts[state] += 1
                bar.update()
                if state != "done":
                    bar.write(f"{state}: {cell.folder}")
    return counts


def of(grid: Grid) -> tuple[Sequence, ...]:
    """Returns the sides of the grid."""
    return grid.systems, grid.categories, grid.seeds


def keep(grid: Grid, folder: Path) -> None:
    """Writes grid.json; a grid that is there already may only grow."""
    path = folder / names.GRID
    if path.exists():
        before = collect.read_grid(folder)
        for name in ("dataset", "mask_size", "data_root", "overrides"):
            old, new = before[name], json.loads(json.dumps(asdict(grid)))[name]
            if old != new:
                raise ValueError(
                    f"{path}: the grid was begun with {name} {old!r}, found {new!r}; "
                    "name another folder"
                )
        grown = {
            name: [*before[name], *(x for x in side if x not in before[name])]
            for name, side in zip(
                ("systems", "categories", "seeds"), of(grid), strict=True
            )
        }
        grid = Grid(**{**asdict(grid), **grown})
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, asdict(grid))


def arguments(grid: Grid, cell: Cell, folder: Path) -> list[str]:
    """Returns the arguments of `experiments.main` for a cell."""
    file, _, variant = cell.system.partition(":")
    config = f"{CONFIGS / file}.py" + (f":{variant}" if variant else "")
    return [
        f"--config={config}",
        f"--workdir={folder / cell.folder}",
        f"--config.seed={cell.seed}",
        f"--config.data.category={cell.category}",
        f"--config.data.root={grid.data_root}",
        f"--config.data.mask_size={grid.mask_size}",
        *(f"--config.{override}" for override in grid.overrides),
    ]


def run_cell(grid: Grid, cell: Cell, folder: Path, running: set) -> str:
    """Runs one cell to its end and returns done, failed or stopped."""
    place = folder / cell.folder
    place.mkdir(parents=True, exist_ok=True)
    (place / names.FAILED).unlink(missing_ok=True)
    command = [sys.executable, "-m", "experiments.main"]
    with (place / names.OUTPUT).open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [*command, *arguments(grid, cell, folder)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a signal comes from here alone, and once
        )
        running.add(process)
        code = process.wait()
        running.discard(process)
    if code in (EXIT_STOPPED, -signal.SIGTERM):  # the latter out of training
        return "stopped"
    if code == 0 and (place / names.METRICS).exists():
        return "done"
    write_json(
        place / names.FAILED, {"code": code, "reason": last_line(place / names.OUTPUT)}
    )
    return "failed"


def last_line(path: Path) -> str:
    """Returns the last line that says anything."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


class stopping:  # noqa: N801 (used as a context)
    """While it holds, SIGTERM and SIGINT ask the running cells to save and stop."""

    def __init__(self, running: set[subprocess.Popen]):
        self._running, self._asked = running, False

    def __enter__(self):
        signals = (signal.SIGTERM, signal.SIGINT)
        self._before = {s: signal.signal(s, self._stop) for s in signals}
        return lambda: self._asked

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, *_):
        self._asked = True
        for process in list(self._running):
            process.send_signal(signal.SIGTERM)


def main(_) -> None:
    """Runs the command; a user's mistake ends it with one sentence and no trace."""
    values = flags.FLAGS
    default = layout.MVTEC_3D if values.data_root else collect.SAMPLE_SET
    grid = Grid(
        systems=tuple(values.systems),
        categories=tuple(values.categories),
        seeds=tuple(int(seed) for seed in values.seeds),
        dataset=values.dataset or default,
        mask_size=values.mask_size,
        data_root=values.data_root,
        overrides=tuple(values.set),
    )
    try:
        counts = run(grid, values.workdir, values.jobs)
        for path in collect.write_tables(Path(values.workdir).expanduser()):
            print(path)
    except ValueError as mistake:
        sys.exit(f"error: {mistake}")
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    if counts["stopped"]:
        sys.exit(EXIT_STOPPED)
    sys.exit(1 if counts["failed"] else 0)


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_list("systems", None, "Configurations, as draem:cpu.", required=True)
    flags.DEFINE_list("categories", None, "Classes.", required=True)
    flags.DEFINE_list("seeds", ["0"], "Seeds of training.")
    flags.DEFINE_string("workdir", None, "Folder of the grid.", required=True)
    flags.DEFINE_string("data_root", "", "Folder of classes; '' = the sample set.")
    flags.DEFINE_string("dataset", "", "Whose published figures stand beside ours.")
    flags.DEFINE_integer("mask_size", 256, "Side of all maps and masks, pixels.", 1)
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE of every configuration.")
    flags.DEFINE_integer("jobs", 1, "Cells at a time.", 1)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=flag_errors.parse)
