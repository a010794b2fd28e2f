"""What the fields of a configuration may hold that every experiment has, in one table.

Those of a system's structure stand with its `Config`, those of numbers in
`systems.fields.HYPER`, those of a recipe's parameters with the recipe.
"""

from collections.abc import Mapping
from typing import Any

from ad3d_jax.devices import engines
from ad3d_jax.image_files import MAX_SIDE
from ad3d_jax.systems import field_words
from ad3d_jax.systems.fields import COUNT, Range, choice, range_of
from ad3d_jax.workdir.places import local
from data_pipelines import calibration, layout, preprocess, sources

ONE_LESS = 1 - 1e-9  # rates and shares are below 1
SIDE = Range(8, MAX_SIDE, whole=True)  # pixels; in smaller ones no region can be told
FROM_ZERO = Range(0, whole=True)
SEED = Range(0, 2**31 - 1, whole=True)
RATE = Range(0, ONE_LESS, open=True)
MEMORY = Range(1, whole=True, optional=True)  # bytes

RANGES: Mapping[str, Range | tuple[str, ...]] = {
    "seed": SEED,
    "data.name": layout.LAYOUTS,
    "data.image_size": SIDE,
    "data.mask_size": SIDE._replace(optional=True),
    "data.batch_size": COUNT,
    "data.reader": sources.READERS,
    "data.on_missing": preprocess.ON_MISSING,
    "data.procedural_images": COUNT,
    "data.sample_set.train": COUNT,
    "data.sample_set.validation": FROM_ZERO,
    "data.sample_set.test_good": FROM_ZERO,
    "data.sample_set.test_per_defect": FROM_ZERO,
    "data.sample_set.seed": SEED,
    "fit.engine": engines.KINDS,
    "fit.max_grad_norm": Range(0, open=True, optional=True),
    "fit.checkpoint_every": COUNT._replace(optional=True),
    "fit.keep": COUNT,
    "fit.log_every": COUNT,
    "fit.patience": COUNT,
    "fit.device_memory_bytes": MEMORY,
    "fit.host_memory_bytes": MEMORY,
    "calibration.source": calibration.CHOICES,
    "calibration.share": RATE,
    "calibration.folds": Range(2, whole=True),
    "calibration.seed": SEED,
    "eval.alpha": RATE,
    "eval.batch_size": COUNT,
    "eval.images_per_defect": FROM_ZERO,
}
PLACES = ("data.cache", "data.images", "data.root")  # and all weights


def allowed(name: str) -> Range | tuple[str, ...] | None:
    """Returns what a field may hold, by its dotted name; None where nothing is said."""
    group, _, last = name.rpartition(".")
    return range_of(last) if group == "hyper" else RANGES.get(name)


def words(system: str, name: str) -> str:
    """Returns what a field of a system's configuration may hold, "" for anything."""
    if name.startswith("model."):
        return field_words(system, name.removeprefix("model."))
    found = allowed(name)
    return choice(found) if type(found) is tuple else str(found or "")


def check(fields: Mapping[str, Any]) -> None:
    """Raises ValueError for the first field that holds what it may not.

    Args:
        fields: values by dotted names; those of other names are not looked at.
    """
    for name, value in fields.items():
        found = allowed(name)
        if isinstance(found, Range):
            found.check(name, value)
        elif found is not None and value not in found:
            raise ValueError(f"{name}: expected {choice(found)}, found {value!r}")
        if name in PLACES or name.startswith(("weights.", "save_weights.")):
            local(value, name)
