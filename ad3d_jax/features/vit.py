"""Tokens and feature maps of images from frozen vision transformers, and weights."""

import os
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Tree
from ad3d_jax.features import weights
from ad3d_jax.features.inputs import IMAGENET, Inputs, normalised
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.nn.vit import VITS, VisionTransformer

# What timm calls the parts of a block, and the scale of the residual branch that ends.
BLOCK = {
    "norm_1": ("norm1", None),
    "qkv": ("attn/qkv", None),
    "out": ("attn/proj", "ls1/gamma"),
    "norm_2": ("norm2", None),
    "mlp_1": ("mlp/fc1", None),
    "mlp_2": ("mlp/fc2", "ls2/gamma"),
}
FIRST = ("patch_embed", "cls_token", "reg_token", "register_tokens", "mask_token")
FIRST += ("pos_embed", "blocks", "norm", "head")  # what public names begin with


def init_vit(key: Array, name: str, last_layer: str) -> Tree:
    """Returns random weights of a network up to a layer, to be replaced by a file's.

    Args:
        key: random key.
        name: one of VITS.
        last_layer: "block1", "norm1", "block2", …; the blocks up to it are made, and
            the final layer norm.

    Returns:
        {"patches": {"kernel": [P,P,3,C], "bias": [C]}, "positions": [1,G,G,C],
        "prefix": [1,1+R,C], "block1": {"norm_1": …, "qkv": …, …}, "norm": …}, float32,
        dense kernels [in,out], scales of residual branches folded in.

    Raises:
        ValueError: an unknown layer.
    """
    network = _network(name, (last_layer,))

    def build(key):
        image = jnp.zeros((1, network.patch, network.patch, 3))
        return network.init(key, image, (last_layer,))["params"]

    return initialise(build, key)


def vit_tokens(
    params: Tree,
    name: str,
    rgb: Array,
    layers: tuple[str, ...],
    inputs: Inputs = IMAGENET,
) -> tuple[Array, ...]:
    """Returns the tokens of a frozen network's layers, [B,1+R+h*w,C] float32 each.

    The class token is first, then R registers, then the patches line by line. Blocks
    behind the deepest of the layers are not computed.

    Args:
        params: from `init_vit` or `read_vit`.
        name: one of VITS.
        rgb: [B,H,W,3] float32 in [0,1]; normalised here.
        layers: names of layers, in the order in which the tokens are returned.
        inputs: constants of the normalisation.

    Raises:
        ValueError: an unknown layer, one that `params` does not reach, or sides that
            the network's patches do not divide.
    """
    network = _network(name, layers)
    if network.reach(layers) > _depth(params):
        deepest = max(layers, key=network.layers.index)
        raise ValueError(
            f"layers: {deepest} is deeper than the weights, which end at"
            f" block{_depth(params)}"
        )
    return network.apply({"params": params}, normalised(rgb, inputs), tuple(layers))


def vit_maps(
    params: Tree,
    name: str,
    rgb: Array,
    layers: tuple[str, ...],
    inputs: Inputs = IMAGENET,
) -> tuple[Array, ...]:
    """Returns `vit_tokens` of the patches alone, as maps [B,h,w,C] float32."""
    network, (height, width) = VITS[name], rgb.shape[1:3]
    grid = height // network.patch, width // network.patch
    return tuple(
        tokens[:, network.prefix :].reshape(len(rgb), *grid, network.width)
        for tokens in vit_tokens(params, name, rgb, layers, inputs)
    )


def read_vit(file: str | os.PathLike, name: str, like: Tree) -> Tree:
    """Returns the weights of a network from a file, as `init_vit`.

    Names are those of timm and of the releases of DINO and DINOv2, separated by "." or
    "/", with kernels [out,in]; or this library's; a common prefix is left out. Blocks
    deeper than those of `like`, the classifier and the token of masked patches are
    passed over.

    Args:
        file: see `weights.read`; any floating-point dtype.
        name: one of VITS, for the message.
        like: from `init_vit`, or its shapes.

    Raises:
        ValueError: the file is refused (see `weights.read`); names or shapes do not
            fit, with a list of them all and the network that would fit; or values are
            not finite. Nothing is loaded then.
        FileNotFoundError: there is no such file.
    """
    file = weights.read(file)
    path = file.path
    found = weights.without_prefix(path, file.arrays, (*FIRST, *like).__contains__)
    found = _needed(weights.with_slashes(path, found), VITS[name], like)
    own = any(place.endswith("/kernel") for place in found)
    try:
        weights.fit(path, found, like if own else _file_form(found, like))
    except ValueError as error:
        fitting = [other for other in VITS if _fits(found, other, _depth(like), own)]
        hint = (
            f"\n  these are weights of {fitting[0]}, not of {name}" if fitting else ""
        )
        raise ValueError(f"{error}{hint}") from None
    weights.check_finite(path, found)
    return weights.fit(path, found if own else _folded(found, like), like)


