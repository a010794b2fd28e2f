"""The contract of systems, for anybody's: thirteen clauses, checked on CPUs.

    from ad3d_jax.testing import check_system

    check_system(make_system)
    check_system(make_system, make_batch, stochastic={"train"}, numbers={3, 4})

`make_system()` returns the system, small; `make_batch(count, seed=0, defect=False)`
returns samples for it, by default a textured board. What it raises is an AssertionError
that names each clause that is broken, what was expected and what was found. The clauses
one by one, as tests of pytest, which is not needed otherwise:

    import pytest
    from ad3d_jax.testing import CLAUSES, Trial

    TRIAL = Trial(make_system, make_batch, stochastic={"train"})

    @pytest.mark.parametrize("clause", CLAUSES, ids=str)
    def test_contract(clause):
        clause.check(TRIAL)

Clauses with `clause.devices > 1` need so many devices, which CPUs give with
XLA_FLAGS=--xla_force_host_platform_device_count=4 in the environment.
"""

from ad3d_jax.testing.comparison import ContractError
from ad3d_jax.testing.contract import CLAUSES, Clause, check_system
from ad3d_jax.testing.samples import MemoryDataset, make_batch, pad, take
from ad3d_jax.testing.trial import Trial

__all__ = [
    "CLAUSES",
    "Clause",
    "ContractError",
    "MemoryDataset",
    "Trial",
    "check_system",
    "make_batch",
    "pad",
    "take",
]
