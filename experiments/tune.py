r"""Finds the best detector for good parts: systems and settings tried, the best fitted.

    python -m experiments.tune --systems=patchcore:resnet18,padim:resnet18,btf:cpu \
        --budget=30m --workdir=DIR [--data=FOLDER] [--categories=NAME] \
        [--weights=[NAME:]PART=FILE …] [--set=[NAME:]FIELD=VALUE …] [--workers=2]

Trials are judged on defects that are planted into good samples, cheap rungs first; the
best by mean rank over kinds of defects is fitted whole, calibrated, and evaluated where
there is a test split. The same command goes on with a search that was stopped, and
joins one that is running, on the same machine or, with --database=postgresql://…, on
another. See docs/tune.md.
"""

from absl import flags

from data_pipelines.command import checking_flags
from experiments import command, studies


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    from ad3d_jax.experiment.study.settings import Settings as StudySettings
    from ad3d_jax.experiment.tuning.plan import Settings, settings_apart
    from ad3d_jax.experiment.tuning.tune import tune

    names = (*Settings._fields, *StudySettings._fields)
    settings = studies.settings(values, names)
    with checking_flags():
        settings["rungs"] = [float(share) for share in values.rungs]
        settings_apart(settings)
    found = tune(
        values.systems,
        workdir=values.workdir,
        data=values.data,
        categories=values.categories,
        weights=values.weights,
        set=values.set,
        mask_size=values.mask_size,
        workers=values.workers,
        devices=values.devices,
        **settings,
    )
    print(*found.summary, sep="\n")


def define_flags() -> None:
    """Defines the flags of the command."""
    text, whole, names = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_list
    several = flags.DEFINE_multi_string
    names("systems", [], "Configurations; default: all that can be tried.")
    text("workdir", None, "Folder of the detector.", required=True)
    text("data", "", "Folder of classes; '' = the sample set.")
    names("categories", [], "Classes; default: the only one.")
    flags.DEFINE_bool("share", False, "One setting for all classes.")
    several("weights", [], "PART=FILE, or NAME:PART=FILE of one name or system.")
    several("set", [], "FIELD=VALUE, or NAME:FIELD=VALUE of one name or system.")
    whole("mask_size", 256, "Side of all maps and masks, pixels.", lower_bound=1)
    text("budget", "", "Time of all together, as 30m or 1h30m; or --trials.")
    whole("trials", 0, "How many, of all workers together; or --budget.", 0)
    text("space", "", "Name or file of the settings of one system; default: its own.")
    names("rungs", ["0.25", "0.5"], "Shares of samples and pixels, before whole fits.")
    studies.define_flags("tune and the classes", "tpe or random", "ranked", keep_best=8)


if __name__ == "__main__":
    define_flags()
    command.run(main, remember=False)  # the search has a place of its own
