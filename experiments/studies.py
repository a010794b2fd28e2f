"""What `sweep` and `tune` share: the flags of a study, and how they are read."""

from typing import Any

from absl import flags

from data_pipelines.command import named_numbers


def define_flags(name: str, sampler: str, metric: str, keep_best: int) -> None:
    """Defines the flags of a study; words of some of them and a default are given."""
    text, whole, names = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_list
    whole("workers", 1, "Processes on this machine.", lower_bound=1)
    names("devices", [], "GPUs that workers see, in turn; default: all.")
    text("name", "", f"Of the study; default: {name}.")
    text("database", "", "A file or postgresql://…; default: in --workdir.")
    text("sampler", "tpe", f"What suggests: {sampler}.")
    whole("seed", 0, "Of what is suggested; a trial's own is config.seed.")
    text("metric", "mean", f"What is {metric}; mean = of i_auroc and aupro_30.")
    whole("retries", 2, "Of a trial whose worker dies or breaks.", lower_bound=0)
    whole("keep_best", keep_best, "Trials whose fitted state is kept.", lower_bound=0)
    whole("heartbeat", 30, "Seconds between signs of life.", lower_bound=1)
    whole("grace", 120, "Seconds without one before a trial is lost.", lower_bound=2)
    whole("planted_seed", 0, "Of the planted defects.", lower_bound=0)
    whole("planted_each", 6, "Altered samples of each kind.", lower_bound=1)
    names("planted_kinds", [], "What is planted; default: all the files allow.")
    names("planted_weights", [], "Of kinds in a value, as cut=2,blur=0; default: 1.")
    share = "Share of train that defects are planted into, and nothing is fitted on."
    flags.DEFINE_float("hold_out", 0.2, share)


def settings(values: flags.FlagValues, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the settings of these names that flags give."""
    found = {name: values[name].value for name in names if name in values}
    weights = named_numbers(values.planted_weights, "planted_weights")
    return found | {"planted_weights": weights}
