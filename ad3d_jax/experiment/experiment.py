"""A run as an object: one configuration on one class, in one workdir."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from ad3d_jax.base import System
from ad3d_jax.experiment import fitting, opening
from ad3d_jax.experiment.config import Source, changed, load
from ad3d_jax.experiment.data import open_data
from ad3d_jax.experiment.detector import Detector
from ad3d_jax.experiment.detector import load as load_detector
from ad3d_jax.experiment.evaluation import evaluate
from ad3d_jax.experiment.state import build_system
from ad3d_jax.workdir import names
from ad3d_jax.workdir.json_files import read_json
from data_pipelines.sources import Data


class Experiment:
    """A system on a class: what is fitted and evaluated lies in its workdir.

    What it does is what `python -m experiments.main` does, with the same bits. It holds
    the workdir while `fit` and `evaluate` run, and never between.

    Args:
        config: a name such as "patchcore:resnet18", the path of a configuration file,
            or a configuration.
        data: folder of classes; None = as the configuration says, by default the
            sample set, which is made on the spot.
        category: the class; None = as the configuration says.
        weights: files, or names on the hub, by the names of the system's pretrained
            parts, such as {"backbone": "resnet18.safetensors"}.
        workdir: folder of all that the run leaves; None = runs/<system>-<category>.
        set: other fields by dotted names, such as {"model.fraction": 0.02}.

    Raises:
        ValueError: a name or a field is unknown, or a value is wrong.
    """

    def __init__(
        self,
        config: Source,
        *,
        data: str | os.PathLike | None = None,
        category: str | None = None,
        weights: Mapping[str, str | os.PathLike] | None = None,
        workdir: str | os.PathLike | None = None,
        set: Mapping[str, Any] | None = None,
    ):
        fields = dict(set or {})
        if data is not None:
            fields["data.root"] = os.fspath(data)
        if category is not None:
            fields["data.category"] = category
        for name, file in (weights or {}).items():
            fields[f"weights.{name}"] = os.fspath(file)
        self.config: ConfigDict = changed(load(config), fields)
        self.system: System = build_system(self.config)
        self.workdir: Path = opening.workdir_of(self.config, workdir or "")

    def __repr__(self) -> str:
        name = f"{self.config.system}:{self.config.variant}"
        return f"Experiment({name}, workdir={str(self.workdir)!r})"

    def fit(
        self, phases: Sequence[str] | None = None, allow: Sequence[str] = ()
    ) -> Detector:
        """Fits the system, or goes on where a fit was stopped.

        Args:
            phases: names of those to run; None = all that no file of weights brings.
                Of single phases nothing is kept but what `save_weights` names.
            allow: fields of the configuration that may differ from the workdir's.

        Raises:
            ValueError: a mistake, named before any work.
            Preempted: SIGTERM or SIGINT came; the same call goes on from there.
        """
        with self._opened("fit", allow, phases) as begun:
            state = fitting.train(begun)
        if phases is None:
            return self.detector
        return Detector(fitting.origin_of_run(begun), self.system, state)

    def evaluate(self, allow: Sequence[str] = ()) -> dict[str, Any]:
        """Scores the test split and returns what metrics.json says of it.

        Writes maps, scores, metrics and the report. `allow` as in `fit`.

        Raises:
            ValueError: a mistake, or nothing was fitted.
        """
        with self._opened("eval", allow) as begun:
            return evaluate(begun)

    @property
    def detector(self) -> Detector:
        """The fitted system; ValueError where nothing was fitted."""
        return load_detector(self.workdir)

    @property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json says; ValueError where nothing was evaluated."""
        return read_json(self.workdir / names.METRICS, hint="evaluate first")

    @property
    def report(self) -> Path:
        """Path of the page that `evaluate` writes."""
        return self.workdir / names.REPORT / names.PAGE

    @cached_property
    def data(self) -> Data:
        """The class, preprocessed: its manifest and its samples."""
        return open_data(self.config, self.system)

    def _opened(self, mode, allow, phases=None):
        return opening.opened(
            *(self.config, self.workdir, mode, allow, phases),
            read=self._read,
        )

    def _read(self, config, system, learned) -> Data:
        if learned in (None, self.data.manifest["params"]):
            return self.data
        return open_data(config, system, learned)
