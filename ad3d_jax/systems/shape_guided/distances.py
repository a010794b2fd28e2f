"""The network of signed distances, trained once for all classes by neural pull.

Points around a patch are pulled onto its surface along the gradient of the distance
that the network predicts for them: B. Ma et al., "Neural-Pull: Learning Signed Distance
Functions from Point Clouds by Learning to Pull Space onto Surfaces", ICML 2021, arXiv
2011.13495, conditioned on the code of the patch as in Shape-Guided.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ad3d_jax.base import Array, Pretrained, State, Train, Tree, Update
from ad3d_jax.features.signed_distance import read_signed_distance
from ad3d_jax.nn.batch_norm import fold_modules
from ad3d_jax.nn.scope import Scope, init_networks, scoring, training
from ad3d_jax.nn.signed_distance import DistanceDecoder, PatchEncoder
from ad3d_jax.systems.fields import Fields, at_least
from ad3d_jax.systems.shape_guided.patches import Patches, any_patch, cut, each

NAME = "distances"
HYPER: Mapping[str, float] = {"learning_rate": 1e-4}
NEIGHBOUR = 50  # whose distance is the spread of the queries about a point
NEAR, FAR = 0.5, 1.0  # of that spread
PROBABILITY_NEAR = 13 / 20  # of the release's twenty sets
TINY = 1e-12  # inside the root of a norm


@dataclass(frozen=True)
class Config(Fields):
    """Fields of the network and of its training; the defaults are the release's."""

    encoder_widths: tuple[int, ...] = (64, 128, 1024)
    encoder_hidden: int = 512
    code: int = 128  # numbers
    decoder_width: int = 512
    decoder_depth: int = 7
    patches_per_cloud: int = 4  # of a step
    distance_batch: int = 8  # clouds of a step
    distance_steps: int = 560_000
    patches_at_a_time: int = at_least(1, 32)  # bounds the memory of a score

    def __post_init__(self):
        super().__post_init__()
        if len(self.encoder_widths) != 3:
            raise ValueError(
                f"model.encoder_widths: expected three, found {self.encoder_widths}"
            )

    @property
    def encoder(self) -> PatchEncoder:
        """Returns the encoder, unbound to parameters."""
        return PatchEncoder(self.encoder_widths, self.encoder_hidden, self.code)

    @property
    def decoder(self) -> DistanceDecoder:
        """Returns the decoder, unbound to parameters."""
        return DistanceDecoder(self.decoder_width, self.decoder_depth)


class Drawn(NamedTuple):
    """What a step trains on, of the points of P patches."""

    query: Array  # [...,P,N,3], points around the surface
    target: Array  # [...,P,N,3], the point of the patch that is nearest to each


def init(config: Config, key: Array) -> tuple[Tree, Tree]:
    """Returns fresh parameters {"encoder", "decoder"} and batch statistics."""
    networks = {"encoder": config.encoder, "decoder": config.decoder}
    patch = (1, 1, 2, 3)
    shapes = {"encoder": (patch,), "decoder": ((1, 1, config.code), patch)}
    return init_networks(networks, shapes, jax.random.split(key))


def encode(config: Config, state: State, patches: Patches) -> Array:
    """Returns the codes of patches [B,G,code]; 0 of those that there are not."""
    scope, encoder = scoring(state), config.encoder

    def codes(points):
        return scope.apply("encoder", encoder, points[None])[0]

    return each(codes, patches.there, config.patches_at_a_time, patches.points)


def distances(config: Config, state: State, patches: Patches, codes: Array) -> Array:
    """Returns how far each point lies from the surface of a code, [B,G,N] >= 0.

    Args:
        config: of the network.
        state: holds it.
        patches: whose points are asked for.
        codes: [B,G,code], of the surfaces.
    """

    def of_points(codes, points):
        variables = {"params": state.params["decoder"]}
        return jnp.abs(config.decoder.apply(variables, codes, points))

    size = config.patches_at_a_time
    return each(of_points, patches.there, size, codes, patches.points)


