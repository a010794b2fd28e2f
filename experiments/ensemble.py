"""Combines finished runs of a class into one detector, and scores the test split.

python -m experiments.ensemble --members=DIR1,DIR2 --workdir=DIR [--set=FIELD=VALUE …]

Members are combined through their p-values (docs/ensembles.md). The good samples that
calibrate them are scored by each, which needs the class's data; where these lie
elsewhere now, --config.data.root=FOLDER says so. DIR is then a workdir as any other,
with metrics of the ensemble and of each member. The same command goes on.
"""

from absl import flags

from ad3d_jax.decision import RATES
from ad3d_jax.experiment.config import read_texts
from ad3d_jax.experiment.detector import load
from ad3d_jax.experiment.ensemble.making import ensemble
from ad3d_jax.workdir import names
from ad3d_jax.workdir.places import local
from experiments import command
from experiments.main import figure

SHOWN = ("i_auroc", "aupro_30", "p_auroc", *RATES)


def main(values: flags.FlagValues) -> None:
    """Runs the command; prints the ensemble beside its members."""
    fields = read_texts(load(values.members[0]).config, values.set)
    made = ensemble(values.members, values.workdir, fields)
    metrics = made.evaluate(values.workdir, fields)
    print(f"\n{made} on {metrics['category']}")
    for name, own in {"ensemble": metrics, **metrics["members"]}.items():
        found = ", ".join(f"{each} {figure(own, each)}" for each in SHOWN)
        print(f"  {name}: {found}")
    folder = local(values.workdir, "workdir")
    print(f"\nreport: {folder / names.REPORT / names.PAGE}")


if __name__ == "__main__":
    flags.DEFINE_list("members", None, "Finished workdirs.", required=True)
    flags.DEFINE_string("workdir", None, "Folder of the ensemble.", required=True)
    flags.DEFINE_multi_string("set", [], "FIELD=VALUE of data and eval.")
    command.run(main)
