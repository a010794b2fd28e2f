"""What a detector says of one sample after the other."""

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from ad3d_jax.base import Scores
from ad3d_jax.decision import Box
from ad3d_jax.devices.memory import MemoryLimitError
from ad3d_jax.experiment.loading import Loaded
from ad3d_jax.experiment.prediction.inbox import Due
from ad3d_jax.experiment.prediction.pictures import in_picture
from ad3d_jax.experiment.prediction.tiles import Tiles
from ad3d_jax.workdir.json_files import to_json
from ad3d_jax.workdir.predictions import Prediction
from ad3d_jax.workdir.scores import VERDICTS, boxes_text
from data_pipelines.recipes import Sample
from data_pipelines.unlabelled import read_sample, tell


class Seen(NamedTuple):
    """What is drawn of a sample, at the size of its picture."""

    rgb: np.ndarray | None  # [h,w,3] uint8
    map: np.ndarray  # [h,w] float32
    boxes: tuple[Box, ...]


class Inspector:
    """Reads samples, scores them and decides on them.

    Attributes:
        detector: that scores.
        tiles: that score pictures of another size than those of the fit, or None.
    """

    def __init__(
        self,
        detector: Loaded,
        alpha: float | None = None,
        tiles: Tiles | None = None,
    ):
        """Takes a detector; nothing is compiled yet. `alpha` as in `Detector.score`."""
        self.detector, self.tiles = detector, tiles
        self._alpha = detector.config.eval.alpha if alpha is None else alpha
        self._told: set[str] = set()
        self._warm: list[Callable] = []

    def facts(self) -> dict[str, Any]:
        """Returns what the rows depend on besides the samples."""
        text = json.dumps(to_json(self.detector.facts()), sort_keys=True)
        fitted = hashlib.sha256(text.encode()).hexdigest()
        return {"fitted": fitted, "alpha": self._alpha}

    def inspected(self, due: Due) -> tuple[Prediction, Seen | None]:
        """Returns the row of a sample and what is drawn of it.

        A sample that cannot be read or scored has a row that says why.

        Raises:
            MemoryLimitError: the memory does not suffice to score.
        """
        row = Prediction(due.name, error=due.error, sha256=due.sha256)
        if due.files is None:
            return row, None
        try:
            sample, flags = self._read(due)
            by_tiles = self.tiles is not None and not self._is_known(sample)
            if by_tiles:
                recipe, score = self.tiles.recipe(sample.size), self.tiles.score
            else:
                recipe, score = None, self.detector.score_batch
            batch, given_up = self.detector.prepare_sample(sample, due.id, recipe)
            tell(due.name, (*flags, *given_up), self._told)
            scores, seconds = self._timed(score, batch)
            decision = None
            if not by_tiles:
                decision = self.detector.decide(batch, scores, self._alpha)
        except MemoryLimitError:
            raise
        except ValueError as error:
            return row._replace(error=str(error)), None
        row = row._replace(score=float(scores.image[0]), seconds=seconds)
        boxes: tuple[Box, ...] = ()
        if decision is not None:
            self._say(decision.note)
            one = decision.of(0)
            verdict = "" if one.defective is None else VERDICTS[int(one.defective)]
            row = row._replace(p_value=float(one.p_value), verdict=verdict)
            boxes = one.boxes
        recipe = recipe or self.detector.recipe
        map, boxes = in_picture(recipe, scores.map[0, ..., 0], boxes, sample.size)
        rgb = sample.rgb
        if rgb is not None and rgb.shape[:2] != map.shape:  # of a list of points
            rgb = None
        return row._replace(boxes=boxes_text(boxes)), Seen(rgb, map, boxes)

    def _is_known(self, sample: Sample) -> bool:
        """Returns whether the fit had samples of this size."""
        return list(sample.size) in [list(size) for size in self.detector.sizes]

    def _read(self, due: Due) -> tuple[Sample, tuple[str, ...]]:
        """Returns a sample as measured, and what is odd about its files."""
        known = self.detector.sizes
        sizes = () if self.tiles else known
        sample, flags = read_sample(due.files, due.sensor, sizes)
        if known and not self._is_known(sample):
            seen = ", ".join(f"{h} x {w}" for h, w in known)
            how = (
                "scored by tiles, without a p-value, since good ones had other sizes"
                if self.tiles
                else "brought to the size of what the system was fitted on"
            )
            self._say(
                f"{due.name}: pictures of other sizes than {seen} pixels are {how}; "
                f"this one has {sample.size[0]} x {sample.size[1]}",
                how,
            )
        return sample, flags

    def _timed(
        self, score: Callable[[Any], Scores], batch: Any
    ) -> tuple[Scores, float]:
        """Returns scores and seconds; the first time twice, so that none compiles."""
        if score not in self._warm:
            score(batch)
            self._warm.append(score)
        start = time.perf_counter()
        scores = score(batch)
        return scores, time.perf_counter() - start

    def _say(self, sentence: str, kind: str = "") -> None:
        """Logs a sentence that is not empty; of a kind, or of one wording, once."""
        kind = kind or sentence
        if sentence and kind not in self._told:
            self._told.add(kind)
            logging.warning("%s (told once)", sentence)
