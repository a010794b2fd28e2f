"""Inspects a folder of unlabelled samples with a finished workdir.

python -m experiments.predict --workdir=DIR --input=FOLDER --output=FOLDER

The input holds RGB images, RGB with xyz, or RGB with 16-bit depth and intrinsics. The
output gets heat maps, overlays, `scores.csv` and the time that each image took.
"""

from absl import flags

from ad3d_jax.experiment.inspect import inspect
from experiments import command


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    print(f"scores: {inspect(values.workdir, values.input, values.output)}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "A finished workdir.", required=True)
    flags.DEFINE_string("input", None, "Folder of samples.", required=True)
    flags.DEFINE_string("output", None, "Folder to write to.", required=True)
    command.run(main)
