"""Writes an ensemble as a folder that scores without this library."""

import inspect
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ad3d_jax.experiment.ensemble.members import tail_arrays
from ad3d_jax.experiment.export import ensemble as script
from ad3d_jax.experiment.export import resizing, score
from ad3d_jax.experiment.export.folder import (
    check_place,
    decision_of,
    versions,
    write_export,
    write_manifest,
)
from ad3d_jax.metrics import surprise
from ad3d_jax.workdir.arrays import write_arrays
from ad3d_jax.workdir.atomic import new_folder
from ad3d_jax.workdir.places import local

if TYPE_CHECKING:
    from ad3d_jax.experiment.ensemble.detector import Ensemble

SCRIPT = "score.py"  # that is run
COPIED = {
    SCRIPT: script,
    script.SINGLE: score,
    script.SURPRISE: surprise,
    script.RESIZING: resizing,
}


def write_ensemble_export(
    ensemble: "Ensemble", folder: Path, alpha: float | None, max_mb: float
) -> Path:
    """Writes an ensemble, whole or not at all; see `Ensemble.export`."""
    folder = local(folder, "output").absolute()
    check_place(folder)
    rate = ensemble.config.eval.alpha if alpha is None else alpha
    manifest = {
        "format": score.FORMAT,
        "members": [member.name for member in ensemble.members],
        "size": ensemble.size,
        "decision": decision_of(ensemble.calibration, rate),
        "versions": versions(),
    }
    with new_folder(folder) as new:
        (new / script.MEMBERS).mkdir()
        inputs: dict[str, Any] = {}
        for member in ensemble.members:
            own = new / script.MEMBERS / member.name
            write_export(member.detector, own, alpha, max_mb)
            told = score.read_manifest(own)
            prefix = "" if told["takes"] == "measured" else f"{member.name}/"
            inputs |= {f"{prefix}{name}": x for name, x in told["inputs"].items()}
        write_arrays(new / script.TAILS, tail_arrays(ensemble.members))
        for name, module in COPIED.items():
            shutil.copyfile(inspect.getfile(module), new / name)
        own = [path for path in new.iterdir() if path.is_file()]
        own += new.glob(f"{script.MEMBERS}/*/{score.MANIFEST}")
        write_manifest(new, {**manifest, "inputs": inputs}, own)
    return folder
