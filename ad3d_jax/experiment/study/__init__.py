"""Studies of hyperparameters: what may change, trials, workers, what came of them."""

import importlib.util

if importlib.util.find_spec("optuna") is None:
    raise ImportError("studies need Optuna: pip install 'ad3d_jax[study]'")
