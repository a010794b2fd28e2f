"""Writes a fitted detector as a folder that scores without this library."""

import inspect
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jaxlib
import numpy as np
import PIL
from safetensors.numpy import save_file

import ad3d_jax
from ad3d_jax.experiment.export import recipe, resizing, score
from ad3d_jax.experiment.export.program import PLATFORMS, Program, export_score
from ad3d_jax.metrics import conformal
from ad3d_jax.workdir.atomic import new_folder
from ad3d_jax.workdir.calibration import Calibration
from ad3d_jax.workdir.json_files import to_json, write_json
from ad3d_jax.workdir.places import local, writable
from data_pipelines.samples import complete_parameters
from data_pipelines.unlabelled import collate, empty_record

if TYPE_CHECKING:
    from ad3d_jax.experiment.detector import Detector

MAX_MB = 512  # megabytes of a folder, unless told otherwise
BOOKS = ("weight", "id", "category")  # fields that the script makes itself
FIELDS = ("rgb", "xyz", "depth", "valid", "foreground")  # of every recipe
UNITS = {
    "rgb": "colour, 0 to 1",
    "xyz": "metres; (0,0,0) where unmeasured",
    "depth": "metres, as the recipe filled it",
    "valid": "measured by the sensor",
    "foreground": "on the object",
}
MEASURED = {
    "rgb": {"shape": [None, None, 3], "dtype": "uint8", "unit": "colour, 0 to 255"},
    "xyz": {
        "shape": [None, None, 3],
        "dtype": "float32",
        "unit": "metres, z along the viewing direction; 0 or NaN where unmeasured",
    },
}


def write_export(
    detector: "Detector", folder: Path, alpha: float | None, max_mb: float
) -> Path:
    """Writes a detector for `score.py`, whole or not at all; see `Detector.export`."""
    folder = local(folder, "output").absolute()
    check_place(folder)
    rate = detector.config.eval.alpha if alpha is None else alpha
    decision = decision_of(detector.calibration, rate)
    origin, system = detector.origin, detector.system
    example = collate([empty_record(**origin.recipe, needs=system.needs_score)], 1)
    program = export_score(system, detector.key, detector.state, example)
    packed = program.exported.mlir_module_serialized
    check_size(program, len(packed), max_mb)
    takes, reason = takes_of(origin.recipe, program)
    parts = (recipe, resizing) if takes == "measured" else ()
    manifest = {
        "format": score.FORMAT,
        "takes": takes,
        "note": reason,
        "inputs": inputs_of(takes, origin.recipe, program),
        "decision": decision,
        "recipe": completed(origin.recipe),
        "program": described(program),
        "fitted": fitted(detector),
        "versions": {
            "ad3d_jax": ad3d_jax.__version__,
            "jax": jax.__version__,
            "jaxlib": jaxlib.__version__,
            "numpy": np.__version__,
        },
    }
    with new_folder(folder) as new:
        (new / score.PROGRAM).write_bytes(packed)
        save_file(dict(program.state), new / score.STATE)
        (new / score.STATE).chmod((new / score.PROGRAM).stat().st_mode)  # for others
        for part in (score, *parts):
            shutil.copyfile(inspect.getfile(part), new / Path(part.__file__).name)
        manifest["files"] = {
            path.name: {"bytes": path.stat().st_size, "sha256": score.sha256(path)}
            for path in sorted(new.iterdir())
        }
        # As it is read again, so that its digest is that of what is read.
        manifest = json.loads(json.dumps(to_json(manifest)))
        manifest["digest"] = score.digest_of(manifest)
        write_json(new / score.MANIFEST, manifest)
    return folder


def check_place(folder: Path) -> None:
    """Refuses a place that holds anything but an export, before any work.

    Raises:
        ValueError: it is a file, cannot be written to, or holds other files.
    """
    writable(folder.parent, "output")
    if not folder.exists():
        return
    writable(folder, "output")
    there = {path.name for path in folder.iterdir()} - {"__pycache__"}
    own = set()
    if {score.MANIFEST, score.PROGRAM} <= there:
        own = {score.MANIFEST, *score.read_manifest(folder)["files"]}
    if strange := sorted(there - own):
        raise ValueError(
            f"output {folder}: expected a new folder, an empty one or an export, found "
            f"{', '.join(strange[:5])}"
        )


