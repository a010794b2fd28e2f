"""Train phases: gradient steps on a stream of batches."""

import jax

from ad3d_jax.base import Array, State
from ad3d_jax.devices import compilation, engines
from ad3d_jax.fit.cache import feeding
from ad3d_jax.fit.monitor import Account, Monitor
from ad3d_jax.fit.phases import step_rows
from ad3d_jax.fit.positions import Position
from ad3d_jax.fit.run import Run, phase_name, run_steps
from ad3d_jax.fit.step import begin, fixed_part, train_step


def train(run: Run, position: Position, key: Array) -> State:
    """Runs a Train phase from where it stands and returns the trained state.

    Raises:
        NonFiniteError: the loss stays infinite or undefined.
        Preempted: the process was asked to stop; the position is saved.
    """
    phase, state = run.system.phases[position.phase], position.state
    engine, options, name = run.engine, run.options, phase_name(run, phase)
    carry = begin(phase, state) if position.carry is None else position.carry
    start, rows = position.step, step_rows(phase, options.batch_size)
    extend = feeding(run, phase, state).extend
    batches = extend(run.dataset.endless(phase.source, rows, options.seed, start))
    compiled = compilation.compile_step(
        engine, train_step(phase, options.max_grad_norm), name=name
    )
    key, fixed = engines.replicate(engine, (key, fixed_part(state)))
    carry = engines.replicate(engine, carry, copy=True)

    def advance():
        nonlocal carry
        batch = next(batches)
        carry, report = compiled(key, fixed, carry, engines.split(engine, batch))
        return (batch.id,), report

    account = Account(name, phase.steps, rows, options, run.log)
    run_steps(
        run,
        name,
        Monitor(name, (start, phase.steps), (account,), options),
        range(start + 1, phase.steps + 1),
        advance,
        lambda: run.save(Position(state, position.phase, carry)),
    )
    params, extra = jax.device_put(jax.device_get((carry.params, carry.extra)))
    return state._replace(params=params, extra=extra)
