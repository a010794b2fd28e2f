"""Counts false alarms of settings that planted defects have chosen; needs no data.

    python -m experiments.benchmarks.false_alarms_chosen --output=FOLDER \
        [--grids=patchcore,padim] [--sources=validation,held_out] \
        [--weights=RESNET18] [--set=FIELD=VALUE ...]

As `false_alarms`, but a study over a grid of the selection experiment comes first. The
samples that its defects are planted into come from train and calibrate nothing; of
`held_out`, what calibrates takes no part in the study. So the same exact law must hold
for what was chosen.

The folder gets what `false_alarms` writes, and the studies.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from ad3d_jax.experiment.config import changed, load
from ad3d_jax.experiment.study.study import study
from ad3d_jax.workdir import names
from experiments import command
from experiments.benchmarks import false_alarms
from experiments.benchmarks.false_alarms import Count
from experiments.benchmarks.selection import grids

SOURCES = ("validation", "held_out")  # folds and a study exclude each other


def chosen(
    name: str, source: str, weights: str, texts: Sequence[str], output: Path
) -> Iterator[Count]:
    """Yields the counts of the setting that planted defects choose from a grid.

    Args:
        name: of a grid.
        source: of the calibration samples, one of SOURCES.
        weights: of the backbone, "" = at random.
        texts: FIELD=VALUE that replace those of the configurations.
        output: folder of studies and workdirs.
    """
    grid = grids.GRIDS[name]
    config = changed(load(grid.config), grid.usual)
    config = false_alarms.configured(config, source, texts)
    if weights:
        config = changed(config, {f"weights.{grids.BACKBONE}": weights})
    folder = output / f"{names.plain_name(name)}-{source}"
    result = study(
        *(config, grid.axes),
        workdir=folder / "study",
        name=name,
        sampler="grid",
        pruner="none",
    )
    if result.best is None:
        raise ValueError(f"{folder}: no trial of the study has a value")
    count = len(grids.points(grid))
    title = f"{name}: {next(grids.apart([result.best]))}, of {count}"
    best = changed(config, result.best)
    yield from false_alarms.judged(title, source, best, folder / "chosen")


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    for given, known in ((values.grids, grids.GRIDS), (values.sources, SOURCES)):
        if unknown := [name for name in given if name not in known]:
            raise ValueError(f"expected some of {[*known]}, found {unknown[0]!r}")
    output, counts = Path(values.output), []
    for name in values.grids:
        for source in values.sources:
            counts += chosen(name, source, values.weights, values.set, output)
    false_alarms.report(output, counts, values.set)


if __name__ == "__main__":
    flags.DEFINE_string("output", None, "Folder to write to.", required=True)
    flags.DEFINE_list("grids", ["patchcore", "padim"], "Grids that are chosen from.")
    flags.DEFINE_list("sources", list(SOURCES), "Where calibration samples are from.")
    flags.DEFINE_string("weights", "", "Of a ResNet-18, file or name; '' = random.")
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE in all configurations.")
    command.run(main)
