"""Writes the detector of a finished run as a folder that needs jax and NumPy alone.

    python -m experiments.export --workdir=DIR --output=FOLDER [--alpha=RATE]

The folder holds the score for CPU, CUDA and TPU, its state, a manifest with threshold
and p-values, and score.py, which runs it.
"""

from absl import flags

from ad3d_jax.experiment.export.folder import MAX_MB
from ad3d_jax.experiment.loading import load
from experiments import command


def main(values: flags.FlagValues) -> None:
    """Runs the command."""
    detector = load(values.workdir)
    folder = detector.export(values.output, values.alpha, values.max_mb)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"export: {folder} ({size / 1e6:.1f} MB)")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "A finished workdir.", required=True)
    flags.DEFINE_string("output", None, "Folder to write.", required=True)
    flags.DEFINE_float("alpha", None, "Rate of false alarms; as configured.", 0, 1)
    flags.DEFINE_float("max_mb", MAX_MB, "Megabytes that it may have.", 0)
    command.run(main)
