"""A light DBRN on one class of the generated sample set, in minutes on two cores.

python -m experiments.main --config=experiments/configs/quickstart.py
"""

from ml_collections import ConfigDict

from experiments.configs import dbrn


def get_config() -> ConfigDict:
    """Returns `dbrn.py:cpu` on the class `bun`, a little shorter."""
    config = dbrn.get_config("cpu")
    config.model.steps = 1200
    config.data.category = "bun"
    return config
