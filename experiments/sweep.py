r"""Studies hyperparameters: many trials, many workers, one database.

    python -m experiments.sweep --config=simplenet:cpu --space=FILE.py --trials=40 \
        [--workers=4] [--database=postgresql://USER:PASSWORD@HOST/NAME] \
        [--config.FIELD=VALUE …]

The same command goes on with a study that was stopped, and joins one that is running,
on the same machine or, with PostgreSQL, on another. Trials are judged on good samples
with planted defects, never on the test set. See docs/studies.md.
"""

from absl import flags

from data_pipelines.command import checking_flags, whole_numbers
from experiments import command, studies

MODES = ("run", "report")


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    from ad3d_jax.experiment.study.settings import Settings, settings_of
    from ad3d_jax.experiment.study.study import look, study

    config, own = command.config_of(values), {"workdir": values.workdir}
    settings = studies.settings(values, Settings._fields)
    settings["stages"] = whole_numbers(settings["stages"], "stages")
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
    whole("trials", 0, "How many, of all workers together; 0 = the whole grid.")
    whole("together", 1, "Trials of a worker in one program, not pruned.", 1)
    text("pruner", None, "median, halving or none; default: none with --together.")
    names("stages", ["25", "50"], "Percent at which trials are pruned.")
    name = "system, variant, class and space"
    studies.define_flags(name, "tpe, random or grid", "maximised", keep_best=3)


if __name__ == "__main__":
    define_flags()
    command.run(main, remember=False)  # the study has a place of its own
