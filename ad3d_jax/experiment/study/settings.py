"""How a study goes about: its settings and what is allowed in them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from ad3d_jax.experiment.study.storage import StudyError
from ad3d_jax.systems.fields import COUNT, Range

PRUNERS = ("median", "halving", "none")
SAMPLERS = ("tpe", "random", "grid")
METRICS = ("mean", "i_auroc", "p_auroc", "aupro_30", "aupro_10", "aupro_05") + (
    *("aupro_01", "i_ap", "p_ap", "i_f1max", "p_f1max"),
)

FROM_ZERO = Range(0, whole=True)
RANGES = {
    **dict.fromkeys(("trials", "seed", "retries", "keep_best"), FROM_ZERO),
    **dict.fromkeys(("together", "heartbeat", "grace", "planted_each"), COUNT),
    "planted_seed": FROM_ZERO,
    "stages": Range(1, 100, whole=True),
    "hold_out": Range(0, 1, open=True),
}
WEIGHT = Range(0)  # of a kind of planted defects


class Settings(NamedTuple):
    """How a study goes about; each is an argument of `study`, a flag of the command."""

    name: str = ""  # "" = system, variant, class and space
    database: str = ""  # a file or postgresql://…; "" = in the study's folder
    trials: int = 0  # of all workers together; 0 = the whole grid
    sampler: str = "tpe"  # one of SAMPLERS
    seed: int = 0  # of what is suggested; a trial's own is the configuration's
    together: int = 1  # trials of a worker in one program, not pruned
    pruner: str | None = None  # one of PRUNERS; None = median, none with `together`
    stages: Sequence[int] = (25, 50)  # percent at which trials are judged for pruning
    metric: str = "mean"  # one of METRICS; mean = that of i_auroc and aupro_30
    retries: int = 2  # of a trial whose worker dies or breaks
    keep_best: int = 3  # trials whose fitted state is kept
    heartbeat: int = 30  # seconds between signs of life
    grace: int = 120  # seconds without one before a trial is lost
    planted_seed: int = 0  # of the planted defects
    planted_each: int = 6  # altered samples of each kind
    planted_kinds: Sequence[str] = ()  # what is planted; () = all that the files allow
    planted_weights: Mapping[str, float] = MappingProxyType({})  # of kinds; else 1
    hold_out: float = 0.2  # share of train that defects are planted into


def settings_of(given: Mapping[str, Any]) -> Settings:
    """Returns settings; ValueError where one is unknown or not allowed."""
    unknown = sorted(set(given) - set(Settings._fields))
    if unknown:
        known = ", ".join(Settings._fields)
        raise StudyError(f"study: no setting {unknown[0]}; there are {known}")
    settings = Settings(**given)
    for name, allowed in RANGES.items():
        allowed.check(name, getattr(settings, name))
    for kind, weight in settings.planted_weights.items():
        WEIGHT.check(f"planted_weights.{kind}", weight)
    if settings.pruner is None:
        settings = settings._replace(
            pruner="median" if settings.together == 1 else "none"
        )
    allowed = {"pruner": PRUNERS, "sampler": SAMPLERS, "metric": METRICS}
    for name, choices in allowed.items():
        found = getattr(settings, name)
        if found not in choices:
            raise StudyError(f"{name}: expected one of {choices}, found {found!r}")
    if settings.pruner != "none" and settings.together > 1:
        raise StudyError(
            f"pruner={settings.pruner} with together={settings.together}: trials that "
            "are trained in one program end together; leave one of the two out"
        )
    if settings.grace < 2 * settings.heartbeat:
        raise StudyError("grace must be at least twice the heartbeat")
    return settings
