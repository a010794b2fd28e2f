r"""Fits a system, scores the test split and writes the report.

    python -m experiments.main --config=NAME[:variant] [--workdir=DIR] \
        [--config.FIELD=VALUE …] [--mode=fit|eval|fit_eval]

On several machines, see docs/launching.md: the same command on each, with
--coordinator=HOST:PORT --processes=N --process=I, or with --detect_cluster.
"""

from functools import partial

from absl import flags

from ad3d_jax.decision import RATES
from ad3d_jax.devices import processes
from ad3d_jax.experiment.opening import workdir_of
from ad3d_jax.experiment.run import MODES, run
from ad3d_jax.experiment.status import PREEMPTED, status_of
from ad3d_jax.workdir import names
from data_pipelines.command import DONE
from experiments import command


def main(values: flags.FlagValues) -> int:
    """Runs the command, in one process or as one of several."""
    cluster = processes.cluster(
        values.coordinator, values.processes, values.process, values.detect_cluster
    )
    once = partial(fit_and_evaluate, values)
    return processes.call(cluster, partial(status_of, once), (DONE, PREEMPTED))


def fit_and_evaluate(values: flags.FlagValues) -> None:
    """Does what the flags say; prints the metrics and where the report lies."""
    config = command.config_of(values)
    metrics = run(
        config,
        values.workdir,
        values.mode,
        values.allow_config_change,
        values.phases,
    )
    if not metrics:
        return
    print(f"\n{metrics['system']} ({metrics['variant']}) on {metrics['category']}")
    for name in metrics:
        if name.startswith(("i_", "p_", "aupro_")):
            print(f"  {name:<16} {figure(metrics, name)}")
    print(f"at a rate of false alarms of {metrics['alpha']:g}")
    for name in ("threshold", *RATES):
        print(f"  {name:<16} {figure(metrics, name)}")
    print(f"\nreport: {workdir_of(config, values.workdir) / names.REPORT / names.PAGE}")


def figure(metrics: dict, name: str) -> str:
    """Returns a metric as text; of an undefined one a dash and the reason."""
    if metrics[name] is None:
        return "–  " + metrics["notes"].get(name, "")
    return f"{metrics[name]:.4f}"


if __name__ == "__main__":
    command.define_config("quickstart")
    flags.DEFINE_string("workdir", "", "Default: runs/<system>-<category>.")
    flags.DEFINE_enum("mode", "fit_eval", MODES, "What to do.")
    flags.DEFINE_list("phases", None, "Names of single phases to fit; default: all.")
    flags.DEFINE_multi_string(
        "allow_config_change", [], "Fields that may differ from the workdir's."
    )
    several = "Of several processes"
    flags.DEFINE_string("coordinator", None, f"{several}: HOST:PORT of the first.")
    flags.DEFINE_integer("processes", None, f"{several}: how many there are.")
    flags.DEFINE_integer("process", None, f"{several}: which one this is, from 0 on.")
    flags.DEFINE_bool(
        "detect_cluster", False, f"{several}: jax finds them, as SLURM or a TPU says."
    )
    command.run(main)
