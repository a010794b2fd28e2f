"""Compares PatchCore and PaDiM with anomalib 2.7 on a class: quality, times, memory.

    python -m experiments.benchmarks.anomalib --output=FILE.json \
        --data=FOLDER --category=NAME --weights=RESNET18.safetensors \
        [--train_images=48] [--rounds=2] \
        [--systems=patchcore,padim,padim_same_channels]

FOLDER has the layout of MVTec 3D-AD. Both read the same images with the same ResNet-18
at 224 pixels on the CPU, each run in a process of its own, in turns; the number of a
round is its seed. `padim_same_channels` is PaDiM where anomalib is given our channels
instead of drawing its own. It takes an extra: pip install 'ad3d_jax[anomalib]'.
"""

import importlib.util
import json
import operator
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.facts import commit
from ad3d_jax.metrics import exact
from ad3d_jax.systems import padim
from ad3d_jax.workdir import names
from ad3d_jax.workdir.json_files import read_json, write_json
from ad3d_jax.workdir.maps import read_map
from ad3d_jax.workdir.scores import read_scores
from data_pipelines.layout import scan
from data_pipelines.pairing import SampleFiles
from experiments import command
from experiments.benchmarks.anomalib.timed import timed
from experiments.benchmarks.speed import machine

IMAGE_SIZE = 224
ROUNDS = 2
METRICS = ("i_auroc", "p_auroc", "aupro_30")
PACKAGES = ("anomalib", "torch", "torchvision", "timm", "lightning", "torchmetrics")
OURS, THEIRS = "ours", "anomalib"
# The temporaries of anomalib's coreset fragment glibc's heap where they are small: with
# fewer than 44 images of 224 pixels to 19.5 GB. Above this threshold each has pages of
# its own, which go back at once.
ENVIRONMENTS = {
    OURS: {"JAX_PLATFORMS": "cpu"},
    THEIRS: {"MALLOC_MMAP_THRESHOLD_": "1000000", "HF_HUB_OFFLINE": "1"},
}
MODULES = {OURS: "ours", THEIRS: "theirs"}


class Pair(NamedTuple):
    """A system of ours and the model of anomalib beside it."""

    config: str
    model: str
    same_channels: bool = False  # PaDiM's, which both draw at random


SYSTEMS = {
    "patchcore": Pair("patchcore:anomalib+resnet18", "patchcore"),
    "padim": Pair("padim:anomalib", "padim"),
    "padim_same_channels": Pair("padim:anomalib", "padim", same_channels=True),
}


def run(
    data: str,
    category: str,
    weights: str,
    systems: list[str],
    train_images: int | None = None,
    rounds: int = ROUNDS,
) -> Iterator[dict]:
    """Yields the report after each system: facts of machine and data, and all runs.

    Args:
        data: folder of classes in the layout of MVTec 3D-AD.
        category: the class.
        weights: safetensors of a ResNet-18, batch norm separate or folded.
        systems: names in SYSTEMS.
        train_images: evenly spaced over the training set; None = all.
        rounds: how often each is run, with the seeds 0, 1, …

    Raises:
        ValueError: anomalib or a file is missing, a name or a number is wrong, or a
            run failed.
    """
    for name in systems:
        if name not in SYSTEMS:
            known = ", ".join(SYSTEMS)
            raise ValueError(f"systems: expected some of {known}, found {name!r}")
    if not Path(weights).is_file():
        raise ValueError(f"weights: expected a file of a ResNet-18, found {weights!r}")
    if importlib.util.find_spec("anomalib") is None:
        raise ValueError("anomalib is missing: pip install 'ad3d_jax[anomalib]'")
    layout = scan(data, category)
    chosen = evenly_spaced(layout.split("train"), train_images)
    test = layout.split("test")
    report = {
        **machine(),
        "cores": len(os.sched_getaffinity(0)),
        "commit": commit(),
        "versions": {package: version(package) for package in PACKAGES},
        "category": category,
        "train_images": len(chosen),
        "test_images": len(test),
        "image_size": IMAGE_SIZE,
        "rounds": rounds,
        "environments": ENVIRONMENTS,
        "systems": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        copy(chosen + test, Path(folder, "data", category))
        for name in systems:
            found = compare(name, Path(folder), category, weights, rounds)
            report["systems"][name] = found
            yield report


def evenly_spaced(
    samples: tuple[SampleFiles, ...], count: int | None
) -> tuple[SampleFiles, ...]:
    """Returns `count` of the samples from the first to the last, all if None."""
    if count is None:
        return samples
    if not 2 <= count <= len(samples):
        raise ValueError(f"train_images: expected 2 to {len(samples)}, found {count}")
    places = np.linspace(0, len(samples) - 1, count).round().astype(int)
    return tuple(samples[place] for place in places)


def copy(samples: tuple[SampleFiles, ...], category: Path) -> None:
    """Copies images and masks into the folder of a class, in the same layout."""
    for sample in samples:
        for kind in ("rgb", "gt"):
            source = getattr(sample, kind)
            if source is None:
                continue
            place = category / sample.split / sample.defect / kind
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)


