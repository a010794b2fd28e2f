r"""Studies hyperparameters: many trials, many workers, one database.

    python -m experiments.sweep --config=simplenet:cpu --space=FILE.py --trials=40 \
        [--workers=4] [--database=postgresql://USER:PASSWORD@HOST/NAME] \
        [--config.FIELD=VALUE …]

The same command goes on with a study that was stopped, and joins one that is running,
on the same machine or, with PostgreSQL, on another. Trials are judged on good samples
with planted defects, never on the test set. See docs/studies.md.
"""

from absl import flags

from data_pipelines.command import checking_flags, named_numbers, whole_numbers
from experiments import command

MODES = ("run", "report")


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    from ad3d_jax.experiment.study.settings import Settings, settings_of
    from ad3d_jax.experiment.study.study import look, study

    config, own = command.config_of(values), {"workdir": values.workdir}
    settings = {name: values[name].value for name in Settings._fields}
    settings["stages"] = whole_numbers(settings["stages"], "stages")
    settings["planted_weights"] = named_numbers(
        settings["planted_weights"], "planted_weights"
    )
    with checking_flags():
        settings_of(settings)
    if values.mode == "run":
        own |= {"workers": values.workers, "devices": values.devices}
    found = (study if values.mode == "run" else look)(
        config, values.space, **own, **settings
    )
    print(*found.summary, sep="\n")
    print(f"\nreport: {found.report}")


def define_flags() -> None:
    """Defines the flags of the command."""
    command.define_config("simplenet")
    text, whole, names = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_list
    text("space", None, "Name or file of what may change.", required=True)
    text("workdir", "", "Of the study; default: runs/studies/<name>.")
    flags.DEFINE_enum("mode", "run", MODES, "What to do.")
    whole("workers", 1, "Processes on this machine.", lower_bound=1)
    names("devices", [], "GPUs that workers see, in turn; default: all.")
    text("name", "", "Of the study; default: system, variant, class and space.")
    text("database", "", "A file or postgresql://…; default: in --workdir.")
    whole("trials", 0, "How many, of all workers together; 0 = the whole grid.")
    text("sampler", "tpe", "What suggests: tpe, random or grid.")
    whole("seed", 0, "Of what is suggested; a trial's own is config.seed.")
    whole("together", 1, "Trials of a worker in one program, not pruned.", 1)
    text("pruner", None, "median, halving or none; default: none with --together.")
    names("stages", ["25", "50"], "Percent at which trials are pruned.")
    text("metric", "mean", "What is maximised; mean = of i_auroc and aupro_30.")
    whole("retries", 2, "Of a trial whose worker dies or breaks.", lower_bound=0)
    whole("keep_best", 3, "Trials whose fitted state is kept.", lower_bound=0)
    whole("heartbeat", 30, "Seconds between signs of life.", lower_bound=1)
    whole("grace", 120, "Seconds without one before a trial is lost.", lower_bound=2)
    whole("planted_seed", 0, "Of the planted defects.", lower_bound=0)
    whole("planted_each", 6, "Altered samples of each kind.", lower_bound=1)
    names("planted_kinds", [], "What is planted; default: all the files allow.")
    names("planted_weights", [], "Of kinds in a value, as cut=2,blur=0; default: 1.")
    share = "Share of train that defects are planted into, and nothing is fitted on."
    flags.DEFINE_float("hold_out", 0.2, share)


if __name__ == "__main__":
    define_flags()
    command.run(main, remember=False)  # the study has a place of its own
