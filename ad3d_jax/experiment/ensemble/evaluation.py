"""Scores the test split with an ensemble and with each member beside it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict

from ad3d_jax import evaluate as evaluation
from ad3d_jax.base import Batch, Scores, without_truth
from ad3d_jax.decision import RATES, decide
from ad3d_jax.devices import engines, memory
from ad3d_jax.evaluate import Scored
from ad3d_jax.experiment import origin as origins
from ad3d_jax.experiment import results
from ad3d_jax.experiment.config import changed, config_hash, plain
from ad3d_jax.experiment.data import calibration_names, open_data, rows_of
from ad3d_jax.experiment.detector import Detector
from ad3d_jax.experiment.ensemble.members import together
from ad3d_jax.experiment.facts import facts
from ad3d_jax.ops.resize import at_size
from ad3d_jax.workdir import names
from ad3d_jax.workdir.folder import differences, open_workdir
from ad3d_jax.workdir.json_files import to_json
from ad3d_jax.workdir.log import Log
from ad3d_jax.workdir.scores import Row
from data_pipelines.sources import Data

if TYPE_CHECKING:
    from ad3d_jax.experiment.ensemble.detector import Ensemble

LATER = ("data", "eval")  # fields that an ensemble does not depend on
METRICS = ("i_", "p_", "aupro_")  # how the names of metrics begin
UNKNOWN = {
    "seconds_fit": "of each member, see its own workdir",
    "steps": "of each member, see its own workdir",
}


def with_fields(own: Detector, fields: Mapping[str, Any]) -> ConfigDict:
    """Returns a member's configuration with other fields of data and evaluation.

    Raises:
        ValueError: a field is unknown or wrong, or the fit depends on it.
    """
    config = changed(own.config, fields)
    depends = origins.changes_of(own.origin, plain(config))
    if depends:
        raise ValueError(
            f"set: {', '.join(depends)}: expected fields of data and eval that a fit "
            "does not depend on"
        )
    return config


def opened(
    called: Sequence[str], found: Sequence[Detector], configs: Sequence[ConfigDict]
) -> list[Data]:
    """Returns the class as each member reads it.

    Raises:
        ValueError: it is not the class that a member was fitted and calibrated on.
    """
    every = []
    for name, own, config in zip(called, found, configs, strict=True):
        data = open_data(config, own.system, own.recipe["params"])
        now = {source: data.digest(source) for source in own.origin.data}
        other = differences({"data": own.origin.data}, {"data": to_json(now)})
        if calibration_names(data) != own.calibration.names:
            other["calibration"] = "other samples"
        if other:
            told = "; ".join(f"{name}: {change}" for name, change in other.items())
            raise ValueError(
                f"member {name}: expected the data that it was fitted on, found {told}"
            )
        every.append(data)
    return every


class Together:
    """The samples of a class as each member reads them; see `base.Dataset`.

    Attributes:
        said: of each batch that was scored, what each member says of it.
    """

    def __init__(self, ensemble: "Ensemble", data: Sequence[Data]):
        """Takes the ensemble, and the class as each of its members reads it."""
        self._ensemble, self._data = ensemble, data
        self._current: tuple[Batch, ...] = ()
        self.said: list[list[Scores]] = []

    def size(self, split: str) -> int:
        """Returns the number of samples of a split."""
        return self._data[0].dataset.size(split)

    def ordered(self, split: str, batch_size: int, start: int) -> Iterator[Batch]:
        """Yields the batches of the first member; `score` knows those of the others."""
        every = [each.dataset.ordered(split, batch_size, start) for each in self._data]
        for self._current in zip(*every, strict=True):
            self.said.append([])
            yield self._current[0]

    def score(self, batch: Batch) -> Scores:
        """Returns the scores of the batch that was yielded last."""
        members = self._ensemble.members
        self.said[-1] = [
            member.detector.score_batch(without_truth(own))
            for member, own in zip(members, self._current, strict=True)
        ]
        return together(members, self.said[-1], self._ensemble.size)

    def of(self, number: int, whole: Scored) -> Scored:
        """Returns what one member says of a split, its maps at the masks' size."""
        said = [batch[number] for batch in self.said]
        count, size = len(whole.image), whole.masks.shape[1:]
        maps = [at_size(np.asarray(scores.map), size)[..., 0] for scores in said]
        image = [np.asarray(scores.image) for scores in said]
        return whole._replace(
            maps=np.concatenate(maps)[:count],
            image=np.concatenate(image)[:count],
            parts={},
        )


