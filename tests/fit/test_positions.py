"""What a checkpoint holds is taken as it is, or refused with all that differs."""

import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.fit.positions import in_containers

LIKE = {"a": jnp.zeros(2), "b": {"c": jnp.zeros(3), "d": jnp.zeros(1, jnp.int32)}}


def test_leaves_that_differ_are_all_listed_and_none_is_cast():
    kept = {"a": np.zeros(2, np.float16), "b": {"c": np.zeros(4, np.float32)}}
    kept["e"] = np.zeros(1)
    with pytest.raises(ValueError, match="in params, ") as caught:
        in_containers("params", LIKE, kept)
    for words in (
        "b/d is missing",
        "e is unknown",
        "a is ((2,), 'float16'), expected ((2,), 'float32')",
        "b/c is ((4,), 'float32'), expected ((3,), 'float32')",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, jnp.bfloat16, np.int32])
def test_another_dtype_is_refused_whatever_the_shape(dtype):
    like, kept = {"a": jnp.zeros(2)}, {"a": np.zeros(5, dtype)}
    with pytest.raises(ValueError, match="expected .'float32',."):
        in_containers("memory", like, kept, shapes=False)
    same = np.zeros(5, np.float32)
    assert in_containers("memory", like, {"a": same}, shapes=False)["a"] is same
