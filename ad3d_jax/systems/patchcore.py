"""PatchCore: the distance of patch features to a coreset of those of normal samples.

K. Roth, L. Pemula, J. Zepeda, B. Schölkopf, T. Brox, P. Gehler, "Towards Total Recall
in Industrial Anomaly Detection", CVPR 2022, arXiv 2106.08265. References: the authors'
release, whose constants are the defaults, and anomalib. What differs is in the card
`docs/systems/patchcore.md`.
"""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp

from ad3d_jax.base import Scores, State, System
from ad3d_jax.features.modalities import needed_fields
from ad3d_jax.features.patches import concat_patches, patchcore_patches
from ad3d_jax.ops.blur import BORDERS, gaussian_blur
from ad3d_jax.systems import backbones, banks
from ad3d_jax.systems.fields import at_least, one_of
from ad3d_jax.systems.modalities import map_size


@dataclass(frozen=True)
class Config(banks.Bank, backbones.Backboned):
    """Structure of the system; a change of any field compiles anew."""

    patches: str = one_of("official", "concat")  # concat is anomalib's
    dimensions: int = at_least(1, 1024)  # of a modality's official patch features
    patch_size: int = one_of(3, 1, 5, 7)  # cells of a side of a neighbourhood
    sigma: float = 4.0  # of the map's Gaussian, pixels
    border: str = one_of(*BORDERS)  # of that Gaussian; anomalib's is mirror


def patchcore(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system that `config` describes."""
    needs = needed_fields(config.modalities)
    size = config.patch_size
    official = partial(patchcore_patches, dimensions=config.dimensions, size=size)
    concat = partial(concat_patches, size=size)
    patches = official if config.patches == "official" else concat
    embed = partial(backbones.features, config, patches)

    def init(key, batch):
        state = State(frozen=backbones.init_frozen(config, key))
        return banks.with_empty_bank(config, state, embed, batch)

    def blur(map):
        return gaussian_blur(map, config.sigma, border=config.border)

    def score(key, state, batch):
        """Returns smoothed patch scores and the largest one, re-weighted."""
        grid = embed(state, batch)
        scores = banks.compare(config, state, grid, map_size(batch))
        return scores._replace(map=blur(scores.map))

    def cells(key, state, batch):
        grid = embed(state, batch)
        scores, _ = banks.patches_compared(config, state, grid)
        return scores.reshape(*grid.shape[:3], 1)

    def whole(cells, size):
        map = blur(banks.UPSAMPLE[config.upsample](cells, size))
        return Scores(map, image=jnp.max(cells, axis=(1, 2, 3)))

    plain = config.reweight == "none"  # else features of the worst patch are needed
    return System(
        name="patchcore",
        needs_fit=needs,
        needs_score=needs,
        init=init,
        phases=(banks.bank_phase(config, embed),),
        score=score,
        pretrained=backbones.pretrained_parts(config),
        cache=partial(backbones.cached_maps, config),
        sharded=("bank",),
        local=backbones.local(config, size, cells, whole) if plain else None,
    )
