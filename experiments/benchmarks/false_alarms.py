"""Counts false alarms on generated good parts beside the exact law; needs no data.

    python -m experiments.benchmarks.false_alarms --output=FOLDER \
        [--configs=patchcore:resnet18+random_rows,draem:cpu] \
        [--sources=validation,held_out,folds] [--set=FIELD=VALUE ...]

Each configuration is fitted once for each source of calibration and scores the same 400
good parts. With `validation` the parts are halved 20 times, one half calibrates and the
other is judged; `held_out` and `folds` calibrate with training samples and judge all
400. The law of the counts is beta-binomial (`metrics.conformal.false_alarms`) and says
how far from alpha they may lie by chance; of folds there is only a bound.

The folder gets false_alarms.json, a table as false_alarms.md, and the workdirs.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from ad3d_jax.experiment.config import changed, load, read_texts
from ad3d_jax.experiment.experiment import Experiment
from ad3d_jax.experiment.facts import commit
from ad3d_jax.metrics import conformal
from ad3d_jax.workdir import maps, names
from ad3d_jax.workdir.atomic import write_text
from ad3d_jax.workdir.calibration import read_calibration
from ad3d_jax.workdir.json_files import write_json
from ad3d_jax.workdir.scores import read_scores
from experiments import command

CONFIGS = ("patchcore:resnet18+random_rows", "draem:cpu")
SOURCES = ("validation", "held_out", "folds")
ALPHAS = (0.1, 0.05)
HALVES = 20
SURE = 0.99  # the share of all experiments whose counts lie within the limits
PARTS = {"train": 60, "validation": 0, "test_good": 400, "test_per_defect": 0}
FIELDS = {"data.image_size": 128, "calibration.share": 0.4, "eval.images_per_defect": 0}
HEADS = (
    *("configuration", "source", "of", "alpha", "calibrate", "judged", "draws"),
    *("mean rate", "least", "greatest", "mean may be", "a draw may be", "within"),
)


class Count(NamedTuple):
    """False alarms of one configuration, source, kind of score and rate."""

    configuration: str
    source: str
    of: str  # image | peak
    alpha: float
    calibrate: int  # samples
    judged: int  # samples
    rates: tuple[float, ...]  # of each draw
    limits: tuple[float, float] | None  # of the rate of any draw; None = a bound alone
    most: float  # what the mean rate may be

    @property
    def within(self) -> bool:
        """Returns whether the law, or the bound, holds for all draws."""
        if self.limits is None:
            return bool(np.mean(self.rates) <= self.most)
        low, high = self.limits
        return all(low <= rate <= high for rate in self.rates)


def run(
    configs: Sequence[str], sources: Sequence[str], texts: Sequence[str], output: Path
) -> list[Count]:
    """Returns the counts of all configurations and sources.

    Args:
        configs: names of configurations.
        sources: some of SOURCES.
        texts: FIELD=VALUE that replace those of the configurations.
        output: folder of their workdirs.

    Raises:
        ValueError: there is no such source, or a field is wrong.
    """
    if unknown := [source for source in sources if source not in SOURCES]:
        raise ValueError(f"sources: expected {SOURCES}, found {unknown[0]!r}")
    counts = []
    for name in configs:
        for source in sources:
            config = configured(load(name), source, texts)
            folder = output / f"{names.plain_name(name)}-{source}"
            counts += judged(name, source, config, folder)
    return counts


def configured(config: ConfigDict, source: str, texts: Sequence[str]) -> ConfigDict:
    """Returns a configuration on the good parts, calibrated by one of SOURCES."""
    chosen = "none" if source == "validation" else source
    sample_set = {f"data.sample_set.{name}": value for name, value in PARTS.items()}
    own = {**FIELDS, **sample_set, "calibration.source": chosen}
    config = changed(config, own)
    return changed(config, read_texts(config, texts))


def judged(name: str, source: str, config: ConfigDict, folder: Path) -> Iterator[Count]:
    """Yields the counts of a configuration, which is fitted in `folder` if need be."""
    experiment = Experiment(config, workdir=folder)
    if not (folder / names.METRICS).exists():
        experiment.fit()
        experiment.evaluate()
    judge = halves if source == "validation" else whole
    yield from judge(name, source, folder)


def halves(name: str, source: str, folder: Path) -> Iterator[Count]:
    """Yields the counts of random halves of the good parts, one judged by the other."""
    scores = scores_of(folder)
    size = len(scores["image"]) // 2
    for of, values in scores.items():
        for alpha in ALPHAS:
            rates = []
            for draw in range(HALVES):
                order = np.random.default_rng(draw).permutation(len(values))
                limit = conformal.threshold(values[order[:size]], alpha)
                rates.append(float(np.mean(values[order[size:]] > limit)))
            judged = len(values) - size
            yield count(name, source, of, alpha, size, judged, rates)


def whole(name: str, source: str, folder: Path) -> Iterator[Count]:
    """Yields the counts of all good parts, judged by samples of train."""
    calibration = read_calibration(folder / names.CALIBRATION)
    rows = read_scores(folder / names.SCORES)
    p_values = np.array([row.p_value for row in rows])
    held = len(calibration.image)
    for alpha in ALPHAS:
        rate = float(np.mean(conformal.rejected(p_values, held, alpha)))
        own = name, source, "image", alpha, held, len(rows), [rate]
        yield count(*own, folds=calibration.folds)


def scores_of(folder: Path) -> dict[str, np.ndarray]:
    """Returns the image scores of the good parts, and the peaks of their maps."""
    rows = read_scores(folder / names.SCORES)
    peaks = [maps.read_map(folder / names.MAPS, row)[0].max() for row in rows]
    return {"image": np.array([row.score for row in rows]), "peak": np.array(peaks)}


def count(
    name: str,
    source: str,
    of: str,
    alpha: float,
    held: int,
    judged: int,
    rates: Sequence[float],
    folds: int = 1,
) -> Count:
    """Returns counts with what the law allows; all draws lie within it with SURE."""
    limits, most = None, conformal.bound(held, folds, alpha)
    if folds == 1:
        law = conformal.false_alarms(held, judged, alpha)
        tail = (1 - SURE) / 2 / len(rates)  # of each draw; all together by Bonferroni
        limits = law.ppf(tail) / judged, law.isf(tail) / judged
        most = law.mean() / judged
    own = name, source, of, alpha, held, judged, tuple(rates)
    return Count(*own, limits and tuple(map(float, limits)), float(most))


def table(counts: Sequence[Count]) -> str:
    """Returns the counts as a table in Markdown."""
    lines = [HEADS, ["---"] * len(HEADS)]
    for each in counts:
        mean, least, greatest = (f(each.rates) for f in (np.mean, min, max))
        may = "–" if each.limits is None else "{:.3f} to {:.3f}".format(*each.limits)
        numbers = (f"{mean:.3f}", f"{least:.3f}", f"{greatest:.3f}", f"{each.most:.3f}")
        lines.append(
            [
                *(f"`{each.configuration}`", each.source, each.of, f"{each.alpha:g}"),
                *map(str, (each.calibrate, each.judged, len(each.rates))),
                *(*numbers, may, "yes" if each.within else "**no**"),
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    output = Path(values.output)
    report(output, run(values.configs, values.sources, values.set, output), values.set)


def report(output: Path, counts: Sequence[Count], texts: Sequence[str]) -> None:
    """Writes the counts as JSON and as a table, and prints the table."""
    facts = {"commit": commit(), "parts": PARTS, "set": texts}
    found = {**facts, "counts": [each._asdict() for each in counts]}
    write_json(output / "false_alarms.json", found)
    write_text(output / "false_alarms.md", table(counts))
    print(table(counts))


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "Folder to write to.", required=True)
    flags.DEFINE_list("configs", list(CONFIGS), "Names of configurations.")
    flags.DEFINE_list("sources", list(SOURCES), "Where calibration samples are from.")
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE in all configurations.")
    command.run(main)