def evaluate(
    ensemble: "Ensemble", workdir: Path, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Scores the test split; writes maps, scores, metrics and the report.

    Args:
        ensemble: that scores.
        workdir: where it lies, or another folder.
        fields: of data and evaluation that differ from the members', see `with_fields`.

    Returns:
        What metrics.json says, with `members`: the same of each by itself.
    """
    called = [member.name for member in ensemble.members]
    found = [member.detector for member in ensemble.members]
    config = changed(ensemble.config, fields)
    with open_workdir(workdir, plain(config), LATER) as folder:
        configs = [with_fields(own, fields) for own in found]
        data = opened(called, found, configs)
        rows = _rows(called, data)
        shown = evaluation.Shown(rows, config.eval.images_per_defect)
        every = Together(ensemble, data)
        size = config.eval.batch_size
        scored = evaluation.score_split(every.score, every, size, shown=shown)
        kept, alpha = ensemble.calibration, config.eval.alpha
        decision = decide(kept, scored.image, scored.maps, alpha)
        rows = evaluation.scored_rows(scored, rows, decision)
        results.write_scored(folder, rows, scored)
        samples = shown.samples(data[0].dataset, size)
        mesh = engines.make_engine("jit").mesh
        host_bytes = memory.measure(mesh.devices.flat, None, None).host_bytes
        said = [every.of(number, scored) for number in range(len(called))]
        members = {
            name: _of_member(own, each, rows, alpha, host_bytes)
            for name, own, each in zip(called, found, said, strict=True)
        }
        told = _facts(ensemble, config, configs[0])
        with Log(folder / names.LOG) as log:
            log.write(kind="start", mode="eval", **told)
        return results.write_measured(
            *(folder, rows, scored._replace(parts={}), samples),
            results.point_of(rows, kept, decision, alpha),
            {**told, "members": members},
            UNKNOWN,
            host_bytes,
        )


def _rows(called: Sequence[str], data: Sequence[Data]) -> list[Row]:
    """Returns the test samples; ValueError where members read others."""
    rows = rows_of(data[0].manifest, "test")
    for name, each in zip(called, data, strict=True):
        own = rows_of(each.manifest, "test")
        if [row.name for row in own] != [row.name for row in rows]:
            raise ValueError(
                f"member {name}: expected the test samples of {called[0]}, found others"
            )
    return rows


def _of_member(
    own: Detector, scored: Scored, rows: Sequence[Row], alpha: float, host_bytes: int
) -> dict[str, Any]:
    """Returns metrics and decisions of a member by itself, with notes."""
    measured = evaluation.measure(scored, rows, host_bytes)
    decision = decide(own.calibration, scored.image, scored.maps, alpha)
    point = results.point_of(rows, own.calibration, decision, alpha)
    return {
        **{n: x for n, x in measured.items() if n.startswith(METRICS)},
        **{name: point[name] for name in ("threshold", *RATES)},
        "notes": {**measured["notes"], **point["notes"]},
    }


def _facts(
    ensemble: "Ensemble", config: ConfigDict, first: ConfigDict
) -> dict[str, Any]:
    """Returns what the metrics say of an ensemble besides; recipe and sizes of one."""
    weights = {
        f"{member.name} {part}": told
        for member in ensemble.members
        for part, told in member.detector.origin.weights.items()
    }
    return {
        **facts(first, None, weights),
        "system": config.system,
        "variant": config.variant,
        "config_hash": config_hash(plain(config)),
        "seconds_fit": None,
        "peak_memory_bytes": memory.peak_bytes(),
    }
