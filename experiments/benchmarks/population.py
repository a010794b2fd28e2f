"""Times K members in one program against K runs one after the other; needs no data.

    python -m experiments.benchmarks.population --output=FILE.json \
        --config=simplenet:cpu [--sizes=1,4,16] [--steps=30]

Members differ in their numbers, and then share each batch, or in their seeds, and then
have one each. Timed are the steps of the first Train phase, host work included, with
features cached beforehand; the first step, which compiles, is timed apart. K runs one
after the other are K times the population of one.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict

from ad3d_jax.base import Batch, Train
from ad3d_jax.devices import engines
from ad3d_jax.experiment.facts import commit
from ad3d_jax.experiment.opening import fit_options
from ad3d_jax.experiment.state import build_system, initial_state, key_of
from ad3d_jax.fit.cache import Cache
from ad3d_jax.fit.fit import count_steps
from ad3d_jax.fit.monitor import Interruption
from ad3d_jax.fit.positions import Position
from ad3d_jax.fit.run import Run
from ad3d_jax.fit.vmapped import Together
from ad3d_jax.workdir.json_files import write_json
from data_pipelines.reader import Reader, of_batch
from experiments import command
from experiments.benchmarks import speed

DIFFERENT = ("numbers", "seeds")
SIZES = (1, 4, 16)


def run(
    config: ConfigDict,
    sizes: Sequence[int] = SIZES,
    steps: int = speed.FEWEST_RUNS,
    peak_tflops: float | None = None,
) -> dict:
    """Returns the report: facts of machine and configuration, and a list of timings.

    Args:
        config: as `get_config` of a configuration file returns it.
        sizes: numbers of members; one is always timed.
        steps: that are timed.
        peak_tflops: of one device in 1e12 FLOP/s; None = that of a matrix product.

    Raises:
        ValueError: nothing is trained by steps, or a field is wrong.
    """
    system = build_system(config)
    size = config.data.batch_size
    batch = speed.random_batch(config, size)
    data = Reader({"train": lambda: of_batch(batch)})
    phases = [
        phase
        for phase in count_steps(system, data, size).phases
        if isinstance(phase, Train) and phase.source == "train"
    ]
    if not phases:
        raise ValueError(f"{config.system} has no phase that is trained on its samples")
    system = system._replace(phases=(phases[0]._replace(steps=10**6),))
    dtype = config.model.get("dtype", "float32")
    matmul = speed.calibrate(dtype, speed.FEWEST_RUNS)
    peak = matmul["flops_per_second"] if peak_tflops is None else peak_tflops * 1e12
    state = initial_state(config, system, batch)
    bound = config.fit.max_grad_norm
    flops = speed.time_step(system, 0, bound, state, batch, 1)["flops"]
    engine = engines.make_engine(config.fit.engine)
    timings = []
    for different in DIFFERENT:
        for count in sorted({1, *sizes}):
            runs, positions, keys = members(
                config, system, batch, data, count, different
            )
            options = fit_options(config)
            timing = timed(Together(runs, positions, keys, options, engine), steps)
            timing |= {"different": different, "members": count}
            timings.append(compared(timing, timings, flops, peak * engine.devices))
    return {
        **speed.machine(),
        "devices_used": engine.devices,
        "system": config.system,
        "variant": config.variant,
        "resolution": config.data.image_size,
        "batch_size": size,
        "commit": commit(),
        "steps": steps,
        "flops_of_a_step_alone": flops,
        "matmul": matmul,
        "timings": timings,
    }


def members(
    config: ConfigDict, system, batch: Batch, data: Reader, count: int, different: str
) -> tuple[list[Run], list[Position], list[jax.Array]]:
    """Returns runs, positions and keys of members that differ in numbers or seeds."""
    engine, options = engines.make_engine(config.fit.engine), fit_options(config)
    runs, states, keys, cache = [], [], [], Cache()
    for number in range(count):
        own = config.copy_and_resolve_references()
        if different == "seeds":
            own.seed = config.seed + number
        state = initial_state(own, system, batch)
        if states:  # as a backbone from a file is
            state = state._replace(frozen=states[0].frozen)
        hyper = {name: x * (1 + 0.01 * number) for name, x in state.hyper.items()}
        states.append(state._replace(hyper=hyper))
        keys.append(key_of(own, "fit"))
        choice = options._replace(seed=own.seed, progress=False)
        runs.append(
            Run(system, data, choice, engine, None, None, Interruption(), cache)
        )
    return runs, [Position(state) for state in states], keys


def timed(together: Together, steps: int) -> dict:
    """Returns seconds of the first step, and of each of those that follow."""
    start = time.perf_counter()
    jax.block_until_ready(together.advance())
    first = time.perf_counter() - start
    for _ in range(speed.WARM_UPS):
        jax.block_until_ready(together.advance())
    facts = speed.measure(together.advance, tuple, steps)
    return {
        "seconds_first_step": first,
        **facts,
        "traces": together.compiled.traces,
    }


def compared(timing: dict, before: Sequence[dict], flops: float | None, peak) -> dict:
    """Returns a timing beside that of as many runs one after the other."""
    count, seconds = timing["members"], timing["seconds_median"]
    alone = next(
        (
            x["seconds_median"]
            for x in before
            if (x["members"], x["different"]) == (1, timing["different"])
        ),
        seconds,
    )
    return {
        **timing,
        "seconds_one_after_the_other": count * alone,
        "times_faster": count * alone / seconds,
        "share_of_peak": None if flops is None else count * flops / seconds / peak,
    }


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    sizes = [int(size) for size in values.sizes]
    report = run(command.config_of(values), sizes, values.steps, values.peak_tflops)
    write_json(Path(values.output), report)
    for timing in report["timings"]:
        print(
            f"{timing['members']:3d} members, other {timing['different']}: "
            f"{timing['seconds_median']:.4f} s a step, "
            f"{timing['seconds_one_after_the_other']:.4f} s one after the other, "
            f"{timing['times_faster']:.2f} times; {timing['traces']} trace"
        )


def define_flags() -> None:
    """Defines the flags of the command."""
    command.define_config("simplenet")
    flags.DEFINE_list("sizes", [str(size) for size in SIZES], "Numbers of members.")
    flags.DEFINE_integer("steps", speed.FEWEST_RUNS, "Timed steps.", 1)
    flags.DEFINE_float("peak_tflops", None, "Peak of a device; default: measured.")
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)


if __name__ == "__main__":
    define_flags()
    command.run(main, remember=False)
