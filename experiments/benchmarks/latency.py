"""Times a detector from its start to its first verdict, and on single frames.

    python -m experiments.benchmarks.latency --output=FILE.json \
        [--configs=patchcore:resnet18,btf:cpu,dbrn:cpu] [--frame_size=800] [--runs=30]

Of each detector, in processes of their own, seconds after the library was imported:
`load` until it is read from its folder, `first` from there to its first score. The
`cold` start has nothing of an earlier one, the `warm` start what the cold one kept, see
`ad3d_jax.devices.kept`. Of the warm one `frame` is the time of further frames, from an
image and points at the sensor's resolution to NumPy scores, and `score` that of the
compiled program on arrays of the device. Nothing is trained; a memory bank has the size
that 200 training samples give.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from ad3d_jax.base import scoring
from ad3d_jax.devices.remembered import remember_programs
from ad3d_jax.experiment import detector as detectors
from ad3d_jax.experiment.config import load, plain
from ad3d_jax.experiment.data import extras_of
from ad3d_jax.experiment.detector import Detector
from ad3d_jax.experiment.facts import commit
from ad3d_jax.experiment.origin import Origin
from ad3d_jax.experiment.state import build_system
from ad3d_jax.workdir.json_files import to_json, write_json
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.samples import complete_parameters
from data_pipelines.synthetic import sample
from experiments import command
from experiments.benchmarks import speed

CONFIGS = ("patchcore:resnet18", "btf:cpu", "dbrn:cpu")
CATEGORY = "bun"
PROGRAM = """
import json, sys
from experiments.benchmarks.latency import start
print(json.dumps(start(*json.loads(sys.argv[1]))))
"""


def run(
    configs: Sequence[str], frame_size: int = 800, runs: int = speed.FEWEST_RUNS
) -> dict:
    """Returns the report: facts of the machine, and the timings of each detector.

    Args:
        configs: names of configurations.
        frame_size: side of the sensor's frames, pixels.
        runs: timed calls.
    """
    timings = {name: timed(name, frame_size, runs) for name in configs}
    facts = {"commit": commit(), "frame_size": frame_size, "runs": runs}
    return {**speed.machine(), **facts, "timings": timings}


def timed(name: str, frame_size: int, runs: int) -> dict:
    """Returns the seconds of a detector's starts and of its frames."""
    with tempfile.TemporaryDirectory() as folder:
        workdir, cache = Path(folder) / "run", Path(folder) / "cache"
        made(name, frame_size).save(workdir)
        starts = {
            start: _in_new_process(str(workdir), str(cache), frame_size, count)
            for start, count in (("cold", 0), ("warm", runs))
        }
    return {"image_size": load(name).data.image_size, **starts}


def made(name: str, frame_size: int) -> Detector:
    """Returns an untrained detector whose bank and recipe are of a real size."""
    config = load(name)
    system, recipe = build_system(config), RECIPES[config.data.recipe]
    batch = speed.random_batch(config, 1)
    state = speed.ready_state(config, system, batch, speed.TRAIN_SAMPLES)
    scans = (sample(CATEGORY, "good", seed=seed, size=256) for seed in range(2))
    asked = {"image_size": config.data.image_size, "extras": extras_of(system)}
    parameters = complete_parameters(recipe.name, asked)
    params = recipe.fit(parameters, (Sample(scan.rgb, scan.xyz) for scan in scans))
    origin = Origin(
        config=plain(config),
        recipe=to_json({"recipe": recipe.name, "params": params}),
        data={},
        sizes=[[frame_size, frame_size]],
        distances=[],
        weights={},
    )
    return Detector(origin, system, state)


def start(workdir: str, cache: str, frame_size: int, runs: int) -> dict:
    """Returns the seconds of one start, and of `runs` frames after it."""
    remember_programs(Path(cache))
    frame = sample(CATEGORY, "hole", seed=0, size=frame_size)
    begun = time.perf_counter()
    detector = detectors.load(workdir)
    loaded = time.perf_counter()
    detector.score(frame.rgb, frame.xyz)
    done = time.perf_counter()
    found = {"load": loaded - begun, "first": done - loaded}
    if not runs:
        return found
    batch = speed.random_batch(detector.config, 1)
    program = speed.compiled(
        jax.jit(scoring(detector.system)), detector.key, detector.state, batch
    )
    placed = jax.device_put((detector.key, detector.state, batch), jax.devices()[0])
    frames = speed.measure(detector.score, lambda: (frame.rgb, frame.xyz), runs)
    return {
        **found,
        "frame": frames,
        "score": speed.measure(program.call, lambda: placed, runs),
    }


def _in_new_process(*arguments) -> dict:
    """Returns what `start` returns in a process that has imported and done nothing."""
    given = json.dumps(arguments)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, given], check=True, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    report = run(values.configs, values.frame_size, values.runs)
    write_json(Path(values.output), report)
    for name, timing in report["timings"].items():
        told = (
            f"{start} start {sum(timing[start][x] for x in ('load', 'first')):.2f} s"
            for start in ("cold", "warm")
        )
        frame = timing["warm"]["frame"]["seconds_median"]
        print(f"{name}: {', '.join(told)}, frame {1e3 * frame:.1f} ms")


if __name__ == "__main__":
    flags.DEFINE_list("configs", list(CONFIGS), "Names of configurations.")
    flags.DEFINE_integer("frame_size", 800, "Side of the sensor's frames, pixels.", 16)
    flags.DEFINE_integer("runs", speed.FEWEST_RUNS, "Timed calls.", 1)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    command.run(main, remember=False)
