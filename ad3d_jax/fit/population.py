"""Training many members of one structure at once, in one program.

Members differ in hyperparameters, keys, order of samples or data, never in structure.
Each one's result is what `fit` gives it alone, up to rounding.
"""

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from ad3d_jax.base import Array, Dataset, State, System, Train
from ad3d_jax.devices import engines
from ad3d_jax.fit.cache import Cache
from ad3d_jax.fit.cache_store import Store
from ad3d_jax.fit.fit import check_data, run_phase
from ad3d_jax.fit.monitor import Account, Interruption, Monitor, NonFiniteError
from ad3d_jax.fit.phases import check_phases, count_steps, is_due, step_rows
from ad3d_jax.fit.positions import Position, number, pack_all, unpack_all
from ad3d_jax.fit.run import Options, Run, phase_name, run_steps
from ad3d_jax.fit.vmapped import Together


class Member(NamedTuple):
    """What is a member's own; members with one dataset object share its features."""

    state: State  # from `system.init`, with what files bring in place
    key: Array  # typed key; phase p uses fold_in(key, p)
    dataset: Dataset
    seed: int = 0  # of the order of samples, in place of `Options.seed`
    log: Any = None  # `workdir.log.Log`


class _Population(NamedTuple):
    """The runs of all members and where each of them stands."""

    runs: Sequence[Run]
    keys: Sequence[Array]
    positions: list[Position]
    errors: list[NonFiniteError | None]
    options: Options
    checkpointer: Any

    def due(self, index: int) -> list[int]:
        """Returns the members that stand before or in a phase."""
        return [i for i, p in enumerate(self.positions) if p.phase == index]

    def save(self) -> int | None:
        """Saves where all stand, where there is a checkpointer."""
        if self.checkpointer is None:
            return None
        pairs = zip(self.runs, self.positions, strict=True)
        step = sum(number(run.system, position) for run, position in pairs)
        self.checkpointer.save(step, pack_all(self.positions))
        return step


def fit_population(
    system: System,
    members: Sequence[Member],
    options: Options = Options(),  # noqa: B008 (immutable)
    engine: engines.Engine | None = None,
    checkpointer=None,
    store: Store | None = None,
) -> list[State | NonFiniteError]:
    """Runs the phases of a system for all members and returns their fitted states.

    Train phases run for all at once: members are shared between the devices, and a
    member's rows are not. Other phases run for one member after the other.

    Args:
        system: what to fit.
        members: at least one.
        options: of all; a batch size counts the rows of one member.
        engine: what to run on; None = pmap on all local devices.
        checkpointer: `workdir.checkpoint.Checkpointer`; holds all members together.
        store: as of `fit`.

    Returns:
        For each member the state, or the error that stopped it; the others go on.

    Raises:
        ValueError: as `fit`; members differ in structure.
        MemoryLimitError: as `fit`.
        Preempted: SIGTERM or SIGINT came; the positions are saved.
    """
    engine = engines.make_engine() if engine is None else engine
    check_phases(system, options)
    with Interruption() as interruption:
        population = _begin(
            *(system, members, options, engine, checkpointer, interruption, store)
        )
        first = min(position.phase for position in population.positions)
        for index, phase in enumerate(system.phases[first:], first):
            if not is_due(phase, options):
                _pass_over(population, index)
            elif isinstance(phase, Train):
                _train(population, index, engine)
            else:
                _one_by_one(population, index)
    return [
        position.state if error is None else error
        for position, error in zip(population.positions, population.errors, strict=True)
    ]


def _begin(
    system, members, options, engine, checkpointer, interruption, store
) -> _Population:
    """Returns the population where it was left, its data checked."""
    cache = Cache(Store(options.cache_folder) if store is None else store)
    runs = [
        Run(
            count_steps(system, member.dataset, options.batch_size),
            member.dataset,
            options._replace(seed=member.seed),
            engine,
            None,  # the members are saved together
            member.log,
            interruption,
            cache,
        )
        for member in members
    ]
    positions = [Position(member.state) for member in members]
    found = None if checkpointer is None else checkpointer.latest()
    if found is not None:
        states = [member.state for member in members]
        positions = unpack_all([run.system for run in runs], states, found[1])
    for run, position in zip(runs, positions, strict=True):
        check_data(run, position.phase)
    errors = [
        NonFiniteError(
            f"phase {system.phases[position.phase].name}: was stopped as not finite at "
            f"step {position.step}, before it was resumed"
        )
        if position.carry is not None and position.carry.bad >= options.patience
        else None
        for position in positions
    ]
    keys = [member.key for member in members]
    return _Population(runs, keys, positions, errors, options, checkpointer)


def _pass_over(population: _Population, index: int) -> None:
    """Lets the members that stand before a phase stand behind it."""
    for i in population.due(index):
        population.positions[i] = Position(population.positions[i].state, index + 1)


def _one_by_one(population: _Population, index: int) -> None:
    """Runs a phase for the members that are due, one after the other."""
    for i in population.due(index):
        if population.errors[i] is not None:
            continue
        run, started = population.runs[i], time.monotonic()
        key = jax.random.fold_in(population.keys[i], index)
        state = run_phase(run, population.positions[i], key)
        population.positions[i] = Position(state, index + 1)
        population.save()
        _note(run, index, started)


def _train(population: _Population, index: int, engine: engines.Engine) -> None:
    """Runs a Train phase for all members that are due."""
    due, options = population.due(index), population.options
    if all(population.errors[i] is not None for i in due):
        return
    started = time.monotonic()
    runs = [population.runs[i] for i in due]
    begun = [population.positions[i] for i in due]
    keys = [jax.random.fold_in(population.keys[i], index) for i in due]
    together = Together(runs, begun, keys, options, engine)

    def stand() -> None:
        for i, position, carry in zip(due, begun, together.carries(), strict=True):
            population.positions[i] = position._replace(carry=carry)

    def save() -> int | None:
        stand()
        return population.save()

    accounts = []
    for i, run in zip(due, runs, strict=True):
        phase = run.system.phases[index]
        rows = step_rows(phase, options.batch_size)
        account = Account(phase_name(run, phase), phase.steps, rows, options, run.log)
        account.error = population.errors[i]
        accounts.append(account)
    name, start, last = together.name, together.start, together.last
    monitor = Monitor(name, (start, last), accounts, options, together.reports)
    steps = range(start + 1, last + 1)
    try:
        run_steps(runs[0], name, monitor, steps, together.advance, save)
    except NonFiniteError:
        pass  # none is left; each account has its own error
    stand()
    for i, run, account in zip(due, runs, accounts, strict=True):
        population.errors[i] = account.error
        if account.error is None:
            population.positions[i] = _ended(population.positions[i])
            _note(run, index, started)
    population.save()


def _ended(position: Position) -> Position:
    """Returns the position after its Train phase."""
    params, extra = jax.device_put((position.carry.params, position.carry.extra))
    state = position.state._replace(params=params, extra=extra)
    return Position(state, position.phase + 1)


def _note(run: Run, index: int, started: float) -> None:
    """Writes to a member's log that a phase has ended."""
    run.write(
        kind="phase",
        phase=run.system.phases[index].name,
        seconds=time.monotonic() - started,
    )
