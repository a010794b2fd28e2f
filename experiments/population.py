r"""Fits many configurations of one structure in one program, then scores each.

    python -m experiments.population --config=simplenet:cpu \
        --vary=hyper.noise=0.005,0.015,0.05 --vary=seed=0,1,2 --workdir=DIR \
        [--population=K] [--config.FIELD=VALUE …] [--mode=fit|eval|fit_eval]

Members are all combinations of what varies: numbers (`hyper.…`), `seed`, and the data
(`data.category`, `data.root`, `data.sample_set.…`). Without --vary they are K seeds.
Each has a workdir of its own below DIR. See docs/populations.md.
"""

from absl import flags
from ml_collections import ConfigDict

from ad3d_jax.experiment.config import read_texts
from ad3d_jax.experiment.population import population
from ad3d_jax.experiment.run import MODES
from ad3d_jax.fit.fit import NonFiniteError
from data_pipelines.command import DONE, MISTAKE
from experiments import command


def main(values: flags.FlagValues) -> int:
    """Runs the command; the status is 1 where a member diverged."""
    config, count = command.config_of(values), values.population
    vary = read_vary(config, values.vary)
    if not vary:
        vary = {"seed": [config.seed + i for i in range(max(count, 1))]}
    found = population(
        config,
        vary,
        values.workdir,
        together=count,
        mode=values.mode,
        allow=values.allow_config_change,
    )
    failed = [x for x in found.values() if isinstance(x, NonFiniteError)]
    for folder, result in found.items():
        print(folder, f"stopped: {result}" if result in failed else figures(result))
    return MISTAKE if failed else DONE


def read_vary(config: ConfigDict, texts: list[str]) -> dict[str, list]:
    """Returns the values by field of FIELD=VALUE,VALUE…, in the field's type."""
    vary = {}
    for text in texts:
        name, _, values = text.partition("=")
        each = [f"{name}={value}" for value in values.split(",")]
        vary[name] = [read_texts(config, [one])[name] for one in each]
    return vary


def figures(metrics: dict) -> str:
    """Returns the metrics of a member in a few words."""
    names = [name for name in ("i_auroc", "aupro_30") if name in metrics]
    return "  ".join(f"{name} {metrics[name]}" for name in names) or "fitted"


if __name__ == "__main__":
    command.define_config("simplenet")
    many = "FIELD=VALUE,VALUE…, as hyper.noise=0.01,0.02; several give all combinations"
    flags.DEFINE_multi_string("vary", [], f"{many}. Default: seeds.")
    text = "Members in one program; 0 = all. Without --vary, so many seeds."
    flags.DEFINE_integer("population", 0, text, lower_bound=0)
    flags.DEFINE_string("workdir", "", "Default: runs/<system>-population.")
    flags.DEFINE_enum("mode", "fit_eval", MODES, "What to do.")
    flags.DEFINE_multi_string(
        "allow_config_change", [], "Fields that may differ from the workdirs'."
    )
    command.run(main)
