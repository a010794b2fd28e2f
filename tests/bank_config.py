"""The configuration of the reference system `bank`: a Train phase, then a Gather."""

from experiments.configs.base import TINY, base_config


def get_config(variant=""):
    config = base_config("bank", recipe="raw")
    config.update_from_flattened_dict({**TINY, "fit.checkpoint_every": 2})
    return config
