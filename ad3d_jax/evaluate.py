"""Scores a split, measures how well, and chooses the samples that are shown."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from tqdm import tqdm

from ad3d_jax.base import (
    MATCH,
    Array,
    Batch,
    Dataset,
    Scores,
    State,
    System,
    missing_fields,
    scoring,
)
from ad3d_jax.decision import Decision
from ad3d_jax.devices import compilation, engines, memory, processes
from ad3d_jax.metrics import binned, exact, tables
from ad3d_jax.ops.resize import at_size
from ad3d_jax.workdir.scores import VERDICTS, Row

# That exact metrics take of a pixel beyond its map and mask, while all are sorted.
SORTING_BYTES = 50
UNTIMED = "frozen features were computed before, so that no sample was timed whole"


class Scored(NamedTuple):
    """The scores of a whole split in manifest order, on the host."""

    maps: np.ndarray  # [N,Hm,Wm] float32, at mask size
    masks: np.ndarray  # [N,Hm,Wm] bool
    image: np.ndarray  # [N] float32
    seconds: np.ndarray  # [N] float64, wall time a sample without compilation, or NaN
    parts: dict[str, np.ndarray]  # maps of the parts called map_*, [N,Hm,Wm]
    match: np.ndarray | None = None  # [N,5] int32, see base.MATCH


def compile_score(
    system: System,
    engine: engines.Engine,
    key: Array,
    state: State,
    limits: memory.Limits | None = None,
    program: Callable | None = None,
) -> Callable[[Batch], Scores]:
    """Returns the system's score from host batch to host scores, on all devices.

    Rows must be divisible by the number of devices; padding rows are scored too. Banks
    that are large for a device are split over all. Where its memory runs out all the
    same, the score is compiled anew with smaller chunks.

    Args:
        system: what scores.
        engine: where.
        key: typed key.
        state: fitted, on the host.
        limits: the memory that there is; None = as measured.
        program: what runs, from `score_program`; None = its own.

    Raises:
        MemoryLimitError: a bank fits not even all devices; of the returned function,
            that memory ran out.
    """
    if limits is None:
        limits = memory.measure(engine.mesh.devices.flat)
    name = f"score of {system.name}"
    split = memory.banks_to_split(name, system.sharded, state, limits)
    planned = memory.of_banks(system.sharded, state)
    account = name if planned is None else memory.describe(name, planned, limits)
    if planned is not None:
        memory.say(account)
    key, state = engines.replicate(engine, key), engines.place(engine, state, split)
    compiled = score_program(system, engine) if program is None else program

    def score(batch: Batch) -> Scores:
        nonlocal state
        rows = engines.split(engine, batch)
        scores, state = memory.with_smaller_chunks(
            lambda state: engines.join(compiled(key, state, rows)), state, account
        )
        return scores

    return score


def score_program(system: System, engine: engines.Engine) -> compilation.Compiled:
    """Returns the system's score as `compilation.compile_map` gives it."""
    name = f"score of {system.name}"
    return compilation.compile_map(engine, scoring(system), name=name)


def check_needs(system: System, batch: Batch) -> None:
    """Raises ValueError, before any compilation, where a field to score is missing."""
    missing = missing_fields(system.needs_score, batch)
    if missing:
        raise ValueError(
            f"{system.name} cannot score without {', '.join(missing)}: the data has "
            "no such field"
        )


def score_batches(
    score: Callable[[Batch], Scores], batches: Iterable[Batch]
) -> Iterator[tuple[Batch, Scores, float]]:
    """Yields (batch, scores, seconds a sample) without the rows that are padding.

    The first batch is scored twice, so that no time includes the compilation.
    """
    for number, batch in enumerate(batches):
        if number == 0:
            score(batch)
        start = time.perf_counter()
        scores = score(batch)
        real = np.asarray(batch.weight) > 0
        seconds = (time.perf_counter() - start) / max(np.count_nonzero(real), 1)
        rows = jax.tree.map(lambda x, real=real: np.asarray(x)[real], (batch, scores))
        yield (*rows, seconds)


