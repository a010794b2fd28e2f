"""M3DM-NR: M3DM on training samples of which some are defective.

C. Wang et al., "M3DM-NR: RGB-3D Noisy-Resistant Industrial Anomaly Detection via
Multimodal Denoising", arXiv 2406.02263. There is no public code: this is a
reconstruction from the abstract, with SoftPatch's published algorithm (arXiv
2403.14233) for the choice of rows. What it leaves out is in the card
`docs/systems/m3dm_nr.md`.

References are chosen and doubtful samples left out (`references`), then M3DM's banks
are filled without doubtful patches (`outliers`), and what is kept counts as it is
typical.
"""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Batch, Gather, Plan, State, System, Tree
from ad3d_jax.features.patches import adaptive_pool, as_rows
from ad3d_jax.systems.fields import Range, at_least, within
from ad3d_jax.systems.m3dm import features, memory, outliers, references
from ad3d_jax.systems.m3dm.config import Config as M3DMConfig
from ad3d_jax.systems.m3dm.m3dm import m3dm


@dataclass(frozen=True)
class Config(M3DMConfig):
    """Structure of the system; a change of any field compiles anew."""

    # Share of the training samples that are taken for normal, at least 5.
    references: float = within(Range(0, 1, open=True), 0.1)
    removed: float = within(Range(0, 1), 0.1)  # share of the samples that are left out
    doubtful: float = within(Range(0, 1), 0.15)  # share of the rows that no bank keeps
    outlier_neighbours: int = at_least(1, 5)  # of the local outlier factor
    soft: bool = True  # a distance counts times the factor of the row that was matched


def m3dm_nr(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system that `config` describes."""
    plain = m3dm(config)
    phases = {phase.name: phase for phase in plain.phases}
    decision = phases.get("decision")

    def init(key, batch):
        state = plain.init(key, batch)
        none = np.zeros(0, np.int32)
        new = {
            "removed": {"number": none, "id": none},
            "unlikeness": np.zeros(0, np.float32),
        }
        if config.soft:
            none = np.zeros(0, np.float32)
            new["softness"] = dict.fromkeys(config.banks, none)
        return state._replace(memory={**state.memory, **new})

    def weigh(state, batch):
        """Returns 0 of the samples that were left out, else 1, [B]."""
        ids = jnp.asarray(state.memory["removed"]["id"])
        return 1.0 - jnp.isin(batch.id, ids).astype(jnp.float32)

    def absorb(key, state, rows):
        """Returns the state with the SVMs of the samples that were not left out."""
        out = np.asarray(state.memory["removed"]["number"], int)
        rows = {name: np.delete(x, out, axis=0) for name, x in rows.items()}
        return decision.absorb(key, state, rows)

    if "scales" in phases:
        phases["scales"] = phases["scales"]._replace(weigh=weigh)
    if decision:
        phases["decision"] = decision._replace(absorb=absorb)
    phases["banks"] = banks_phase(config, phases["banks"])
    first = [phases.pop(name) for name in ("uff",) if name in phases]
    return plain._replace(
        name="m3dm_nr",
        init=init,
        phases=(*first, samples_phase(config), *phases.values()),
    )


def samples_phase(config: Config) -> Gather:
    """Returns the phase that finds the samples that are left out (stages I and II)."""

    def emit(key, state, batch):
        return {"id": batch.id, **scales(config, batch)}

    def absorb(key, state, rows):
        ids = np.asarray(rows["id"])
        seen = [np.asarray(x) for name, x in sorted(rows.items()) if name != "id"]
        typical = np.mean([references.normality(x) for x in seen], axis=0)
        sample = references.chosen(typical, config.references)
        scores = np.mean(
            [references.unlikeness(references.references(x, sample), x) for x in seen],
            axis=0,
        )
        number = references.suspects(scores, config.removed)
        removed = {"number": number, "id": ids[number]}
        found = {"removed": removed, "unlikeness": scores.astype(np.float32)}
        return state._replace(memory={**state.memory, **found})

    return Gather("samples", emit, absorb, plan=partial(samples_plan, config))


def scales(config: Config, batch: Batch) -> dict[str, Array]:
    """Returns the features that samples are compared by, [B,P,D] each, by name.

    Those of the image, and of the points layer by layer, averaged to the image's grid.
    """
    found = {}
    side = config.cells
    if "rgb" in config.needs:
        found["rgb"] = features.of_rgb(batch)
        side = round(found["rgb"].shape[1] ** 0.5)
    if "xyz" in config.needs:
        points = features.of_points(config, batch)
        grid = points.reshape(len(points), config.cells, config.cells, -1)
        layers = jnp.split(adaptive_pool(grid, side), len(config.point_layers), -1)
        found |= {f"points_{n}": as_rows(layer) for n, layer in enumerate(layers)}
    return found


def samples_plan(config: Config, state: State, shapes: Tree) -> Plan:
    """Returns what the comparison of all samples with the references takes."""
    scales = [shape for name, shape in shapes.items() if name != "id"]
    samples, places, _ = scales[0].shape
    kept = max(int(config.references * samples), references.LEAST_REFERENCES)
    widest = max(shape.shape[2] for shape in scales)
    bank = 4 * kept * places * (widest + 2)
    emitted = sum(4 * samples * places * shape.shape[2] for shape in scales)
    rows = references.SAMPLES * places
    return Plan(
        rows=samples * places,
        kept=kept * places,
        dimensions=widest,
        bank_bytes=bank,
        split_bytes=0,
        whole_bytes=bank + config.chunk_bytes + 12 * rows * widest,
        host_bytes=emitted + 2 * bank + 4 * samples * places * widest,
        chunk=config.chunk_bytes // (4 * (2 * rows + widest)),
    )


def banks_phase(config: Config, plain: Gather) -> Gather:
    """Returns the phase that fills the banks without doubtful rows (stage III)."""

    def emit(key, state, batch):
        """Returns M3DM's rows, and which of them lie on the object."""
        rows = plain.emit(key, state, batch)
        present = dict.fromkeys(rows)
        for name in rows:
            here = jnp.ones(rows[name].shape[:2], bool)
            if name != "rgb":
                here = jnp.any(features.of_points(config, batch) != 0, axis=-1)
            present[name] = here
        return {n: {"rows": x, "present": present[n]} for n, x in rows.items()}

    def absorb(key, state, rows):
        made, softness = {}, {}
        for name in config.banks:
            kept, stays = memory.with_zero_row(config, name, rows[name].rows)
            made[name] = memory.knn.build(kept, config.chunk_bytes)
            factor = rows[name].factor[stays]
            ones = np.ones(len(kept) - len(factor), np.float32)
            softness[name] = np.concatenate([factor, ones])
        if config.soft:
            made["softness"] = softness
        return state._replace(memory={**state.memory, **made})

    def plan(state, shapes):
        """Returns M3DM's plan with a copy of the rows that are looked at."""
        rows = {name: shape["rows"] for name, shape in shapes.items()}
        planned = plain.plan(state, rows)
        largest = max(4 * x.size for x in rows.values())
        return planned._replace(host_bytes=planned.host_bytes + 2 * largest)

    choices = {
        name: outliers.choice(config, name, config.doubtful, config.outlier_neighbours)
        for name in config.banks
    }
    return plain._replace(emit=emit, absorb=absorb, select=choices, plan=plan)