# --- Training -------------------------------------------------------------------------


def phase(config: Config) -> Train:
    """Returns the phase that trains encoder and decoder on clouds of all classes."""

    def loss(keys, params, state, batch, across):
        """Returns the mean distance of pulled points from their targets."""
        patches = cut(batch)
        draw = jax.vmap(lambda *cloud: around(config.patches_per_cloud, *cloud))
        drawn = draw(keys, patches.points, patches.there)
        scope = training(params, state, batch, across)
        error = norm(drawn.target - pulled(config, scope, drawn))
        return jnp.mean(error, axis=(1, 2)), scope.sums, {}

    def optimizer(hyper, steps):
        return optax.adam(hyper["learning_rate"])

    return Train(
        name=NAME,
        updates=(Update(loss, optimizer),),
        steps=config.distance_steps,
        source="train_all",
        batch_size=config.distance_batch,
        fold=fold_modules,
        weigh=lambda state, batch: any_patch(batch).astype(jnp.float32),
        needs=("xyz", "extras.patches"),
        pretrained=NAME,
    )


def around(count: int, key: Array, points: Array, there: Array) -> Drawn:
    """Returns queries around some patches of one cloud, and their targets.

    A patch is one of the first half, whose centres are spread as those of half as many
    patches would be. Its queries are its points, moved by Gaussian noise whose
    deviation is the distance of the point's fiftieth neighbour, or half of it.

    Args:
        count: P, patches that are drawn, again and again where there are fewer.
        key: of the cloud.
        points: [G,N,3] of all patches.
        there: [G] bool.
    """
    choice, size, noise = jax.random.split(key, 3)
    half = jnp.maximum((jnp.sum(there) + 1) // 2, 1)
    patch = points[jax.random.randint(choice, (count,), 0, half)]
    last = min(NEIGHBOUR, points.shape[1] - 1)
    spread = jnp.sqrt(jnp.sort(_squared(patch, patch), axis=-1)[..., last])
    near = jax.random.bernoulli(size, PROBABILITY_NEAR, (count, 1, 1))
    deviation = jnp.where(near, NEAR, FAR) * spread[..., None]
    query = patch + deviation * jax.random.normal(noise, patch.shape, patch.dtype)
    nearest = jnp.argmin(_squared(query, patch), axis=-1)
    target = jnp.take_along_axis(patch, nearest[..., None], axis=1)
    return Drawn(query, target)


def pulled(config: Config, scope: Scope, drawn: Drawn) -> Array:
    """Returns the queries, moved by their distances along the gradients, [B,P,N,3].

    The surface is that of the targets, of which a point may be several.
    """
    codes = scope.apply("encoder", config.encoder, drawn.target)

    def signed(query):
        return config.decoder.apply({"params": scope.params["decoder"]}, codes, query)

    distance, pull = jax.vjp(signed, drawn.query)
    (slope,) = pull(jnp.ones_like(distance))
    return drawn.query - distance[..., None] * slope / norm(slope)[..., None]


def norm(x: Array) -> Array:
    """Returns the lengths [...] of vectors [...,3], which have a gradient at 0."""
    return jnp.sqrt(jnp.sum(x**2, axis=-1) + TINY)


def _squared(one: Array, other: Array) -> Array:
    """Returns squared distances [P,N,M] of points [P,N,3] and [P,M,3]."""
    return sum(
        (one[..., i][:, :, None] - other[..., i][:, None, :]) ** 2 for i in range(3)
    )


def _get(state: State) -> Tree:
    networks = {name: state.params[name] for name in ("encoder", "decoder")}
    return {**networks, "batch_stats": state.extra["batch_stats"]}


def _put(state: State, tree: Tree) -> State:
    networks = {name: tree[name] for name in ("encoder", "decoder")}
    return state._replace(
        params={**state.params, **networks},
        extra={**state.extra, "batch_stats": tree["batch_stats"]},
    )


PRETRAINED = Pretrained(name=NAME, get=_get, put=_put, read=read_signed_distance)
