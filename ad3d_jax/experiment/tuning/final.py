"""The end of a search: the best setting is chosen, fitted whole, and explained."""

import shlex
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from ad3d_jax.experiment.config import changed, flags_of, plain
from ad3d_jax.experiment.run import run
from ad3d_jax.experiment.study import storage, worker
from ad3d_jax.experiment.study.grounds import Grounds
from ad3d_jax.experiment.study.joint import CONFIGURATION
from ad3d_jax.experiment.study.objective import Task
from ad3d_jax.experiment.study.settings import Settings as StudySettings
from ad3d_jax.experiment.study.storage import StudyError
from ad3d_jax.experiment.tuning import again, why
from ad3d_jax.experiment.tuning.candidates import Asked
from ad3d_jax.experiment.tuning.choice import Ranked, ordered, ranked, trials_folder
from ad3d_jax.experiment.tuning.plan import DEFAULTS, Plan, Settings, parts_of
from ad3d_jax.workdir import names
from ad3d_jax.workdir.atomic import write_text
from ad3d_jax.workdir.checkpoint import has_tree
from ad3d_jax.workdir.folder import InUseError, differences, has_run, held
from ad3d_jax.workdir.json_files import read_json, write_json

SECONDS_BETWEEN_LOOKS = 2.0  # at a folder that another process holds
# What a run leaves in its folder, and a later one with another setting replaces.
OF_A_RUN = (
    *(names.CONFIG, names.CHECKPOINTS, names.METRICS, names.SCORES, names.MAPS),
    *(names.LOG, names.REPORT),
)


def choose(plan: Plan, job: worker.Job, categories: Sequence[str]) -> list[Ranked]:
    """Returns what was fitted whole, the best first, with what scores take.

    Those whose state is kept are measured, one after the other, on the first class.

    Raises:
        StudyError: no trial gave a value.
    """
    found = storage.attempt(job.database, lambda: ranked(job.study))
    if not found:
        raise StudyError("tune: no trial gave a value; the reasons stand above")
    grounds = Grounds()
    for each in found[: max(1, plan.study.keep_best)]:
        part = parts_of(_task(job, each), categories)[categories[0]]
        if has_tree(part.folder / names.FINAL) or each is found[0]:
            costs = again.measure_costs(part, job.goal, grounds)
            found[found.index(each)] = each._replace(**costs)
    return ordered(found)


def _task(job: worker.Job, each: Ranked) -> Task:
    """Returns the task of a trial, to look at it again."""
    folder = trials_folder(job.folder) / each.trial
    return Task(
        job.config_of(_fields(each)), folder, lambda *_: False, devices=job.devices
    )


def fit_whole(
    plan: Plan,
    job: worker.Job,
    ranking: Sequence[Ranked],
    category: str,
    categories: Sequence[str],
    place: Path,
    repeat: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fits the chosen setting on a class, with calibration, and evaluates it.

    Returns:
        Metrics and the estimate.
    """
    part = parts_of(_task(job, ranking[0]), categories)[category]
    config = changed(job.config_of(_fields(ranking[0])), {"data.category": category})
    commands = {"the whole search": repeat, "this detector alone": alone(config)}

    def compose(found: again.Found) -> str:
        return why.compose(plan, job.study, ranking, found, category, commands)

    while True:
        try:
            if not _is_done(place, config):
                with held(place):
                    make_room(place, config)
                    found = again.look(part, job.goal, Grounds())
                    write_json(_made(place / names.ESTIMATE), found.estimate)
                    page = storage.attempt(job.database, partial(compose, found))
                    write_text(_made(place / names.REPORT / names.WHY), page)
                run(config, place)
            break
        except InUseError as error:  # of a worker that ended at the same time
            logging.log_every_n_seconds(logging.WARNING, "%s; waiting", 60, error)
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return read_json(place / names.METRICS), read_json(place / names.ESTIMATE)


def _fields(each: Ranked) -> dict[str, Any]:
    return {CONFIGURATION: each.configuration, **each.fields}


def _made(path: Path) -> Path:
    """Returns a path whose folder is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _is_done(place: Path, config: ConfigDict) -> bool:
    """Returns whether a folder holds all that a search ends with, of this setting."""
    files = (names.METRICS, names.ESTIMATE, f"{names.REPORT}/{names.WHY}")
    there = all((place / file).exists() for file in (*files, names.CONFIG))
    return there and not differences(read_json(place / names.CONFIG), plain(config))


def check_place(place: Path) -> None:
    """Raises StudyError where a folder holds a run that no search has made."""
    if has_run(place) and not (place / names.ESTIMATE).exists():
        raise StudyError(
            f"workdir {place}: it holds a run that was not chosen by a search, which "
            "would be replaced; name another folder"
        )


def make_room(place: Path, config: ConfigDict) -> None:
    """Removes the detector of an earlier choice, and says so; its trials stay.

    Raises:
        StudyError: see `check_place`.
    """
    check_place(place)
    path = place / names.CONFIG
    if not path.exists():
        return
    differ = differences(read_json(path), plain(config))
    if not differ:
        return
    if has_run(place):
        logging.warning(
            "%s: after more trials another setting is the best; the detector that was "
            "chosen before is replaced (%s)",
            *(place, "; ".join(f"{name}: {x}" for name, x in differ.items())),
        )
    for name in OF_A_RUN:
        if (place / name).is_dir():
            shutil.rmtree(place / name)
        else:
            (place / name).unlink(missing_ok=True)


def command(asked: Asked, own: Settings, study: StudySettings, job: worker.Job) -> str:
    """Returns the command that repeats a search, with a folder of its own."""
    flags = []
    before = {**Asked._field_defaults, **Settings._field_defaults}
    before |= StudySettings._field_defaults | DEFAULTS
    for name, value in {**asked._asdict(), **own._asdict(), **study._asdict()}.items():
        several = isinstance(value, list | tuple)
        usual = (
            tuple(value) == tuple(before[name]) if several else value == before[name]
        )
        if usual or name == "database":  # whose address may hold a password
            continue
        if name in ("weights", "set"):
            flags += [f"--{name}={text}" for text in value]
        elif name == "planted_weights":
            flags.append(
                f"--{name}=" + ",".join(f"{k}={w:g}" for k, w in value.items())
            )
        elif several:
            flags.append(f"--{name}=" + ",".join(map(str, value)))
        else:
            flags.append(f"--{name}={str(value).lower() if value is True else value}")
    flags.append(f"--workdir={job.folder}")
    return shlex.join(("python", "-m", "experiments.tune", *flags))


def alone(config: ConfigDict) -> str:
    """Returns the command that fits and evaluates the chosen setting."""
    return shlex.join(("python", "-m", "experiments.main", *flags_of(config)))
