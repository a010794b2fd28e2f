"""Weights of point transformers from the published files."""

import os
import re
from collections.abc import Mapping

import jax
import numpy as np

from ad3d_jax.base import Array, Tree
from ad3d_jax.features import weights
from ad3d_jax.features.vit import BLOCK
from ad3d_jax.workdir import trees

# A checkpoint's parts around the network, outside first.
WRAPPERS = ("base_model/", "module/", "MAE_encoder/", "transformer_q/")
# What stands in the files beside the network.
PASSED_OVER = re.compile(
    r"(mask_token|cls_token|cls_pos|cls_head|lm_head).*|.*/num_batches_tracked"
)
PUBLIC = {"kernel": "weight", "scale": "weight", "mean": "running_mean"}
PUBLIC |= {"var": "running_var"}


def read_points(file: str | os.PathLike, name: str, like: Tree) -> Tree:
    """Returns the weights of a network from a file, as `points.init_points`.

    Names are those of the published files of Point-MAE and Point-BERT, as
    `experiments.convert_torch` leaves them, or this library's. Of a whole checkpoint
    the network is taken: `base_model`, in it `MAE_encoder` or `transformer_q`, behind
    `module` or not. Decoders, heads, mask tokens, optimisers and blocks deeper than
    those of `like` are passed over.

    Args:
        file: see `weights.read`; any floating-point dtype.
        name: of the network, for the message.
        like: from `points.init_points`, or its shapes.

    Raises:
        ValueError: the file is refused (see `weights.read`); names or shapes do not
            fit, with a list of them all; or values are not finite. Nothing is loaded
            then.
        FileNotFoundError: there is no such file.
    """
    file = weights.read(file)
    wanted = trees.by_name(like)
    own = any(place.endswith("/kernel") for place in file.arrays)
    if own:
        found, form = file.arrays, wanted
    else:
        found = _inside(weights.with_slashes(file.path, file.arrays))
        form = {_public(place): _turned_form(place, x) for place, x in wanted.items()}
    found = _needed(found, form)
    try:
        weights.fit(file.path, found, form)
    except ValueError as error:
        raise ValueError(f"{error}\n  expected the weights of {name}") from None
    weights.check_finite(file.path, found)
    if not own:
        found = {
            place: _turned(place, found[_public(place)], leaf)
            for place, leaf in wanted.items()
        }
    return weights.fit(file.path, found, like)


def _inside(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns what stands in the innermost of the wrappers."""
    for wrapper in WRAPPERS:
        inside = {
            place.removeprefix(wrapper): array
            for place, array in found.items()
            if place.startswith(wrapper)
        }
        found = inside or found
    return found


def _needed(
    found: Mapping[str, np.ndarray], form: Mapping[str, Array]
) -> dict[str, np.ndarray]:
    """Returns the arrays without those that are known and not asked for."""
    blocks = {_block(place) for place in form}

    def passed_over(place: str) -> bool:
        return _block(place) not in blocks or bool(PASSED_OVER.fullmatch(place))

    return {
        place: array
        for place, array in found.items()
        if place in form or not passed_over(place)
    }


def _block(place: str) -> str:
    """Returns the number of the block that a weight belongs to; "" = none."""
    match = re.match(r"(?:blocks/blocks/|transformer/block)(\d+)/", place)
    return match[1] if match else ""


def _public(place: str) -> str:
    """Returns the published name of one of this library's names."""
    part, *inner, last = place.split("/")
    last = PUBLIC.get(last, last)
    if part != "transformer":
        inner = ["encoder", *inner]
    elif inner and inner[0].startswith("block"):
        number = int(inner[0].removeprefix("block")) - 1
        inner = ["blocks/blocks", str(number), BLOCK[inner[1]][0]]
    return re.sub(r"(conv|embed)_(\d)", r"\1/\2", "/".join([*inner, last]))


def _turned_form(place: str, leaf: Array) -> jax.ShapeDtypeStruct:
    """Returns the shape in the file: layers [out,in], of the group encoder [.,.,1]."""
    shape = leaf.shape
    if place.endswith("/kernel"):
        shape = shape[::-1] + (1,) * place.startswith("encoder/")
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _turned(place: str, array: np.ndarray, leaf: Array) -> np.ndarray:
    """Returns an array of the file as this library lays it out."""
    if place.endswith("/kernel"):
        return array.reshape(leaf.shape[::-1]).T
    return array