def score_split(
    score: Callable[[Batch], Scores],
    dataset: Dataset,
    batch_size: int,
    split: str = "test",
    shown: "Shown | None" = None,
    extend: Callable[[Iterator[Batch]], Iterator[Batch]] | None = None,
) -> Scored:
    """Scores every sample of a split once, with maps at the size of the masks.

    `shown` sees the samples as they come. `extend` adds frozen features to batches that
    were computed before, so that no sample can be timed.
    """
    maps, masks, image, seconds, match = [], [], [], [], []
    parts: dict[str, list] = {}
    batches = dataset.ordered(split, batch_size, 0)
    if extend is not None:
        batches = extend(batches)
    with tqdm(
        total=dataset.size(split),
        desc=f"score {split}",
        unit="image",
        disable=not processes.is_first(),
    ) as bar:
        for batch, scores, each in score_batches(score, batches):
            size = batch.mask.shape[1:3]
            maps.append(at_size(scores.map, size)[..., 0])
            masks.append(batch.mask[..., 0])
            image.append(scores.image)
            each = each if extend is None else math.nan
            seconds.append(np.full(len(scores.image), each))
            if scores.match is not None:
                match.append(scores.match)
            for name, part in scores.parts.items():
                if name.startswith("map_"):
                    parts.setdefault(name, []).append(at_size(part, size)[..., 0])
            if shown is not None:
                shown.see(batch, scores)
            bar.update(len(scores.image))
    nothing = np.zeros((0, 1, 1), np.float32)  # of a split without samples
    return Scored(
        maps=np.concatenate(maps or [nothing]),
        masks=np.concatenate(masks or [nothing > 0]),
        image=np.concatenate(image or [nothing[:, 0, 0]]),
        seconds=np.concatenate(seconds or [nothing[:, 0, 0]]),
        parts={name: np.concatenate(values) for name, values in parts.items()},
        match=np.concatenate(match) if match else None,
    )


def scored_rows(
    scored: Scored, rows: Sequence[Row], decision: Decision | None = None
) -> list[Row]:
    """Returns the rows of a split, in manifest order, with what was found of each."""
    match = np.zeros((len(rows), 0), int) if scored.match is None else scored.match
    found = zip(rows, scored.image, scored.seconds, match, strict=True)
    scored_ones = [
        row._replace(
            score=float(score), seconds=float(seconds), match=tuple(map(int, matched))
        )
        for row, score, seconds, matched in found
    ]
    if decision is None:
        return scored_ones
    return [decided(row, decision.of(i)) for i, row in enumerate(scored_ones)]


def decided(row: Row, decision: Decision) -> Row:
    """Returns a row with what is decided of its sample."""
    verdict = "" if decision.defective is None else VERDICTS[int(decision.defective)]
    boxes = tuple(box[:4] for box in decision.boxes)
    return row._replace(p_value=float(decision.p_value), verdict=verdict, boxes=boxes)


def measure(scored: Scored, rows: Sequence[Row], host_bytes: int | None = None) -> dict:
    """Returns the metrics of a scored split, flat, with `notes` and `parts`.

    They are exact where the pixels of the split can be sorted in `host_bytes` (None =
    any number). Else those of pixels come from histograms, and `bounds` gives, of each,
    between which two values the exact one lies.
    """
    names = [f"{row.defect}/{row.stem}" for row in rows]
    labels = np.array([row.label for row in rows])
    needed = SORTING_BYTES * scored.maps.size
    sorts = host_bytes is None or needed <= host_bytes

    def measured(maps: np.ndarray, image: np.ndarray) -> dict:
        arguments = (maps, scored.masks, image, labels, names)
        if sorts:
            return tables.to_json(exact.evaluate(*arguments))
        metrics, bounds = binned.evaluate(*arguments)
        metrics.notes["bounds"] = (
            "metrics of pixels are from histograms, and the exact ones lie within "
            f"bounds: sorting takes {needed / 2**30:.1f} GiB of memory, of which there "
            f"are {host_bytes / 2**30:.1f}"
        )
        return {**tables.to_json(metrics), "bounds": bounds}

    result = measured(scored.maps, scored.image)
    if not sorts:
        logging.warning("%s", result["notes"]["bounds"])
    result["parts"] = {
        name: measured(maps, maps.max(axis=(1, 2)))
        for name, maps in scored.parts.items()
    }
    total = float(scored.seconds.sum())
    if not math.isfinite(total):
        total = None
        result["notes"] |= dict.fromkeys(
            ("seconds_score", "images_per_second"), UNTIMED
        )
    result["seconds_score"] = total
    result["images_per_second"] = len(rows) / total if total else None
    return result


