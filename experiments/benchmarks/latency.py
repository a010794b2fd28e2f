"""Times `Detector.score` on single frames beside the compiled score alone.

    python -m experiments.benchmarks.latency --output=FILE.json \
        [--configs=patchcore:resnet18,btf:cpu,dbrn:cpu] [--frame_size=800] [--runs=30]

`score` is the compiled program on arrays of the device, `detector` all from an image
and points at the sensor's resolution to NumPy scores: the checks, the recipe on the
host, both transfers. Nothing is trained; a memory bank has the size that 200 training
samples give.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
from absl import flags

from ad3d_jax.base import scoring
from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.data import extras_of
from ad3d_jax.experiment.detector import Detector
from ad3d_jax.experiment.facts import commit
from ad3d_jax.experiment.state import build_system
from ad3d_jax.workdir.json_files import write_json
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.samples import complete_parameters
from data_pipelines.synthetic import sample
from experiments import command
from experiments.benchmarks import speed

CONFIGS = ("patchcore:resnet18", "btf:cpu", "dbrn:cpu")
CATEGORY = "bun"


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
    """Returns the seconds of a detector and of its compiled score alone."""
    detector = made(name)
    frame = sample(CATEGORY, "hole", seed=0, size=frame_size)
    batch = speed.random_batch(detector.config, 1)
    program = speed.compiled(
        jax.jit(scoring(detector.system)), detector.key, detector.state, batch
    )
    placed = jax.device_put((detector.key, detector.state, batch), jax.devices()[0])
    return {
        "image_size": detector.config.data.image_size,
        "score": speed.measure(program.call, lambda: placed, runs),
        "detector": speed.measure(detector.score, lambda: (frame.rgb, frame.xyz), runs),
    }


def made(name: str) -> Detector:
    """Returns an untrained detector whose bank and recipe are of a real size."""
    config = load(name)
    system, recipe = build_system(config), RECIPES[config.data.recipe]
    batch = speed.random_batch(config, 1)
    state = speed.ready_state(config, system, batch, speed.TRAIN_SAMPLES)
    scans = (sample(CATEGORY, "good", seed=seed, size=256) for seed in range(2))
    asked = {"image_size": config.data.image_size, "extras": extras_of(system)}
    parameters = complete_parameters(recipe.name, asked)
    params = recipe.fit(parameters, (Sample(scan.rgb, scan.xyz) for scan in scans))
    return Detector(config, system, state, {"recipe": recipe.name, "params": params})


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    report = run(values.configs, values.frame_size, values.runs)
    write_json(Path(values.output), report)
    for name, timing in report["timings"].items():
        score, detector = (timing[x]["seconds_median"] for x in ("score", "detector"))
        print(f"{name}: score {1e3 * score:.1f} ms, detector {1e3 * detector:.1f} ms")


if __name__ == "__main__":
    flags.DEFINE_list("configs", list(CONFIGS), "Names of configurations.")
    flags.DEFINE_integer("frame_size", 800, "Side of the sensor's frames, pixels.", 16)
    flags.DEFINE_integer("runs", speed.FEWEST_RUNS, "Timed calls.", 1)
    flags.DEFINE_string("output", None, "JSON file to write.", required=True)
    command.run(main, remember=False)
