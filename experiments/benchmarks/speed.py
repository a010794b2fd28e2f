"""Times a system on random samples of the declared shapes; needs no data.

    python -m experiments.benchmarks.speed \
        --config=dbrn[:variant] --output=FILE.json \
        [--batch_sizes=1,8] [--scope=score,end_to_end,step] \
        [--train_samples=200]

Scopes, each on the first device: `score` from arrays on the device to scores on it,
`end_to_end` from a host batch to host scores, `step` one training step of each Train
phase. Compilation is timed apart; warm-up calls come before the timed ones. A large
matrix product in the same process gives a yardstick: its time, which a shared machine
slows likewise, and the peak, unless `--peak_tflops` states one.

A memory bank is filled with what the batch emits, repeated with noise to as many
training samples as `--train_samples` says, so that it has the size of a real one.

FLOPs are XLA's count for the program as written: transcendental functions are not in
it, and of a loop the body counts once.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from ad3d_jax.base import (
    ALONE,
    Batch,
    Gather,
    Phase,
    Select,
    State,
    Sum,
    System,
    Train,
    scoring,
    with_cache,
    without_truth,
)
from ad3d_jax.devices import compilation, memory
from ad3d_jax.evaluate import check_needs
from ad3d_jax.experiment.config import config_hash, plain
from ad3d_jax.experiment.data import extras_of
from ad3d_jax.experiment.facts import commit
from ad3d_jax.experiment.state import build_system, initial_state
from ad3d_jax.fit.phases import reads_cache
from ad3d_jax.fit.step import begin, fixed_part, train_step
from ad3d_jax.workdir.json_files import write_json
from data_pipelines.recipes import RECIPES
from data_pipelines.samples import complete_parameters
from experiments import command

SCOPES = ("score", "end_to_end", "step")
WARM_UPS = 3
FEWEST_RUNS = 30
TRAIN_SAMPLES = 200  # the classes of MVTec 3D-AD have 210 to 361
MATMUL_SIDE = {"cpu": 1024, "gpu": 8192, "tpu": 8192}


class Program(NamedTuple):
    """A compiled function and what is known of it before it runs."""

    call: Callable
    facts: dict[str, Any]


def run(
    config: ConfigDict,
    batch_sizes: Sequence[int] = (1, 8),
    scopes: Sequence[str] = SCOPES,
    runs: int = FEWEST_RUNS,
    peak_tflops: float | None = None,
    train_samples: int = TRAIN_SAMPLES,
) -> dict:
    """Returns the report: facts of machine and configuration, and a list of timings.

    Args:
        config: as `get_config` of a configuration file returns it.
        batch_sizes: rows of a batch, each timed by itself.
        scopes: names in SCOPES.
        runs: timed calls, at least 30.
        peak_tflops: peak of the device in 1e12 FLOP/s; None = that of the matmul.
        train_samples: that a memory bank is filled from, at least 1.

    Raises:
        ValueError: a scope is unknown, a number is too small, or a field of the
            configuration is wrong.
    """
    for scope in scopes:
        if scope not in SCOPES:
            raise ValueError(f"scope: expected some of {SCOPES}, found {scope!r}")
    if runs < FEWEST_RUNS or min(*batch_sizes, train_samples) < 1:
        raise ValueError(
            f"expected at least {FEWEST_RUNS} runs, 1 row and 1 training sample, found "
            f"{runs} runs, batch_sizes {list(batch_sizes)} and {train_samples} samples"
        )
    system = build_system(config)
    matmul = calibrate(config.model.get("dtype", "float32"), runs)
    timings = []
    for size in batch_sizes:
        batch = random_batch(config, size)
        check_needs(system, batch)
        state = ready_state(config, system, batch, train_samples)
        for scope in scopes:
            timings += time_scope(config, system, state, batch, scope, runs)
    peak = matmul["flops_per_second"] if peak_tflops is None else peak_tflops * 1e12
    for timing in timings:
        timing["ratio_to_matmul"] = timing["seconds_median"] / matmul["seconds_median"]
        rate = timing["flops_per_second"]
        timing["share_of_peak"] = None if rate is None else rate / peak
    return {
        **machine(),
        "system": config.system,
        "variant": config.variant,
        "resolution": config.data.image_size,
        "config_hash": config_hash(plain(config)),
        "commit": commit(),
        "train_samples": train_samples,
        "precision": config.model.get("dtype", "float32"),
        "matmul_precision": jax.config.jax_default_matmul_precision or "default",
        "warm_ups": WARM_UPS,
        "runs": runs,
        "peak_flops_per_second": peak,
        "peak_source": "matmul" if peak_tflops is None else "stated",
        "matmul": matmul,
        "timings": timings,
        "best": best(timings),
        "host_peak_bytes": memory.host_peak_bytes(),
    }


def machine() -> dict:
    """Returns what the report says of device and software."""
    device = jax.local_devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "platform_version": device.client.platform_version,
        "devices_used": 1,
        "jax": jax.__version__,
    }


def calibrate(dtype: str, runs: int) -> dict:
    """Returns time and rate of a square matrix product in `dtype`."""
    side = MATMUL_SIDE.get(jax.local_devices()[0].platform, 1024)
    a = jax.random.normal(jax.random.key(0), (side, side), dtype)
    facts = measure(jax.jit(jnp.matmul), lambda: (a, a), runs)
    flops = 2 * side**3 / facts["seconds_median"]
    return {"side": side, "dtype": dtype, **facts, "flops_per_second": flops}


def random_batch(config: ConfigDict, size: int) -> Batch:
    """Returns `size` samples of a wavy surface 0.4 m away with the recipe's fields."""
    rng = np.random.default_rng(0)
    side = config.data.image_size
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    z = 0.4 + 0.01 * np.sin(20 * x) * np.cos(20 * y) + np.zeros((size, 1, 1))
    z = (z + 1e-3 * rng.standard_normal((size, side, side))).astype(np.float32)
    xyz = np.stack([x * z / 2, y * z / 2, z], axis=-1)
    recipe, asked = config.data.recipe, extras_of(build_system(config))
    parameters = complete_parameters(recipe, {"image_size": side, "extras": asked})
    fields = RECIPES[recipe].fields(parameters, frozenset(("rgb", "xyz")))
    extras = {
        name: rng.uniform(0.2, 0.8, (size, *shape)).astype(dtype)
        for name, (shape, dtype) in fields.items()
        if name in parameters["extras"]
    }
    measured = np.ones((size, side, side, 1), bool)
    return Batch(
        rgb=rng.uniform(0, 1, (size, side, side, 3)).astype(np.float32),
        xyz=xyz,
        depth=xyz[..., 2:],
        valid=measured,
        foreground=measured,
        extras=extras,
        weight=np.ones(size, np.float32),
        id=np.arange(size, dtype=np.int32),
        category=np.zeros(size, np.int32),
    )


