"""Several detectors of one class that score and decide as one."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ad3d_jax.base import Batch, Scores
from ad3d_jax.decision import Box, Decision, decide
from ad3d_jax.experiment.arrays import Camera, measured_of
from ad3d_jax.experiment.config import plain
from ad3d_jax.experiment.ensemble import files
from ad3d_jax.experiment.ensemble.evaluation import evaluate
from ad3d_jax.experiment.ensemble.members import Member, Size, together
from ad3d_jax.experiment.export.ensemble_folder import write_ensemble_export
from ad3d_jax.experiment.export.folder import MAX_MB
from ad3d_jax.experiment.inspection import Inspection, inspected, placed
from ad3d_jax.metrics.conformal import check_alpha
from ad3d_jax.workdir.calibration import Calibration
from ad3d_jax.workdir.folder import open_workdir
from ad3d_jax.workdir.places import local
from data_pipelines.recipes import Sample

Batches = tuple[Batch, ...]  # of each member, as its own recipe makes it


class Ensemble:
    """Detectors that are combined through their p-values; `ad3d_jax.ensemble` makes it.

    Its methods are those of `Detector`. Scores and values of maps are surprises: minus
    the natural logarithm of the harmonic mean of the members' p-values.

    Attributes:
        config: system "ensemble", data and evaluation of the first member.
        members: the detectors, each with how its scores surprise.
        size: rows and columns of the maps, those of the first member.
        calibration: scores of good samples that no member was fitted on.
    """

    def __init__(
        self,
        config: ConfigDict,
        members: Sequence[Member],
        size: Size,
        calibration: Calibration,
    ):
        self.config: ConfigDict = config
        self.members: tuple[Member, ...] = tuple(members)
        self.size: Size = size
        self.calibration: Calibration = calibration

    def __repr__(self) -> str:
        return f"Ensemble({', '.join(member.name for member in self.members)})"

    @property
    def recipe(self) -> Any:
        """How the first member prepares samples, which shows what maps cover."""
        return self.members[0].detector.recipe

    @property
    def sizes(self) -> Sequence[Sequence[int]]:
        """Rows and columns of the samples that the members were fitted on."""
        return self.members[0].detector.sizes

    @property
    def reads(self) -> dict[str, Any]:
        """What decides which files of a sample are read, see `inbox.list_folder`."""
        detectors = [member.detector for member in self.members]
        first = next((d for d in detectors if d.looks_at["xyz"]), detectors[0])
        needs = {name: None for d in detectors for name in d.system.needs_score}
        return {**first.reads, "needs": tuple(needs)}

    def facts(self) -> dict[str, Any]:
        """Returns what its scores and decisions depend on besides the samples."""
        members = {member.name: member.detector.facts() for member in self.members}
        return {"members": members, "calibration": self.calibration._asdict()}

    def score(
        self,
        rgb: np.ndarray | None = None,
        xyz: np.ndarray | None = None,
        depth: np.ndarray | None = None,
        intrinsics: Camera | None = None,
        id: int | Sequence[int] | None = None,
        alpha: float | None = None,
    ) -> Inspection:
        """Scores one sample, or a batch of samples of one size, and decides on each.

        Each member gets what it looks at. Arguments, result and errors are those of
        `Detector.score`; a part "map_NAME" holds the surprises of each member's map.
        """
        if alpha is not None:
            check_alpha(alpha)
        measured = self._measured(rgb, xyz, depth, intrinsics)
        single = next((x.ndim == 3 for x in measured[0].values()), False)
        batches = self._prepared(measured, id)
        return inspected(self, batches, single, alpha)

    def prepare(
        self,
        rgb: np.ndarray | None = None,
        xyz: np.ndarray | None = None,
        depth: np.ndarray | None = None,
        intrinsics: Camera | None = None,
        id: int | Sequence[int] | None = None,
    ) -> Batches:
        """Returns what each member's recipe makes of samples, for `score_batch`.

        Arguments and errors are those of `Detector.prepare`.
        """
        return self._prepared(self._measured(rgb, xyz, depth, intrinsics), id)

    def prepare_sample(
        self, sample: Sample, id: int, recipe: None = None
    ) -> tuple[Batches, tuple[str, ...]]:
        """Returns what was read of a sample for `score_batch`, and what is odd of it.

        `recipe` is None: each member has its own.
        """
        batches, flags = [], []
        for member in self.members:
            own = member.detector
            seen = sample if own.looks_at["xyz"] else sample._replace(xyz=None)
            batch, found = own.prepare_sample(seen, id)
            batches.append(batch)
            flags += found
        return tuple(batches), tuple(dict.fromkeys(flags))

    def score_batch(self, batches: Sequence[Batch]) -> Scores:
        """Returns the scores of samples as `prepare` gives them, as NumPy arrays.

        Raises:
            ValueError: a field is missing, or not as `base.Batch` says; it is named.
        """
        pairs = zip(self.members, batches, strict=True)
        said = [member.detector.score_batch(batch) for member, batch in pairs]
        return together(self.members, said, self.size)

    def decide(
        self, batches: Sequence[Batch], scores: Scores, alpha: float | None = None
    ) -> Decision:
        """Returns what is decided of samples that were scored, see `Detector.decide`.

        Of the batches nothing is read.
        """
        rate = self.config.eval.alpha if alpha is None else alpha
        return decide(self.calibration, scores.image, scores.map[..., 0], rate)

    def in_picture(
        self, found: Inspection, size: tuple[int, int]
    ) -> tuple[np.ndarray, tuple[Box, ...]]:
        """Returns map and boxes of one sample as `Detector.in_picture` does."""
        return placed(self.recipe, found, size)

    def evaluate(
        self, workdir: str | os.PathLike, set: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Scores the test split and returns what metrics.json says of it.

        Writes maps, scores, metrics and the report; `members` holds the metrics of each
        member by itself.

        Args:
            workdir: folder of the ensemble.
            set: fields of `data` and `eval` that differ from the members', as given to
                `ad3d_jax.ensemble`; without it, of evaluation the ensemble's hold.

        Raises:
            ValueError: a mistake, or the data are not those of the fit; it is named.
            DiskFullError: no space is left.
        """
        return evaluate(self, local(workdir, "workdir"), set or {})

    def save(self, path: str | os.PathLike) -> Path:
        """Writes all that `ad3d_jax.load` needs into a folder and returns it.

        Raises:
            ValueError: the folder is in use, or holds something else.
            DiskFullError: no space is left.
        """
        with open_workdir(local(path, "workdir"), plain(self.config)) as folder:
            self.write(folder)
        return folder

    def export(
        self,
        folder: str | os.PathLike,
        alpha: float | None = None,
        max_mb: float = MAX_MB,
    ) -> Path:
        """Writes a folder that scores single samples with jax and NumPy alone.

        It holds an export of each member, and a script that combines them with the bits
        of `score`. Arguments and errors are those of `Detector.export`; `max_mb` holds
        for each member.
        """
        return write_ensemble_export(self, Path(folder), alpha, max_mb)

    def write(self, folder: Path) -> None:
        """Writes what `save` does into a folder that is held."""
        files.write(folder, self.config, self.members, self.size, self.calibration)

    def _measured(self, rgb, xyz, depth, intrinsics) -> list[dict[str, np.ndarray]]:
        """Returns of what was given what each member looks at."""
        found = []
        for member in self.members:
            seen, sensor = member.detector.looks_at, member.detector.sensor
            points = (xyz, depth, intrinsics) if seen["xyz"] else (None, None, None)
            colour = rgb if seen["rgb"] else None
            found.append(measured_of(colour, *points, sensor))
        return found

    def _prepared(self, measured, id) -> Batches:
        pairs = zip(self.members, measured, strict=True)
        return tuple(m.detector.prepare_measured(own, id) for m, own in pairs)
