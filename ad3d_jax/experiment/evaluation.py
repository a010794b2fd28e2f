"""The evaluation of a run on the test split of its class.

Of several processes all score; the first writes.
"""

from pathlib import Path

import numpy as np

from ad3d_jax.decision import decide
from ad3d_jax.devices import memory, processes
from ad3d_jax.evaluate import Shown, score_program, score_split, scored_rows
from ad3d_jax.experiment import calibrate, results
from ad3d_jax.experiment.data import rows_of
from ad3d_jax.experiment.fitting import score_of
from ad3d_jax.experiment.opening import Run, limits
from ad3d_jax.fit.monitor import NOT_APPLIED
from ad3d_jax.workdir import names
from ad3d_jax.workdir.calibration import read_calibration
from ad3d_jax.workdir.json_files import read_json
from ad3d_jax.workdir.log import read_log


def evaluate(run: Run) -> dict:
    """Scores the test split; writes maps, scores, metrics and the report.

    Of several processes all score; the first reads all samples, whose masks it needs,
    writes, and returns the metrics, the others {}.
    """
    config, engine, folder = run.config, run.engine, run.folder
    dataset = run.dataset if processes.is_first() else processes.shared(run.dataset)
    score = score_of(run, names.FINAL, run.program)
    size = config.eval.batch_size
    calibration = read_calibration(folder / names.CALIBRATION)
    rows = rows_of(run.data.manifest, "test")
    shown = Shown(rows, config.eval.images_per_defect)
    scored = score_split(
        score, dataset, size, shown=shown if processes.is_first() else None
    )
    of_folds = score_program(run.system, engine)
    others = [
        score_split(score_of(run, place, of_folds), dataset, size)
        for place in calibrate.fold_places(calibration)
    ]
    decision = None
    if calibration is not None:
        image, maps = (
            np.stack([getattr(each, name) for each in others or [scored]])
            for name in ("image", "maps")
        )
        decision = decide(calibration, image, maps, config.eval.alpha)
    rows = scored_rows(scored, rows, decision)
    if processes.is_first():
        results.write_scored(folder, rows, scored)
    processes.wait()
    host_bytes = limits(config, engine).host_bytes  # all processes measure together
    if not processes.is_first():
        return {}
    facts = {
        "seconds_fit": seconds_fit(folder),
        "peak_memory_bytes": memory.peak_bytes(),
        **run.facts,
    }
    if (folder / names.ESTIMATE).exists():
        facts["estimate"] = read_json(folder / names.ESTIMATE)
    notes = {}
    if run.facts["steps"] is None:
        notes["steps"] = "nothing is trained by gradient steps"
    if count := steps_not_applied(folder):
        notes["steps"] = f"{count} were not finite and were not applied"
    if remarks := run.data.manifest["remarks"]:
        notes["data"] = "; ".join(remarks)
    point = results.point_of(
        *(rows, calibration, decision, config.eval.alpha),
        note=run.data.calibration.note,
    )
    samples = shown.samples(dataset, size)
    return results.write_measured(
        folder, rows, scored, samples, point, facts, notes, host_bytes
    )


def steps_not_applied(folder: Path) -> int:
    """Returns the number of training steps in the workdir that were not finite."""
    events = [e for e in read_log(folder / names.LOG) if e.get("event") == NOT_APPLIED]
    return len({(event["phase"], event["step"]) for event in events})  # one may recur


def seconds_fit(folder: Path) -> float | None:
    """Returns the wall time of all fits in the workdir but those that were killed."""
    log = read_log(folder / names.LOG)
    seconds = [line["seconds"] for line in log if line.get("event") == "fit"]
    return sum(seconds) if seconds else None
