"""A study from beginning to end: many trials, many workers, one database.

A study that was stopped goes on with the same call, and one that is running is joined
by it, on the same machine or, with PostgreSQL, on another. Trials are judged on good
samples with planted defects, never on the test set.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optuna
from absl import logging
from ml_collections import ConfigDict

from ad3d_jax.devices.remembered import remember_programs
from ad3d_jax.experiment import surroundings, workers
from ad3d_jax.experiment.config import (
    Source,
    fields_of,
    flags_of,
    from_plain,
    load,
    plain,
)
from ad3d_jax.experiment.status import PREEMPTED, Stopped
from ad3d_jax.experiment.study import (
    objective,
    records,
    report,
    space,
    storage,
    trials,
    worker,
)
from ad3d_jax.experiment.study.settings import Settings, settings_of
from ad3d_jax.experiment.study.slots import Rules
from ad3d_jax.experiment.study.storage import StudyError
from ad3d_jax.workdir import names
from ad3d_jax.workdir.places import local
from data_pipelines import planted


class StudyResult(NamedTuple):
    """What came of a study."""

    study: optuna.Study
    folder: Path
    report: Path  # the page
    value: float | None  # of the best trial; None where none is complete
    best: dict[str, Any] | None  # its fields of the configuration, by dotted names
    summary: list[str]  # in a few lines, the last a command for the test set


def study(
    config: Source,
    space: str | os.PathLike | Mapping[str, Any],
    *,
    workdir: str | os.PathLike | None = None,
    workers: int = 1,
    devices: Sequence[str] = (),
    **settings: Any,
) -> StudyResult:
    """Runs trials until the study has all of them, and writes its page.

    Args:
        config: what the trials change; as `Experiment` takes it.
        space: what may change, a table or a file, see `space`.
        workdir: folder of the study; None = runs/studies/<name>.
        workers: processes on this machine; 1 = this process alone.
        devices: numbers of devices that workers use, in turn; () = all.
        **settings: fields of `Settings`, `trials` above all.

    Raises:
        StudyError: a field, a setting, a device or the database is at fault.
        Stopped: the process was asked to stop, or the database cannot be reached for
            long (`UnreachableError`); the same call goes on from there.
        DiskFullError: no space is left.
    """
    config, settings = load(config), settings_of(settings)
    folder = folder_of(config, space, settings, workdir)
    if workers > 1:
        begun = open_job(config, space, settings, folder)
        begun.database.storage.engine.dispose()
        arguments = {
            "config": plain(config),
            "space": space if isinstance(space, Mapping) else os.fspath(space),
            "workdir": str(folder),
            "settings": plain_settings(settings),
        }
        employ(f"{__name__}:work_alone", arguments, workers, devices)
        return result_of(begun, config, folder)
    chosen = choose_devices(devices)
    # Trials that differ in numbers alone are one program, for all workers.
    remember_programs(folder / "compiled")
    with stoppable():
        begun = open_job(config, space, settings, folder)
        begun = begun._replace(devices=chosen)
        worker.work(begun)
    return result_of(begun, config, folder)


def look(
    config: Source,
    space: str | os.PathLike | Mapping[str, Any],
    *,
    workdir: str | os.PathLike | None = None,
    **settings: Any,
) -> StudyResult:
    """Returns what has come of a study so far, and writes its page; as `study`."""
    config, settings = load(config), settings_of(settings)
    folder = folder_of(config, space, settings, workdir)
    begun = open_job(config, space, settings, folder)
    return result_of(begun, config, folder)


def open_job(
    config: ConfigDict,
    source: str | os.PathLike | Mapping[str, Any],
    settings: Settings,
    folder: Path,
) -> worker.Job:
    """Returns the study as a worker sees it; whatever is wrong is found here.

    Raises:
        StudyError: a field, a setting or the database is at fault.
    """
    planting = planted.Settings(
        settings.planted_seed,
        settings.planted_each,
        tuple(settings.planted_kinds),
        settings.hold_out,
    )
    stages = tuple(sorted(map(int, settings.stages)))
    pruned = settings.pruner != "none"
    weights = dict(settings.planted_weights)
    goal = objective.Goal(settings.metric, stages if pruned else (), planting, weights)
    rules = Rules(settings.trials, settings.sampler, settings.seed, settings.retries)
    surroundings.check(config)
    read = space.read_space(source)
    space.check(read, config, rules.sampler)
    if rules.sampler == "grid":
        points = len(space.grid_points(read, rules.seed))
        rules = rules._replace(trials=min(rules.trials or points, points))
    if rules.trials < 1:
        raise StudyError("trials: say how many")
    pulse = storage.Pulse(settings.heartbeat, settings.grace)
    address = settings.database or str(folder / names.DATABASE)
    database = storage.open_database(address, pulse)
    facts = {
        **{f"config.{name}": value for name, value in fields_of(config).items()},
        "metric": goal.metric,
        "stages": goal.stages,
        "planted": goal.planting._asdict(),
        "weights": weights,
        "sampler": rules.sampler,
        "seed": rules.seed,
        "space": read.digest,
        "pruner": settings.pruner,
    }
    for name in objective.PLACES:
        facts.pop(f"config.{name}", None)
    name = name_of(config, source, settings)
    pruning = space.make_pruner(settings.pruner)
    return worker.Job(
        database,
        trials.open_study(database, name, facts, pruning),
        partial(space.changed, config),
        read,
        rules,
        goal,
        folder,
        keep_best=settings.keep_best,
        together=settings.together,
    )


def result_of(job: worker.Job, config: ConfigDict, folder: Path) -> StudyResult:
    """Returns what came of a study, and writes its page.

    Raises:
        UnreachableError: the database cannot be reached.
    """
    return storage.attempt(job.database, lambda: _result(job.study, config, folder))


def _result(study: optuna.Study, config: ConfigDict, folder: Path) -> StudyResult:
    flags = flags_of(config)
    page = report.write_report(study, folder, flags)
    best = report.best_trial(study)
    return StudyResult(
        study,
        folder,
        page,
        None if best is None else best.value,
        None if best is None else dict(best.user_attrs[records.FIELDS]),
        report.summary(study, flags),
    )


def name_of(config: ConfigDict, source: Any, settings: Settings) -> str:
    """Returns the study's name, by default of system, variant, class and space."""
    if settings.name:
        return settings.name
    last = "" if isinstance(source, Mapping) else Path(source).stem
    system = names.configuration_name(config.system)
    parts = (system, config.variant, config.data.category, last)
    return "-".join(filter(None, parts))


