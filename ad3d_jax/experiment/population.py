"""Many configurations of one structure, fitted in one program, then each evaluated.

Members are all combinations of what varies: numbers (`hyper.…`), `seed`, and the data
(`data.category`, `data.root`, `data.sample_set.…`). Each has a workdir of its own, as a
run alone makes it.
"""

import contextlib
import functools
import itertools
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging
from ml_collections import ConfigDict

from ad3d_jax.base import Batch, Dataset, State, System, Tree
from ad3d_jax.devices import engines
from ad3d_jax.experiment import calibrate, fitting, opening, pretrained
from ad3d_jax.experiment.cells import SAMPLE_SET, Grid, cell_folder, keep
from ad3d_jax.experiment.config import Source, changed, fields_of, load
from ad3d_jax.experiment.data import category_of, mask_size, open_data
from ad3d_jax.experiment.evaluation import evaluate
from ad3d_jax.experiment.opening import Run
from ad3d_jax.experiment.pretrained import Brought
from ad3d_jax.experiment.state import build_system, initial_state, key_of
from ad3d_jax.fit.cache_store import Store
from ad3d_jax.fit.fit import NonFiniteError
from ad3d_jax.fit.members import unified
from ad3d_jax.fit.population import Member, fit_population
from ad3d_jax.workdir import fields, names
from ad3d_jax.workdir.checkpoint import Checkpointer, save_tree
from ad3d_jax.workdir.folder import open_workdir
from ad3d_jax.workdir.json_files import read_json, write_json
from ad3d_jax.workdir.log import Log
from ad3d_jax.workdir.places import local
from data_pipelines.sources import Data

MAY_DIFFER = ("seed", "hyper", "data.category", "data.root", "data.sample_set")


class Part(NamedTuple):
    """A configuration that is trained with others, and its data."""

    config: ConfigDict
    dataset: Dataset  # one object for all that have the same data
    first: Batch  # for shapes
    brought: Mapping[str, Tree]  # what files bring, see `pretrained`
    log: Log | None = None


def run_members(
    configs: Sequence[ConfigDict],
    workdirs: Sequence[Path],
    checkpoints: Path,
    mode: str = "fit_eval",
    allow: Sequence[str] = (),
) -> list[dict | NonFiniteError]:
    """Returns the metrics of each configuration, {} where only fitted.

    Args:
        configs: of one structure, see `structure_of`.
        workdirs: one each.
        checkpoints: folder of the training of all together.
        mode: as of `run.run`.
        allow: fields that may differ from the workdirs'.

    Returns:
        As `run.run` for each; the error of one that diverged, which is in its
        failed.json too.

    Raises:
        ValueError: the configurations differ in structure, or one is wrong.
        Preempted: the process was asked to stop.
    """
    check_alike(configs)
    if written := [name for name, file in configs[0].save_weights.items() if file]:
        raise ValueError(
            f"save_weights.{written[0]}: the members of a population would write one "
            "file; fit one alone"
        )
    known: dict[str, Data] = {}

    def read(config: ConfigDict, system: System, learned: Mapping | None) -> Data:
        own = config.data.to_json(), config.calibration.to_json()
        name = json.dumps([*own, learned], sort_keys=True)
        if name not in known:
            known[name] = open_data(config, system, learned)
        return known[name]

    @functools.cache
    def brought() -> Brought:
        return pretrained.bring(configs[0], build_system(configs[0]))

    def bring(*_) -> Brought:
        return brought()  # the same files for all

    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(
                opening.opened(config, folder, mode, allow, read=read, bring=bring)
            )
            for config, folder in zip(configs, workdirs, strict=True)
        ]
        for each in runs:
            calibrate.check(each.system, each.data, whole=False)
        if "fit" in mode:
            train(runs, checkpoints)
        program = runs[0].program  # one for all
        return [outcome(each._replace(program=program), mode) for each in runs]


def train(runs: Sequence[Run], checkpoints: Path) -> None:
    """Trains all runs together and saves each one's state, or why there is none."""
    finals = [each.folder / names.FINAL for each in runs]
    failures = [each.folder / names.FAILED for each in runs]
    ended = [fitting.begun(each) for each in runs]
    if all(
        done or failed.exists() for done, failed in zip(ended, failures, strict=True)
    ):
        logging.info("all %d members are fitted already", len(runs))
        return
    parts = [Part(x.config, x.dataset, x.first, x.brought, x.log) for x in runs]
    start = time.perf_counter()
    try:
        found = fitted(runs[0].system, runs[0].engine, parts, checkpoints)
        for result, final, failure in zip(found, finals, failures, strict=True):
            if isinstance(result, NonFiniteError):
                logging.warning("%s: %s", failure.parent, result)
                write_json(failure, {"reason": str(result)})
            else:
                failure.unlink(missing_ok=True)
                save_tree(final, result)
    finally:
        seconds = (time.perf_counter() - start) / len(runs)  # each one's share
        for each in runs:
            each.log.write(
                kind="event", event="fit", seconds=seconds, members=len(runs)
            )


