"""RGB-D industrial anomaly detection: systems, training, scoring and reports in JAX."""

import importlib
from typing import Any

__version__ = "0.1.0"

# Where the public names are; a module is loaded when a name of it is first asked for.
_HOMES = {
    "Batch": "ad3d_jax.base",
    "Detector": "ad3d_jax.experiment.detector",
    "Ensemble": "ad3d_jax.experiment.ensemble.detector",
    "Experiment": "ad3d_jax.experiment.experiment",
    "Gather": "ad3d_jax.base",
    "SYSTEMS": "ad3d_jax.systems",
    "Scores": "ad3d_jax.base",
    "State": "ad3d_jax.base",
    "System": "ad3d_jax.base",
    "Train": "ad3d_jax.base",
    "Update": "ad3d_jax.base",
    "ensemble": "ad3d_jax.experiment.ensemble.making",
    "grid": "ad3d_jax.experiment.grid",
    "inspect": "ad3d_jax.experiment.inspect",
    "load": "ad3d_jax.experiment.loading",
    "population": "ad3d_jax.experiment.population",
    "study": "ad3d_jax.experiment.study.study",
    "tune": "ad3d_jax.experiment.tuning.tune",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ad3d_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
