"""M3DM: banks of points, of the image and of both fused, weighed by one-class SVMs.

Y. Wang, J. Peng, J. Zhang, R. Yi, Y. Wang, C. Wang, "Multimodal Industrial Anomaly
Detection via Hybrid Fusion", CVPR 2023, arXiv 2303.00601. Reference: the authors'
release nomewang/M3DM, whose constants are the defaults, in inference mode. What differs
is in the card `docs/systems/m3dm.md`.

The point features are aligned with the image (`features`), fused with its own
(`fusion`), kept in banks (`memory`), whose scores are put together (`decision`).
"""

from functools import partial

import jax
import jax.numpy as jnp

from ad3d_jax.base import Scores, State, System
from ad3d_jax.systems.fields import numbers
from ad3d_jax.systems.m3dm import decision, features, fusion, memory
from ad3d_jax.systems.m3dm.config import HYPER, UFF, Config
from ad3d_jax.systems.modalities import map_size


def m3dm(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system that `config` describes."""
    fuses, weighs = "fused" in config.banks, config.decision == "svm"
    cache = partial(features.cached, config)

    def describe(state, batch):
        """Returns the features of the places of each bank, before normalisation."""
        rows = {}
        if "xyz" in config.needs:
            rows["points"] = features.of_points(config, batch)
        if "rgb" in config.needs:
            rows["rgb"] = features.of_rgb(batch)
        if fuses:
            beside = features.on_cells(config, rows["rgb"])
            rows["fused"] = fusion.fused(state.params[UFF], rows["points"], beside)
        return rows

    def init(key, batch):
        networks, fuse = jax.random.split(key)
        state = State(frozen=features.init(config, networks), hyper=numbers(HYPER))
        extras = jax.eval_shape(cache, state, batch)
        batch = batch._replace(extras={**batch.extras, **extras})
        if fuses:
            points = jax.eval_shape(partial(features.of_points, config), batch)
            sizes = points.shape[-1], features.of_rgb(batch).shape[-1]
            state = state._replace(params={UFF: fusion.init(fuse, *sizes)})
        banks = memory.empty(config, describe, state, batch)
        learned = {"decision": decision.empty(config)} if weighs else {}
        return state._replace(memory={**banks, **learned})

    def score(key, state, batch):
        """Returns the banks' scores, weighed by the SVMs or added."""
        rows = memory.normalised(state, describe(state, batch))
        images, maps = memory.compare(config, state, rows, map_size(batch))
        pixels = jnp.concatenate([maps[name] for name in config.banks], axis=-1)
        if weighs:
            image = decision.weighed(state, "image", images)
            map = decision.weighed(state, "map", pixels)
        else:
            image, map = (jnp.sum(x, axis=-1) for x in (images, pixels))
        parts = {f"map_{name}": each for name, each in maps.items()}
        return Scores(map[..., None], image, parts)

    phases = [fusion.phase(config)] if fuses else []
    if config.normalise != "none":
        phases.append(memory.scales_phase(config, describe))
    phases.append(memory.banks_phase(config, describe))
    if weighs:
        phases.append(decision.phase(config, describe))
    return System(
        name="m3dm",
        needs_fit=config.needs,
        needs_score=config.needs,
        init=init,
        phases=tuple(phases),
        score=score,
        pretrained=(
            *features.pretrained_parts(config),
            *((fusion.PRETRAINED,) if fuses else ()),
        ),
        cache=cache,
        sharded=config.banks,
    )
