"""3DSR: colour and depth in one discrete space, anomalies made and undone there.

V. Zavrtanik, M. Kristan, D. Skocaj, "Cheating Depth: Enhancing 3D Surface Anomaly
Detection via Depth Simulation", WACV 2024, arXiv 2311.01117; the authors' code is
VitjanZ/3DSR. Where the two differ the default is the code, and the card
`docs/systems/dsr3d.md` names the difference.

First the discrete auto-encoder learns from natural pictures with simulated depth
(`systems.dada`), once for all classes; then the detector of a class learns to restore
and to segment swapped codes (`systems.dsr_detector`).
"""

from functools import partial

import jax.numpy as jnp

from ad3d_jax.base import Array, Batch, Scores, State, System
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.ops.blur import gaussian_blur, mean_filter
from ad3d_jax.systems import dada, dsr_detector, dsr_networks
from ad3d_jax.systems.dsr_networks import Config, Networks

HYPER = dsr_detector.HYPER


def dsr3d(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system that `config` describes, with depth and colour or depth alone.

    Raises:
        ValueError: a field of the configuration has an unknown value.
    """
    dsr_detector.check(config)
    networks = dsr_networks.build(config)
    needs = dsr_networks.needs(config)
    where = () if config.everywhere else ("foreground", "valid")
    return System(
        name="dsr3d",
        needs_fit=(*needs, *where),
        needs_score=needs,
        init=partial(init, config, networks),
        phases=(
            dada.pretrain_phase(config),
            dsr_detector.detector_phase(config, networks),
        ),
        score=partial(score, config, networks),
        pretrained=(dada.PRETRAINED,),
        synthesise=partial(dsr_detector.synthesise, config, networks),
    )


def init(config: Config, networks: Networks, key: Array, batch: Batch) -> State:
    """Returns fresh parameters, codebooks and constants."""
    size = dsr_networks.images(config, batch).shape[1:3]
    build = partial(dsr_networks.init, config, networks, size=size)
    params, extra = initialise(build, key)
    hyper = {name: jnp.float32(value) for name, value in HYPER.items()}
    return State(params=params, extra=extra, hyper=hyper)


def score(
    config: Config, networks: Networks, key: Array, state: State, batch: Batch
) -> Scores:
    """Returns the smoothed probability of an anomaly and its maximum."""
    del key  # nothing is random at test time
    image = dsr_networks.images(config, batch)
    codes, out = dsr_networks.inspect(config, networks, state, image)
    smooth = smoothed(config, out.probabilities[..., 1:])
    parts = dsr_networks.pictures(config, codes, out)
    return Scores(smooth, jnp.max(smooth, axis=(1, 2, 3)), parts)


def smoothed(config: Config, values: Array) -> Array:
    """Returns the map [B,H,W,1] after the filter that the configuration names."""
    if config.score_sigma:
        return gaussian_blur(values, config.score_sigma)
    return mean_filter(values, config.score_window)
