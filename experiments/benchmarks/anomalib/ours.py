"""One run of ours in a process of its own.

    python -m experiments.benchmarks.anomalib.ours SETTING

SETTING is the JSON text that `__main__.compare` makes. The run is that of
`experiments.main` with empty caches: all is prepared and compiled anew.
"""

import json
import sys
from pathlib import Path

from ad3d_jax.experiment.experiment import Experiment
from experiments.benchmarks.anomalib.timed import timed


def run(setting: dict) -> None:
    """Fits and evaluates a system; the workdir and `ours.json` go to `output`."""
    category, output = Path(setting["data"]), Path(setting["output"])
    begun = Experiment(
        setting["config"],
        data=category.parent,
        category=category.name,
        weights={"backbone": setting["weights"]},
        workdir=output / "workdir",
        set={
            "seed": setting["seed"],
            "data.image_size": setting["image_size"],
            "data.cache": str(output / "cache"),
            "model.source": "",  # the file may be any public set
        },
    )
    _, fit = timed(begun.fit)
    metrics, evaluate = timed(begun.evaluate)
    found = {
        "fit": fit,
        "evaluate": evaluate,
        "seconds_score": metrics["seconds_score"],
    }
    (output / "ours.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