def chosen_rows(rows: Sequence[Row], count: int) -> list[int]:
    """Returns, for each defect type, the numbers of the rows told best and worst.

    Best is a high score on a defective sample and a low one on a good sample; `count`
    is halved between both ends.
    """
    chosen: list[int] = []
    for defect in sorted({row.defect for row in rows}):
        of_type = [i for i, row in enumerate(rows) if row.defect == defect]
        of_type.sort(key=lambda i: rows[i].score * (1 if rows[i].label else -1))
        worst = of_type[: count // 2]
        best = of_type[::-1][: count - len(worst)]
        chosen += dict.fromkeys((*best, *worst))
    return chosen


class Shown:
    """The samples that a report shows, kept while their split is scored.

    At any time these are `chosen_rows` of what was seen, so that the others need not be
    kept, and no sample is scored a second time.
    """

    def __init__(self, rows: Sequence[Row], count: int):
        """Prepares to keep `count` samples a defect type of rows in manifest order."""
        self._rows, self._count = rows, count
        self._seen: list[Row] = []
        self._kept: dict[int, dict[str, np.ndarray]] = {}

    def see(self, batch: Batch, scores: Scores) -> None:
        """Takes the next samples and forgets those that are no longer chosen."""
        first = len(self._seen)
        for i, score in enumerate(scores.image):
            self._seen.append(self._rows[first + i]._replace(score=float(score)))
        self._kept = {
            row: self._kept[row]
            if row < first
            else _in_full(batch, scores, row - first)
            for row in chosen_rows(self._seen, self._count)
        }

    def samples(self, dataset: Dataset, batch_size: int) -> dict[int, dict]:
        """Returns inputs and all parts of the scores of the chosen, by their number.

        Where the system says what it matched, that training sample is there, too.
        """
        found = {row: dict(arrays) for row, arrays in self._kept.items()}
        place = MATCH.index("sample")
        matched = {i: int(x["match"][place]) for i, x in found.items() if "match" in x}
        training = _training_samples(dataset, matched.values(), batch_size)
        for row, number in matched.items():
            found[row] |= {f"match/{name}": x for name, x in training[number].items()}
        return found


def _in_full(batch: Batch, scores: Scores, row: int) -> dict[str, np.ndarray]:
    """Returns what is shown of a row, as arrays of its own."""
    arrays = _measured(batch, row, ("rgb", "xyz", "depth", "valid", "foreground"))
    arrays |= {"map": scores.map[row, ..., 0], "mask": batch.mask[row, ..., 0]}
    arrays |= {f"part/{name}": x[row] for name, x in scores.parts.items()}
    if scores.match is not None:
        arrays["match"] = scores.match[row]
    return {name: np.array(x) for name, x in arrays.items()}


def _measured(batch: Batch, row: int, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Returns those fields of a row that were measured, by name."""
    fields = {name: getattr(batch, name) for name in names}
    return {name: np.array(x[row]) for name, x in fields.items() if x is not None}


def _training_samples(
    dataset: Dataset, numbers: Iterable[int], batch_size: int
) -> dict[int, dict[str, np.ndarray]]:
    """Returns what is shown of training samples, by their number in the split."""
    wanted, found = set(numbers), {}
    if not wanted:
        return found
    for turn, batch in enumerate(dataset.ordered("train", batch_size, 0)):
        first = turn * batch_size
        for number in wanted.intersection(range(first, first + batch_size)):
            found[number] = _measured(batch, number - first, ("rgb", "depth"))
        if len(found) == len(wanted):
            break
    return found