def compare(name: str, folder: Path, category: str, weights: str, rounds: int) -> dict:
    """Returns the runs of both in turns, their medians, and anomalib's over ours."""
    pair = SYSTEMS[name]
    runs = {OURS: [], THEIRS: []}
    for seed in tqdm(range(rounds), desc=name, unit="round"):
        output = folder / f"{name}-{seed}"
        output.mkdir()
        setting = {
            **{"config": pair.config, "model": pair.model, "seed": seed},
            **{"data": str(folder / "data" / category), "weights": weights},
            **{"image_size": IMAGE_SIZE, "output": str(output)},
            "channels": channels(pair.config) if pair.same_channels else None,
        }
        costs = {side: run_apart(side, setting, output) for side in runs}
        quality = qualities(output)
        for side, found in runs.items():
            found.append({"costs": costs[side], **quality[side]})
        shutil.rmtree(output)
    return {"config": pair.config, "runs": runs, **summary(runs)}


def channels(config: str) -> tuple[int, ...]:
    """Returns the channels that our PaDiM keeps."""
    model = padim.Config(**load(config).model)
    total = padim.total_channels(model)
    return padim.channel_subset(total, model.dimensions, model.channel_seed)


def run_apart(side: str, setting: dict, output: Path) -> dict:
    """Runs one side in a process of its own and returns what it took.

    Seconds by wall and processor of the whole command, of the fit and of the scoring
    with metrics and pictures; the wall seconds of the network and the score of an
    image; the peak of the resident memory. The peak counts this process, too, where it
    is larger, which it is not.

    Raises:
        ValueError: the process failed; it says the last of what was printed.
    """
    module = f"{__package__}.{MODULES[side]}"
    log = output / f"{side}.txt"

    def process() -> resource.struct_rusage:
        with log.open("w", encoding="utf-8") as file:
            started = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(setting)],
                env=os.environ | ENVIRONMENTS[side],
                stdout=file,
                stderr=file,
            )
            _, status, usage = os.wait4(started.pid, 0)
            started.returncode = os.waitstatus_to_exitcode(status)
        if started.returncode:
            last = log.read_text(encoding="utf-8", errors="replace")[-2000:]
            raise ValueError(f"{side}: status {started.returncode}: {last}")
        return usage

    usage, whole = timed(process)
    found = read_json(output / f"{MODULES[side]}.json")
    maps = len(read_scores(output / "workdir" / names.SCORES))
    return {
        "seconds_whole": whole | {"processor": usage.ru_utime + usage.ru_stime},
        "seconds_fit": found["fit"],
        "seconds_evaluate": found["evaluate"],
        "seconds_score_an_image": found["seconds_score"] / maps,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def qualities(output: Path) -> dict[str, dict]:
    """Returns both sides' metrics, as we compute them, and anomalib's own.

    Ours are exact and take raw maps and scores; anomalib's are of normalised ones.
    """
    workdir = output / "workdir"
    rows = read_scores(workdir / names.SCORES)
    found = [read_map(workdir / names.MAPS, row) for row in rows]
    ours, masks = (np.stack(each) for each in zip(*found, strict=True))
    with np.load(output / "theirs.npz") as arrays:
        order = places(arrays["paths"], [(row.defect, row.stem) for row in rows])
        maps, scores = arrays["map"][order], arrays["score"][order]
    labels = np.array([row.label for row in rows])
    theirs = exact.evaluate(maps, masks, scores, labels).values
    own = read_json(output / "theirs.json")["own_metrics"]
    metrics = read_json(workdir / names.METRICS)
    apart = float(np.abs(maps - ours).max() / np.abs(maps).max())
    return {
        OURS: {"metrics": {name: metrics[name] for name in METRICS}},
        THEIRS: {
            "metrics": {name: theirs[name] for name in METRICS},
            "own_metrics": own,
            "difference_of_maps": apart,  # the largest, over the largest value
        },
    }


def places(paths: np.ndarray, samples: list[tuple[str, str]]) -> list[int]:
    """Returns where each sample, (defect, stem), is among the paths of images."""
    there = {}
    for number, path in enumerate(map(Path, paths)):
        there[path.parents[1].name, path.stem] = number
    return [there[sample] for sample in samples]


def summary(runs: dict[str, list[dict]]) -> dict:
    """Returns the medians of both sides' costs, and anomalib's divided by ours."""
    medians = {
        side: jax.tree.map(
            lambda *values: float(np.median(values)), *(run["costs"] for run in found)
        )
        for side, found in runs.items()
    }
    ratios = jax.tree.map(operator.truediv, medians[THEIRS], medians[OURS])
    return {"medians": medians, "ratios_to_ours": ratios}


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    for report in run(
        values.data,
        values.category,
        values.weights,
        values.systems,
        values.train_images,
        values.rounds,
    ):
        write_json(Path(values.output), report)


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string("data", None, "Folder of classes, MVTec 3D-AD's layout.")
    flags.DEFINE_string("category", None, "The class.")
    flags.DEFINE_string("weights", None, "Safetensors of a ResNet-18.")
    known = ", ".join(SYSTEMS)
    flags.DEFINE_list("systems", list(SYSTEMS), f"Some of {known}.")
    flags.DEFINE_integer(
        "train_images", None, "Evenly spaced over the training set; default: all.", 2
    )
    flags.DEFINE_integer("rounds", ROUNDS, "Runs of each.", 1)
    flags.DEFINE_string("output", None, "JSON file to write.")
    flags.mark_flags_as_required(["data", "category", "weights", "output"])


if __name__ == "__main__":
    define_flags()
    command.run(main, remember=False)
