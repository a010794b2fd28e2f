"""Opens what a folder holds that scores: a detector, or an ensemble of them."""

import os

from ad3d_jax.experiment import detector
from ad3d_jax.experiment.detector import Detector
from ad3d_jax.experiment.ensemble import files
from ad3d_jax.experiment.ensemble.detector import Ensemble
from ad3d_jax.workdir.places import local

Loaded = Detector | Ensemble


def load(path: str | os.PathLike) -> Loaded:
    """Opens the detector or the ensemble that a finished run, or `save`, left there.

    Raises:
        ValueError: the folder holds none; what is missing is named.
    """
    folder = local(path, "workdir")
    if files.is_ensemble(folder):
        return Ensemble(*files.read(folder))
    return detector.load(folder)
