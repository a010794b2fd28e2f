"""Trains many configurations of one structure in one program, then scores each.

    python -m experiments.population --config=experiments/configs/simplenet.py:cpu \
        --vary=hyper.noise=0.005,0.015,0.05 --vary=seed=0,1,2 --workdir=DIR \
        [--population=K] [--config.FIELD=VALUE …] [--mode=fit|eval|fit_eval]

Members are all combinations of what varies: numbers (`hyper.…`), `seed`, and the data
(`data.category`, `data.root`, `data.sample_set.…`). Without --vary they are K seeds.
Each has a workdir of its own below DIR, as `experiments.main` makes it. See
docs/populations.md.
"""

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags, logging
from ml_collections import ConfigDict

from ad3d_jax import evaluate as evaluation
from ad3d_jax.base import Batch, Dataset, State, System
from ad3d_jax.devices import compilation, engines
from ad3d_jax.fit.fit import NonFiniteError, Preempted
from ad3d_jax.fit.members import unified
from ad3d_jax.fit.population import Member, fit_population
from ad3d_jax.systems import nearest
from ad3d_jax.workdir.checkpoint import Checkpointer, save_tree
from ad3d_jax.workdir.folder import dotted_fields, open_workdir, write_json
from ad3d_jax.workdir.log import Log
from data_pipelines.errors import DiskFullError
from experiments import (
    benchmark_table,
    collect,
    flag_errors,
    main,
    session,
    weight_files,
)

MAY_DIFFER = ("seed", "hyper", "data.category", "data.root", "data.sample_set")
FAILED = benchmark_table.FAILED


class Part(NamedTuple):
    """A configuration that is trained with others, and its data."""

    config: ConfigDict
    dataset: Dataset  # one object for all that have the same data
    first: Batch  # for shapes
    log: Log | None = None


# --- Many configurations --------------------------------------------------------------


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
        mode: as of `experiments.main`.
        allow: fields that may differ from the workdirs'.

    Returns:
        As `main.run` for each; the error of one that diverged, which is in its
        failed.json too.

    Raises:
        ValueError: the configurations differ in structure, or one is wrong.
        Preempted: the process was asked to stop.
    """
    check_alike(configs)
    if written := weight_files.artifacts(configs[0], "save_artifacts"):
        raise ValueError(
            f"save_artifacts {sorted(written)}: the members of a population would "
            "write one file; fit one alone"
        )
    known: dict[str, main.Data] = {}

    def read(config: ConfigDict) -> main.Data:
        name = config.data.to_json()
        if name not in known:
            known[name] = main.open_data(config)
        return known[name]

    with contextlib.ExitStack() as stack:
        runs = [
            stack.enter_context(main.opened(config, str(folder), mode, allow, read))
            for config, folder in zip(configs, workdirs, strict=True)
        ]
        if "fit" in mode:
            train(runs, checkpoints)
        program = evaluation.score_program(runs[0].system, runs[0].engine)
        return [outcome(run, mode, program) for run in runs]


def train(runs: Sequence[main.Opened], checkpoints: Path) -> None:
    """Trains all runs together and saves each one's state, or why there is none."""
    finals = [run.folder / "checkpoints" / session.FINAL for run in runs]
    failures = [run.folder / FAILED for run in runs]
    if all(x.exists() or y.exists() for x, y in zip(finals, failures, strict=True)):
        logging.info("all %d members are trained already", len(runs))
        return
    parts = [Part(run.config, run.dataset, run.first, run.log) for run in runs]
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
        for run in runs:
            run.log.write(kind="event", event="fit", seconds=seconds, members=len(runs))


def fitted(
    system: System, engine: engines.Engine, parts: Sequence[Part], folder: Path
) -> list[State | NonFiniteError]:
    """Returns the state of each part, trained together from the newest checkpoint on.

    Args:
        system: of every part.
        engine: the parts are shared between its devices.
        parts: of one structure, see `structure_of`.
        folder: of the checkpoints of all together.

    Raises:
        ValueError: as `fit_population`.
        Preempted: the process was asked to stop.
    """
    states: list[State] = []
    for part in parts:
        state = session.initial_state(part.config, system, part.first)
        states.append(unified(state, states[0]) if states else state)
    members = [
        Member(
            state,
            session.key_of(part.config, "fit"),
            part.dataset,
            part.config.seed,
            part.log,
        )
        for part, state in zip(parts, states, strict=True)
    ]
    config = parts[0].config
    with Checkpointer(folder, keep=config.fit.keep) as checkpointer:
        options = main.fit_options(config)
        return fit_population(system, members, options, engine, checkpointer)


def outcome(
    run: main.Opened, mode: str, program: compilation.Compiled
) -> dict | NonFiniteError:
    """Returns a run's metrics, {} where it is not scored, or why it was stopped."""
    if (run.folder / FAILED).exists():
        return NonFiniteError(session.read_json(run.folder / FAILED)["reason"])
    return main.evaluate(run, program) if "eval" in mode else {}


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
        name: value
        for name, value in dotted_fields(session.plain(config)).items()
        if not may_differ(name)
    }


def may_differ(name: str) -> bool:
    """Returns whether members may differ in a field."""
    return any(name == x or name.startswith(f"{x}.") for x in MAY_DIFFER)


# --- The command ----------------------------------------------------------------------


def combinations(
    config: ConfigDict, vary: Mapping[str, Sequence[Any]]
) -> list[ConfigDict]:
    """Returns the configuration with all combinations of the values, by dotted names.

    Raises:
        ValueError: a field is unknown, may not differ, or a value has another type.
    """
    known = flag_errors.field_names(config)
    for name in vary:
        if name not in known:
            raise ValueError(f"--vary={name}: no such field{nearest(name, known)}")
        if not may_differ(name):
            raise ValueError(
                f"--vary={name}: members may differ in {', '.join(MAY_DIFFER)} alone; "
                "run other structures apart"
            )
    made = []
    for values in itertools.product(*vary.values()):
        member = config.copy_and_resolve_references()
        member.update_from_flattened_dict(dict(zip(vary, values, strict=True)))
        made.append(member)
    return made