def folder_of(
    config: ConfigDict, source: Any, settings: Settings, workdir: Any
) -> Path:
    """Returns the study's folder, which is made if need be."""
    name = name_of(config, source, settings)
    folder = local(workdir or f"runs/studies/{name}", "workdir")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """While it holds, SIGTERM and SIGINT raise Stopped, between steps of a fit too."""
    main = threading.current_thread() is threading.main_thread()
    if main:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Stopped(str(stop) or "stopped") from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def choose_devices(numbers: Sequence[str]) -> list[jax.Device] | None:
    """Returns the devices of these numbers, where jax computes from now on.

    Of GPUs this process then sees no others, if jax has not looked for them before.

    Args:
        numbers: of devices; () = all, for which None is returned.

    Raises:
        StudyError: there is no such device.
    """
    if not numbers:
        return None
    jax.config.update("jax_cuda_visible_devices", ",".join(map(str, numbers)))
    found = jax.local_devices()
    if found[0].platform != "gpu":
        there = {str(device.local_hardware_id): device for device in found}
        missing = [number for number in map(str, numbers) if number not in there]
        if missing:
            raise StudyError(
                f"devices: expected some of {', '.join(there)} "
                f"({found[0].platform}), found {missing[0]}"
            )
        found = [there[number] for number in map(str, numbers)]
    jax.config.update("jax_default_device", found[0])
    return found


def plain_settings(settings: Settings) -> dict[str, Any]:
    """Returns the settings as JSON types."""
    weights = {"planted_weights": dict(settings.planted_weights)}
    return settings._asdict() | weights


def employ(
    target: str, arguments: Mapping[str, Any], count: int, devices: Sequence[str]
) -> None:
    """Starts several processes that work on a study, and waits for all of them.

    Worker n gets the n-th of the devices, in turn. One that dies is not replaced: the
    others take its trial up again. A signal to stop goes to all of them.

    Args:
        target: "module:function" that works, see `workers.start`.
        arguments: of it, as JSON has them, less `devices`.
        count: of processes.
        devices: numbers of devices; () = all for each.

    Raises:
        Stopped: they were asked to stop.
        StudyError: all of them failed.
    """
    environment = dict(os.environ)
    if count > len(devices):  # some share a GPU, of which jax would take most at once
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    processes: list[workers.Process] = []
    with workers.stopping(processes):
        for number in range(count):
            own = [str(devices[number % len(devices)])] if devices else []
            given = {**arguments, "devices": own}
            processes.append(workers.start(target, given, environment=environment))
        codes = [process.wait() for process in processes]
    for process, code in zip(processes, codes, strict=True):
        if code:
            logging.warning("worker %d ended with status %d", process.pid, code)
    if PREEMPTED in codes:
        raise Stopped("the study's workers were stopped")
    if all(codes):
        raise StudyError(f"all workers failed, with status {codes}")


def work_alone(
    config: Mapping[str, Any],
    space: str | Mapping[str, Any],
    workdir: str,
    settings: Mapping[str, Any],
    devices: Sequence[str],
) -> None:
    """Works on a study in this process until it has all of its trials."""
    study(from_plain(config), space, workdir=workdir, devices=devices, **settings)
