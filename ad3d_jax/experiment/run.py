"""A run in its workdir: opened and checked, fitted, evaluated."""

import os
from collections.abc import Sequence

from ml_collections import ConfigDict

from ad3d_jax.experiment.evaluation import evaluate
from ad3d_jax.experiment.fitting import train
from ad3d_jax.experiment.opening import opened

MODES = ("fit", "eval", "fit_eval")


def run(
    config: ConfigDict,
    workdir: str | os.PathLike = "",
    mode: str = "fit_eval",
    allow: Sequence[str] = (),
    phases: Sequence[str] | None = None,
) -> dict:
    """Fits, evaluates or both; returns the metrics, {} where only fitted.

    Args:
        config: of the run.
        workdir: its folder; "" = the default.
        mode: one of MODES.
        allow: fields that may differ from the workdir's.
        phases: names of those to run, after which nothing is evaluated; None = all that
            no file stands for.

    Raises:
        ValueError: a mistake, named before any work.
        Preempted: the process was asked to stop; the same call goes on from there.
        DiskFullError: no space is left; likewise, when space is made.
    """
    if phases is not None:
        if "fit" not in mode:
            raise ValueError(f"phases: expected mode fit, found {mode}")
        mode = "fit"
    with opened(config, workdir, mode, allow, phases) as begun:
        if "fit" in mode:
            train(begun)
        return evaluate(begun) if "eval" in mode else {}