def ready_state(
    config: ConfigDict, system: System, batch: Batch, train_samples: int
) -> State:
    """Returns an untrained state; its memory is made of what the batch emits."""
    state = initial_state(config, system, batch)
    for phase in system.phases:
        if isinstance(phase, Gather):
            visited = as_read(system, phase, state, batch)
            rows = jax.jit(phase.emit)(jax.random.key(0), state, visited)
            rows = jax.tree.map(partial(repeated, train_samples), rows)
            for leaf, select in (phase.select or {}).items():
                data, carry = select.prepare(jax.random.key(0), state, rows[leaf])
                carry = chooser(select)(jax.device_put(data), carry)
                rows[leaf] = select.take(rows[leaf], jax.device_get(carry))
            state = phase.absorb(jax.random.key(0), state, rows)
        elif isinstance(phase, Sum):
            visited = as_read(system, phase, state, batch)
            sums = jax.jit(phase.emit)(jax.random.key(0), state, visited)
            times = train_samples / len(batch.weight)
            sums = jax.tree.map(lambda x, n=times: n * np.float64(x), sums)
            state = phase.finish(jax.random.key(0), state, sums)
    return state


def chooser(select: Select) -> Callable[[Any, Any], Any]:
    """Returns the whole choice of rows on one device, (data, carry) -> carry."""
    advance = jax.jit(lambda data, carry: select.advance(data, carry, ALONE))

    def choose(data, carry):
        while True:
            done, total = select.done(carry)
            if done >= total:
                return carry
            carry = advance(data, carry)

    return choose


def repeated(samples: int, rows: jax.Array) -> np.ndarray:
    """Returns [samples, ...] of rows [B, ...], repeated; floats with a little noise."""
    rows = np.asarray(rows)
    many = np.resize(rows, (samples, *rows.shape[1:]))
    if many.dtype.kind == "f":
        noise = np.random.default_rng(0).standard_normal(many.shape, np.float32)
        many = many + (0.1 * rows.std() * noise).astype(many.dtype)
    return many


def as_read(system: System, phase: Phase, state: State, batch: Batch) -> Batch:
    """Returns the batch as a phase reads it, with what is computed once a sample."""
    if not reads_cache(system, phase):
        return batch
    return jax.jit(partial(with_cache, system))(state, batch)


def time_scope(
    config: ConfigDict,
    system: System,
    state: State,
    batch: Batch,
    scope: str,
    runs: int,
) -> list[dict]:
    """Returns the timings of a scope at the size of the batch."""
    key, size = jax.random.key(0), len(batch.weight)
    timings = []
    if scope == "step":
        for index, phase in enumerate(system.phases):
            if isinstance(phase, Train):
                bound = config.fit.max_grad_norm
                facts = time_step(system, index, bound, state, batch, runs)
                timings.append({"scope": f"step.{phase.name}", **facts})
    else:
        program = compiled(jax.jit(scoring(system)), key, state, batch)
        placed = jax.device_put((key, state, batch), jax.local_devices()[0])
        if scope == "score":
            facts = measure(program.call, lambda: placed, runs)
        else:

            def whole(host: Batch):
                scored = program.call(*placed[:2], jax.device_put(host))
                return jax.device_get(scored)

            facts = measure(whole, lambda: (batch,), runs)
        timings.append({"scope": scope, **program.facts, **facts})
    return [complete(timing, size) for timing in timings]


