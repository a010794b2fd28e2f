"""3DSR: colour and depth in one discrete space, anomalies made and undone there.

V. Zavrtanik, M. Kristan, D. Skocaj, "Cheating Depth: Enhancing 3D Surface Anomaly
Detection via Depth Simulation", WACV 2024, arXiv 2311.01117; the authors' code is
VitjanZ/3DSR. Where the two differ the default is the code, and the card
`docs/systems/dsr3d.md` names the difference.

First the discrete auto-encoder learns from natural images with simulated depth
(`dsr.auto_encoder`), once for all classes; then the detector of a class learns to
restore and to segment swapped codes (`dsr.detector`).
"""

import jax.numpy as jnp

from ad3d_jax.base import Array, Scores, State, System
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.ops.blur import gaussian_blur, mean_filter
from ad3d_jax.systems.dsr import auto_encoder, detector, networks
from ad3d_jax.systems.dsr.detector import HYPER, Config
from ad3d_jax.systems.fields import numbers
from ad3d_jax.systems.modalities import map_size


def dsr3d(config: Config = Config()) -> System:  # noqa: B008 (frozen)
    """Returns the system of depth and colour or of depth alone."""
    modules = networks.build(config)

    def init(key, batch):
        def build(key):
            return networks.init(config, modules, key, map_size(batch))

        params, extra = initialise(build, key)
        return State(params=params, extra=extra, hyper=numbers(HYPER))

    def score(key, state, batch):
        """Returns the smoothed probability of an anomaly and its maximum."""
        image = networks.images(config, batch)
        codes, out = networks.inspect(config, modules, state, image)
        smooth = smoothed(config, out.probabilities[..., 1:])
        parts = networks.shown(config, codes, out)
        return Scores(smooth, jnp.max(smooth, axis=(1, 2, 3)), parts)

    return System(
        name="dsr3d",
        needs_fit=detector.needs_fit(config),
        needs_score=networks.seen(config).needs,
        init=init,
        phases=(
            auto_encoder.pretrain_phase(config),
            detector.detector_phase(config, modules),
        ),
        score=score,
        pretrained=(auto_encoder.PRETRAINED,),
        synthesise=detector.synthesiser(config, modules),
    )


def smoothed(config: Config, values: Array) -> Array:
    """Returns the map [B,H,W,1] after the filter that the configuration names."""
    if config.score_sigma:
        return gaussian_blur(values, config.score_sigma)
    return mean_filter(values, config.score_window)
