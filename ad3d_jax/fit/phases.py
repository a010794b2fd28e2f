"""Which phases of a system run, on how many rows and for how many steps."""

from ad3d_jax.base import Dataset, Phase, System, Train
from ad3d_jax.fit.run import Options
from ad3d_jax.fit.step import batches_of_step


def check_phases(system: System, options: Options) -> None:
    """Checks the names that phases and options use.

    Raises:
        ValueError: a name of the options is not the system's, a phase reads the test
            split or makes a part that is none of the system's, or a phase is asked for
            whose part is there already.
    """
    parts = [row.name for row in system.pretrained]
    phases = [phase.name for phase in system.phases]
    wanted = () if options.phases is None else options.phases
    for kind, names, known in (
        ("phase", wanted, phases),
        ("pretrained part", options.loaded, parts),
    ):
        for name in names:
            if name not in known:
                raise ValueError(
                    f"system {system.name} has no {kind} {name!r}; it has: "
                    + (", ".join(known) or "none")
                )
    for phase in system.phases:
        where = f"phase {system.name}.{phase.name}"
        if phase.source == "test":
            raise ValueError(f"{where}: the test split is no source of a fit")
        if phase.pretrained is not None and phase.pretrained not in parts:
            raise ValueError(
                f"{where} makes {phase.pretrained!r}, which is no row of "
                f"System.pretrained; the rows are: {', '.join(parts) or 'none'}"
            )
        if phase.name in wanted and phase.pretrained in options.loaded:
            raise ValueError(
                f"{where} is to run, but what it makes was loaded from a file: leave "
                f"out the phase or the file of {phase.pretrained!r}"
            )


def is_due(phase: Phase, options: Options) -> bool:
    """Returns whether a phase runs: it is asked for, and no file stands for it."""
    if options.phases is not None:
        return phase.name in options.phases
    return phase.pretrained is None or phase.pretrained not in options.loaded


def due(system: System, options: Options) -> System:
    """Returns the system with the phases alone that run."""
    phases = tuple(phase for phase in system.phases if is_due(phase, options))
    return system._replace(phases=phases)


def reads_cache(system: System, phase: Phase) -> bool:
    """Returns whether a phase sees the features of `System.cache`."""
    return system.cache is not None and phase.needs is None


def batch_rows(phase: Phase, batch_size: int) -> int:
    """Returns the rows of a batch of a phase; `batch_size` is that of the fit."""
    own = phase.batch_size if isinstance(phase, Train) else None
    return batch_size if own is None else own


def step_rows(phase: Train, batch_size: int) -> int:
    """Returns the rows that a step reads; `batch_size` is that of the fit."""
    return batch_rows(phase, batch_size) * batches_of_step(phase)


def count_steps(system: System, dataset: Dataset, batch_size: int) -> System:
    """Returns the system with all passes over a source counted in steps.

    Args:
        system: what is fitted.
        dataset: has the sources of the phases that count passes.
        batch_size: of the phases that have none of their own.
    """

    def counted(phase: Phase) -> Phase:
        if not isinstance(phase, Train) or phase.epochs is None:
            return phase
        rows = phase.epochs * dataset.size(phase.source)
        steps = -(-rows // step_rows(phase, batch_size))
        return phase._replace(steps=steps, epochs=None)

    return system._replace(phases=tuple(map(counted, system.phases)))