def fitted(
    system: System,
    engine: engines.Engine,
    parts: Sequence[Part],
    folder: Path,
    store: Store | None = None,
) -> list[State | NonFiniteError]:
    """Returns the state of each part, trained together from the newest checkpoint on.

    Args:
        system: of every part.
        engine: the parts are shared between its devices.
        parts: of one structure, see `structure_of`.
        folder: of the checkpoints of all together.
        store: as of `fit`.

    Raises:
        ValueError: as `fit_population`.
        Preempted: the process was asked to stop.
    """
    states: list[State] = []
    for part in parts:
        state = initial_state(part.config, system, part.first, part.brought)
        states.append(unified(state, states[0]) if states else state)
    members = [
        Member(
            state,
            key_of(part.config, "fit"),
            part.dataset,
            part.config.seed,
            part.log,
        )
        for part, state in zip(parts, states, strict=True)
    ]
    config = parts[0].config
    with Checkpointer(folder, keep=config.fit.keep) as checkpointer:
        features = folder / Path(names.FEATURES).name
        options = opening.fit_options(config)._replace(cache_folder=features)
        return fit_population(system, members, options, engine, checkpointer, store)


def outcome(begun: Run, mode: str) -> dict | NonFiniteError:
    """Returns a run's metrics, {} where it is not scored, or why it was stopped."""
    if (begun.folder / names.FAILED).exists():
        return NonFiniteError(read_json(begun.folder / names.FAILED)["reason"])
    if "fit" in mode:
        fitting.calibrate(begun)
    return evaluate(begun) if "eval" in mode else {}


def structure_of(config: ConfigDict) -> str:
    """Returns what is equal in configurations that can be trained together."""
    return json.dumps(_fixed(config), sort_keys=True)


def check_alike(configs: Sequence[ConfigDict]) -> None:
    """Raises ValueError where configurations cannot be trained together."""
    if not configs:
        raise ValueError("a population needs one member at least")
    first = _fixed(configs[0])
    for config in configs[1:]:
        other = _fixed(config)
        names = first.keys() | other.keys()
        different = sorted(n for n in names if first.get(n) != other.get(n))
        if different:
            raise ValueError(
                f"{different[0]} differs between members: only {', '.join(MAY_DIFFER)} "
                "may; what changes the structure is another program"
            )


def _fixed(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields that no member has for itself, by dotted names."""
    return {
        name: value for name, value in fields_of(config).items() if not may_differ(name)
    }


def may_differ(name: str) -> bool:
    """Returns whether members may differ in a field."""
    return any(fields.within(name, group) for group in MAY_DIFFER)


# --- All combinations -----------------------------------------------------------------


def population(
    config: Source,
    vary: Mapping[str, Sequence[Any]],
    workdir: str | os.PathLike | None = None,
    *,
    together: int = 0,
    mode: str = "fit_eval",
    allow: Sequence[str] = (),
) -> dict[Path, dict | NonFiniteError]:
    """Runs all combinations and returns what `run_members` gives, by workdir.

    Args:
        config: what the values are changed in; as `Experiment` takes it.
        vary: values by dotted field, such as {"hyper.noise": [0.01, 0.02]}.
        workdir: of all; None = runs/<system>-population.
        together: members in one program; 0 = all.
        mode: fit, eval or fit_eval.
        allow: fields that may differ from the workdirs'.

    Raises:
        ValueError: a field may not vary, or a configuration is wrong.
        Preempted: the process was asked to stop; the same call goes on from there.
    """
    configs = combinations(load(config), vary)
    system = configs[0].system
    place = local(workdir or f"runs/{system}-population", "workdir")
    size = together or len(configs)
    folders = [place / folder_of(each, vary) for each in configs]
    table = {"vary": {name: list(x) for name, x in vary.items()}, "population": size}
    found: dict[Path, dict | NonFiniteError] = {}
    with open_workdir(place, table):
        if vary.keys() <= {"seed", "data.category"}:
            write_grid(configs, place)
        for first in range(0, len(configs), size):
            some = slice(first, first + size)
            checkpoints = place / names.CHECKPOINTS / str(first)
            results = run_members(
                configs[some], folders[some], checkpoints, mode, allow
            )
            found |= dict(zip(folders[some], results, strict=True))
    return found


def combinations(
    config: ConfigDict, vary: Mapping[str, Sequence[Any]]
) -> list[ConfigDict]:
    """Returns the configuration with all combinations of the values, by dotted names.

    Raises:
        ValueError: a field is unknown, may not differ, or a value has another type.
    """
    made = [
        changed(config, dict(zip(vary, values, strict=True)))
        for values in itertools.product(*vary.values())
    ]
    for name in vary:
        if not may_differ(name):
            raise ValueError(
                f"{name}: members may differ in {', '.join(MAY_DIFFER)} alone; run "
                "other structures apart"
            )
        if not vary[name]:
            raise ValueError(f"{name}: expected values, found none")
    return made


def folder_of(config: ConfigDict, vary: Mapping[str, Sequence[Any]]) -> Path:
    """Returns a member's place below the folder of all; that of a grid's cell."""
    own = fields_of(config)
    more = [n for n in vary if n not in ("seed", "data.category")]
    place = cell_folder(_system(config), category_of(config), config.seed)
    values = ",".join(f"{n.rpartition('.')[2]}={own[n]}" for n in more)
    return place / values.replace("/", "_") if values else place


def write_grid(configs: Sequence[ConfigDict], workdir: Path) -> None:
    """Writes grid.json, so that `tables` makes tables of the members."""
    data = configs[0].data
    grid = Grid(
        systems=(_system(configs[0]),),
        categories=tuple(dict.fromkeys(category_of(c) for c in configs)),
        seeds=tuple(dict.fromkeys(c.seed for c in configs)),
        dataset=data.name if data.root else SAMPLE_SET,
        mask_size=mask_size(configs[0]),
        data_root=data.root,
        overrides=(),
    )
    keep(grid, workdir)


def _system(config: ConfigDict) -> str:
    variant = "" if config.variant == "default" else f":{config.variant}"
    return config.system + variant
