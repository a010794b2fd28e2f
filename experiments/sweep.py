"""Studies hyperparameters: many trials, many workers, one database.

    python -m experiments.sweep --config=experiments/configs/simplenet.py:cpu \
        --space=experiments/spaces/simplenet.py --trials=40 [--workers=4] \
        [--study=postgresql://USER:PASSWORD@HOST/NAME] [--config.FIELD=VALUE …]

The same command goes on with a study that was stopped, and joins one that is running,
on the same machine or, with PostgreSQL, on another. Trials are judged on good samples
with planted defects, never on the test set. See docs/studies.md.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
from absl import app, flags, logging

from ad3d_jax.workdir import fields, names
from data_pipelines import planted
from data_pipelines.errors import DiskFullError
from experiments import flag_errors, session
from experiments.main import EXIT_DISK_FULL, EXIT_PREEMPTED

MODES = ("run", "report")


def main(_) -> None:
    """Runs the command; a user's mistake ends it with one sentence and no trace."""
    values = flags.FLAGS
    if not values["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # checkpoints are told of at length
    if importlib.util.find_spec("optuna") is None:
        sys.exit("error: studies need Optuna: pip install 'ad3d_jax[study]'")
    from experiments.study.worker import Stopped

    try:
        run(values)
    except (Stopped, KeyboardInterrupt) as stop:
        logging.warning("%s", str(stop) or "stopped")
        sys.exit(EXIT_PREEMPTED)
    except DiskFullError as full:
        sys.stderr.write(f"error: {full}\n")
        sys.exit(EXIT_DISK_FULL)
    except ValueError as mistake:
        sys.exit(f"error: {mistake}")


def run(values: flags.FlagValues) -> None:
    """Does what the flags say."""
    import optuna

    from experiments.study import report, worker

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    choose_devices(values.devices)
    folder = study_folder(values)
    if values.mode == "report":
        study = open_job(values, folder).study
    elif values.workers > 1:
        job = open_job(values, folder)
        study = job.study
        job.database.storage.engine.dispose()
        employ(values.workers, values.devices)
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        remember_compiled(folder)
        job = open_job(values, folder)
        study = job.study
        worker.work(job)
    page = report.write_report(study, folder, started_with())
    for line in report.summary(study, started_with()):
        print(line)
    print(f"\nreport: {page}")


def open_job(values: flags.FlagValues, folder: Path):
    """Returns the study of the flags; whatever is wrong with them is found here.

    Raises:
        StudyError: a field, a flag or the database is at fault.
    """
    from experiments.study import objective, space, storage, trials, worker

    config = values.config
    pruner = values.pruner or ("median" if values.together == 1 else "none")
    if pruner != "none" and values.together > 1:
        raise storage.StudyError(
            f"--pruner={pruner} with --together={values.together}: trials that are "
            "trained in one program end together; leave one of the two out"
        )
    goal = objective.Goal(
        values.metric,
        tuple(sorted(map(int, values.stages))) if pruner != "none" else (),
        planted.Settings(
            values.planted_seed,
            values.planted_twins,
            tuple(values.planted_kinds),
            values.hold_out,
        ),
    )
    rules = trials.Rules(values.trials, values.sampler, values.seed, values.retries)
    if not values.space:
        raise storage.StudyError("--space: name a file that says what may change")
    read = space.read_space(values.space)
    space.check(read, config, rules.sampler)
    if rules.sampler == "grid":
        points = len(space.grid_points(read, rules.seed))
        rules = rules._replace(trials=min(rules.trials or points, points))
    if rules.trials < 1:
        raise storage.StudyError("--trials: say how many")
    pulse = storage.Pulse(values.heartbeat, values.grace)
    if pulse.grace < 2 * pulse.interval:
        raise storage.StudyError("--grace must be at least twice --heartbeat")
    database = storage.open_database(
        values.study or str(folder / names.DATABASE), pulse
    )
    plain = fields.values(session.plain(config))
    facts = {
        **{f"config.{name}": value for name, value in plain.items()},
        "metric": goal.metric,
        "stages": goal.stages,
        "planted": goal.planting._asdict(),
        "sampler": rules.sampler,
        "seed": rules.seed,
        "space": read.digest,
        "pruner": pruner,
    }
    for name in objective.PLACES:
        facts.pop(f"config.{name}", None)
    pruning = space.make_pruner(pruner)
    study = trials.open_study(database, study_name(values), facts, pruning)
    return worker.Job(
        *(database, study, config, read, rules, goal, folder),
        keep_best=values.keep_best,
        together=values.together,
    )


def study_name(values: flags.FlagValues) -> str:
    """Returns the study's name, by default of system, variant, class and space."""
    if values.name:
        return values.name
    config = values.config
    parts = (config.system, config.variant, config.data.category)
    return "-".join((*filter(None, parts), Path(values.space).stem))


def study_folder(values: flags.FlagValues) -> Path:
    """Returns the study's folder, which is made if need be."""
    folder = Path(values.workdir or f"runs/studies/{study_name(values)}").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def choose_devices(numbers: list[str]) -> None:
    """Lets this process see some GPUs alone; must come before jax looks for devices."""
    if numbers:
        jax.config.update("jax_cuda_visible_devices", ",".join(numbers))


def remember_compiled(folder: Path) -> None:
    """Keeps compiled programs in the study's folder, unless another place is set.

    Trials that differ in numbers alone are one program, for all workers.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))


def employ(workers: int, devices: list[str]) -> None:
    """Starts this command as several processes and waits for all of them.

    Worker n gets the n-th of the devices, in turn. One that dies is not replaced: the
    others take its trial up again. A signal to stop goes to all of them.

    Raises:
        Stopped: they were asked to stop.
        StudyError: all of them failed.
    """
    from experiments.study.storage import StudyError
    from experiments.study.worker import Stopped

    environment = dict(os.environ)
    if workers > len(devices):  # some share a GPU, of which jax would take most at once
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    processes = []
    for number in range(workers):
        own = ["--workers=1"]
        if devices:
            own.append(f"--devices={devices[number % len(devices)]}")
        command = [sys.executable, "-m", "experiments.sweep", *sys.argv[1:], *own]
        processes.append(subprocess.Popen(command, env=environment))

    def stop(*_) -> None:
        for process in processes:
            process.terminate()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    codes = [process.wait() for process in processes]
    for process, code in zip(processes, codes, strict=True):
        if code:
            logging.warning("worker %d ended with status %d", process.pid, code)
    if EXIT_PREEMPTED in codes:
        raise Stopped("stopped; start the same command again to go on")
    if all(codes):
        raise StudyError(f"all workers failed, with status {codes}")


def started_with() -> list[str]:
    """Returns the flags of the configuration that this command was given."""
    return [each for each in sys.argv[1:] if each.startswith("--config")]


def define_flags() -> None:
    """Defines the flags of the command."""
    flag_errors.define_config("experiments/configs/quickstart.py")
    text, whole = flags.DEFINE_string, flags.DEFINE_integer
    text("space", "", "File that says what may change.")
    text("study", "", "Database: a file or postgresql://…; default: in --workdir.")
    text("name", "", "Of the study; default: system, variant, class and space.")
    text("workdir", "", "Of the study; default: runs/studies/<name>.")
    flags.DEFINE_enum("mode", "run", MODES, "What to do.")
    whole("trials", 0, "How many, of all workers together; 0 = the whole grid.")
    whole("workers", 1, "Processes on this machine.", lower_bound=1)
    flags.DEFINE_list("devices", [], "GPUs that workers see, in turn; default: all.")
    whole("seed", 0, "Of what is suggested; a trial's own is config.seed.")
    flags.DEFINE_enum("sampler", "tpe", ("tpe", "random", "grid"), "What suggests.")
    text_of_together = "Trials of a worker in one program, not pruned."
    whole("together", 1, text_of_together, lower_bound=1)
    pruners = ("median", "halving", "none")
    text_of_pruner = "What ends hopeless trials; default: median, none with --together."
    flags.DEFINE_enum("pruner", None, pruners, text_of_pruner)
    flags.DEFINE_list("stages", ["25", "50"], "Percent at which trials are pruned.")
    names = ("mean", "i_auroc", "p_auroc", "aupro_30", "aupro_10", "aupro_05")
    names += ("aupro_01", "i_ap", "p_ap", "i_f1max", "p_f1max")
    text_of_mean = "What is maximised; mean = that of i_auroc and aupro_30."
    flags.DEFINE_enum("metric", "mean", names, text_of_mean)
    whole("retries", 2, "Of a trial whose worker dies or breaks.", lower_bound=0)
    whole("keep_best", 3, "Trials whose trained state is kept.", lower_bound=0)
    whole("heartbeat", 30, "Seconds between signs of life.", lower_bound=1)
    whole("grace", 120, "Seconds without one before a trial is lost.", lower_bound=2)
    whole("planted_seed", 0, "Of the planted defects.", lower_bound=0)
    whole("planted_twins", 2, "Altered samples for each good one.", lower_bound=1)
    flags.DEFINE_list("planted_kinds", list(planted.KINDS), "What is planted.")
    share = "Share of train to plant into, where a class has no validation split."
    flags.DEFINE_float("hold_out", planted.Settings().hold_out, share)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=flag_errors.parse)