def read_vary(config: ConfigDict, texts: Iterable[str]) -> dict[str, list]:
    """Returns the values by field of `FIELD=VALUE,VALUE…`, in the field's type."""
    now, vary = dotted_fields(session.plain(config)), {}
    for text in texts:
        name, _, values = text.partition("=")
        kind = type(now.get(name, ""))
        try:
            vary[name] = [kind(value) for value in values.split(",") if value]
        except ValueError as error:
            raise ValueError(f"--vary={text}: {error}") from None
        if not vary[name]:
            raise ValueError(f"--vary={text}: expected FIELD=VALUE,VALUE…")
    return vary


def folder_of(config: ConfigDict, vary: Mapping[str, Sequence[Any]]) -> Path:
    """Returns a member's place below the folder of all; that of a grid's cell."""
    _, category = session.data_folder(config)
    own = dotted_fields(session.plain(config))
    more = [n for n in vary if n not in ("seed", "data.category")]
    place = collect.cell_folder(_system(config), category, config.seed)
    values = ",".join(f"{n.rpartition('.')[2]}={own[n]}" for n in more)
    return place / values.replace("/", "_") if values else place


def run(
    config: ConfigDict,
    workdir: Path,
    vary: Mapping[str, Sequence[Any]],
    together: int = 0,
    mode: str = "fit_eval",
    allow: Sequence[str] = (),
) -> dict[Path, dict | NonFiniteError]:
    """Runs all combinations and returns what `run_members` gives, by workdir.

    Args:
        config: what the values are changed in.
        workdir: of all.
        vary: values by dotted field.
        together: members in one program; 0 = all.
        mode: as of `experiments.main`.
        allow: fields that may differ from the workdirs'.
    """
    configs = combinations(config, vary)
    size = together or len(configs)
    folders = [workdir / folder_of(each, vary) for each in configs]
    table = {"vary": {name: list(x) for name, x in vary.items()}, "population": size}
    found: dict[Path, dict | NonFiniteError] = {}
    with open_workdir(workdir, table):
        if vary.keys() <= {"seed", "data.category"}:
            write_grid(configs, workdir)
        for first in range(0, len(configs), size):
            some = slice(first, first + size)
            checkpoints = workdir / "checkpoints" / str(first)
            results = run_members(
                configs[some], folders[some], checkpoints, mode, allow
            )
            found |= dict(zip(folders[some], results, strict=True))
    return found


def write_grid(configs: Sequence[ConfigDict], workdir: Path) -> None:
    """Writes grid.json, so that `experiments.collect` makes tables of the members."""
    data = configs[0].data
    grid = benchmark_table.Grid(
        systems=(_system(configs[0]),),
        categories=tuple(dict.fromkeys(session.data_folder(c)[1] for c in configs)),
        seeds=tuple(dict.fromkeys(c.seed for c in configs)),
        dataset=data.name if data.root else collect.SAMPLE_SET,
        mask_size=data.mask_size or data.image_size,
        data_root=data.root,
        overrides=(),
    )
    benchmark_table.keep(grid, workdir)


def _system(config: ConfigDict) -> str:
    variant = "" if config.variant == "default" else f":{config.variant}"
    return config.system + variant


def command(_) -> None:
    """Runs the command; a user's mistake ends it with one sentence and no trace."""
    values = flags.FLAGS
    if not values["verbosity"].present:
        logging.set_verbosity(logging.WARNING)
    config, count = values.config, values.population
    try:
        vary = read_vary(config, values.vary)
        if not vary:
            vary = {"seed": [config.seed + i for i in range(max(count, 1))]}
        place = Path(values.workdir or f"runs/{config.system}-population").expanduser()
        found = run(config, place, vary, count, values.mode, values.allow_config_change)
    except Preempted as stopped:
        logging.warning("%s; start the same command again to go on", stopped)
        sys.exit(main.EXIT_PREEMPTED)
    except DiskFullError as full:
        sys.stderr.write(f"error: {full}\n")
        sys.exit(main.EXIT_DISK_FULL)
    except ValueError as mistake:
        sys.exit(f"error: {mistake}")
    for folder, result in found.items():
        failed = isinstance(result, NonFiniteError)
        print(folder, f"stopped: {result}" if failed else _figures(result))
    sys.exit(any(isinstance(result, NonFiniteError) for result in found.values()))


def _figures(metrics: Mapping[str, Any]) -> str:
    names = [name for name in ("i_auroc", "aupro_30") if name in metrics]
    return "  ".join(f"{name} {metrics[name]}" for name in names) or "fitted"


def define_flags() -> None:
    """Defines the flags of the command."""
    flag_errors.define_config("experiments/configs/simplenet.py")
    many = "FIELD=VALUE,VALUE…, as hyper.noise=0.01,0.02; several give all combinations"
    flags.DEFINE_multi_string("vary", [], f"{many}. Default: seeds.")
    text = "Members in one program; 0 = all. Without --vary, so many seeds."
    flags.DEFINE_integer("population", 0, text, lower_bound=0)
    flags.DEFINE_string("workdir", "", "Default: runs/<system>-population.")
    flags.DEFINE_enum("mode", "fit_eval", main.MODES, "What to do.")
    flags.DEFINE_multi_string(
        "allow_config_change", [], "Fields that may differ from the workdirs'."
    )


if __name__ == "__main__":
    define_flags()
    app.run(command, flags_parser=flag_errors.parse)
