r"""Runs a grid of systems, categories and seeds, one workdir a cell, and makes tables.

    python -m experiments.grid --systems=patchcore:resnet18,btf:cpu --seeds=0,1,2 \
        --workdir=DIR [--categories=bun,rope] [--data=FOLDER] [--mask_size=256] \
        [--set=FIELD=VALUE …] [--set=patchcore:weights.backbone=FILE …] [--control] \
        [--jobs=1]

What is done is skipped; a cell that fails is told of and the others go on; a grid that
was killed goes on with the same command, and may grow. With --control each system that
has networks from files is run with random weights, too. Afterwards, and at any time,
`python -m experiments.collect DIR` makes the tables from the files.
"""

from absl import flags

from ad3d_jax.experiment.grid import ALL, ask, run_grid
from ad3d_jax.experiment.status import PREEMPTED
from data_pipelines.command import DONE, MISTAKE, checking_flags, whole_numbers
from experiments import command


def main(values: flags.FlagValues) -> int:
    """Runs the command; the status is 1 where a cell failed, 75 where one stopped."""
    with checking_flags():
        asked = ask(
            values.systems,
            values.categories,
            whole_numbers(values.seeds, "seeds"),
            data=values.data,
            dataset=values.dataset,
            mask_size=values.mask_size,
            set=values.set,
            control=values.control,
        )
    counts, tables = run_grid(asked, values.workdir, values.jobs)
    print(*tables, sep="\n")
    print(", ".join(f"{count} {state}" for state, count in counts.items()))
    if counts["stopped"]:
        return PREEMPTED
    return MISTAKE if counts["failed"] else DONE


if __name__ == "__main__":
    flags.DEFINE_list("systems", None, "Configurations, as draem:cpu.", required=True)
    flags.DEFINE_list("categories", [ALL], "Classes; all = those that the data hold.")
    flags.DEFINE_list("seeds", ["0"], "Seeds of training.")
    flags.DEFINE_string("workdir", None, "Folder of the grid.", required=True)
    flags.DEFINE_string("data", "", "Folder of classes; '' = the sample set.")
    flags.DEFINE_string("dataset", "", "Whose published figures stand beside ours.")
    flags.DEFINE_integer("mask_size", 256, "Side of all maps and masks, pixels.", 1)
    some = "of every configuration; NAME:FIELD=VALUE of those of one name or system"
    flags.DEFINE_multi_string("set", [], f"FIELD=VALUE {some}.")
    flags.DEFINE_bool("control", False, "Also with random weights in place of files.")
    flags.DEFINE_integer("jobs", 1, "Cells at a time.", 1)
    command.run(main)
