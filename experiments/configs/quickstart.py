"""A light DBRN on one class of the generated sample set, in minutes on two cores.

python -m experiments.main --config=quickstart
"""

from ml_collections import ConfigDict

from experiments.configs import dbrn


def get_config() -> ConfigDict:
    """Returns `dbrn.py:cpu` on the flat class `biscuit`, shorter."""
    config = dbrn.get_config("cpu")
    config.model.steps = 800
    config.data.category = "biscuit"
    return config
