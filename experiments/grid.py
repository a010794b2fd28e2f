r"""Runs a grid of systems, categories and seeds, one workdir a cell, and makes tables.

    python -m experiments.grid --systems=draem:cpu,patchcore --seeds=0,1,2 \
        --categories=bun,rope --workdir=DIR [--data=FOLDER] [--mask_size=256] \
        [--set=FIELD=VALUE …] [--jobs=1]

What is done is skipped; a cell that fails is told of and the others go on; a grid that
was killed goes on with the same command, and may grow. Afterwards, and at any time,
`python -m experiments.collect DIR` makes the tables from the files.
"""

from absl import flags

from ad3d_jax.experiment.config import changed, load, read_texts
from ad3d_jax.experiment.grid import grid
from ad3d_jax.experiment.state import build_system
from ad3d_jax.experiment.status import PREEMPTED
from data_pipelines.command import DONE, MISTAKE, checking_flags, whole_numbers
from experiments import command


def main(values: flags.FlagValues) -> int:
    """Runs the command; the status is 1 where a cell failed, 75 where one stopped."""
    seeds = whole_numbers(values.seeds, "seeds")
    with checking_flags():
        for config in map(load, values.systems):
            fields = read_texts(config, values.set)
            for seed in seeds:
                build_system(changed(config, {**fields, "seed": seed}))
    counts, tables = grid(
        values.systems,
        values.categories,
        seeds,
        workdir=values.workdir,
        data=values.data,
        dataset=values.dataset,
        mask_size=values.mask_size,
        set=values.set,
        jobs=values.jobs,
    )
    print(*tables, sep="\n")
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    if counts["stopped"]:
        return PREEMPTED
    return MISTAKE if counts["failed"] else DONE


if __name__ == "__main__":
    flags.DEFINE_list("systems", None, "Configurations, as draem:cpu.", required=True)
    flags.DEFINE_list("categories", None, "Classes.", required=True)
    flags.DEFINE_list("seeds", ["0"], "Seeds of training.")
    flags.DEFINE_string("workdir", None, "Folder of the grid.", required=True)
    flags.DEFINE_string("data", "", "Folder of classes; '' = the sample set.")
    flags.DEFINE_string("dataset", "", "Whose published figures stand beside ours.")
    flags.DEFINE_integer("mask_size", 256, "Side of all maps and masks, pixels.", 1)
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE of every configuration.")
    flags.DEFINE_integer("jobs", 1, "Cells at a time.", 1)
    command.run(main)
