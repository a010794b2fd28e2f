r"""Draws the artificial anomalies that a system trains on, as a page of images.

    python -m experiments.synthesis --config=NAME[:variant] --output=FOLDER \
        [--count=8] [--draws=3] [--workdir=DIR] [--config.FIELD=VALUE …]

Writes FOLDER/index.html and FOLDER/sheet.png. What rests on a trained network (the
codes of DSR) takes a file by --config.weights.NAME, or a finished run by --workdir.
"""

from absl import flags

from ad3d_jax.experiment.synthesis import draw_anomalies
from experiments import command


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    config = command.config_of(values)
    page = draw_anomalies(
        config, values.output, values.count, values.draws, values.workdir
    )
    print(f"anomalies: {page}")


if __name__ == "__main__":
    command.define_config("quickstart")
    flags.DEFINE_string("output", None, "Folder to write to.", required=True)
    flags.DEFINE_integer("count", 8, "Training samples.", 1)
    flags.DEFINE_integer("draws", 3, "Draws of each sample.", 1)
    flags.DEFINE_string("workdir", "", "A finished run whose state is taken.")
    command.run(main)
