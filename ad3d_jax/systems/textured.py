"""What the systems share that blend textures into images and restore them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ad3d_jax.base import Array, Pretrained, State, Tree
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.nn.scope import Shape, init_networks
from ad3d_jax.synthesis.textures import load_textures, procedural_textures
from ad3d_jax.systems.fields import numbers


@dataclass(frozen=True)
class Textured:
    """Fields that each of them has."""

    textures: int = 64  # procedural textures, unless a folder is given
    texture_size: int = 256  # side of a texture, pixels
    schedule: str = "step"  # step (x0.2 at 80 % and 90 %) | cosine (50 warm-up steps)
    score_window: int = 21  # side of the mean filter before the image maximum, pixels
    dtype: str = "float32"  # compute type; parameters and statistics stay float32


def put_textures(state: State, textures: Tree) -> State:
    """Returns the state with other textures."""
    return state._replace(frozen={**state.frozen, "textures": textures})


TEXTURES = Pretrained(
    name="textures",  # a folder of images
    get=lambda state: state.frozen["textures"],
    put=put_textures,
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
