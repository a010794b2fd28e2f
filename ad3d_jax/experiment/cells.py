"""The folder of a grid: grid.json, and the workdir of a run for each cell."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ad3d_jax.workdir import names
from ad3d_jax.workdir.json_files import read_json, write_json

SAMPLE_SET = "sample_set"
NEEDS = ("systems", "categories", "seeds", "dataset", "mask_size", "overrides")
LATER = {"settings": {}, "controls": {}}  # fields that older grids lack


@dataclass(frozen=True)
class Grid:
    """What a table is made of; kept as grid.json."""

    systems: tuple[str, ...]  # names of configurations, such as "draem:cpu"
    categories: tuple[str, ...]
    seeds: tuple[int, ...]
    dataset: str  # whose published figures stand beside: mvtec_3d | mvtec_ad | any name
    mask_size: int  # side that all maps are resized to, pixels
    data_root: str  # "" = the generated sample set
    overrides: tuple[str, ...]  # FIELD=VALUE of every configuration
    # FIELD=VALUE of single configurations, by name; they win over those of every one
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Configurations that are run with random weights, too, and the parts that are so.
    controls: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def cell_folder(system: str, category: str, seed: int, control: bool = False) -> Path:
    """Returns a cell's place below the grid's folder."""
    last = f"seed-{seed}-random-weights" if control else f"seed-{seed}"
    system, category = names.configuration_name(system), names.plain_name(category)
    return Path(system, category, last)


def keep(grid: Grid, folder: Path) -> None:
    """Writes grid.json; a grid that is there already may only grow.

    Raises:
        ValueError: the folder holds a grid that was begun under other conditions.
    """
    path, new = folder / names.GRID, json.loads(json.dumps(asdict(grid)))
    if path.exists():
        before = read_grid(folder)
        for name in ("dataset", "mask_size", "data_root", "overrides"):
            _check_same(path, name, before[name], new[name])
        for system in {*before["systems"]} & {*new["systems"]}:
            own = (x["settings"].get(system, []) for x in (before, new))
            _check_same(path, f"settings of {system}", *own)
        for name in ("systems", "categories", "seeds"):
            more = [x for x in new[name] if x not in before[name]]
            new[name] = [*before[name], *more]
        for name in LATER:
            new[name] = {**before[name], **new[name]}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, new)


def _check_same(path: Path, name: str, before: object, found: object) -> None:
    if before != found:
        raise ValueError(
            f"{path}: the grid was begun with {name} {before!r}, found {found!r}; name "
            "another folder"
        )


def read_grid(folder: Path) -> dict:
    """Returns grid.json; raises ValueError where there is none."""
    return {
        **LATER,
        **read_json(folder / names.GRID, "name the folder of a grid", NEEDS),
    }


def read_cell(folder: Path, mask_size: int) -> tuple[dict | None, str]:
    """Returns (metrics, "") of a cell, or (None, why there are none)."""
    if (folder / names.METRICS).is_file():
        metrics = read_json(folder / names.METRICS, needs=("mask_size", "notes"))
        if metrics["mask_size"] != mask_size:
            return None, f"maps of {metrics['mask_size']} pixels, not {mask_size}"
        return metrics, ""
    failed = folder / names.FAILED
    if failed.is_file():
        return None, f"failed: {read_json(failed, needs=('reason',))['reason']}"
    return None, "not run"
