"""Inspects a folder of unlabelled samples with a finished workdir.

python -m experiments.predict --workdir=DIR --input=FOLDER --output=FOLDER

The input holds RGB images, RGB with points or depth, or these alone. The output gets a
row of `scores.csv` as soon as a sample is scored, with p-value, verdict and boxes, and
heat maps and overlays at the size of its picture. A sample that cannot be read is a row
that says why, and the exit status is 1 then. The same command goes on where it was
stopped; with --watch it waits for further samples until it is interrupted.
"""

from absl import flags

from ad3d_jax.experiment.inspect import inspect
from experiments import command


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    path = inspect(
        *(values.workdir, values.input, values.output),
        alpha=values.alpha,
        raw=values.raw or "",
        watch=values.watch,
        tile=values.tile,
        overlap=values.overlap,
    )
    print(f"scores: {path}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "A finished workdir.", required=True)
    flags.DEFINE_string("input", None, "Folder of samples.", required=True)
    flags.DEFINE_string("output", None, "Folder to write to.", required=True)
    flags.DEFINE_float(
        "alpha", None, "False alarms that are accepted; else as configured.", 0, 1
    )
    flags.DEFINE_enum("raw", None, ["npy", "tiff"], "Maps as numbers, too.")
    flags.DEFINE_bool("watch", False, "Wait for further samples until interrupted.")
    flags.DEFINE_integer(
        "tile", None, "Side of the tiles that pictures of other sizes are cut into.", 1
    )
    flags.DEFINE_integer("overlap", None, "Of tiles, pixels; else as needed.", 0)
    command.run(main)