def check_size(program: Program, packed: int, max_mb: float) -> None:
    """Raises ValueError where state and program take more than `max_mb` megabytes."""
    state = sum(x.nbytes for x in program.state.values())
    if state + packed > max_mb * 1e6:
        raise ValueError(
            f"export: expected at most max_mb = {max_mb:g} MB, found a state of "
            f"{state / 1e6:.1f} and a program of {packed / 1e6:.1f}"
        )


def takes_of(recipe_of: Mapping[str, Any], program: Program) -> tuple[str, str]:
    """Returns whether the script takes what was measured or prepared, and why."""
    name = recipe_of["recipe"]
    used = {n.removeprefix("extras/") for n in program.inputs}
    unknown = sorted(used - {*FIELDS, *BOOKS, *recipe.EXTRAS})
    why = "; `Detector.prepare` makes the fields"
    if name not in recipe.RECIPES:
        return "prepared", f"recipe {name} needs more than NumPy{why}"
    if unknown:
        return "prepared", f"{', '.join(unknown)} need more than NumPy{why}"
    return "measured", ""


def inputs_of(takes: str, recipe_of: Mapping[str, Any], program: Program) -> dict:
    """Returns shape, dtype and unit of each array that the script takes, by name."""
    used = {n: x for n, x in program.inputs.items() if n not in BOOKS}
    if takes == "measured":
        names = {"rgb"} & used.keys() | ({"xyz"} if used.keys() - {"rgb"} else set())
        return {name: MEASURED[name] for name in sorted(names)}
    return {
        name.removeprefix("extras/"): {
            **_array(x, first=1),
            "unit": UNITS.get(name, f"as recipe {recipe_of['recipe']} makes it"),
        }
        for name, x in used.items()
    }


def decision_of(calibration: Calibration | None, alpha: float) -> dict[str, Any]:
    """Returns what the script decides by; what is undefined is None, with a note."""
    conformal.check_alpha(alpha)
    found = dict.fromkeys(("good", "threshold", "pixel_threshold", "source"))
    found |= {"alpha": alpha, "note": ""}
    if calibration is None:
        return {**found, "note": "nothing was calibrated: no p-value, no verdict"}
    count, folds = len(calibration.image), calibration.folds
    found |= {"source": calibration.source, "samples": count}
    if folds > 1:
        note = f"calibrated by {folds} models, which are not exported: no p-value"
        return {**found, "note": f"{note}, no verdict"}
    least = conformal.smallest_alpha(count)
    few = f"{count} good samples are too few for alpha = {alpha:g}: no verdict"
    return {
        **found,
        "good": np.sort(calibration.image),
        "threshold": conformal.threshold(calibration.image, alpha),
        "pixel_threshold": conformal.threshold(calibration.peak, alpha),
        "smallest_alpha": least,
        "note": few if alpha < least else "",
    }


def completed(recipe_of: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recipe with parameters that are newer than it, and what resizes."""
    name, params = recipe_of["recipe"], recipe_of["params"]
    params = {**complete_parameters(name, {}), **params}
    return {"recipe": name, "params": params, "pillow": PIL.__version__}


def described(program: Program) -> dict[str, Any]:
    """Returns what the manifest says of a program."""
    exported = program.exported
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    return {
        "file": score.PROGRAM,
        "state": score.STATE,
        "platforms": PLATFORMS,
        "calling_convention_version": exported.calling_convention_version,
        "compatibility": (
            f"written by jax {jax.__version__}; jax reads it up to six months after "
            "that version, and up to three weeks before it"
        ),
        "fields": {name: _array(x) for name, x in program.inputs.items()},
        "outputs": {name: _array(x) for name, x in outputs.items()},
    }


def fitted(detector: "Detector") -> dict[str, Any]:
    """Returns what was fitted, on what, without places of this machine."""
    origin, config = detector.origin, detector.origin.config
    kept = ("system", "variant", "seed", "model", "hyper")
    return {
        **{name: config[name] for name in kept},
        "category": config["data"]["category"],
        "data": origin.data,
        "sizes": origin.sizes,
        "distances": origin.distances,
        "weights": origin.weights,
    }


def _array(x: Any, first: int = 0) -> dict[str, Any]:
    return {"shape": list(x.shape[first:]), "dtype": str(x.dtype)}
