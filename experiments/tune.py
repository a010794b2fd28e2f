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

from data_pipelines.command import checking_flags, named_numbers
from experiments import command


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    from ad3d_jax.experiment.study.settings import Settings as StudySettings
    from ad3d_jax.experiment.tuning.plan import Settings, settings_apart
    from ad3d_jax.experiment.tuning.tune import tune

    of_both = (*Settings._fields, *StudySettings._fields)
    settings = {name: values[name].value for name in of_both if name in values}
    settings["planted_weights"] = named_numbers(
        values.planted_weights, "planted_weights"
    )
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
    for name, why in found.left_out.items():
        print(f"left out: {name}: {why}")
    for category, each in found.classes.items():
        mean = each.estimate["mean"]
        shown = {n: mean[n]["value"] for n in ("i_auroc", "aupro_30")}
        told = ", ".join(
            f"{n} undefined" if x is None else f"{n} {x:.4f}" for n, x in shown.items()
        )
        print(f"{category}: {each.chosen.configuration} {each.chosen.fields or ''}")
        print(f"  on planted defects (an estimate): {told}")
        print(f"  why this one: {each.page}\n  detector: {each.workdir}")


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
    whole("workers", 1, "Processes on this machine.", lower_bound=1)
    names("devices", [], "GPUs that workers see, in turn; default: all.")
    text("name", "", "Of the study; default: tune and the classes.")
    text("database", "", "A file or postgresql://…; default: in --workdir.")
    text("sampler", "tpe", "What suggests: tpe or random.")
    whole("seed", 0, "Of what is suggested.")
    text("metric", "mean", "What is ranked; mean = i_auroc and aupro_30.")
    whole("retries", 2, "Of a trial whose worker dies or breaks.", lower_bound=0)
    whole("keep_best", 8, "Trials whose fitted state is kept and measured.", 0)
    whole("heartbeat", 30, "Seconds between signs of life.", lower_bound=1)
    whole("grace", 120, "Seconds without one before a trial is lost.", lower_bound=2)
    whole("planted_seed", 0, "Of the planted defects.", lower_bound=0)
    whole("planted_each", 6, "Altered samples of each kind.", lower_bound=1)
    names("planted_kinds", [], "What is planted; default: all the files allow.")
    names("planted_weights", [], "Of kinds, as cut=2,blur=0; default: 1.")
    share = "Share of train that defects are planted into, and no trial is fitted on."
    flags.DEFINE_float("hold_out", 0.2, share)


if __name__ == "__main__":
    define_flags()
    command.run(main, remember=False)  # the search has a place of its own
