"""What a detector says of one sample after the other."""

import hashlib
import json
import time
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from ad3d_jax.base import Batch, Scores
from ad3d_jax.decision import Box
from ad3d_jax.devices.memory import MemoryLimitError
from ad3d_jax.experiment.detector import Detector
from ad3d_jax.experiment.prediction.inbox import Due
from ad3d_jax.experiment.prediction.pictures import in_picture
from ad3d_jax.workdir.json_files import to_json
from ad3d_jax.workdir.predictions import Prediction
from ad3d_jax.workdir.scores import VERDICTS, boxes_text
from data_pipelines.recipes import Sample
from data_pipelines.unlabelled import collate, read_sample, tell, to_record


class Seen(NamedTuple):
    """What is drawn of a sample, at the size of its picture."""

    rgb: np.ndarray | None  # [h,w,3] uint8
    map: np.ndarray  # [h,w] float32
    boxes: tuple[Box, ...]


class Inspector:
    """Reads samples, scores them and decides on them.

    Attributes:
        detector: that scores.
    """

    def __init__(self, detector: Detector, alpha: float | None = None):
        """Takes a detector; nothing is compiled yet. `alpha` as in `Detector.score`."""
        self.detector = detector
        self._alpha = detector.config.eval.alpha if alpha is None else alpha
        self._told: set[str] = set()
        self._warm = False

    def facts(self) -> dict[str, Any]:
        """Returns what the rows depend on besides the samples."""
        calibration = self.detector.calibration
        whole = {
            "origin": self.detector.origin._asdict(),
            "calibration": calibration and calibration._asdict(),
        }
        text = json.dumps(to_json(whole), sort_keys=True)
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
            sample, batch = self._read(due)
            scores, seconds = self._scored(batch)
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
        recipe = self.detector.recipe
        map, boxes = in_picture(recipe, scores.map[0, ..., 0], boxes, sample.size)
        rgb = sample.rgb
        if rgb is not None and rgb.shape[:2] != map.shape:  # of a list of points
            rgb = None
        return row._replace(boxes=boxes_text(boxes)), Seen(rgb, map, boxes)

    def _read(self, due: Due) -> tuple[Sample, Batch]:
        """Returns a sample as measured, and as a batch; what is odd is said once."""
        origin = self.detector.origin
        sample, flags = read_sample(due.files, due.sensor, origin.sizes)
        if origin.sizes and list(sample.size) not in map(list, origin.sizes):
            seen = ", ".join(f"{h} x {w}" for h, w in origin.sizes)
            self._say(
                f"{due.name}: {sample.size[0]} x {sample.size[1]} pixels are brought "
                f"to the size of what the system was fitted on, which had {seen}"
            )
        record, given_up = to_record(
            **self.detector.recipe,
            id=due.id,
            rgb=sample.rgb,
            xyz=sample.xyz,
            distances=origin.distances,
        )
        tell(due.name, (*flags, *given_up), self._told)
        return sample, collate([record], 1)

    def _scored(self, batch: Batch) -> tuple[Scores, float]:
        """Returns scores and seconds; the first time twice, so that none compiles."""
        if not self._warm:
            self.detector.score_batch(batch)
            self._warm = True
        start = time.perf_counter()
        scores = self.detector.score_batch(batch)
        return scores, time.perf_counter() - start

    def _say(self, sentence: str) -> None:
        """Logs a sentence that is not empty, each kind once."""
        kind = sentence.partition(": ")[2] or sentence
        if sentence and kind not in self._told:
            self._told.add(kind)
            logging.warning("%s (told once)", sentence)