def _network(name: str, layers: tuple[str, ...]) -> VisionTransformer:
    """Returns the module of a network, after a check of the layers asked of it."""
    known = VITS[name].layers
    if not layers or not set(layers) <= set(known):
        raise ValueError(f"layers: expected some of {known}, found {layers!r}")
    return VITS[name]


def _depth(params: Tree) -> int:
    """Returns how many blocks a tree of weights has."""
    return sum(place.startswith("block") for place in params)


def _needed(
    found: Mapping[str, np.ndarray], network: VisionTransformer, like: Tree
) -> dict[str, np.ndarray]:
    """Returns the arrays without those that are known and not asked for."""
    deeper = range(_depth(like), network.depth)
    passed_over = tuple(f"blocks/{n}/" for n in deeper)
    passed_over += tuple(f"block{n + 1}/" for n in deeper)
    passed_over += ("head/", "mask_token")
    return {k: x for k, x in found.items() if not k.startswith(passed_over)}


def _with_class(found: Mapping[str, np.ndarray]) -> bool:
    """Says whether the table of positions has a row of the class token.

    In timm's form of a network with registers it has none.
    """
    return "reg_token" not in found


def _file_form(found: Mapping[str, np.ndarray], like: Tree) -> Tree:
    """Returns the names and shapes that the weights `like` have in a public file."""
    shape = partial(jax.ShapeDtypeStruct, dtype=np.float32)
    side, _, colours, _ = like["patches"]["kernel"].shape
    _, tokens, width = like["prefix"].shape
    rows = np.prod(like["positions"].shape[1:3]) + _with_class(found)
    form = {
        "cls_token": shape((1, 1, width)),
        "pos_embed": shape((1, int(rows), width)),
        "patch_embed/proj/weight": shape((width, colours, side, side)),
        "patch_embed/proj/bias": shape((width,)),
        "norm/weight": shape((width,)),
        "norm/bias": shape((width,)),
    }
    if tokens > 1:
        registers = "reg_token" if "reg_token" in found else "register_tokens"
        form[registers] = shape((1, tokens - 1, width))
    for number in range(_depth(like)):
        for part, (public, scale) in BLOCK.items():
            leaves = like[f"block{number + 1}"][part]
            place = f"blocks/{number}"
            kernel = leaves.get("kernel", leaves.get("scale"))
            form[f"{place}/{public}/weight"] = shape(kernel.shape[::-1])
            form[f"{place}/{public}/bias"] = shape(leaves["bias"].shape)
            if scale and "blocks/0/ls1/gamma" in found:
                form[f"{place}/{scale}"] = shape((width,))
    return form


def _fits(found: Mapping[str, np.ndarray], name: str, depth: int, own: bool) -> bool:
    """Says whether a file's weights are those of a network, by names and shapes."""
    if VITS[name].depth < depth:
        return False
    build = partial(init_vit, name=name, last_layer=f"block{depth}")
    like = jax.eval_shape(build, jax.random.key(0))
    return not weights.faults(found, like if own else _file_form(found, like))


def _folded(found: Mapping[str, np.ndarray], like: Tree) -> dict[str, np.ndarray]:
    """Returns public weights under this library's names, scales folded in."""
    positions = found["pos_embed"]
    first = found["cls_token"]
    if _with_class(found):
        first, positions = first + positions[:, :1], positions[:, 1:]
    registers = [found[k] for k in ("reg_token", "register_tokens") if k in found]
    folded = {
        "prefix": np.concatenate([first, *registers], axis=1),
        "positions": positions.reshape(like["positions"].shape),
        "patches/kernel": found["patch_embed/proj/weight"].transpose(2, 3, 1, 0),
        "patches/bias": found["patch_embed/proj/bias"],
        "norm/scale": found["norm/weight"],
        "norm/bias": found["norm/bias"],
    }
    for number in range(_depth(like)):
        for part, (public, scale) in BLOCK.items():
            place = f"blocks/{number}"
            kernel = found[f"{place}/{public}/weight"].T
            bias = found[f"{place}/{public}/bias"]
            if scale and f"{place}/{scale}" in found:
                gamma = found[f"{place}/{scale}"].astype(np.float64)
                kernel, bias = np.float32(kernel * gamma), np.float32(bias * gamma)
            name = "scale" if part.startswith("norm") else "kernel"
            folded[f"block{number + 1}/{part}/{name}"] = kernel
            folded[f"block{number + 1}/{part}/bias"] = bias
    return folded
