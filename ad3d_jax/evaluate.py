"""Scores a split once and writes what was found: maps, scores and metrics.

Everything that a report says later is read from these files.
"""

import csv
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
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
from ad3d_jax.devices import compilation, engines, memory, processes
from ad3d_jax.metrics import exact, tables
from ad3d_jax.ops.resize import resize_bilinear
from ad3d_jax.report.files import file_stem


class Sample(NamedTuple):
    """Where a row of the split comes from; the manifest's order is the split's."""

    category: str
    defect: str
    stem: str
    id: int
    label: int


class Scored(NamedTuple):
    """The scores of a whole split in manifest order, on the host."""

    maps: np.ndarray  # [N,Hm,Wm] float32, at mask size
    masks: np.ndarray  # [N,Hm,Wm] bool
    image: np.ndarray  # [N] float32
    seconds: np.ndarray  # [N] float64, wall time a sample, compilation excluded
    parts: dict[str, np.ndarray]  # maps of the parts called map_*, [N,Hm,Wm]
    match: np.ndarray | None = None  # [N,5] int32, see base.MATCH


def compile_score(
    system: System,
    engine: engines.Engine,
    key: Array,
    state: State,
    limits: memory.Limits | None = None,
    program: compilation.Compiled | None = None,
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
        program: from `score_program`, for many states of one system; None = its own.

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
) -> Scored:
    """Scores every sample of a split once, with maps at the size of the masks."""
    maps, masks, image, seconds, match = [], [], [], [], []
    parts: dict[str, list] = {}
    batches = dataset.ordered(split, batch_size, 0)
    with tqdm(
        total=dataset.size(split),
        desc=f"score {split}",
        unit="image",
        disable=not processes.is_first(),
    ) as bar:
        for batch, scores, each in score_batches(score, batches):
            size = batch.mask.shape[1:3]
            maps.append(at_size(scores.map, size))
            masks.append(batch.mask[..., 0])
            image.append(scores.image)
            seconds.append(np.full(len(scores.image), each))
            if scores.match is not None:
                match.append(scores.match)
            for name, part in scores.parts.items():
                if name.startswith("map_"):
                    parts.setdefault(name, []).append(at_size(part, size))
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


def at_size(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns maps [B,H,W,1] as [B,*size], bilinear where the size differs."""
    if maps.shape[1:3] != size:
        maps = np.asarray(resize_bilinear(jax.numpy.asarray(maps), size))
    return maps[..., 0]


def measure(scored: Scored, samples: list[Sample]) -> dict:
    """Returns the metrics of a scored split, flat, with `notes` and `parts`."""
    names = [f"{s.defect}/{s.stem}" for s in samples]
    labels = np.array([s.label for s in samples])
    metrics = exact.evaluate(scored.maps, scored.masks, scored.image, labels, names)
    result = tables.to_json(metrics)
    result["parts"] = {}
    for name, maps in scored.parts.items():
        image = maps.max(axis=(1, 2))
        part = exact.evaluate(maps, scored.masks, image, labels, names)
        result["parts"][name] = tables.to_json(part)
    total = float(scored.seconds.sum())
    result["seconds_score"] = total
    result["images_per_second"] = len(samples) / total if samples else None
    return result


def peak_memory_bytes() -> int:
    """Returns the peak of the first device where it tells, else of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- Files ----------------------------------------------------------------------------


def file_name(sample: Sample) -> str:
    """Returns the name of a sample's file below maps."""
    return file_stem(sample.defect, sample.stem) + ".npz"


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an npz file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(partial, path)


def write_maps(folder: Path, scored: Scored, samples: list[Sample]) -> None:
    """Writes `<defect>_<stem>.npz` with `map` and `mask` for each sample.

    The folder is emptied first: what an earlier scoring left there is no longer true.
    """
    shutil.rmtree(folder, ignore_errors=True)
    for sample, scores, mask in zip(samples, scored.maps, scored.masks, strict=True):
        save_arrays(folder / file_name(sample), {"map": scores, "mask": mask})


def write_scores(path: Path, scored: Scored, samples: list[Sample]) -> None:
    """Writes the image scores as CSV, a row a sample in manifest order.

    The columns of `base.MATCH` follow where the system says what it matched.
    """
    match = np.zeros((len(samples), 0), int) if scored.match is None else scored.match
    partial = path.with_name(path.name + ".partial")
    with open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        names = MATCH[: match.shape[1]]
        writer.writerow((*Sample._fields, "score", "seconds", *names))
        for sample, image, seconds, matched in zip(
            samples, scored.image, scored.seconds, match, strict=True
        ):
            row = (f"{image:.9g}", f"{seconds:.6g}", *matched)
            writer.writerow((*sample, *row))
    os.replace(partial, path)


def chosen_rows(scored: Scored, samples: list[Sample], count: int) -> list[int]:
    """Returns, for each defect type, the rows that were told best and worst.

    Best is a high score on a defective sample and a low one on a good sample; `count`
    is halved between both ends.
    """
    rows = []
    for defect in sorted({s.defect for s in samples}):
        of_type = [i for i, s in enumerate(samples) if s.defect == defect]
        of_type.sort(key=lambda i: scored.image[i] * (1 if samples[i].label else -1))
        worst = of_type[: count // 2]
        best = of_type[::-1][: count - len(worst)]
        rows += dict.fromkeys((*best, *worst))
    return rows


def write_pictures(
    folder: Path,
    score: Callable[[Batch], Scores],
    dataset: Dataset,
    samples: list[Sample],
    rows: list[int],
    batch_size: int,
    split: str = "test",
) -> None:
    """Scores the chosen rows again and writes inputs and every part of their scores.

    Where the system says what it matched, that training sample is written too. Of
    several processes all take part and the first writes.
    """
    wanted, pictures = set(rows), {}
    for number, batch in enumerate(dataset.ordered(split, batch_size, 0)):
        here = [
            (i, number * batch_size + i)
            for i in range(batch_size)
            if number * batch_size + i in wanted
        ]
        if not here:
            continue
        scores = score(batch)
        if not processes.is_first():
            continue
        for i, row in here:
            arrays = _measured(batch, i, ("rgb", "xyz", "depth", "valid", "foreground"))
            arrays |= {"map": scores.map[i, ..., 0], "mask": batch.mask[i, ..., 0]}
            arrays |= {f"part/{name}": x[i] for name, x in scores.parts.items()}
            if scores.match is not None:
                arrays["match"] = scores.match[i]
            pictures[row] = arrays
    matched = [
        int(arrays["match"][MATCH.index("sample")])
        for arrays in pictures.values()
        if "match" in arrays
    ]
    found = _training_samples(dataset, matched, batch_size)
    for row, arrays in pictures.items():
        if "match" in arrays:
            sample = found[int(arrays["match"][MATCH.index("sample")])]
            arrays |= {f"match/{name}": x for name, x in sample.items()}
        save_arrays(folder / file_name(samples[row]), arrays)


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
