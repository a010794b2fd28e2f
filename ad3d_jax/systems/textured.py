"""What the systems share that blend textures into images and restore them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ad3d_jax.base import Array, Pretrained, State
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.nn.scope import Shape, init_networks
from ad3d_jax.schedules import SCHEDULES
from ad3d_jax.synthesis.textures import load_textures, procedural_textures
from ad3d_jax.systems.fields import DTYPES, Fields, at_least, numbers, one_of


@dataclass(frozen=True)
class Textured(Fields):
    """Fields that each of them has."""

    textures: int = at_least(1, 64)  # procedural textures, unless a folder is given
    texture_size: int = at_least(1, 256)  # side of a texture, pixels
    schedule: str = one_of(*SCHEDULES)  # of the learning rates
    score_window: int = 21  # side of the mean filter before the image maximum, pixels
    dtype: str = one_of(*DTYPES)


TEXTURES = Pretrained(
    name="textures",  # a folder of images
    get=lambda state: state.frozen["textures"],
    put=lambda state, bank: state._replace(frozen={**state.frozen, "textures": bank}),
    read=lambda folder, like: load_textures(folder, size=like.shape[1]),
)


def init_state(
    config: Textured,
    networks: Mapping[str, object],
    shapes: Mapping[str, Sequence[Shape]],
    hyper: Mapping[str, float],
    keys: Array,
    draw: Callable[[Array, int, int], Array] = procedural_textures,
) -> State:
    """Returns fresh parameters, batch statistics, textures and numbers.

    Args:
        config: says how many textures there are and of which size.
        networks: modules by the names of their parameters.
        shapes: of the inputs of each.
        hyper: numeric hyperparameters and their defaults.
        keys: [N+1], one for each network and the last for the textures.
        draw: (key, number, size) -> [T,h,w,3] uint8.
    """

    def build(keys):
        textures = draw(keys[-1], config.textures, config.texture_size)
        return *init_networks(networks, shapes, keys[:-1]), textures

    params, batch_stats, textures = initialise(build, keys)
    extra = {"batch_stats": batch_stats}
    return State(params, {"textures": textures}, extra, hyper=numbers(hyper))
