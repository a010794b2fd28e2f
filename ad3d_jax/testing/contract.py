"""The contract as a table of clauses, and its check for anybody's system."""

from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import jax

from ad3d_jax.base import Batch, System
from ad3d_jax.testing import clauses
from ad3d_jax.testing.comparison import ContractError
from ad3d_jax.testing.trial import Trial, board


class Clause(NamedTuple):
    """One clause; `str(clause)` is its number and name."""

    number: int
    test: Callable[[Trial], None]
    devices: int = 1  # that it takes

    def __str__(self) -> str:
        """Returns e.g. `03_padding_changes_nothing`."""
        return f"{self.number:02d}_{self.test.__name__}"

    def check(self, trial: Trial) -> None:
        """Holds a system to the clause.

        Raises:
            ContractError: it breaks it; what the system itself raises is the cause.
        """
        rule = self.test.__doc__.partition("\n")[0]
        where = f"{trial.system.name}: clause {self.number} ({rule.rstrip('.')})"
        with jax.numpy_rank_promotion("raise"):
            try:
                self.test(trial)
            except ContractError as failure:
                raise ContractError(f"{where}: {failure}") from None
            except Exception as error:
                kind = type(error).__name__
                raise ContractError(f"{where}: found {kind}: {error}") from error


CLAUSES = (
    Clause(1, clauses.init_depends_on_key_and_shapes_alone),
    Clause(2, clauses.losses_are_finite),
    Clause(3, clauses.padding_changes_nothing),
    Clause(3, clauses.a_device_of_padding_changes_nothing, devices=2),
    Clause(4, clauses.score_is_per_sample),
    Clause(5, clauses.maps_have_the_size_of_the_input),
    Clause(5, clauses.parts_are_those_of_the_whole),
    Clause(6, clauses.a_planted_defect_raises_the_scores),
    Clause(7, clauses.same_key_and_data_give_the_same_bits),
    Clause(8, clauses.nothing_is_traced_again),
    Clause(9, clauses.chunks_do_not_matter),
    Clause(9, clauses.devices_do_not_matter, devices=2),
    Clause(10, clauses.a_saved_state_scores_the_same),
    Clause(11, clauses.needs_are_truthful),
    Clause(12, clauses.devices_agree, devices=4),
    Clause(13, clauses.programs_lower_for_all_platforms),
)


def check_system(
    make_system: Callable[[], System],
    make_batch: Callable[..., Batch] = board,
    *,
    stochastic: Collection[str] = (),
    rounding: float = 1e-6,
    sources: Mapping[str, Batch] | None = None,
    numbers: Collection[int] | None = None,
) -> None:
    """Holds a system to the contract, as far as the devices that there are allow.

    Args:
        make_system: returns the system at a size that fits in seconds, with steps
            enough to find the defect that `make_batch` plants.
        make_batch: `(count, seed=0, defect=False)` returns host samples that measure
            what the system needs, with ids of their own; `defect` says whether each
            has a defect, with its mask. The default is a textured board of 32 pixels.
        stochastic: what depends on the key: of "train", "gather", "sum", "score".
        rounding: most that scores may differ between batch sizes, which are programs
            of their own, relative to the largest. Between numbers of devices they are
            compared in float64.
        sources: samples of sources that are not like those of `make_batch`, by name.
            Of "images" the default is procedural textures.
        numbers: of the clauses that are checked; None = all.

    Raises:
        ContractError: clauses are broken; the message says which, what was expected
            and what was found.
    """
    trial = Trial(
        make_system,
        make_batch,
        stochastic=stochastic,
        rounding=rounding,
        sources=sources,
    )
    failures = []
    for clause in CLAUSES:
        if numbers is not None and clause.number not in numbers:
            continue
        if clause.devices > len(jax.devices()):
            continue
        try:
            clause.check(trial)
        except ContractError as failure:
            failures.append(failure)
    if failures:
        raise ContractError("\n".join(map(str, failures))) from failures[0].__cause__
