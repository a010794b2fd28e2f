"""From a folder of good parts and a budget to a fitted, calibrated detector.

A search that was stopped goes on with the same call, and one that is running is joined
by it, on the same machine or, with PostgreSQL, on another.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ad3d_jax.devices.remembered import remember_programs
from ad3d_jax.experiment.detector import Detector
from ad3d_jax.experiment.detector import load as load_detector
from ad3d_jax.experiment.study import strata, worker
from ad3d_jax.experiment.study.settings import Settings as StudySettings
from ad3d_jax.experiment.study.study import (
    choose_devices,
    employ,
    plain_settings,
    stoppable,
)
from ad3d_jax.experiment.tuning import candidates, final, why
from ad3d_jax.experiment.tuning.candidates import Asked
from ad3d_jax.experiment.tuning.choice import Ranked, best_of_systems
from ad3d_jax.experiment.tuning.plan import (
    Plan,
    Settings,
    groups,
    make_plan,
    open_job,
    run_trials,
    settings_apart,
)
from ad3d_jax.report.glossary import METRICS
from ad3d_jax.report.markup import number
from ad3d_jax.workdir import names
from ad3d_jax.workdir.places import local


class ClassResult(NamedTuple):
    """The detector of a class, and why it is this one."""

    workdir: Path  # like that of any run
    ranking: list[Ranked]  # what was fitted whole, the chosen one first
    estimate: dict[str, Any]  # values on planted defects, see `tuning.estimate`
    metrics: dict[str, Any]  # as metrics.json has them
    page: Path  # why this one

    @property
    def chosen(self) -> Ranked:
        """The setting that was fitted."""
        return self.ranking[0]

    @property
    def detector(self) -> Detector:
        """The fitted, calibrated detector."""
        return load_detector(self.workdir)

    def best_of_systems(self, count: int) -> list[Ranked]:
        """Returns the best setting of each configuration, `count` at most."""
        return best_of_systems(self.ranking, count)


class TuneResult(NamedTuple):
    """What came of a search, class by class."""

    classes: dict[str, ClassResult]
    left_out: dict[str, str]  # configurations that could not be tried, and why

    @property
    def summary(self) -> list[str]:
        """What there is to say in a few lines."""
        lines = [f"left out: {name}: {why}" for name, why in self.left_out.items()]
        for category, each in self.classes.items():
            mean = each.estimate["mean"]
            shown = {METRICS[n].name: mean[n]["value"] for n in strata.MEAN}
            told = ", ".join(f"{name} {number(x)}" for name, x in shown.items())
            setting = why.settings(each.chosen) or "as it is"
            lines += [
                f"{category}: {each.chosen.configuration}, {setting}",
                f"  on planted defects, an estimate: {told}",
                f"  why this one: {each.page}",
                f"  detector: {each.workdir}",
            ]
        return lines

    @property
    def only(self) -> ClassResult:
        """The result of the only class; ValueError where there are several."""
        if len(self.classes) > 1:
            raise ValueError(f"tune: name one of the classes {', '.join(self.classes)}")
        return next(iter(self.classes.values()))

    @property
    def detector(self) -> Detector:
        """The fitted, calibrated detector of the only class."""
        return self.only.detector

    @property
    def estimate(self) -> dict[str, Any]:
        """Its values on planted defects, see `tuning.estimate`."""
        return self.only.estimate


def tune(
    systems: Sequence[str] = (),
    *,
    workdir: str | os.PathLike,
    data: str | os.PathLike = "",
    categories: str | Sequence[str] = (),
    weights: Mapping[str, Any] | Sequence[str] = (),
    set: Mapping[str, Any] | Sequence[str] = (),
    mask_size: int = 256,
    workers: int = 1,
    devices: Sequence[str] = (),
    **settings: Any,
) -> TuneResult:
    """Tries systems and settings, and fits, calibrates and evaluates the best.

    Trials are judged on defects that are planted into good training samples, never on
    the test set; samples that calibrate take no part in them.

    Args:
        systems: names of configurations, such as "patchcore:resnet18"; () = those of
            `candidates.CANDIDATES` that the class's files and the weights allow.
        workdir: folder of the detector; of several classes, of a folder for each.
        data: folder of classes; "" = the generated sample set.
        categories: classes; () = the only one.
        weights: files of pretrained parts by name, such as {"backbone": FILE}, or
            {"patchcore:backbone": FILE} of one configuration or system.
        set: fields by dotted names, or texts FIELD=VALUE, of every configuration, or
            NAME:FIELD of those of one name or system; see `scopes`.
        mask_size: side of all maps and masks, pixels.
        workers: processes on this machine; 1 = this process alone.
        devices: numbers of devices that workers use, in turn; () = all.
        **settings: fields of `plan.Settings` and of a study's `Settings`: `budget` or
            `trials` above all.

    Raises:
        ValueError: a field, a setting, a device or the database is at fault, or no
            trial gave a value.
        Stopped, Preempted: the process was asked to stop; the same call goes on.
        DiskFullError: no space is left.
    """
    categories = (categories,) if isinstance(categories, str) else tuple(categories)
    asked = Asked(
        tuple(systems),
        tuple(filter(None, categories)),
        os.fspath(data),
        candidates.texts_of(weights),
        candidates.texts_of(set),
        mask_size,
    )
    own, study = settings_apart(settings)
    plan = make_plan(candidates.open_field(asked), own, study)
    folder = local(workdir, "workdir")
    classes, places = plan.field.categories, {}
    for category in classes:
        alone = len(classes) == 1
        places[category] = folder if alone else folder / names.plain_name(category)
    for place in places.values():
        final.check_place(place)
    chosen = None if workers > 1 else choose_devices(devices)
    found: dict[str, ClassResult] = {}
    for group in groups(plan):
        place = folder if len(groups(plan)) == 1 else places[group[0]]
        place.mkdir(parents=True, exist_ok=True)
        if workers > 1:
            arguments = _arguments(asked, own, study, place, group)
            employ(f"{__name__}:work_alone", arguments, workers, devices)
        remember_programs(place / "compiled")
        with stoppable():
            job = open_job(plan, place, group, chosen)
            worker.work(job, partial(run_trials, group, own.rungs))
            found |= _finished(asked, plan, job, group, places)
    return TuneResult(found, plan.field.left_out)


def _finished(
    asked: Asked,
    plan: Plan,
    job: worker.Job,
    categories: Sequence[str],
    places: Mapping[str, Path],
) -> dict[str, ClassResult]:
    """Fits the best setting whole, on each class, and says why it is the best."""
    ranking = final.choose(plan, job, categories)
    repeat = final.command(asked, plan.settings, plan.study, job)
    found = {}
    for category in categories:
        place = places[category]
        tqdm.write(f"{category}: fits trial {ranking[0].trial} whole, into {place}")
        metrics, estimate = final.fit_whole(
            plan, job, ranking, category, categories, place, repeat
        )
        page = place / names.REPORT / names.WHY
        found[category] = ClassResult(place, ranking, estimate, metrics, page)
    return found


def _arguments(
    asked: Asked,
    own: Settings,
    study: StudySettings,
    folder: Path,
    categories: Sequence[str],
) -> dict[str, Any]:
    """Returns the arguments of `work_alone`, as JSON has them."""
    return {
        "asked": asked._asdict(),
        "settings": own._asdict(),
        "study": plain_settings(study),
        "folder": str(folder),
        "categories": list(categories),
    }


def work_alone(
    asked: Mapping[str, Any],
    settings: Mapping[str, Any],
    study: Mapping[str, Any],
    folder: str,
    categories: Sequence[str],
    devices: Sequence[str],
) -> None:
    """Works on the trials of a search in this process until none is left."""
    field = candidates.open_field(Asked(**asked))
    plan = make_plan(field, Settings(**settings), StudySettings(**study))
    chosen = choose_devices(devices)
    remember_programs(Path(folder) / "compiled")
    with stoppable():
        job = open_job(plan, Path(folder), categories, chosen)
        worker.work(job, partial(run_trials, categories, plan.settings.rungs))
