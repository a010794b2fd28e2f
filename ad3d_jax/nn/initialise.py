"""Drawing fresh parameters without paying for their compilation."""

from collections.abc import Callable

import jax

from ad3d_jax.base import Array, Tree


def initialise(build: Callable[[Array], Tree], key: Array) -> Tree:
    """Returns `build(key)`, compiled as one program unless the key is abstract.

    It runs once, and a draw of parameters is many small random programs: on a CPU the
    compiler's optimisations would take twenty times as long as the draw.
    """
    if isinstance(key, jax.core.Tracer):
        return build(key)
    cheap = {"xla_backend_optimization_level": 0}
    on_cpu = jax.default_backend() == "cpu"
    return jax.jit(build, compiler_options=cheap if on_cpu else {})(key)
