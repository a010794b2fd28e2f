"""A fitted system that scores arrays as a sensor gives them."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ad3d_jax import evaluate as evaluation
from ad3d_jax.base import Array, Batch, Scores, State, System
from ad3d_jax.decision import Box, Decision, decide
from ad3d_jax.devices import engines, kept
from ad3d_jax.experiment import origin as origins
from ad3d_jax.experiment.arrays import Camera, check_measured, ids_of, measured_of
from ad3d_jax.experiment.calibrate import fold_places
from ad3d_jax.experiment.export.folder import MAX_MB, write_export
from ad3d_jax.experiment.inspection import Inspection, inspected, placed
from ad3d_jax.experiment.origin import Origin
from ad3d_jax.experiment.state import build_system, fitted_state, key_of, traced_from
from ad3d_jax.metrics.conformal import check_alpha
from ad3d_jax.workdir import names
from ad3d_jax.workdir.calibration import (
    Calibration,
    read_calibration,
    write_calibration,
)
from ad3d_jax.workdir.checkpoint import save_tree
from ad3d_jax.workdir.folder import open_workdir
from ad3d_jax.workdir.places import local
from data_pipelines.batches import check_batch
from data_pipelines.plausible import checked_points
from data_pipelines.recipes import Sample
from data_pipelines.sensor import Sensor
from data_pipelines.sensor_file import of_table
from data_pipelines.unlabelled import (
    check_proportions,
    collate,
    empty_record,
    needs_points,
    tell,
    to_record,
)


class Detector:
    """A fitted system with the recipe of its data; `load` opens one.

    Attributes:
        origin: what it was fitted with.
        config: of that, the configuration.
        recipe: of that, name and parameters of the preprocessing.
        system: its functions.
        state: fitted.
        calibration: scores of good samples that the fit did not see, or None.
        folds: the states that scored them, where it was not `state` that did.
        key: typed key of scoring.
    """

    def __init__(
        self,
        origin: Origin,
        system: System,
        state: State,
        calibration: Calibration | None = None,
        folds: Sequence[State] = (),
    ):
        self.origin: Origin = origin
        self.config: ConfigDict = origin.configuration
        self.recipe: Mapping[str, Any] = origin.recipe
        self.system: System = system
        self.state: State = state
        self.calibration: Calibration | None = calibration
        self.folds: tuple[State, ...] = tuple(folds)
        self.key: Array = key_of(self.config, "score")

    def __repr__(self) -> str:
        needs = ", ".join(self.system.needs_score)
        return f"Detector({self.config.system}:{self.config.variant}, needs {needs})"

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

        The recipe is applied to what the sensor measured; what the system does not look
        at may be left out. Each number of samples and each size compiles once.

        Args:
            rgb: [H,W,3] or [B,H,W,3], uint8, or floats in [0,1], which are rounded to
                8 bits.
            xyz: [H,W,3] or [B,H,W,3] floats, metres; 0 or NaN where unmeasured. A list
                of points is [N,3] or [B,N,1,3]. Where the data's sensor.json declared
                unit, axes and missing values of points, these hold here, too.
            depth: in place of xyz: [H,W] or [B,H,W] distances along the optical axis,
                floats in metres or whole numbers in units of `intrinsics.scale`, 0 or
                NaN where unmeasured.
            intrinsics: of the camera that measured `depth`, or a table or a file of
                them, see `data_pipelines.camera.read_intrinsics`; None = those that the
                data's sensor.json or camera.json declared.
            id: of each sample, 0 to 2**31 - 1: seeds what a system draws while it
                scores; None = from the sample's bytes.
            alpha: share of good samples that may be called defective, between 0 and 1;
                None = as configured.

        Returns:
            NumPy arrays at the recipe's size, without the axis B where one sample came
            in, and the decision by the scores of good samples.

        Raises:
            ValueError: an array is missing or not as above; it is named.
        """
        if alpha is not None:
            check_alpha(alpha)
        measured = measured_of(rgb, xyz, depth, intrinsics, self.sensor)
        single = next((x.ndim == 3 for x in measured.values()), False)
        batch = self.prepare_measured(measured, id)
        return inspected(self, batch, single, alpha)

    @property
    def sizes(self) -> Sequence[Sequence[int]]:
        """Rows and columns of the samples that it was fitted on."""
        return self.origin.sizes

    @property
    def reads(self) -> dict[str, Any]:
        """What decides which files of a sample are read, see `inbox.list_folder`."""
        return {
            "recipe": self.recipe["recipe"],
            "needs": self.system.needs_score,
            "sensor": self.sensor,
        }

    @property
    def looks_at(self) -> dict[str, bool]:
        """Whether it cannot do without colour, "rgb", and without points, "xyz"."""
        needs = self.system.needs_score
        points = needs_points(self.recipe["recipe"], needs)
        return {"rgb": "rgb" in needs, "xyz": points}

    def facts(self) -> dict[str, Any]:
        """Returns what its scores and decisions depend on besides the samples."""
        kept = self.calibration
        return {"origin": self.origin._asdict(), "calibration": kept and kept._asdict()}

    def prepare(
        self,
        rgb: np.ndarray | None = None,
        xyz: np.ndarray | None = None,
        depth: np.ndarray | None = None,
        intrinsics: Camera | None = None,
        id: int | Sequence[int] | None = None,
    ) -> Batch:
        """Returns what the recipe makes of samples: a batch for `score_batch`.

        Arguments and errors are those of `score`; one sample is a batch of one.
        """
        measured = measured_of(rgb, xyz, depth, intrinsics, self.sensor)
        return self.prepare_measured(measured, id)

    def prepare_sample(
        self, sample: Sample, id: int, recipe: Mapping[str, Any] | None = None
    ) -> tuple[Batch, tuple[str, ...]]:
        """Returns what was read of a sample as a batch of one, and what is odd of it.

        `recipe` is name and parameters of the preprocessing; None = the detector's own.
        """
        record, flags = to_record(
            **(recipe or self.recipe),
            id=id,
            rgb=sample.rgb,
            xyz=sample.xyz,
            distances=self.origin.distances,
        )
        return collate([record], 1), flags

    def prepare_measured(
        self, measured: dict[str, np.ndarray], id: int | Sequence[int] | None
    ) -> Batch:
        """Returns what `prepare` does of arrays that `arrays.measured_of` gave."""
        self._check_given(measured)
        if next(iter(measured.values())).ndim == 3:
            measured = {name: array[None] for name, array in measured.items()}
        check_measured(measured)
        count, *size = next(iter(measured.values())).shape[:3]
        check_proportions(tuple(size), self.origin.sizes)
        told: set[str] = set()
        if "xyz" in measured and size[1] > 1:
            frames = [checked_points(Path("xyz"), x) for x in measured["xyz"]]
            measured["xyz"] = np.stack([xyz for xyz, *_ in frames])
            for row, (_, flags, _) in enumerate(frames):
                tell(f"sample {row}", flags, told)
        ids = ids_of(measured, id, count)
        if not self.looks_at["xyz"]:
            measured.pop("xyz", None)
        records = []
        for row, number in enumerate(ids):
            own = {name: array[row] for name, array in measured.items()}
            own["distances"] = self.origin.distances
            record, flags = to_record(**self.recipe, id=number, **own)
            tell(f"sample {row}", flags, told)
            records.append(record)
        return collate(records, count)

    def in_picture(
        self, found: Inspection, size: tuple[int, int]
    ) -> tuple[np.ndarray, tuple[Box, ...]]:
        """Returns map and boxes of one sample at the size of its picture.

        The map is [h,w] float32, interpolated, NaN where the recipe cropped.

        Args:
            found: from `score`, of one sample.
            size: (h, w) of the picture.
        """
        return placed(self.recipe, found, size)

    def score_batch(self, batch: Batch) -> Scores:
        """Returns the scores of a preprocessed batch, as NumPy arrays.

        Raises:
            ValueError: a field is missing, or not as `base.Batch` says; it is named.
        """
        evaluation.check_needs(self.system, batch)
        check_batch(batch)
        return self._compiled(batch)

    def decide(
        self, batch: Batch, scores: Scores, alpha: float | None = None
    ) -> Decision | None:
        """Returns what is decided of a batch that was scored.

        None where nothing was calibrated. With folds, the model of each scores it, too.

        Args:
            batch: preprocessed.
            scores: what `score_batch` gave.
            alpha: as in `score`.
        """
        if self.calibration is None:
            return None
        found = [score(batch) for score in self._compiled_folds] or [scores]
        image = np.stack([each.image for each in found])
        maps = np.stack([each.map[..., 0] for each in found])
        rate = self.config.eval.alpha if alpha is None else alpha
        return decide(self.calibration, image, maps, rate)

    def save(self, path: str | os.PathLike) -> Path:
        """Writes all that `load` needs into a folder and returns it.

        Raises:
            ValueError: the folder is in use, or holds what was fitted with something
                else.
        """
        with open_workdir(local(path, "workdir"), self.origin.config) as folder:
            origins.begin(folder, self.origin)
            save_tree(folder / names.FINAL, self.state)
            places = fold_places(self.calibration)
            for place, state in zip(places, self.folds, strict=True):
                save_tree(folder / place, state)
            if self.calibration is not None:
                write_calibration(folder / names.CALIBRATION, self.calibration)
        return folder

    def export(
        self,
        folder: str | os.PathLike,
        alpha: float | None = None,
        max_mb: float = MAX_MB,
    ) -> Path:
        """Writes a folder that scores single samples with jax and NumPy alone.

        It holds the score as StableHLO for CPU, CUDA and TPU, the arrays of the state
        that it needs, a manifest and `score.py`; its bits are those of `score` on the
        same platform. It is written whole or not at all and takes the place of an
        earlier export.

        Args:
            folder: new, empty or an export.
            alpha: as in `score`; threshold and verdicts are of this rate.
            max_mb: megabytes of state and program, above which nothing is written.

        Returns:
            The folder.

        Raises:
            ValueError: the folder holds something else, the export is too large, or
                the system's score cannot be exported.
            DiskFullError: no space is left.
        """
        return write_export(self, folder, alpha, max_mb)

    @cached_property
    def sensor(self) -> Sensor | None:
        """What the data's sensor.json or camera.json declared, None where nothing."""
        table = self.origin.sensor
        return None if table is None else of_table("sensor", table)

    @cached_property
    def _engine(self) -> engines.Engine:
        return engines.make_engine("jit")

    @cached_property
    def _program(self) -> kept.Program:
        score = evaluation.score_program(self.system, self._engine)
        return kept.Program(score, traced_from(self.config, self.system), Scores)

    def _compile(self, state: State):
        own = self.system, self._engine, self.key, state
        return evaluation.compile_score(*own, program=self._program)

    @cached_property
    def _compiled(self):
        return self._compile(self.state)

    @cached_property
    def _compiled_folds(self) -> list:
        return [self._compile(state) for state in self.folds]

    def _check_given(self, measured: Mapping[str, np.ndarray]) -> None:
        """Raises ValueError where what the system looks at was not given."""
        told = {"rgb": "rgb", "xyz": "xyz, or depth with intrinsics,"}
        for name, words in told.items():
            if self.looks_at[name] and name not in measured:
                given = ", ".join(measured) or "nothing"
                raise ValueError(
                    f"{self.system.name} needs {words} to score; found {given}"
                )
        if not measured:
            raise ValueError("score: expected rgb, xyz or depth; found nothing")


def load(path: str | os.PathLike) -> Detector:
    """Opens the detector that a finished run or `Detector.save` left in a folder.

    Raises:
        ValueError: the folder holds none; what is missing is named.
    """
    workdir = local(path, "workdir")
    origin = origins.read(workdir)
    if origin is None:
        raise ValueError(
            f"{workdir}: no fitted state; name the folder of a finished run"
        )
    system = build_system(origin.configuration)
    example = collate([empty_record(**origin.recipe, needs=system.needs_score)], 1)
    calibration = read_calibration(workdir / names.CALIBRATION)
    state, *folds = (
        fitted_state(origin.configuration, system, example, workdir, place)
        for place in (names.FINAL, *fold_places(calibration))
    )
    return Detector(origin, system, state, calibration, folds)