def time_step(
    system: System,
    index: int,
    bound: float | None,
    state: State,
    batch: Batch,
    runs: int,
) -> dict:
    """Returns the timing of a step of phase `index`; its carry's memory is reused."""
    phase = system.phases[index]
    batch = without_truth(as_read(system, phase, state, batch))
    step = train_step(phase, bound)

    def alone(key, fixed, carry, rows):
        return step(key, fixed, carry, compilation.zero_padding(rows), ALONE)

    # The step gives the memory of its carry away, which the state still needs.
    carry = jax.tree.map(lambda x: jnp.array(x, copy=True), begin(phase, state))
    fixed, key = fixed_part(state), jax.random.key(0)
    jitted = jax.jit(alone, donate_argnums=2)
    program = compiled(jitted, key, fixed, carry, batch)
    key, fixed, carry, rows = jax.device_put((key, fixed, carry, batch))
    latest = {"carry": carry}

    def advance():
        latest["carry"], report = program.call(key, fixed, latest["carry"], rows)
        return latest["carry"], report

    return {**program.facts, **measure(advance, tuple, runs)}


def compiled(jitted: Callable, *arguments) -> Program:
    """Returns the program for arguments like these, with its cost and memory plan."""
    start = time.perf_counter()
    lowered = jitted.lower(*arguments)
    seconds_trace = time.perf_counter() - start
    start = time.perf_counter()
    call = lowered.compile()
    seconds_compile = time.perf_counter() - start
    plan = call.memory_analysis()
    planned = None
    if plan is not None:
        planned = plan.argument_size_in_bytes + plan.output_size_in_bytes
        planned += plan.temp_size_in_bytes - plan.alias_size_in_bytes
    facts = {
        "seconds_trace": seconds_trace,
        "seconds_compile": seconds_compile,
        "flops": (lowered.cost_analysis() or {}).get("flops"),
        "planned_bytes": planned,
    }
    return Program(call, facts)


def measure(function: Callable, arguments: Callable[[], tuple], runs: int) -> dict:
    """Returns median and 90th percentile of the seconds that a call takes."""
    seconds = []
    for number in range(WARM_UPS + runs):
        given = arguments()
        start = time.perf_counter()
        jax.block_until_ready(function(*given))
        if number >= WARM_UPS:
            seconds.append(time.perf_counter() - start)
    return {
        "seconds_median": float(np.median(seconds)),
        "seconds_p90": float(np.percentile(seconds, 90)),
    }


def complete(timing: dict, size: int) -> dict:
    """Returns a timing with its rates and the device's peak so far."""
    seconds, flops = timing["seconds_median"], timing["flops"]
    stats = jax.local_devices()[0].memory_stats() or {}
    peak, planned = stats.get("peak_bytes_in_use"), timing["planned_bytes"]
    return {
        **timing,
        "batch_size": size,
        "images_per_second": size / seconds,
        "flops_per_second": None if flops is None else flops / seconds,
        "device_peak_bytes": peak,
        "peak_to_planned": peak / planned if peak and planned else None,
    }


def best(timings: list[dict]) -> dict:
    """Returns for each scope the batch size with the most images a second."""
    chosen: dict[str, dict] = {}
    for timing in timings:
        found = {name: timing[name] for name in ("batch_size", "images_per_second")}
        before = chosen.setdefault(timing["scope"], found)
        if found["images_per_second"] > before["images_per_second"]:
            chosen[timing["scope"]] = found
    return chosen


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    report = run(
        command.config_of(values),
        [int(size) for size in values.batch_sizes],
        values.scope,
        values.runs,
        values.peak_tflops,
        values.train_samples,
    )
    write_json(Path(values.output), report)


def define_flags() -> None:
    """Defines the flags of the command."""
    command.define_config("quickstart")
    flags.DEFINE_list("batch_sizes", ["1", "8"], "Rows of a batch, each timed.")
    flags.DEFINE_list("scope", list(SCOPES), f"Some of {', '.join(SCOPES)}.")
    flags.DEFINE_integer("runs", FEWEST_RUNS, "Timed calls.", FEWEST_RUNS)
    flags.DEFINE_float("peak_tflops", None, "Peak of the device; default: measured.")
    flags.DEFINE_integer("train_samples", TRAIN_SAMPLES, "That a bank is made of.", 1)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)


if __name__ == "__main__":
    define_flags()
    command.run(main, remember=False)
