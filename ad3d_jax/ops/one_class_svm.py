"""A linear one-class support vector machine, trained by stochastic descent."""

import numpy as np

from ad3d_jax.base import Array

# That training takes for a row: target and weight in float64, its place in the order;
# and for each of its numbers, in float64.
BYTES_OF_ROW, BYTES_OF_NUMBER = 20, 8


def weights(
    rows: Array, nu: float = 0.5, iterations: int = 1000, seed: int = 42
) -> np.ndarray:
    """Returns what each feature counts, [D] float32; on the host.

    Args:
        rows: [N,D] float32, N > 0, finite; all of them are seen, each once a pass, in
            an order that `seed` draws. Computed in float64, as with M3DM's tensors.
        nu: in (0, 1]: the share of rows that may lie on the other side.
        iterations: passes over the rows, at most; it ends earlier where the loss falls
            by less than 0.001.
        seed: of the order.

    Raises:
        ValueError: there are no rows, or nu is out of range.

    Source: scikit-learn's `SGDOneClassSVM` with its defaults, which this is; the bound
    that it finds, too, is left out, since `score_samples` knows no bound.
    """
    # Loads in seconds, and few need it.
    from sklearn.linear_model import SGDOneClassSVM

    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"one-class SVM: expected rows [N,D], found {rows.shape}")
    if not 0 < nu <= 1:
        raise ValueError(f"one-class SVM: expected nu in (0, 1], found {nu}")
    machine = SGDOneClassSVM(nu=nu, max_iter=iterations, random_state=seed)
    return machine.fit(rows).coef_.reshape(-1).astype(np.float32)
